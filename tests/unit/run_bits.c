// The law that results are ordered by their own extent alone, on whole models: the loss of a row has the same
// bits alone and beside other rows, with one thread and with two; the logits that training computes are those
// of cached decoding, however the sequence is cut into chunks. In f32 and in bf16.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "driver/runner.h"

enum { VOCABULARY = 48, TIME = 70, CHUNK = 9, ROWS = 4 };

static const struct Subject {
    const char *model;
    const char *settings[12];
    const char *cpu;  // one that multiplies bf16 in pairs: where this machine can run it
} subjects[] = {
    {"nano", {"vocab=48", "embed=24", "heads=2", "key=12", "ffn=40", "layers=2", "time=70"}, NULL},
    {"gpt2", {"vocab=48", "embed=24", "heads=3", "layers=2", "context=70", "accumulate=1"}, NULL},
    {"llama",
     {"vocab=48", "embed=24", "groups=2", "queries=2", "key=6", "ffn=40", "layers=2", "time=70", "accumulate=1"}, NULL},
    {"shakespeare_char", {"vocab=48", "embed=24", "heads=3", "layers=2", "context=70"}, NULL},
    {"gpt2", {"vocab=48", "embed=24", "heads=3", "layers=2", "context=70", "accumulate=1", "precision=bf16"}, NULL},
    {"llama",
     {"vocab=48", "embed=24", "groups=2", "queries=2", "key=6", "ffn=40", "layers=2", "time=70", "accumulate=1",
      "precision=bf16"}, NULL},
    {"nano",
     {"vocab=48", "embed=24", "heads=2", "key=12", "ffn=41", "layers=2", "time=70", "precision=bf16"},
     "cooperlake"},
};

static bool can_run(const struct Subject *subject) {
#ifdef __x86_64__
    return !subject->cpu || __builtin_cpu_supports("avx512bf16");
#else
    return !subject->cpu;
#endif
}

static Runner *make_runner(Ir *ir, const char *path, const struct Subject *subject, int batch, uint32_t entries, int threads) {
    const char *texts[16];
    FrontendOptions options = {.settings = texts};
    while (subject->settings[options.setting_count]) {
        texts[options.setting_count] = subject->settings[options.setting_count];
        options.setting_count++;
    }
    texts[options.setting_count++] = arena_format(ir->arena, "batch=%d", batch);
    Module *module = frontend_load(ir, path, &options);
    CompileOptions compile = {.cpu = {.cpu = subject->cpu}, .chunk = CHUNK, .context = TIME, .sequences = 1, .verify = true};
    Runner *runner = module ? runner_create(ir, module, entries | 1u << ENTRY_INITIALIZE, &compile, threads) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(runner);
    runner_initialize(runner, 5);
    return runner;
}

static const char *model_path(Ir *ir, const struct Subject *subject) {
    return arena_format(ir->arena, CHERRY_SOURCE "/models/%s.cherry", subject->model);
}

static int32_t token(int row, int time) { return (13 * row + 5 * time + time * time / 3) % VOCABULARY; }

static void assert_same_bits(const char *model, const char *what, int at, float a, float b) {
    if (memcmp(&a, &b, sizeof a) != 0) fail_msg("%s: %s %d is %.9g and %.9g", model, what, at, (double)a, (double)b);
}

// ---- Rows and threads ----

// Losses of rows first .. first + batch - 1, one for each position.
static const float *losses_of(Runner *runner, int first, int batch) {
    Executor *executor = runner->executors[ENTRY_EVALUATE];
    int32_t *tokens = executor_input(executor, "tokens"), *targets = executor_input(executor, "targets");
    for (int i = 0; i < batch * TIME; i++) {
        tokens[i] = token(first + i / TIME, i % TIME);
        targets[i] = token(first + i / TIME, i % TIME + 1);
    }
    memset(executor_input(executor, "supervised"), 1, (size_t)(batch * TIME));
    runner_run(runner, ENTRY_EVALUATE);
    const float *losses = executor_output(executor, EXAMPLE_LOSSES);
    assert_non_null(losses);
    return losses;
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        if (!can_run(&subjects[i])) continue;
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *path = model_path(ir, &subjects[i]);
        Runner *alone = make_runner(ir, path, &subjects[i], 1, 1u << ENTRY_EVALUATE, 1);
        Runner *together = make_runner(ir, path, &subjects[i], ROWS, 1u << ENTRY_EVALUATE, 2);
        const float *all = losses_of(together, 0, ROWS);
        for (int row = 0; row < ROWS; row++) {
            const float *one = losses_of(alone, row, 1);
            for (int at = 0; at < TIME; at++)
                assert_same_bits(subjects[i].model, "loss at", at, one[at], all[row * TIME + at]);
        }
        assert_true(all[0] != all[TIME]);  // the rows do differ
        runner_destroy(alone);
        runner_destroy(together);
        arena_destroy(arena);
    }
}

