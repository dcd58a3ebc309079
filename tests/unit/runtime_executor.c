// State and executor, with kernels written in C: shared buffers, inputs and outputs, phases, workspaces,
// and the same result for any number of threads, on programs made at random.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "runtime/executor.h"

enum { N = 64 };

// ---- Kernels over int64 vectors of N elements ----

static void dawdle(int64_t seed) {  // makes threads drift apart, so that a missing barrier shows
    volatile int64_t sink = 0;
    for (int64_t i = hash_word((uint64_t)seed, 7) % 300; i > 0; i--) sink = sink + i;
}

// c[i] = 3 a[i] + b[N - 1 - i] + 1, CHUNK elements a task
#define MIX_KERNEL(CHUNK)                                                                                \
    static void mix_##CHUNK(char *const *operands, char *const *workspaces, char *scratch, int64_t begin, int64_t end) { \
        (void)workspaces;                                                                                \
        const uint64_t *a = (const uint64_t *)operands[0], *b = (const uint64_t *)operands[1];           \
        uint64_t *c = (uint64_t *)operands[2], *line = (uint64_t *)scratch;                              \
        for (int64_t i = begin * CHUNK; i < end * CHUNK; i++) {                                          \
            dawdle(i + (int64_t)a[i]);                                                                   \
            line[i % CHUNK] = 3 * a[i] + b[N - 1 - i] + 1;                                               \
            c[i] = line[i % CHUNK];                                                                      \
        }                                                                                                \
    }
MIX_KERNEL(1)
MIX_KERNEL(16)
MIX_KERNEL(32)
MIX_KERNEL(64)

// c[i] = a[i] + sum of a: partial sums of 16 tasks, then one task, then 8 tasks.
static void sum_parts(char *const *operands, char *const *workspaces, char *scratch, int64_t begin, int64_t end) {
    (void)scratch;
    const uint64_t *a = (const uint64_t *)operands[0];
    for (int64_t task = begin; task < end; task++) {
        dawdle(task);
        uint64_t sum = 0;
        for (int i = 0; i < N / 16; i++) sum += a[task * (N / 16) + i];
        ((uint64_t *)workspaces[0])[task] = sum;
    }
}

static void sum_join(char *const *operands, char *const *workspaces, char *scratch, int64_t begin, int64_t end) {
    (void)operands, (void)scratch, (void)begin, (void)end;
    uint64_t *parts = (uint64_t *)workspaces[0];
    for (int i = 1; i < 16; i++) parts[0] += parts[i];
}

static void sum_spread(char *const *operands, char *const *workspaces, char *scratch, int64_t begin, int64_t end) {
    (void)scratch;
    const uint64_t *a = (const uint64_t *)operands[0];
    for (int64_t i = begin * (N / 8); i < end * (N / 8); i++)
        ((uint64_t *)operands[1])[i] = a[i] + *(const uint64_t *)workspaces[0];
}

// ---- Programs by hand ----

typedef struct Fixture {
    Ir *ir;
    Arena *arena;
    const Type *vector;
    Nest mix, sum;
} Fixture;

static int set_up(void **state) {
    Arena *arena = arena_create();
    Fixture *fixture = ARENA_NEW(arena, Fixture);
    fixture->arena = arena;
    fixture->ir = ir_create(arena);
    Dimension dimension = {.name = names_intern(fixture->ir->names, "n"), .extent = N};
    fixture->vector = type_make(fixture->ir, ELEMENT_I64, 1, &dimension);
    NestOperand read = {.element = ELEMENT_I64, .rank = 1, .extent = {N}, .stride = {1}, .reads = true};
    NestOperand write = read;
    write.reads = false;
    write.writes = true;
    fixture->mix = (Nest){.operand_count = 3, .operands = {read, read, write}};
    fixture->sum = (Nest){.operand_count = 2, .operands = {read, write}};
    *state = fixture;
    return 0;
}

static int tear_down(void **state) {
    arena_destroy(((Fixture *)*state)->arena);
    return 0;
}

