// Drafts change nothing but the time: the same tokens with and without, for every sampling and across the end
// of the context; and sampled tokens have exactly the model's distribution, by chi-square over 10^5 draws,
// which a rule that lets every draft stand fails (a fifth of the draws is enough to see that).
// A prompt gives the same logits however its tokens are read: together or one by one.
// Parameters that are rounded once give the same logits as those that every step rounds.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "driver/generator.h"
#include "passes/pass.h"

enum { CONTEXT = 24, CHUNK = 7, DRAFT = 1 << ENTRY_DRAFT, ROUND = 1 << ENTRY_ROUND };

static const struct Subject {
    const char *model, *passes;
    const char *settings[10];
} subjects[] = {
    {"nano",
     "add-heads{count=2}",
     {"vocab=5", "embed=16", "heads=2", "key=8", "ffn=12", "layers=2", "time=24"}},
    {"llama",
     "add-heads{count=4, kind=shared}",
     {"vocab=5", "embed=16", "groups=2", "queries=2", "key=8", "ffn=12", "layers=2", "time=24",
      "accumulate=1"}},
    {"gpt2",
     "unroll-recurrent{schedule=1|1*3, learn=gate}, add-heads{stack=trunk, count=1}",
     {"vocab=5", "embed=24", "heads=3", "layers=2", "context=24", "accumulate=1"}},
};

typedef struct Subjected {
    Arena *arena;
    Runner *runner;
    Generator generator;
} Subjected;

// Any weights do, if only they make the heads differ from the model and not by much.
static void fill_weights(const Runner *runner) {
    for (size_t i = 0; i < state_count(runner->state); i++) {
        const StateBuffer *buffer = state_buffer(runner->state, i);
        uint64_t seed = 3;
        for (const char *at = buffer->name; *at; at++) seed = hash_word(seed, (uint64_t)*at);
        for (int64_t k = 0; k < buffer->bytes / 4 && buffer->role == ROLE_PARAMETER; k++)
            ((float *)buffer->data)[k] = (float)(random_uniform(seed, 1, (uint64_t)k) - 0.5) * 0.8f;
    }
}

static Subjected open_context(const struct Subject *subject, uint32_t more_entries, int64_t context) {
    Subjected opened = {.arena = arena_create()};
    Ir *ir = ir_create(opened.arena);
    const char *texts[10];
    FrontendOptions options = {.settings = texts};
    while (options.setting_count < 10 && subject->settings[options.setting_count]) {
        texts[options.setting_count] = subject->settings[options.setting_count];
        options.setting_count++;
    }
    const char *path = arena_format(opened.arena, CHERRY_SOURCE "/models/%s.cherry", subject->model);
    Module *module = frontend_load(ir, path, &options);
    PassContext passes = {.ir = ir, .module = module, .verify = true, .has_kernel = cpu_has_kernel};
    module = module ? pass_run_module(&passes, subject->passes, module) : NULL;
    int64_t chunk = context < CHUNK ? context : CHUNK;
    CompileOptions compile = {.chunk = chunk, .context = context, .sequences = 1, .verify = true};
    uint32_t entries = 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE | more_entries;
    opened.runner = module ? runner_create(ir, module, entries, &compile, 1) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(opened.runner);
    fill_weights(opened.runner);
    assert_true(generator_create(opened.runner, &tokenizer_bytes, chunk, context, &opened.generator));
    return opened;
}

static Subjected open_subject(const struct Subject *subject, uint32_t more_entries) {
    return open_context(subject, more_entries, CONTEXT);
}

static void close_subject(Subjected *opened) {
    runner_destroy(opened->runner);
    arena_destroy(opened->arena);
}

// ---- The same tokens ----

static const char prompt[] = {1, 4, 2, 2, 0, 3, 1, 1, 4};

