// cherry eval: held-out loss of trained weights, every token once.
#include <math.h>

#include "driver/commands.h"
#include "driver/feed.h"
#include "driver/frozen.h"
#include "driver/json.h"
#include "driver/setup.h"
#include "runtime/checkpoint.h"

static void print_result(const Evaluated *evaluated, bool json_wanted) {
    if (!json_wanted) {
        printf("loss %.6f over %lld tokens\n", evaluated->loss, (long long)evaluated->tokens);
        return;
    }
    // Without a supervised set every token is supervised and none is not.
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "loss", evaluated->loss);
    cJSON_AddNumberToObject(json, "loss_supervised", evaluated->loss);
    cJSON_AddNullToObject(json, "loss_unsupervised");
    cJSON_AddNumberToObject(json, "tokens", (double)evaluated->tokens);
    json_print(json);
}

static bool evaluate(const Arguments *arguments, Ir *ir, const Module *module, Feed *feed,
                     const char *weights) {
    CompileOptions options;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, module, &options)) return false;
    Runner *runner = runner_create(ir, module, 1u << ENTRY_EVALUATE, &options, threads);
    if (!runner) return false;
    Evaluated evaluated;
    bool good = checkpoint_load_weights(ir->diagnostics, weights, module, runner->state) &&
                frozen_load(module, runner->state) &&
                feed_evaluate(feed, runner, 0, &evaluated);
    if (good && !isfinite(evaluated.loss))
        good = report_error(ir->diagnostics, NO_PLACE, "E0913",
                            "the loss is not a finite number; the weights are broken");
    if (good) print_result(&evaluated, arguments_flag(arguments, "--json"));
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
    Module *module = setup_load(arguments, ir, false);
    Feed *feed = module && frozen_check(module) ? feed_open(ir, module, &feed_options) : NULL;
    if (!feed) return EXIT_USER_ERROR;
    bool good = evaluate(arguments, ir, module, feed, weights);
    feed_close(feed);
    return good ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--weights", "W", "model.safetensors of a run"},
    {"--data", "FILE", "held-out data, evaluated whole"},
    {"--format", "NAME", "of token files: detect (default), bytes, u16, u32, llmc"},
    {"--json", NULL, "one JSON object"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_eval = {"eval", "FILE", "held-out loss of trained weights", options, run};
