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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
