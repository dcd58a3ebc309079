// cherry train: trains a model.
#include <string.h>
#include <unistd.h>

#include "driver/commands.h"
#include "driver/cost.h"
#include "driver/frozen.h"
#include "driver/setup.h"
#include "driver/tokenizer.h"
#include "driver/trainer.h"

enum { EVALUATE_BATCHES = 20 };

// --steps wins over the file; everything else is there for --set.
static bool read_training(const Arguments *arguments, Ir *ir, Module *module) {
    if (!module->has_training) {
        report_error(ir->diagnostics, NO_PLACE, "E0907", "%s has no train block",
                     arguments_operand(arguments, 0));
        return false;
    }
    return arguments_integer(arguments, ir, "--steps", 1, &module->training.steps) &&
           arguments_integer(arguments, ir, "--seed", 0, &module->training.seed);
}

static bool read_feed(const Arguments *arguments, Ir *ir, FeedOptions *feed) {
    *feed = (FeedOptions){.data = arguments_text(arguments, "--data", NULL),
                          .valid = arguments_text(arguments, "--valid", NULL),
                          .format = arguments_text(arguments, "--format", NULL),
                          .fraction = 0.1};
    if (!feed->data) return report_error(ir->diagnostics, NO_PLACE, "E0914", "train needs --data FILE");
    if (!arguments_apart(arguments, ir, "--resume", "--init", "a run goes on from its own checkpoint") ||
        !arguments_apart(arguments, ir, "--valid", "--valid-fraction", "the held-out data are those of --valid"))
        return false;
    if (arguments_flag(arguments, "--allow-new") && !arguments_flag(arguments, "--init"))
        return report_error(ir->diagnostics, NO_PLACE, "E0914", "--allow-new needs --init W");
    if (!supervision_options(arguments, ir, feed)) return false;
    return arguments_number(arguments, ir, "--valid-fraction", 0, &feed->fraction) &&
           (feed->fraction < 1 ||
            report_error(ir->diagnostics, NO_PLACE, "E0901", "--valid-fraction must be below 1"));
}

static uint32_t wanted_entries(const Module *module, const Feed *feed, bool samples, bool first) {
    uint32_t entries = 1u << ENTRY_INITIALIZE | 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE;
    if (feed_has_valid(feed) && (module->training.evaluate_every > 0 || first)) entries |= 1u << ENTRY_EVALUATE;
    if (samples) entries |= 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE;
    return entries;
}

static bool train(const Arguments *arguments, Ir *ir, const Module *module, Feed *feed,
                  const Tokenizer *tokenizer) {
    const Training *training = &module->training;
    CompileOptions options;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &options)) return false;
    bool first = arguments_flag(arguments, "--evaluate-first");
    bool samples = training->sample_every > 0 && module_find_graph(module, "logits");
    setup_context(&options, training->time);
    if (first && !feed_has_valid(feed))
        return report_error(ir->diagnostics, NO_PLACE, "E0901", "--evaluate-first: there are no held-out data");
    if (!samples && arguments_flag(arguments, "--prompt"))
        return report_error(ir->diagnostics, NO_PLACE, "E0901", "--prompt begins samples: this run has none (sample_every = %lld)",
                            (long long)training->sample_every);
    trainer_hold_interruptions();
    Runner *runner = runner_create(ir, module, wanted_entries(module, feed, samples, first), &options, threads);
    if (!runner) return false;
    const char *where = runner->device ? device_name(runner->device) : arena_format(ir->arena, "%d threads", threads);
    printf("%s: %lld parameters, compiled in %.2f s (%zu kernels, %zu from the cache), %s\n", module->name,
           (long long)module_parameter_count(module, false), runner->compile_seconds, runner->compilation->kernels,
           runner->compilation->cached, where);
    fflush(stdout);
    Generator generator;
    Sampling sampling = {.temperature = 0.8, .seed = (uint64_t)training->seed};
    TrainerOptions trainer = {.folder = arguments_text(arguments, "--out", "out"),
                              .weights = arguments_text(arguments, "--init", NULL),
                              .allow_new = arguments_flag(arguments, "--allow-new"),
                              .tokenizer = tokenizer,
                              .evaluate_first = first,
                              .resume = arguments_flag(arguments, "--resume"),
                              .evaluate_batches = EVALUATE_BATCHES,
                              .peak_flops = runner->device ? runner->machine.flops_per_second
                                                           : cpu_measure_peak(ir, threads, training->precision, &options.cpu),
                              .sampling = &sampling,
                              .prompt = arguments_text(arguments, "--prompt", "\n"),
                              .progress = stdout,
                              .terminal = isatty(STDOUT_FILENO) != 0};
    bool good = !samples || generator_create(runner, tokenizer, options.chunk, options.context, &generator);
    if (good && samples && !generator_accepts(&generator, trainer.prompt, strlen(trainer.prompt))) {
        report_hint(ir->diagnostics, "--prompt TEXT begins samples, --set sample_every=0 leaves them out");
        good = false;
    }
    good = good && trainer_run(runner, feed, samples ? &generator : NULL, &trainer);
    runner_destroy(runner);
    return good;
}

// The file that the run goes on from, or NULL.
static const char *starting_point(const Arguments *arguments, Ir *ir) {
    if (!arguments_flag(arguments, "--resume")) return arguments_text(arguments, "--init", NULL);
    return arena_format(ir->arena, "%s/checkpoint.safetensors", arguments_text(arguments, "--out", "out"));
}

static int run(const Arguments *arguments, Ir *ir) {
    FeedOptions feed_options;
    Module *module = setup_load(arguments, ir, false);
    if (!module || !read_training(arguments, ir, module) || !read_feed(arguments, ir, &feed_options))
        return EXIT_USER_ERROR;
    const Tokenizer *tokenizer = tokenizer_choose(arguments, ir, starting_point(arguments, ir));
    if (!tokenizer) return EXIT_USER_ERROR;
    feed_options.tokenizer = tokenizer;
    feed_options.seed = (uint64_t)module->training.seed;
    Feed *feed = frozen_check(module) ? feed_open(ir, module, &feed_options) : NULL;
    bool good = feed && train(arguments, ir, module, feed, tokenizer);
    feed_close(feed);
    tokenizer_release(tokenizer);
    return good ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--data", "FILE", "text, nanoGPT or llm.c tokens, or a safetensors file of columns"},
    {"--valid", "FILE", "held-out data (default: the last part of --data)"},
    {"--valid-fraction", "X", "how large that part is (default 0.1)"},
    {"--format", "NAME", "of the data: detect (default), bytes, u16, u32, llmc, tsv, pairs"},
    TOKENIZER_OPTION,
    SUPERVISION_OPTIONS,
    {"--share", "F", "only this share of the sequences of each batch is supervised at all"},
    {"--evaluate-first", NULL, "evaluate held-out data before the first step too"},
    {"--out", "DIR", "checkpoints, weights, metrics (default: out)"},
    {"--steps", "N", "updates (default: the train block's)"},
    {"--seed", "N", "of weights, data order and dropout (default: the train block's)"},
    {"--init", "W", "start from the weights of a safetensors file"},
    {"--allow-new", NULL, "parameters that the file of --init lacks start as the model says"},
    {"--resume", NULL, "continue the run in --out"},
    {"--prompt", "TEXT", "start of the samples during training (default: a new line)"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_train = {"train", "FILE", "train a model", options, run};