static Program *make_program(Fixture *fixture, const char *name) {
    static const struct {
        CpuFunction function;
        int64_t tasks;
    } mixes[] = {{mix_1, 64}, {mix_16, 4}, {mix_32, 2}, {mix_64, 1}};
    Program *program = ARENA_NEW(fixture->arena, Program);
    program->ir = fixture->ir;
    program->name = name;
    for (int i = 0; i < 4; i++) {
        Kernel kernel = {.name = "mix", .nest = &fixture->mix,
                         .cpu = {.phase_count = 1, .functions = {mixes[i].function}, .tasks = {mixes[i].tasks},
                                 .scratch_bytes = 8 * N}};
        vector_push(fixture->arena, &program->kernels, kernel);
    }
    Kernel kernel = {.name = "sum", .nest = &fixture->sum,
                     .cpu = {.phase_count = 3, .functions = {sum_parts, sum_join, sum_spread},
                             .tasks = {16, 1, 8}, .workspace_bytes = {128}}};
    vector_push(fixture->arena, &program->kernels, kernel);
    return program;
}

static uint32_t add_buffer(Fixture *fixture, Program *program, BufferKind kind, Role role, const char *name) {
    Buffer buffer = {.kind = kind, .role = role, .name = name, .type = fixture->vector, .bytes = 8 * N, .offset = -1};
    if (kind == BUFFER_TEMPORARY) {
        buffer.offset = program->arena_bytes;
        program->arena_bytes += 8 * N;
    }
    vector_push(fixture->arena, &program->buffers, buffer);
    return (uint32_t)program->buffers.count - 1;
}

static void add_mix(Fixture *fixture, Program *program, uint32_t kernel, uint32_t a, uint32_t b, uint32_t c) {
    Launch launch = {.kernel = kernel, .operand_count = 3, .buffers = {a, b, c}, .workspaces = NO_WORKSPACES};
    vector_push(fixture->arena, &program->launches, launch);
}

static void add_sum(Fixture *fixture, Program *program, uint32_t a, uint32_t b, uint32_t workspace) {
    Launch launch = {.kernel = 4, .operand_count = 2, .buffers = {a, b}, .workspaces = {workspace, UINT32_MAX}};
    vector_push(fixture->arena, &program->launches, launch);
}

static void test_state_is_shared(void **state) {
    Fixture *fixture = *state;
    Program *one = make_program(fixture, "one"), *two = make_program(fixture, "two");
    uint32_t x = add_buffer(fixture, one, BUFFER_INPUT, ROLE_DATA, "x");
    uint32_t w = add_buffer(fixture, one, BUFFER_STATE, ROLE_PARAMETER, "w");
    add_mix(fixture, one, 1, x, x, w);
    uint32_t w2 = add_buffer(fixture, two, BUFFER_STATE, ROLE_PARAMETER, "w");
    uint32_t g = add_buffer(fixture, two, BUFFER_STATE, ROLE_GRADIENT, "w");
    uint32_t t = add_buffer(fixture, two, BUFFER_TEMPORARY, ROLE_ARGUMENT, "t");
    uint32_t y = add_buffer(fixture, two, BUFFER_OUTPUT, ROLE_ARGUMENT, "y");
    add_mix(fixture, two, 2, w2, g, t);
    add_mix(fixture, two, 3, t, t, y);

    Diagnostics *diagnostics = fixture->ir->diagnostics;
    ThreadPool *pool = thread_pool_create(2);
    State *shared = state_create(diagnostics, (Program *[]){one, two}, 2);
    assert_non_null(shared);
    assert_int_equal(state_count(shared), 2);
    assert_int_equal(state_bytes(shared), 2 * 8 * N);
    assert_int_equal(state_arena_bytes(shared), 8 * N);
    assert_null(state_data(shared, "v", ROLE_PARAMETER));
    int64_t *parameter = state_data(shared, "w", ROLE_PARAMETER), *gradient = state_data(shared, "w", ROLE_GRADIENT);
    assert_true(parameter && gradient && parameter != gradient);
    assert_int_equal((uintptr_t)parameter % 64 + (uintptr_t)gradient % 64, 0);
    for (int i = 0; i < N; i++) assert_true(parameter[i] == 0 && gradient[i] == 0);

    Executor *first = executor_create(diagnostics, one, shared, pool);
    Executor *second = executor_create(diagnostics, two, shared, pool);
    assert_null(executor_input(first, "y"));
    assert_null(executor_output(first, "x"));
    int64_t *input = executor_input(first, "x");
    for (int i = 0; i < N; i++) input[i] = i;
    for (int i = 0; i < N; i++) gradient[i] = 1000 * i;
    executor_run(first);
    for (int i = 0; i < N; i++) assert_int_equal(parameter[i], 3 * i + (N - 1 - i) + 1);
    executor_run(second);
    const int64_t *output = executor_output(second, "y");
    for (int i = 0; i < N; i++) {
        int64_t here = 3 * parameter[i] + gradient[N - 1 - i] + 1;
        int64_t there = 3 * parameter[N - 1 - i] + gradient[i] + 1;
        assert_int_equal(output[i], 3 * here + there + 1);
    }
    executor_destroy(first);
    executor_destroy(second);
    state_destroy(shared);
    thread_pool_destroy(pool);
}

