#include "driver/generator.h"

#include <string.h>

#include "driver/input_limit.h"

bool generator_create(Runner *runner, const Tokenizer *tokenizer, int64_t chunk, int64_t context,
                      Generator *generator) {
    Ir *ir = runner->ir;
    const Graph *logits = module_find_graph(runner->module, "logits");
    const Type *type = graph_type(logits, logits->outputs.items[0].value);
    if (type->rank != 3 || type->element != ELEMENT_F32)
        return report_error(ir->diagnostics, NO_PLACE, "E0909",
                            "logits must be f32[batch, time, vocabulary], not %s", type_text(ir, type));
    *generator = (Generator){.runner = runner,
                             .tokenizer = tokenizer,
                             .chunk = chunk,
                             .context = context,
                             .vocabulary = type->dimensions[2].extent,
                             .history = ARENA_ARRAY(ir->arena, int32_t, context),
                             .order = ARENA_ARRAY(ir->arena, int32_t, type->dimensions[2].extent)};
    return true;
}

// Forgets everything: caches are written by adding nothing to nothing, so they start at zero.
static void reset(Generator *generator) {
    generator->length = 0;
    State *state = generator->runner->state;
    for (size_t i = 0; i < state_count(state); i++) {
        const StateBuffer *buffer = state_buffer(state, i);
        if (buffer->role == ROLE_CACHE) memset(buffer->data, 0, (size_t)buffer->bytes);
    }
}

// Runs `count` tokens (the chunk of `entry`); returns the logits after the last of them.
static const float *run(Generator *generator, Entry entry, const int32_t *tokens, int64_t count) {
    Runner *runner = generator->runner;
    memcpy(executor_input(runner->executors[entry], "tokens"), tokens, (size_t)count * sizeof *tokens);
    runner_set_integer(runner, entry, "position", generator->length);
    runner_set_integer(runner, entry, "length", generator->length + count);
    runner_run(runner, entry);
    memmove(generator->history + generator->length, tokens, (size_t)count * sizeof *tokens);
    generator->length += count;
    const float *logits = executor_output(runner->executors[entry], "logits");
    return logits + (count - 1) * generator->vocabulary;
}

static const float *feed(Generator *generator, const int32_t *tokens, int64_t count) {
    const float *logits = NULL;
    for (; count >= generator->chunk && generator->length + generator->chunk <= generator->context;
         tokens += generator->chunk, count -= generator->chunk)
        logits = run(generator, ENTRY_PREFILL, tokens, generator->chunk);
    for (; count > 0; tokens++, count--) logits = run(generator, ENTRY_DECODE, tokens, 1);
    return logits;
}

// Reads the newest half of a full context again from position zero.
static const float *rewind_context(Generator *generator) {
    int64_t keep = generator->context > 1 ? generator->context / 2 : 1;
    int32_t *newest = ARENA_ARRAY(generator->runner->ir->arena, int32_t, keep);
    memcpy(newest, generator->history + generator->length - keep, (size_t)keep * sizeof *newest);
    reset(generator);
    return feed(generator, newest, keep);
}

static int64_t last_extent(const Type *type) { return type->dimensions[type->rank - 1].extent; }

// A model that chooses experts by the first tokens of a sequence reads them apart; a short prompt is repeated.
static void show_prompt(Generator *generator, const int32_t *tokens, int64_t count) {
    Runner *runner = generator->runner;
    const Graph *graph = module_find_graph(runner->module, "logits");
    Value value = graph_find_input(graph, "prompt", ROLE_DATA);
    int64_t extent = value_is_none(value) ? 0 : last_extent(graph_type(graph, value));
    for (int entry = 0; extent && entry < ENTRY_COUNT; entry++) {
        int32_t *prompt = runner->executors[entry] ? executor_input(runner->executors[entry], "prompt") : NULL;
        for (int64_t i = 0; prompt && i < extent; i++) prompt[i] = tokens[i % count];
    }
}

static const float *start(Generator *generator, const char *prompt, size_t length) {
    Ir *ir = generator->runner->ir;
    const Tokenizer *tokenizer = generator->tokenizer;
    int64_t count = tokenizer->encode(tokenizer, prompt, length, NULL, 0);
    if (count < 1) {
        report_error(ir->diagnostics, NO_PLACE, "E0910",
                     "the prompt is empty; generation needs one token to start from");
        return NULL;
    }
    int32_t *tokens = ARENA_ARRAY(ir->arena, int32_t, count);
    tokenizer->encode(tokenizer, prompt, length, tokens, count);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= generator->vocabulary) {
            report_error(ir->diagnostics, NO_PLACE, "E0910",
                         "token %d of the prompt is outside the vocabulary of %lld", tokens[i],
                         (long long)generator->vocabulary);
            return NULL;
        }
    int64_t room = generator->context > 1 ? generator->context - 1 : 1;
    if (count > room) {
        tokens += count - room;
        count = room;
    }
    show_prompt(generator, tokens, count);
    reset(generator);
    return feed(generator, tokens, count);
}

static void print_token(const Tokenizer *tokenizer, int32_t token, TextStream *text, FILE *stream) {
    char bytes[256], safe[TEXT_STREAM_ROOM(256)];
    CHECK(tokenizer->longest <= (int64_t)sizeof bytes);
    size_t length = tokenizer->decode(tokenizer, token, bytes);
    fwrite(safe, 1, text_stream_push(text, bytes, length, safe), stream);
    fflush(stream);
}

bool generator_run(Generator *generator, const char *prompt, size_t prompt_length, int64_t count,
                   const Sampling *sampling, FILE *stream) {
    const float *logits = start(generator, prompt, prompt_length);
    if (!logits) return false;
    TextStream text = {0};
    for (int64_t i = 0; i < count; i++) {
        int64_t token = random_sample(sampling, (uint64_t)i, logits, generator->vocabulary, generator->order);
        if (token < 0)
            return report_error(generator->runner->ir->diagnostics, NO_PLACE, "E0911",
                                "the model gives no finite logit; its weights are broken");
        int32_t id = (int32_t)token;
        print_token(generator->tokenizer, id, &text, stream);
        if (i + 1 == count) break;
        if (generator->length == generator->context) logits = rewind_context(generator);
        logits = run(generator, ENTRY_DECODE, &id, 1);
    }
    char safe[TEXT_STREAM_ROOM(4)];
    fwrite(safe, 1, text_stream_end(&text, safe), stream);
    fputc('\n', stream);
    return true;
}
