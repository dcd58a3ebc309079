// cherry couple: how far the gradients of supervised and of unsupervised tokens point the same way.
#include <math.h>
#include <string.h>

#include "driver/commands.h"
#include "driver/coupling.h"
#include "driver/feed.h"
#include "driver/json.h"
#include "driver/setup.h"
#include "driver/tokenizer.h"
#include "runtime/checkpoint.h"

typedef struct Couple {
    int64_t batches, seed;
    bool shuffled;
} Couple;

static bool measure(const Couple *couple, Feed *feed, Coupling *coupling) {
    for (int64_t batch = 0; batch < couple->batches; batch++) {
        if (!feed_train(feed, coupling->runner, batch, 0, 1, couple->seed)) return false;
        coupling_measure(coupling);
    }
    return true;
}

// ---- Output ----

static const char *figure_name(Arena *arena, const CouplingFigure *figure) {
    switch (figure->part) {
        case COUPLING_WHOLE:
            return "whole";
        case COUPLING_OUTSIDE:
            return "outside of stacks";
        case COUPLING_STACKS:
            return "stacks";
        case COUPLING_PARAMETER:
            return figure->name;
        case COUPLING_LAYER:
            return arena_format(arena, "%s.%d", figure->name, figure->layer);
        case COUPLING_ROWS:
            return arena_format(arena, "%s, by iteration", figure->name);
        default:
            return arena_format(arena, "%s.%d, run %d", figure->name, figure->layer, figure->iteration + 1);
    }
}

static double share(const Coupling *coupling) { return coupling->supervised / coupling->positions; }

static void print_text(Ir *ir, const Couple *couple, const char *model, const Coupling *coupling) {
    printf("gradient coupling of %s over %lld batches%s, %.1f %% of the tokens supervised\n", model,
           (long long)(coupling->batches - coupling->skipped), couple->shuffled ? " of shuffled tokens" : "",
           100 * share(coupling));
    if (coupling->skipped)
        printf("%lld batches skipped: nothing supervised in them, or everything\n",
               (long long)coupling->skipped);
    printf("%-24s %10s %10s\n", "", "mean", "deviation");
    bool straight = true;  // then each layer is its only run
    for (size_t i = 0; i < coupling->figures.count; i++)
        straight &= coupling->figures.items[i].iteration == 0;
    for (size_t i = 0; i < coupling->figures.count; i++) {
        const CouplingFigure *figure = &coupling->figures.items[i];
        if (figure->part == COUPLING_ITERATION && straight) continue;
        printf("%-24s ", figure_name(ir->arena, figure));
        if (figure->count)
            printf("%10.4f %10.4f\n", figure->mean, figure->count > 1 ? coupling_deviation(figure) : 0);
        else
            printf("%10s %10s\n", "-", "-");
    }
}

static void add_figure(cJSON *json, const CouplingFigure *figure) {
    if (figure->count)
        cJSON_AddNumberToObject(json, "mean", figure->mean);
    else
        cJSON_AddNullToObject(json, "mean");
    if (figure->count > 1)
        cJSON_AddNumberToObject(json, "deviation", coupling_deviation(figure));
    else
        cJSON_AddNullToObject(json, "deviation");
}

static void print_json(const Couple *couple, const Coupling *coupling) {
    static const char *const names[COUPLING_PART_COUNT] = {"whole",  "outside", "stacks",    "parameters",
                                                           "layers", "rows",    "iterations"};
    cJSON *json = cJSON_CreateObject(), *lists[COUPLING_PART_COUNT];
    for (int part = 0; part < COUPLING_PART_COUNT; part++)
        lists[part] = part < COUPLING_PARAMETER ? cJSON_AddObjectToObject(json, names[part])
                                                : cJSON_AddArrayToObject(json, names[part]);
    for (size_t i = 0; i < coupling->figures.count; i++) {
        const CouplingFigure *figure = &coupling->figures.items[i];
        cJSON *item = lists[figure->part];
        if (figure->part >= COUPLING_PARAMETER) {
            item = cJSON_CreateObject();
            cJSON_AddItemToArray(lists[figure->part], item);
            cJSON_AddStringToObject(item, figure->part == COUPLING_PARAMETER ? "name" : "stack",
                                    figure->name);
        }
        if (figure->part == COUPLING_ITERATION) cJSON_AddNumberToObject(item, "entry", figure->entry);
        if (figure->part == COUPLING_LAYER || figure->part == COUPLING_ITERATION)
            cJSON_AddNumberToObject(item, "layer", figure->layer);
        if (figure->part == COUPLING_ITERATION) cJSON_AddNumberToObject(item, "iteration", figure->iteration);
        add_figure(item, figure);
    }
    cJSON_AddNumberToObject(json, "batches", (double)coupling->batches);
    cJSON_AddNumberToObject(json, "skipped", (double)coupling->skipped);
    cJSON_AddNumberToObject(json, "supervised_share", share(coupling));
    cJSON_AddBoolToObject(json, "shuffled", couple->shuffled);
    json_print(json);
}

