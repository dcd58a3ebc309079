// cherry convert: the weights of one model from those of the models that it is made from.
#include <math.h>
#include <string.h>

#include "driver/commands.h"
#include "driver/runner.h"
#include "base/file.h"
#include "driver/setup.h"
#include "driver/tokenizer.h"
#include "driver/transfer.h"
#include "runtime/checkpoint.h"

// ---- How far stored layers lie from those that they stand for ----

typedef struct Distance {
    double difference, old, new, product;  // sums of squares, and of products
} Distance;

static void add_distance(Distance *distance, const float *old, const float *new, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double a = (double)old[i], b = (double)new[i];
        distance->difference += (a - b) * (a - b);
        distance->old += a * a;
        distance->new += b *b;
        distance->product += a * b;
    }
}

// All parameters of the stack, layer `old` of the source against layer `new` of the target.
static Distance layer_distance(const Runner *runner, const TransferSource *source, const char *stack,
                               int64_t old, int64_t new) {
    Distance distance = {0};
    size_t length = strlen(stack);
    for (size_t i = 0; i < runner->module->parameters.count; i++) {
        const Parameter *parameter = &runner->module->parameters.items[i];
        const Parameter *before = module_find_parameter(source->module, parameter->path);
        bool stacked = strncmp(parameter->path, stack, length) == 0 && parameter->path[length] == '.' &&
                       before && before->type->rank && strcmp(before->type->dimensions[0].name, "layer") == 0;
        if (!stacked || before->type->element != ELEMENT_F32) continue;
        int64_t count = type_count(before->type) / before->type->dimensions[0].extent;
        const char *name = arena_format(runner->ir->arena, "%s%s", source->prefix, parameter->path);
        const float *from = state_data(runner->state, name, ROLE_FROZEN),
                    *to = state_data(runner->state, parameter->path, ROLE_PARAMETER);
        if (from && to) add_distance(&distance, from + old * count, to + new *count, count);
    }
    return distance;
}

static void report_distances(const Runner *runner, const TransferSource *source) {
    const Module *module = runner->module;
    if (source->module->groups.count) return;  // averaged before
    if (module->groups.count) printf("stored layer, the layer it stands for, |old - new| / |old|, cosine\n");
    for (size_t g = 0; g < module->groups.count; g++) {
        const LayerGroup *group = &module->groups.items[g];
        for (int32_t i = 0; i < group->count; i++) {
            Distance distance = layer_distance(runner, source, group->stack, group->first + i, group->layer);
            double length = sqrt(distance.old), both = length * sqrt(distance.new);
            printf("%s.%d  %s.%d  %.4f  %.4f\n", group->stack, group->layer, group->stack, group->first + i,
                   length > 0 ? sqrt(distance.difference) / length : 0,
                   both > 0 ? distance.product / both : 1);
        }
    }
}

// ---- The command ----

static bool convert(const Arguments *arguments, Ir *ir, const Module *module, const TransferSource *sources,
                    size_t count) {
    CompileOptions options;
    int64_t seed = 1;
    int threads = setup_threads(arguments, ir);
    if (!threads || !arguments_integer(arguments, ir, "--seed", 0, &seed) ||
        !setup_options(arguments, ir, &options))
        return false;
    options.transfer = transfer_graph(module, sources, count);
    Runner *runner = runner_create(ir, module, 1u << ENTRY_TRANSFER, &options, threads);
    if (!runner) return false;
    bool good = true;
    for (size_t i = 0; i < count; i++)
        good = checkpoint_load_frozen(ir->diagnostics, sources[i].path, sources[i].module, runner->state,
                                      sources[i].prefix) &&
               good;
    if (good) {
        runner_set_integer(runner, ENTRY_TRANSFER, "seed", seed);
        runner_run(runner, ENTRY_TRANSFER);
        const char *out = arguments_text(arguments, "--out", NULL);
        const Tokenizer *tokenizer = tokenizer_choose(arguments, ir, sources[0].path);
        RunPosition position = {.tokenizer = tokenizer && tokenizer->file ? tokenizer->name : NULL};
        good = tokenizer &&
               checkpoint_save_weights(ir->diagnostics, out, module, runner->state, &position) &&
               tokenizer_keep(ir, tokenizer, file_folder(ir->arena, out));
        tokenizer_release(tokenizer);
        if (good && count == 1) report_distances(runner, &sources[0]);
        if (good) printf("%s: weights of %s\n", out, module->name);
    }
    runner_destroy(runner);
    return good;
}

static int run(const Arguments *arguments, Ir *ir) {
    size_t count, setting_count;
    const char *const *paths = arguments_all(arguments, "--weights", &count);
    const char *to = arguments_text(arguments, "--to", NULL);
    if (!count || !to || !arguments_text(arguments, "--out", NULL)) {
        report_error(ir->diagnostics, NO_PLACE, "E0914",
                     "convert needs --to MODEL, --weights W and --out FILE");
        return EXIT_USER_ERROR;
    }
    FrontendOptions options = {.model = to};
    options.settings = arguments_all(arguments, "--set", &setting_count);
    options.setting_count = setting_count;
    Module *module = derive_module(ir, frontend_load(ir, arguments_operand(arguments, 0), &options));
    TransferSource *sources = module ? transfer_find_sources(module, paths, count) : NULL;
    return sources && convert(arguments, ir, module, sources, count) ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--to", "MODEL", "the model whose weights are wanted"},
    {"--weights", "W ...", "checkpoints of the models that it is made from, in their order"},
    {"--out", "FILE", "where the weights go"},
    {"--seed", "N", "of what starts at random (default 1)"},
    TOKENIZER_OPTION,
    {"--set", "NAME=VALUE", "another value for a dim or a const; may be repeated"},
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_convert = {"convert", "FILE", "weights of a model from those it is made from", options,
                                 run};
