// Generated code of general loop nests against the reference interpreter, on this machine and for the
// narrower vectors of x86-64-v3.
#include "cpu_nest_cases.h"
#include "cpu_test.h"

static void test_native(void **state) {
    (void)state;
    for (size_t i = 0; i < NEST_CASES; i++) run_case(&nest_cases[i], NULL);
}

static void test_narrow(void **state) {
    (void)state;
    for (size_t i = 0; i < NEST_CASES; i++) run_case(&nest_cases[i], "x86-64-v3");
}

// A sum over 100 of at most 200 has the bits of a sum over exactly 100.
static void test_bounded_as_static(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    const Case fixed = {.name = "fixed",
        .text = "nest fixed {\n  outer row=7\n  inner past=100\n  parallel row\n  operand 0: read f32 [7:200, 100:1]\n"
                "  operand 1: write f32 [7:1]\n  stage 0: sum over past { exp(@0[row, past]) }\n"
                "  stage 1: store @1[row] { stage 0 }\n}\n"};
    const Case bounded = {.name = "bounded",
        .text = "nest bounded {\n  outer row=7\n  inner past<=200:n@2\n  parallel row\n"
                "  operand 0: read f32 [7:200, 200:1]\n  operand 1: write f32 [7:1]\n  operand 2: read i64 []\n"
                "  stage 0: sum over past { exp(@0[row, past]) }\n  stage 1: store @1[row] { stage 0 }\n}\n"};
    float in[7 * 200], out[2][7];
    for (int i = 0; i < 7 * 200; i++) in[i] = (float)test_random();
    int64_t length = 100;
    for (int i = 0; i < 2; i++) {
        CpuKernel kernel;
        CpuCode *code = compile_nest(ir, case_nest(ir, i ? &bounded : &fixed), NULL, &kernel);
        char *operands[] = {(char *)in, (char *)out[i], (char *)&length};
        run_split(&kernel, operands, 1);
        cpu_code_destroy(code);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    arena_destroy(arena);
}

// Results of 16 MB and more pass by the caches where they start on cache lines: the same numbers wherever they start and
// however tasks are split, whole lines or not.
static void streamed_results(int64_t width) {
    static const int64_t skips[] = {0, 4, 64}, steps[] = {INT64_MAX / 2, 3, 1};
    enum { ROWS = 2048 };
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    int64_t cells = ROWS * width;
    const char *text = arena_format(arena,
                                    "nest t {\n  outer r=%d, c=%lld\n  parallel r, c\n  operand 0: read f32 [%d:1]\n"
                                    "  operand 1: write f32 [%d:%lld, %lld:1]\n"
                                    "  stage 0: store @1[r, c] { add(@0[r], cast f32(index(c))) }\n}\n",
                                    ROWS, (long long)width, ROWS, ROWS, (long long)width, (long long)width);
    CpuKernel kernel;
    CpuOptions options = {.threads = 1, .sanitize = SANITIZE};
    CpuCode *code = compile_nest(ir, case_nest(ir, &(Case){.name = "streamed", .text = text}), &options, &kernel);
    float rows[ROWS];
    for (int r = 0; r < ROWS; r++) rows[r] = (float)(r * 4096);
    char *memory = aligned_alloc(64, ((size_t)cells * 4 + 191) & ~(size_t)63);
    for (int i = 0; i < 3; i++) {
        memset(memory, 0xff, (size_t)cells * 4 + 64);
        float *result = (float *)(memory + skips[i]);
        run_split(&kernel, (char *[]){(char *)rows, (char *)result}, steps[i]);
        for (int64_t cell = 0; cell < cells; cell++)
            if (result[cell] != (float)(cell / width * 4096 + cell % width)) fail_msg("cell %lld", (long long)cell);
    }
    free(memory);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

static void test_streamed_results(void **state) {
    (void)state;
    streamed_results(2304);
    streamed_results(2295);
}

int main(int argc, char **argv) {
    if (argc > 1) {  // one case by name, optionally for a named machine
        for (size_t i = 0; i < NEST_CASES; i++)
            if (strcmp(nest_cases[i].name, argv[1]) == 0) run_case(&nest_cases[i], argc > 2 ? argv[2] : NULL);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_bounded_as_static),
        cmocka_unit_test(test_streamed_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
