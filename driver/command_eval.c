// cherry eval: held-out loss of trained weights, every token once.
#include <math.h>

#include "driver/commands.h"
#include "driver/feed.h"
#include "driver/frozen.h"
#include "driver/json.h"
#include "driver/setup.h"
#include "driver/tokenizer.h"
#include "runtime/checkpoint.h"

// null: no such token, or no number.
static void add_mean(cJSON *json, const char *name, double mean) {
    if (isfinite(mean)) cJSON_AddNumberToObject(json, name, mean);
    else cJSON_AddNullToObject(json, name);
}

static void print_result(const Evaluated *evaluated, const char *unit, bool json_wanted) {
    if (!json_wanted) {
        printf("loss %.6f over %lld %s\n", evaluated->loss, (long long)evaluated->tokens, unit);
        int64_t supervised = evaluated->supervised_tokens, others = evaluated->tokens - supervised;
        if (others && supervised) {
            printf("  supervised %.6f over %lld tokens\n", evaluated->supervised, (long long)supervised);
            printf("  others     %.6f over %lld tokens\n", evaluated->unsupervised, (long long)others);
        }
        for (size_t i = 0; i < evaluated->metric_count; i++)
            printf("  %-10s %.6f over %lld whole batch%s\n", evaluated->metrics[i].name, evaluated->metrics[i].value,
                   (long long)evaluated->batches, evaluated->batches == 1 ? "" : "es");
        return;
    }
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "loss", evaluated->loss);
    add_mean(json, "loss_supervised", evaluated->supervised);
    add_mean(json, "loss_unsupervised", evaluated->unsupervised);
    cJSON_AddNumberToObject(json, "tokens", (double)evaluated->tokens);
    cJSON_AddNumberToObject(json, "supervised_tokens", (double)evaluated->supervised_tokens);
    cJSON *metrics = evaluated->metric_count ? cJSON_AddObjectToObject(json, "metrics") : NULL;
    for (size_t i = 0; i < evaluated->metric_count; i++)
        add_mean(metrics, evaluated->metrics[i].name, evaluated->metrics[i].value);
    json_print(json);
}

static bool evaluate(const Arguments *arguments, Ir *ir, const Module *module, Feed *feed,
                     const char *weights) {
    CompileOptions options;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &options)) return false;
    Runner *runner = runner_create(ir, module, 1u << ENTRY_EVALUATE, &options, threads);
    if (!runner) return false;
    Evaluated evaluated;
    bool good = checkpoint_load_weights(ir->diagnostics, weights, module, runner->state) &&
                frozen_load(module, runner->state) && feed_check_valid(feed, runner) &&
                feed_evaluate(feed, runner, 0, &evaluated);
    if (good && !isfinite(evaluated.loss))
        good = report_error(ir->diagnostics, NO_PLACE, "E0913",
                            "the loss is not a finite number; the weights are broken");
    if (good) print_result(&evaluated, feed_unit(feed), arguments_flag(arguments, "--json"));
    runner_destroy(runner);
    return good;
}

static int run(const Arguments *arguments, Ir *ir) {
    const char *weights = arguments_text(arguments, "--weights", NULL);
    FeedOptions feed_options = {.data = arguments_text(arguments, "--data", NULL),
                                .format = arguments_text(arguments, "--format", NULL),
                                .evaluate_all = true};
    if (!weights || !feed_options.data) {
        report_error(ir->diagnostics, NO_PLACE, "E0914", "eval needs --weights W and --data FILE");
        return EXIT_USER_ERROR;
    }
    int64_t seed = 1;
    if (!supervision_options(arguments, ir, &feed_options) || !arguments_integer(arguments, ir, "--seed", 0, &seed))
        return EXIT_USER_ERROR;
    Module *module = setup_load(arguments, ir, false);
    const Tokenizer *tokenizer = module ? tokenizer_choose(arguments, ir, weights) : NULL;
    if (!tokenizer) return EXIT_USER_ERROR;
    feed_options.tokenizer = tokenizer;
    feed_options.seed = (uint64_t)seed;
    Feed *feed = frozen_check(module) ? feed_open(ir, module, &feed_options) : NULL;
    bool good = feed && evaluate(arguments, ir, module, feed, weights);
    feed_close(feed);
    tokenizer_release(tokenizer);
    return good ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--weights", "W", "model.safetensors of a run"},
    {"--data", "FILE", "held-out data, evaluated whole"},
    {"--format", "NAME", "of the data: detect (default), bytes, u16, u32, llmc, tsv, pairs"},
    TOKENIZER_OPTION,
    SUPERVISION_OPTIONS,
    {"--seed", "N", "of --supervise random (default 1)"},
    {"--json", NULL, "one JSON object"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_eval = {"eval", "FILE", "held-out loss of trained weights", options, run};