static void test_same_tokens(void **state) {
    (void)state;
    static const Sampling samplings[] = {{.temperature = 0},
                                         {.temperature = 0.7, .seed = 4},
                                         {.temperature = 1.2, .top_k = 3, .seed = 5},
                                         {.temperature = 1, .top_p = 0.8, .seed = 6}};
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        Subjected plain = open_subject(&subjects[i], 0), drafting = open_subject(&subjects[i], DRAFT);
        int64_t fallen = 0;
        for (size_t s = 0; s < sizeof samplings / sizeof *samplings; s++) {
            int64_t length = s % 2 ? 1 : (int64_t)sizeof prompt;
            assert_true(generator_start(&plain.generator, prompt, (size_t)length));
            assert_true(generator_start(&drafting.generator, prompt, (size_t)length));
            for (int at = 0; at < 200; at++) {
                int32_t expected = generator_next(&plain.generator, &samplings[s]);
                assert_true(expected >= 0);
                assert_int_equal(generator_next(&drafting.generator, &samplings[s]), expected);
            }
            const GeneratorCount *count = &drafting.generator.count, *without = &plain.generator.count;
            print_message("%s, sampling %zu: %lld steps for %lld, %lld of %lld drafts stand\n",
                          subjects[i].model, s, (long long)count->steps, (long long)without->steps,
                          (long long)count->accepted, (long long)count->drafted);
            assert_int_equal(without->steps, 199);
            assert_int_equal(count->steps + count->accepted, 199);
            assert_true(count->accepted > 0);
            fallen += count->drafted - count->accepted;
        }
        assert_true(fallen > 0);
        close_subject(&plain);
        close_subject(&drafting);
    }
}

// ---- The prompt ----

static const float *last_logits(const Generator *generator) {
    const float *logits = executor_output(generator->runner->executors[generator->entry], "logits");
    return logits + generator->row * generator->vocabulary;
}

// The end of a prompt that fills no chunk is read in one all the same, and what follows it there is not seen.
static void test_prompt(void **state) {
    (void)state;
    static const char text[] = {1, 4, 2, 2, 0, 3, 1, 1, 4, 0, 2, 3, 3, 1, 4, 4, 0, 2, 1, 3, 2, 0, 1};
    static const Sampling sampling = {.temperature = 0.7, .seed = 4};
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        Subjected together = open_subject(&subjects[i], DRAFT), single = open_subject(&subjects[i], 0);
        single.generator.chunk = CONTEXT + 1;  // has no room
        for (int64_t length = 1; length <= (int64_t)sizeof text; length++) {
            assert_true(generator_start(&together.generator, text, (size_t)length));
            assert_true(generator_start(&single.generator, text, (size_t)length));
            assert_int_equal(single.generator.entry, ENTRY_DECODE);
            int64_t rest = length % CHUNK;
            bool fits = length - rest + CHUNK <= CONTEXT, chunk = rest == 0 || (rest > 2 && fits);
            assert_int_equal(together.generator.entry, chunk ? ENTRY_PREFILL : ENTRY_DECODE);
            assert_int_equal(together.generator.length, length);
            assert_memory_equal(last_logits(&together.generator), last_logits(&single.generator),
                                (size_t)single.generator.vocabulary * sizeof(float));
            for (int at = 0; at < 2 * CONTEXT; at++) {
                int32_t expected = generator_next(&single.generator, &sampling);
                assert_int_equal(generator_next(&together.generator, &sampling), expected);
            }
        }
        close_subject(&together);
        close_subject(&single);
    }
}

