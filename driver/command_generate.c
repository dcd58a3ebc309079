// cherry generate: text from trained weights.
#include <stdlib.h>
#include <string.h>

#include "driver/commands.h"
#include "driver/generator.h"
#include "driver/json.h"
#include "driver/setup.h"
#include "driver/tokenizer.h"
#include "runtime/checkpoint.h"

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
    if (sampling->top_p <= 0 || sampling->top_p > 1)
        return report_error(ir->diagnostics, NO_PLACE, "E0901", "--top-p wants a share above 0, at most 1");
    sampling->seed = (uint64_t)seed;
    return true;
}

// The text, or with --json all of it and what it took in one object; else that goes to standard error.
static bool write_text(Generator *generator, const char *prompt, int64_t count, const Sampling *sampling,
                       bool json_wanted) {
    char *text = NULL;
    size_t length = 0;
    if (!generator_accepts(generator, prompt, strlen(prompt))) return false;
    FILE *stream = json_wanted ? open_memstream(&text, &length) : stdout;
    double start = clock_seconds();
    if (!json_wanted) fputs(prompt, stdout);
    bool good = generator_run(generator, prompt, strlen(prompt), count, sampling, stream);
    double speed = (double)count / (clock_seconds() - start);
    GeneratorCount done = generator->count;
    double per_step = done.steps ? (double)(done.steps + done.accepted) / (double)done.steps : 1;
    double rate = done.drafted ? (double)done.accepted / (double)done.drafted : 0;
    if (json_wanted) fclose(stream);
    if (good && json_wanted) {
        cJSON *json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "prompt", prompt);
        cJSON_AddStringToObject(json, "text", text);
        cJSON_AddNumberToObject(json, "tokens", (double)done.tokens);
        cJSON_AddNumberToObject(json, "tokens_per_second", speed);
        cJSON_AddNumberToObject(json, "steps", (double)done.steps);
        cJSON_AddNumberToObject(json, "tokens_per_step", per_step);
        cJSON_AddNumberToObject(json, "drafted", (double)done.drafted);
        cJSON_AddNumberToObject(json, "accepted", (double)done.accepted);
        cJSON_AddNumberToObject(json, "acceptance", rate);
        json_print(json);
    } else if (good) {
        fflush(stdout);
        fprintf(stderr, "%lld tokens, %.0f tokens/s", (long long)done.tokens, speed);
        if (generator->heads)
            fprintf(stderr, ", %.2f tokens a step; %.1f %% of %lld drafts accepted", per_step, 100 * rate,
                    (long long)done.drafted);
        fputc('\n', stderr);
    }
    free(text);
    return good;
}

static bool generate(const Arguments *arguments, Ir *ir, const Module *module, const char *weights,
                     const char *prompt, const Tokenizer *tokenizer) {
    CompileOptions options;
    Sampling sampling;
    int64_t count;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &options) ||
        !read_sampling(arguments, ir, &sampling, &count))
        return false;
    Graph *logits = module_find_graph(module, "logits");
    if (!logits)
        return report_error(ir->diagnostics, NO_PLACE, "E0902",
                            "%s has no function 'logits' to generate with", module->name);
    const Type *type = graph_type(logits, logits->outputs.items[0].value);
    int time = type_find(type, names_intern(ir->names, "time"));
    setup_context(&options, time < 0 ? 256 : type->dimensions[time].extent);
    uint32_t entries = 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE | 1u << ENTRY_ROUND;
    const Graph *draft = arguments_flag(arguments, "--no-draft") ? NULL : module_find_graph(module, "draft");
    if (draft && (int64_t)draft->outputs.count <= options.context) entries |= 1u << ENTRY_DRAFT;
    Runner *runner = runner_create(ir, module, entries, &options, threads);
    if (!runner) return false;
    Generator generator;
    bool good = checkpoint_load_weights(ir->diagnostics, weights, module, runner->state) &&
                generator_create(runner, tokenizer, options.chunk, options.context, &generator);
    good = good && write_text(&generator, prompt, count, &sampling, arguments_flag(arguments, "--json"));
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
    const Tokenizer *tokenizer = module ? tokenizer_choose(arguments, ir, weights) : NULL;
    bool good = tokenizer && generate(arguments, ir, module, weights, prompt, tokenizer);
    tokenizer_release(tokenizer);
    return good ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--weights", "W", "model.safetensors of a run"},
    TOKENIZER_OPTION,
    {"--prompt", "TEXT", "what the text begins with"},
    {"--tokens", "N", "how many tokens to add (default 200)"},
    {"--temperature", "X", "0 takes the likeliest token (default 0.8)"},
    {"--top-k", "N", "only the N likeliest (default 0: all)"},
    {"--top-p", "X", "only the likeliest that together reach X (default 1: all)"},
    {"--seed", "N", "of the sampling (default 1)"},
    {"--no-draft", NULL, "heads that the model has do not draft: the same text, one token a step"},
    {"--json", NULL, "one JSON object: the text, tokens/s, how many drafts were accepted"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_generate = {"generate", "FILE", "text from trained weights", options, run};