static const char *only_error(Fixture *fixture) {
    assert_int_equal(diagnostics_error_count(fixture->ir->diagnostics), 1);
    return diagnostics_message(fixture->ir->diagnostics, 0)->text;
}

static void test_types_disagree(void **state) {
    Fixture *fixture = *state;
    Program *one = make_program(fixture, "one"), *two = make_program(fixture, "two");
    add_buffer(fixture, one, BUFFER_STATE, ROLE_PARAMETER, "w");
    Dimension dimension = {.name = names_intern(fixture->ir->names, "m"), .extent = N};
    fixture->vector = type_make(fixture->ir, ELEMENT_I64, 1, &dimension);
    add_buffer(fixture, two, BUFFER_STATE, ROLE_PARAMETER, "w");
    assert_null(state_create(fixture->ir->diagnostics, (Program *[]){one, two}, 2));
    assert_string_equal(only_error(fixture), "parameter w has type i64[m=64] in program two and i64[n=64] in a "
                                             "program before it");
}

static void test_memory_is_short(void **state) {
    Fixture *fixture = *state;
    Program *program = make_program(fixture, "one");
    program->arena_bytes = INT64_C(1) << 50;
    assert_null(state_create(fixture->ir->diagnostics, &program, 1));
    assert_non_null(strstr(only_error(fixture), "needs 1048576.00 GiB of memory, "));
}

// ---- Barriers ----

static int64_t count_barriers(Fixture *fixture, Program *program, int threads) {
    ThreadPool *pool = thread_pool_create(threads);
    State *shared = state_create(fixture->ir->diagnostics, &program, 1);
    Executor *executor = executor_create(fixture->ir->diagnostics, program, shared, pool);
    int64_t barriers = executor_barrier_count(executor);
    executor_destroy(executor);
    state_destroy(shared);
    thread_pool_destroy(pool);
    return barriers;
}

static void test_barriers_only_where_needed(void **state) {
    Fixture *fixture = *state;
    Program *program = make_program(fixture, "one");
    uint32_t b[8];
    for (int i = 0; i < 8; i++) b[i] = add_buffer(fixture, program, BUFFER_TEMPORARY, ROLE_ARGUMENT, "t");
    add_mix(fixture, program, 0, b[0], b[1], b[2]);
    add_mix(fixture, program, 0, b[0], b[1], b[3]);  // independent of the first
    add_mix(fixture, program, 0, b[2], b[3], b[4]);  // reads what both wrote: 1
    add_mix(fixture, program, 0, b[5], b[6], b[7]);  // independent
    add_mix(fixture, program, 3, b[5], b[6], b[2]);  // writes what the third reads: 2
    add_mix(fixture, program, 3, b[2], b[6], b[5]);  // a chain on one thread
    add_mix(fixture, program, 3, b[5], b[6], b[5]);
    add_mix(fixture, program, 3, b[0], b[1], b[6]);  // writes what that chain reads: joins it
    add_mix(fixture, program, 2, b[5], b[5], b[7]);  // two threads read the chain's result: 3
    add_sum(fixture, program, b[7], b[0], b[1]);     // 4, and one before each further phase: 6
    assert_int_equal(count_barriers(fixture, program, 2), 6);
}