// ---- Training and decoding ----

// The model of the file with an objective that is one of its logits: the one that `targets` names where
// `supervised` holds. The rest of the sum is zeros, so its bits are those of the logit.
static const char *write_probe(Ir *ir, const struct Subject *subject) {
    size_t length;
    char *text = file_read(ir->arena, ir->diagnostics, model_path(ir, subject), &length);
    assert_non_null(text);
    char *train = strstr(text, "\ntrain "), *with = train ? strstr(train, " with ") : NULL;
    assert_non_null(with);
    *train = 0;
    const char *path = arena_format(ir->arena, "/tmp/cherry-probe-%ld-%s.cherry", (long)getpid(), subject->model);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "%s\nobjective probe(m, tokens, targets, supervised) {\n"
            "    return sum(select(supervised, gather(m.logits(tokens), targets, along = vocab), 0))\n}\n"
            "%.*s with probe {\n    optimizer adamw(rate = 1e-3)\n    batch = 1, time = %d, steps = 1\n}\n",
            text, (int)(with - train), train + 1, TIME);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void fill_training(Runner *runner, int position, int32_t wanted) {
    Executor *executor = runner->executors[ENTRY_ACCUMULATE];
    int32_t *tokens = executor_input(executor, "tokens"), *targets = executor_input(executor, "targets");
    unsigned char *supervised = executor_input(executor, "supervised");
    for (int t = 0; t < TIME; t++) {
        tokens[t] = token(0, t);
        targets[t] = wanted;
        supervised[t] = t == position;
    }
}

// logits[vocabulary] after the token `row` of `count` (CHUNK or 1) from `position` on.
static const float *decode(Runner *runner, Entry entry, int position, int count, int row) {
    int32_t *tokens = executor_input(runner->executors[entry], "tokens");
    for (int i = 0; i < count; i++) tokens[i] = token(0, position + i);
    runner_set_integer(runner, entry, "position", position);
    runner_set_integer(runner, entry, "length", position + count);
    if (entry == ENTRY_PREFILL) runner_set_integer(runner, entry, "row", row);
    runner_run(runner, entry);
    return executor_output(runner->executors[entry], "logits");
}

// The whole sequence: `chunks` times CHUNK tokens at once, then one by one.
static void decode_all(Runner *runner, int chunks, float *logits) {
    for (size_t i = 0; i < state_count(runner->state); i++) {
        const StateBuffer *buffer = state_buffer(runner->state, i);
        if (buffer->role == ROLE_CACHE) memset(buffer->data, 0, (size_t)buffer->bytes);
    }
    for (int position = 0; position < TIME;) {
        int count = position < chunks * CHUNK ? CHUNK : 1;
        for (int row = 0; row < count; row++) {
            const float *found = decode(runner, count == 1 ? ENTRY_DECODE : ENTRY_PREFILL, position, count, row);
            memcpy(logits + (position + row) * VOCABULARY, found, sizeof *logits * VOCABULARY);
        }
        position += count;
    }
}

static void compare_with_training(Runner *runner, const char *model, const float *const decoded[4]) {
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    for (int position = 0; position < TIME; position++)
        for (int wanted = position % 12; wanted < VOCABULARY; wanted += 12) {
            fill_training(runner, position, wanted);
            runner_run(runner, ENTRY_ACCUMULATE);
            float trained = runner_output(runner, ENTRY_ACCUMULATE, "loss");
            for (int chunks = 0; chunks < 4; chunks++)
                assert_same_bits(model, "logit at", position, trained, decoded[chunks][position * VOCABULARY + wanted]);
        }
}

static void test_decoding(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        if (!can_run(&subjects[i])) continue;
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *path = write_probe(ir, &subjects[i]);
        Runner *runner = make_runner(ir, path, &subjects[i], 1,
                                     1u << ENTRY_ACCUMULATE | 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE, 2);
        const float *decoded[4];
        for (int chunks = 0; chunks < 4; chunks++) {
            float *logits = ARENA_ARRAY(arena, float, TIME * VOCABULARY);
            decode_all(runner, chunks, logits);
            decoded[chunks] = logits;
        }
        compare_with_training(runner, subjects[i].model, decoded);
        runner_destroy(runner);
        unlink(path);
        arena_destroy(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_decoding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
