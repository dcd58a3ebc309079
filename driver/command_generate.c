// cherry generate: text from trained weights.
#include <string.h>

#include "driver/commands.h"
#include "driver/generator.h"
#include "driver/setup.h"
#include "runtime/checkpoint.h"

enum { PREFILL_CHUNK = 32 };

static bool read_sampling(const Arguments *arguments, Ir *ir, Sampling *sampling, int64_t *count) {
    int64_t seed = 1;
    *sampling = (Sampling){.temperature = 0.8, .top_p = 1};
    *count = 200;
    if (!arguments_integer(arguments, ir, "--tokens", 1, count) ||
        !arguments_integer(arguments, ir, "--seed", 0, &seed) ||
        !arguments_integer(arguments, ir, "--top-k", 0, &sampling->top_k) ||
        !arguments_number(arguments, ir, "--temperature", 0, &sampling->temperature) ||
        !arguments_number(arguments, ir, "--top-p", 0, &sampling->top_p))
        return false;
    if (sampling->top_p > 1)
        return report_error(ir->diagnostics, NO_PLACE, "E0901", "--top-p wants a share of at most 1");
    sampling->seed = (uint64_t)seed;
    return true;
}

static bool generate(const Arguments *arguments, Ir *ir, const Module *module, const char *weights,
                     const char *prompt) {
    CompileOptions options;
    Sampling sampling;
    int64_t count;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, module, &options) ||
        !read_sampling(arguments, ir, &sampling, &count))
        return false;
    Graph *logits = module_find_graph(module, "logits");
    if (!logits)
        return report_error(ir->diagnostics, NO_PLACE, "E0902",
                            "%s has no function 'logits' to generate with", module->name);
    const Type *type = graph_type(logits, logits->outputs.items[0].value);
    int time = type_find(type, names_intern(ir->names, "time"));
    options.context = time < 0 ? 256 : type->dimensions[time].extent;
    options.chunk = options.context < PREFILL_CHUNK ? options.context : PREFILL_CHUNK;
    Runner *runner = runner_create(ir, module, 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE, &options, threads);
    if (!runner) return false;
    Generator generator;
    bool good = checkpoint_load_weights(ir->diagnostics, weights, module, runner->state) &&
                generator_create(runner, &tokenizer_bytes, options.chunk, options.context, &generator);
    if (good) {
        fputs(prompt, stdout);
        good = generator_run(&generator, prompt, strlen(prompt), count, &sampling, stdout);
    }
    runner_destroy(runner);
    return good;
}

static int run(const Arguments *arguments, Ir *ir) {
    const char *weights = arguments_text(arguments, "--weights", NULL),
               *prompt = arguments_text(arguments, "--prompt", NULL);
    if (!weights || !prompt) {
        report_error(ir->diagnostics, NO_PLACE, "E0914", "generate needs --weights W and --prompt TEXT");
        return EXIT_USER_ERROR;
    }
    Module *module = setup_load(arguments, ir, false);
    return module && generate(arguments, ir, module, weights, prompt) ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--weights", "W", "model.safetensors of a run"},
    {"--prompt", "TEXT", "what the text begins with"},
    {"--tokens", "N", "how many tokens to add (default 200)"},
    {"--temperature", "X", "0 takes the likeliest token (default 0.8)"},
    {"--top-k", "N", "only the N likeliest (default 0: all)"},
    {"--top-p", "X", "only the likeliest that together reach X (default 1: all)"},
    {"--seed", "N", "of the sampling (default 1)"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_generate = {"generate", "FILE", "text from trained weights", options, run};
