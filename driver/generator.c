#include "driver/generator.h"

#include <stdio.h>
#include <string.h>

#include "ir/input_limit.h"

enum { FEW_TOKENS = 2 };  // are read one by one

bool generator_create(Runner *runner, const Tokenizer *tokenizer, int64_t chunk, int64_t context,
                      Generator *generator) {
    Ir *ir = runner->ir;
    const Graph *logits = module_find_graph(runner->module, "logits");
    const Type *type = graph_type(logits, logits->outputs.items[0].value);
    if (type->rank != 3 || type->element != ELEMENT_F32)
        return report_error(ir->diagnostics, NO_PLACE, "E0909",
                            "logits must be f32[batch, time, vocabulary], not %s", type_text(ir, type));
    int64_t limit = input_limit(logits, graph_find_input(logits, names_intern(ir->names, "tokens"), ROLE_DATA));
    if (limit < type->dimensions[2].extent)
        return report_error(ir->diagnostics, NO_PLACE, "E0909",
                            "logits are of %s = %lld tokens, and the model reads %lld: what it says cannot be read again",
                            type->dimensions[2].name, (long long)type->dimensions[2].extent, (long long)limit);
    const Graph *draft = runner->executors[ENTRY_DRAFT] ? module_find_graph(runner->module, "draft") : NULL;
    *generator = (Generator){.runner = runner,
                             .tokenizer = tokenizer,
                             .chunk = chunk,
                             .context = context,
                             .vocabulary = type->dimensions[2].extent,
                             .heads = draft ? (int64_t)draft->outputs.count - 1 : 0,
                             .token = -1,
                             .history = ARENA_ARRAY(ir->arena, int32_t, context),
                             .order = ARENA_ARRAY(ir->arena, int32_t, type->dimensions[2].extent)};
    CHECK(generator->heads <= GENERATOR_DRAFTS);
    return true;
}

// Forgets everything: caches are written by adding nothing to nothing, so they start at zero.
static void reset(Generator *generator) {
    generator->length = 0;
    state_clear(generator->runner->state, ROLE_CACHE);
}

// ---- Reading ----

// Runs `count` tokens, of which the first `known` are to stay. A chunk that they do not fill ends in any others: what
// the caches hold of those is written again before a token looks at it.
static void run(Generator *generator, Entry entry, const int32_t *tokens, int64_t count, int64_t known) {
    Runner *runner = generator->runner;
    int64_t rows = entry == ENTRY_PREFILL ? generator->chunk : count;
    int32_t *input = executor_input(runner->executors[entry], "tokens");
    memcpy(input, tokens, (size_t)count * sizeof *tokens);
    memset(input + count, 0, (size_t)(rows - count) * sizeof *tokens);
    runner_set_integer(runner, entry, "position", generator->length);
    runner_set_integer(runner, entry, "length", generator->length + rows);
    if (entry == ENTRY_PREFILL) runner_set_integer(runner, entry, "row", known - 1);
    runner_run(runner, entry);
    memmove(generator->history + generator->length, tokens, (size_t)known * sizeof *tokens);
    generator->length += known;
    generator->entry = entry;
    generator->rows = entry == ENTRY_PREFILL ? 1 : rows;  // of a chunk one row comes out
    generator->row = entry == ENTRY_PREFILL ? 0 : known - 1;
}

// A chunk takes the time of one step, where memory decides, to two or three, where arithmetic does.
static void feed(Generator *generator, const int32_t *tokens, int64_t count) {
    for (int64_t taken; count > 0; tokens += taken, count -= taken) {
        bool together = count > FEW_TOKENS && generator->length + generator->chunk <= generator->context;
        taken = !together ? 1 : count < generator->chunk ? count : generator->chunk;
        run(generator, together ? ENTRY_PREFILL : ENTRY_DECODE, tokens, taken, taken);
    }
}