// Where the context is one token, each follows from the last alone, as if that were the prompt.
static void test_context_of_one(void **state) {
    (void)state;
    static const Sampling coldest = {.temperature = 0};
    static const struct Subject one = {
        "nano", "add-heads{count=2}", {"vocab=5", "embed=16", "heads=2", "key=8", "ffn=12", "layers=2", "time=1"}};
    Subjected running = open_context(&one, 0, 1), single = open_context(&one, 0, 1);
    assert_true(generator_start(&running.generator, prompt, sizeof prompt));
    int32_t last = prompt[sizeof prompt - 1];
    for (int at = 0; at < 20; at++) {
        assert_true(generator_start(&single.generator, (char[]){(char)last}, 1));
        last = generator_next(&single.generator, &coldest);
        assert_int_equal(generator_next(&running.generator, &coldest), last);
        assert_int_equal(running.generator.length, 1);
    }
    close_subject(&running);
    close_subject(&single);
}

// ---- Rounded parameters ----

// `panels`: of the copy of a layer's last matrix; 0: it lies as its parameter does.
static void hold_rounded_once(const struct Subject *rounded, int64_t panels) {
    static const Sampling sampling = {.temperature = 0.7, .seed = 4};
    Subjected each = open_subject(rounded, DRAFT), once = open_subject(rounded, DRAFT | ROUND);
    assert_null(each.runner->executors[ENTRY_ROUND]);
    for (int weights = 0; weights < 2; weights++) {
        // Generating again reads the weights as they are then.
        for (int subject = 0; weights && subject < 2; subject++) {
            const Runner *runner = subject ? once.runner : each.runner;
            const StateBuffer *down = state_find(runner->state, "trunk.down", ROLE_PARAMETER);
            for (int64_t i = 0; i < down->bytes / 4; i++) ((float *)down->data)[i] *= 1.01f;
        }
        assert_true(generator_start(&each.generator, prompt, sizeof prompt));
        assert_true(generator_start(&once.generator, prompt, sizeof prompt));
        for (int at = 0; at < 100; at++) {
            int32_t expected = generator_next(&each.generator, &sampling);
            assert_int_equal(generator_next(&once.generator, &sampling), expected);
            assert_int_equal(once.generator.entry, each.generator.entry);
            size_t bytes = (size_t)(each.generator.rows * each.generator.vocabulary) * sizeof(float);
            assert_memory_equal(executor_output(once.runner->executors[once.generator.entry], "logits"),
                                executor_output(each.runner->executors[each.generator.entry], "logits"), bytes);
        }
    }
    const StateBuffer *copy = state_find(once.runner->state, "trunk.down", ROLE_ROUNDED);
    assert_non_null(copy);
    assert_int_equal(copy->type->element, ELEMENT_BF16);
    int panel = type_find(copy->type, names_intern(once.runner->ir->names, "embed.panel"));
    assert_int_equal(panel < 0 ? 0 : copy->type->dimensions[panel].extent, panels);
    close_subject(&each);
    close_subject(&once);
}

static void test_rounded_once(void **state) {
    (void)state;
    static const struct Subject small = {
        "nano",
        "add-heads{count=2}",
        {"vocab=5", "embed=16", "heads=2", "key=8", "ffn=12", "layers=2", "time=24", "precision=bf16"}};
    static const struct Subject wide = {
        "nano",
        "add-heads{count=2}",
        {"vocab=5", "embed=192", "heads=3", "key=64", "ffn=320", "layers=2", "time=24", "precision=bf16"}};
    static const struct Subject uneven = {  // two panels of 96 columns
        "nano",
        "add-heads{count=2}",
        {"vocab=5", "embed=190", "heads=3", "key=64", "ffn=320", "layers=2", "time=24", "precision=bf16"}};
    hold_rounded_once(&small, 0);
    hold_rounded_once(&wide, 2);
    hold_rounded_once(&uneven, 2);
}

// ---- The distribution ----

enum { VOCABULARY = 5, DRAWS = 100000, CELLS = VOCABULARY * VOCABULARY * VOCABULARY };