// ---- The command ----

static bool couple_feed(const Arguments *arguments, Ir *ir, const Module *module, Feed *feed,
                        const Couple *couple) {
    CompileOptions compile;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &compile)) return false;
    Coupling *coupling =
        coupling_create(ir, module, arguments_text(arguments, "--weights", NULL), &compile, threads);
    bool good = coupling && measure(couple, feed, coupling);
    if (good && coupling->skipped == coupling->batches)
        good = report_error(ir->diagnostics, NO_PLACE, "E0946",
                            "in each of the %lld batches nothing was supervised, or everything",
                            (long long)coupling->batches);
    if (good && arguments_flag(arguments, "--json"))
        print_json(couple, coupling);
    else if (good)
        print_text(ir, couple, module->name, coupling);
    coupling_destroy(coupling);
    return good;
}

static Module *load(const Arguments *arguments, Ir *ir) {
    FrontendOptions options = {.train = arguments_text(arguments, "--train", NULL),
                               .model = arguments_text(arguments, "--model", NULL),
                               .objective = "coupling"};
    options.settings = arguments_all(arguments, "--set", &options.setting_count);
    return derive_module(ir, frontend_load(ir, arguments_operand(arguments, 0), &options));
}

static int run(const Arguments *arguments, Ir *ir) {
    Couple couple = {.batches = 16, .seed = 1};
    FeedOptions feed_options = {.data = arguments_text(arguments, "--data", NULL),
                                .format = arguments_text(arguments, "--format", NULL)};
    const char *weights = arguments_text(arguments, "--weights", NULL);
    if (!arguments_integer(arguments, ir, "--batches", 1, &couple.batches) ||
        !arguments_integer(arguments, ir, "--seed", 0, &couple.seed) ||
        !supervision_options(arguments, ir, &feed_options))
        return EXIT_USER_ERROR;
    if (!weights || !feed_options.data) {
        report_error(ir->diagnostics, NO_PLACE, "E0914", "couple needs --weights W and --data FILE");
        return EXIT_USER_ERROR;
    }
    if (!feed_options.supervise) feed_options.supervise = "random:0.15";
    couple.shuffled = feed_options.shuffle;
    feed_options.seed = (uint64_t)couple.seed;
    Module *module = load(arguments, ir);
    const Tokenizer *tokenizer = module ? tokenizer_choose(arguments, ir, weights) : NULL;
    feed_options.tokenizer = tokenizer;
    Feed *feed = tokenizer ? feed_open(ir, module, &feed_options) : NULL;
    bool good = feed && couple_feed(arguments, ir, module, feed, &couple);
    feed_close(feed);
    tokenizer_release(tokenizer);
    return good ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--weights", "W", "model.safetensors of a run"},
    {"--data", "FILE", "text, a table of it, or tokens"},
    {"--format", "NAME", "of the data: detect (default), bytes, u16, u32, llmc, tsv, pairs"},
    TOKENIZER_OPTION,
    SUPERVISION_OPTIONS,
    {"--batches", "N", "over how many batches (default 16)"},
    {"--seed", "N", "of the batches and of what is random (default 1)"},
    {"--json", NULL, "one JSON object"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_couple = {"couple", "FILE", "coupling of the gradients of supervised and other tokens",
                                options, run};