// Reads the newest half of a full context again from position zero.
static void rewind_context(Generator *generator) {
    int64_t keep = generator->context / 2;  // of a context of one, nothing: the last token is yet to be read
    int32_t *newest = ARENA_ARRAY(generator->runner->ir->arena, int32_t, keep);
    memcpy(newest, generator->history + generator->length - keep, (size_t)keep * sizeof *newest);
    reset(generator);
    feed(generator, newest, keep);
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

// The prompt's tokens, NULL after an error.
static int32_t *encode(const Generator *generator, const char *prompt, size_t length, int64_t *count) {
    Ir *ir = generator->runner->ir;
    const Tokenizer *tokenizer = generator->tokenizer;
    *count = tokenizer_encode(tokenizer, prompt, length, NULL, 0);
    if (*count < 1) {
        report_error(ir->diagnostics, NO_PLACE, "E0910", "the prompt is empty; generation needs one token to start from");
        return NULL;
    }
    int32_t *tokens = ARENA_ARRAY(ir->arena, int32_t, *count);
    tokenizer_encode(tokenizer, prompt, length, tokens, *count);
    for (int64_t i = 0; i < *count; i++) {
        if (tokens[i] >= 0 && tokens[i] < generator->vocabulary) continue;
        report_error(ir->diagnostics, NO_PLACE, "E0910", "token %d of the prompt is outside the vocabulary of %lld", tokens[i],
                     (long long)generator->vocabulary);
        return NULL;
    }
    return tokens;
}

bool generator_accepts(const Generator *generator, const char *prompt, size_t length) {
    int64_t count;
    return encode(generator, prompt, length, &count) != NULL;
}

bool generator_start(Generator *generator, const char *prompt, size_t length) {
    int64_t count;
    int32_t *tokens = encode(generator, prompt, length, &count);
    if (!tokens) return false;
    int64_t room = generator->context > 1 ? generator->context - 1 : 1;
    if (count > room) {
        tokens += count - room;
        count = room;
    }
    show_prompt(generator, tokens, count);
    runner_round(generator->runner);
    reset(generator);
    generator->token = -1;
    generator->count = (GeneratorCount){0};
    feed(generator, tokens, count);
    return true;
}

// ---- Making ----

// What output `name` says about the token number `index` after the prompt; -1: nothing that is a number.
static int32_t sample(const Generator *generator, const Sampling *sampling, const char *name, int64_t index) {
    const float *logits = executor_output(generator->runner->executors[generator->entry], name);
    return (int32_t)random_sample(sampling, (uint64_t)index, logits + generator->row * generator->vocabulary,
                                  generator->vocabulary, generator->order);
}

// Reads the last token, and behind it what the heads expect to follow, each with the random number that the
// model itself will use there.
static void step(Generator *generator, const Sampling *sampling) {
    if (generator->length == generator->context) rewind_context(generator);
    int64_t heads = generator->heads;
    generator->count.steps++;
    if (!heads || generator->length + 1 + heads > generator->context) {
        run(generator, ENTRY_DECODE, &generator->token, 1, 1);
        return;
    }
    int32_t tokens[1 + GENERATOR_DRAFTS] = {generator->token};
    for (int64_t j = 0; j < heads; j++) {
        char name[16];
        snprintf(name, sizeof name, "draft%d", (int)j + 1);
        int32_t token = sample(generator, sampling, name, generator->count.tokens + j);
        tokens[1 + j] = generator->drafts[j] = token < 0 ? 0 : token;
    }
    run(generator, ENTRY_DRAFT, tokens, 1 + heads, 1);
    generator->count.drafted += heads;
}

// The last token was read already if it is what was drafted there.
static bool accept(Generator *generator) {
    bool drafted = generator->entry == ENTRY_DRAFT && generator->row + 1 < generator->rows;
    if (!drafted || generator->drafts[generator->row] != generator->token) return false;
    generator->history[generator->length++] = generator->token;
    generator->row++;
    generator->count.accepted++;
    return true;
}

int32_t generator_next(Generator *generator, const Sampling *sampling) {
    if (generator->token >= 0 && !accept(generator)) step(generator, sampling);
    generator->token = sample(generator, sampling, "logits", generator->count.tokens++);
    if (generator->token < 0 && runner_works(generator->runner))
        report_error(generator->runner->ir->diagnostics, NO_PLACE, "E0911",
                     "the model gives no finite logit; its weights are broken");
    return generator->token;
}

// Bytes that the tokens so far have made sure, as safe text.
static void print_bytes(TextStream *text, const char *bytes, size_t length, char *safe, FILE *stream) {
    fwrite(safe, 1, text_stream_push(text, bytes, length, safe), stream);
    fflush(stream);
}

bool generator_run(Generator *generator, const char *prompt, size_t prompt_length, int64_t count,
                   const Sampling *sampling, FILE *stream) {
    if (!generator_start(generator, prompt, prompt_length)) return false;
    Arena *arena = generator->runner->ir->arena;
    TextStream text = {0};
    Detokenizer words;
    size_t room = DETOKENIZER_ROOM(generator->tokenizer), length;
    char *safe = arena_allocate(arena, TEXT_STREAM_ROOM(room));
    const char *bytes;
    detokenizer_start(&words, generator->tokenizer, arena_allocate(arena, room));
    // The prompt's last tokens are the context of the first word: whether a space stands before it.
    int64_t known = generator->length < DETOKENIZER_WINDOW / 2 ? generator->length : DETOKENIZER_WINDOW / 2;
    for (int64_t i = generator->length - known; i < generator->length; i++)
        detokenizer_push(&words, generator->history[i], &bytes);
    bool good = true;
    for (int64_t i = 0; i < count && good; i++) {
        int32_t token = generator_next(generator, sampling);
        good = token >= 0;
        if (!good) break;
        length = detokenizer_push(&words, token, &bytes);
        print_bytes(&text, bytes, length, safe, stream);
    }
    if (!good) return false;
    length = detokenizer_end(&words, &bytes);
    print_bytes(&text, bytes, length, safe, stream);
    fwrite(safe, 1, text_stream_end(&text, safe), stream);
    fputc('\n', stream);
    return true;
}