// What the model says after `length` tokens, under temperature and top_k, by the book.
static void exact_shares(Generator *plain, const char *tokens, size_t length, const Sampling *sampling,
                         double *shares) {
    assert_true(generator_start(plain, tokens, length));
    const float *logits = executor_output(plain->runner->executors[plain->entry], "logits");
    logits += plain->row * VOCABULARY;
    double sum = 0;
    for (int i = 0; i < VOCABULARY; i++) {
        int better = 0;
        for (int j = 0; j < VOCABULARY; j++) better += logits[j] > logits[i];
        bool stays = !sampling->top_k || better < sampling->top_k;
        sum += shares[i] = stays ? exp((double)logits[i] / sampling->temperature) : 0;
    }
    for (int i = 0; i < VOCABULARY; i++) shares[i] /= sum;
}

// Of the three tokens that follow one of the prompt.
static void exact_cells(Generator *plain, const Sampling *sampling, double *cells) {
    char tokens[3] = {1};
    for (int a = 0; a < VOCABULARY; a++)
        for (int b = 0; b < VOCABULARY; b++) {
            double first[VOCABULARY], second[VOCABULARY], third[VOCABULARY];
            tokens[1] = (char)a, tokens[2] = (char)b;
            exact_shares(plain, tokens, 1, sampling, first);
            exact_shares(plain, tokens, 2, sampling, second);
            exact_shares(plain, tokens, 3, sampling, third);
            for (int c = 0; c < VOCABULARY; c++)
                cells[(a * VOCABULARY + b) * VOCABULARY + c] = first[a] * second[b] * third[c];
        }
}

// How many standard deviations chi-square lies above its mean. `trusting`: a draft stands whatever the model
// says.
static double surprise(Generator *drafting, const Sampling *sampling, const double *cells, bool trusting) {
    int64_t counts[CELLS] = {0}, accepted = 0;
    int draws = trusting ? DRAWS / 5 : DRAWS;
    for (int i = 0; i < draws; i++) {
        Sampling draw = *sampling;
        draw.seed = (uint64_t)i;
        assert_true(generator_start(drafting, (char[]){1}, 1));
        int32_t a = generator_next(drafting, &draw), b = generator_next(drafting, &draw);
        assert_true(drafting->count.drafted > 0);
        if (trusting) b = drafting->token = drafting->drafts[0];
        counts[(a * VOCABULARY + b) * VOCABULARY + generator_next(drafting, &draw)]++;
        accepted += drafting->count.accepted;
    }
    double square = 0;
    int freedom = -1;
    for (int i = 0; i < CELLS; i++) {
        double expected = cells[i] * draws;
        if (expected == 0) assert_true(trusting || counts[i] == 0);
        if (expected < 5) continue;
        square += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
        freedom++;
    }
    double above = (square - freedom) / sqrt(2.0 * freedom);
    print_message(
        "temperature %g, top_k %lld%s: chi-square %.1f over %d degrees, %.1f deviations; %.3f of first "
        "drafts stand\n",
        sampling->temperature, (long long)sampling->top_k, trusting ? ", every draft stands" : "", square,
        freedom, above, (double)accepted / draws);
    return above;
}

static void test_distribution(void **state) {
    (void)state;
    static const Sampling samplings[] = {{.temperature = 1}, {.temperature = 0.8, .top_k = 4}};
    Subjected plain = open_subject(&subjects[0], 0), drafting = open_subject(&subjects[0], DRAFT);
    for (size_t s = 0; s < sizeof samplings / sizeof *samplings; s++) {
        double cells[CELLS];
        exact_cells(&plain.generator, &samplings[s], cells);
        assert_true(surprise(&drafting.generator, &samplings[s], cells, false) < 5);
        assert_true(surprise(&drafting.generator, &samplings[s], cells, true) > 20);
    }
    close_subject(&plain);
    close_subject(&drafting);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_tokens),
                                       cmocka_unit_test(test_prompt),
                                       cmocka_unit_test(test_context_of_one),
                                       cmocka_unit_test(test_rounded_once),
                                       cmocka_unit_test(test_distribution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