// Runs a program of `launches` random launches over a few buffers, and hashes all that it wrote.
static uint64_t run_random(Fixture *fixture, uint64_t seed, int threads, bool timed) {
    Program *program = make_program(fixture, "random");
    enum { BUFFERS = 9, LAUNCHES = 60 };
    uint32_t buffers[BUFFERS];
    for (int i = 0; i < BUFFERS; i++)
        buffers[i] = add_buffer(fixture, program, i < 2 ? BUFFER_STATE : BUFFER_TEMPORARY,
                                i == 0 ? ROLE_PARAMETER : ROLE_GRADIENT, "w");
    uint32_t workspace = add_buffer(fixture, program, BUFFER_TEMPORARY, ROLE_ARGUMENT, "workspace");
    uint64_t counter = seed;
#define RANDOM(limit) (uint32_t)(hash_word(seed, counter++) % (limit))
    for (int i = 0; i < LAUNCHES; i++) {
        uint32_t c = RANDOM(BUFFERS), a = RANDOM(BUFFERS), b = RANDOM(BUFFERS);
        while (b == c) b = RANDOM(BUFFERS);
        while (a == c) a = RANDOM(BUFFERS);
        uint32_t kernel = RANDOM(5);
        if (kernel == 4) add_sum(fixture, program, buffers[a], buffers[c], workspace);
        else add_mix(fixture, program, kernel, buffers[a], buffers[b], buffers[c]);
    }
    ThreadPool *pool = thread_pool_create(threads);
    State *shared = state_create(fixture->ir->diagnostics, &program, 1);
    Executor *executor = executor_create(fixture->ir->diagnostics, program, shared, pool);
    assert_true(threads == 1 || executor_barrier_count(executor) < executor_phase_count(executor) - 1);
    uint64_t hash = HASH_START;
    double seconds[LAUNCHES] = {0};
    for (int run = 0; run < 3; run++) {
        if (timed) executor_run_timed(executor, seconds);
        else executor_run(executor);
        hash = hash_bytes(hash, state_arena(shared), 7 * 8 * N);
        hash = hash_bytes(hash, state_data(shared, "w", ROLE_PARAMETER), 8 * N);
        hash = hash_bytes(hash, state_data(shared, "w", ROLE_GRADIENT), 8 * N);
    }
    for (int i = 0; i < LAUNCHES; i++) assert_true(timed ? seconds[i] > 0 : seconds[i] == 0);
    executor_destroy(executor);
    state_destroy(shared);
    thread_pool_destroy(pool);
    return hash;
}

static void test_same_for_any_threads(void **state) {
    Fixture *fixture = *state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint64_t expected = run_random(fixture, seed, 1, false);
        assert_true(run_random(fixture, seed, 2, false) == expected);
        assert_true(run_random(fixture, seed, 2, true) == expected);
        if (seed < 10) assert_true(run_random(fixture, seed, 3, false) == expected);
    }
}

// A view that runs backwards from the end of a buffer is inside it; one step further is not.
static void test_negative_strides(void **state) {
    Fixture *fixture = *state;
    Program *program = make_program(fixture, "one");
    fixture->mix.operands[0].stride[0] = -1;
    uint32_t a = add_buffer(fixture, program, BUFFER_TEMPORARY, ROLE_ARGUMENT, "a");
    uint32_t c = add_buffer(fixture, program, BUFFER_TEMPORARY, ROLE_ARGUMENT, "c");
    add_mix(fixture, program, 0, a, a, c);
    vector_last(&program->launches).offsets[0] = N - 1;
    assert_int_equal(count_barriers(fixture, program, 2), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_state_is_shared),
        TEST(test_types_disagree),
        TEST(test_memory_is_short),
        TEST(test_barriers_only_where_needed),
        TEST(test_same_for_any_threads),
        TEST(test_negative_strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
