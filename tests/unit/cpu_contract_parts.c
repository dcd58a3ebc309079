// Sums over a long k that tasks take in parts, as those of weight gradients are: against the reference interpreter, with
// the bits of a product that is not cut so, without a phase that packs, and in room that does not grow with k.
#include "tests/unit/cpu_machines.h"

// What A and B hold: f32 numbers, bf16 numbers, or bf16 numbers and f32 ones that are rounded.
typedef enum Numbers { PLAIN, HALVES, MIXED, NUMBERS } Numbers;
typedef enum Use { STORES, ADDS, ACTIVATES } Use;

typedef struct Size {
    int64_t rows, columns, k;
} Size;

// A is operand 0, [k, rows], B operand 1, [k, columns], the result operand 2.
static const char *gradient_text(Arena *arena, Size size, Numbers numbers, Use use) {
    static const char *const stages[] = {[STORES] = "store @2[r, c] { stage 0 }", [ADDS] = "add @2[r, c] { stage 0 }",
                                         [ACTIVATES] = "store @2[r, c] { add(max(stage 0, 0:f32), @2[r, c]) }"};
    static const char *const products[] = {[PLAIN] = "mul(@0[k, r], @1[k, c])",
                                           [HALVES] = "mul(cast f32(@0[k, r]), cast f32(@1[k, c]))",
                                           [MIXED] = "mul(cast f32(@0[k, r]), cast f32(cast bf16(@1[k, c])))"};
    long long rows = size.rows, columns = size.columns, k = size.k;
    return arena_format(arena,
                        "nest t {\n  outer r=%lld, c=%lld\n  inner k=%lld\n  parallel r, c\n"
                        "  operand 0: read %s [%lld:%lld, %lld:1]\n  operand 1: read %s [%lld:%lld, %lld:1]\n"
                        "  operand 2: update f32 [%lld:%lld, %lld:1]\n"
                        "  stage 0: sum over k { %s }\n  stage 1: %s\n}\n",
                        rows, columns, k, numbers == PLAIN ? "f32" : "bf16", k, rows, rows,
                        numbers == HALVES ? "bf16" : "f32", k, columns, columns, rows, columns, columns,
                        products[numbers], stages[use]);
}

static void sums_of_parts(void **state) {
    (void)state;
    static const struct { Numbers numbers; Size size; } cases[] = {
        {PLAIN, {64, 208, 1024}},  // whole parts, of more columns than read A as it lies
        {PLAIN, {67, 208, 1030}},  // the last one of a few steps; rows that fill no tile
        {HALVES, {64, 32, 2048}}, {MIXED, {65, 48, 3074}}, {HALVES, {67, 16, 2060}},
        {HALVES, {130, 32, 2054}}, {MIXED, {64, 144, 2050}},  // several blocks of rows, of columns
        {PLAIN, {64, 35, 1027}}};  // columns that are no whole vectors: not cut
    Arena *arena = arena_create();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Numbers numbers = cases[i].numbers;
        const char *text = gradient_text(arena, cases[i].size, numbers, (Use)(i % 3));
        run_on_all(&(Case){.name = arena_format(arena, "case %zu", i), .text = text, .tolerance = 3e-4});
    }
    // Half a pair at the end.
    run_on_all(&(Case){.name = "odd", .text = gradient_text(arena, (Size){64, 16, 2049}, HALVES, ADDS), .tolerance = 3e-4});
    arena_destroy(arena);
}

static void parts_of_several_products(void **state) {
    (void)state;
    static const char text[] =
        "nest t {\n  outer e=2, r<=64:rows@3, c=208\n  inner k=1026\n  parallel e, r, c\n"
        "  operand 0: read f32 [2:65664, 1026:64, 64:1]\n  operand 1: read f32 [2:213408, 1026:208, 208:1]\n"
        "  operand 2: update f32 [2:13312, 64:208, 208:1]\n  operand 3: read i64 []\n"
        "  stage 0: sum over k { mul(@0[e, k, r], @1[e, k, c]) }\n  stage 1: add @2[e, r, c] { stage 0 }\n}\n";
    static const int64_t rows[] = {64, 41, 0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        run_on_all(&(Case){.name = "several", .text = text, .tolerance = 3e-4, .bounds = {rows[i]}});
}

static CpuKernel compile_gradient(Ir *ir, Size size, Numbers numbers, const char *machine, CpuCode **code) {
    CpuKernel kernel;
    Case test = {.name = "gradient", .text = gradient_text(ir->arena, size, numbers, STORES)};
    *code = compile_nest(ir, case_nest(ir, &test), &(CpuOptions){.cpu = machine, .threads = 1}, &kernel);
    return kernel;
}

// Nine rows are too few for it.
static void rows_have_their_bits(void **state) {
    (void)state;
    enum { SOME = 9, FIRST = 31 };
    static const Size size = {72, 208, 2062};
    size_t cells = (size_t)(size.rows * size.columns), rows = (size_t)size.rows;
    for (Numbers numbers = PLAIN; numbers < NUMBERS; numbers += MIXED)
        for (int machine = 0; machine < MACHINES; machine++) {
            if (!runs(machines[machine], numbers != PLAIN)) continue;
            size_t bytes = numbers == PLAIN ? 4 : 2, depth = (size_t)size.k;
            char *a = malloc(depth * rows * bytes), *a_some = malloc(depth * SOME * bytes);
            float *b = malloc(sizeof(float) * depth * (size_t)size.columns);
            float *all = malloc(sizeof(float) * cells), *some = malloc(sizeof(float) * SOME * (size_t)size.columns);
            for (size_t i = 0; i < depth * (size_t)size.columns; i++) b[i] = (float)test_random() - 0.5f;
            for (size_t i = 0; i < depth * rows; i++) {
                float value = (float)test_random() - 0.5f;
                memcpy(a + i * bytes, (char *)&value + 4 - bytes, bytes);  // a bf16 number is the upper half
            }
            for (size_t k = 0; k < depth; k++)
                memcpy(a_some + k * SOME * bytes, a + (k * rows + FIRST) * bytes, SOME * bytes);
            Arena *arena = arena_create();
            Ir *ir = ir_create(arena);
            CpuCode *code, *code_some;
            CpuKernel kernel = compile_gradient(ir, size, numbers, machines[machine], &code);
            run_split(&kernel, (char *[]){a, (char *)b, (char *)all}, 1);
            kernel = compile_gradient(ir, (Size){SOME, size.columns, size.k}, numbers, machines[machine], &code_some);
            run_split(&kernel, (char *[]){a_some, (char *)b, (char *)some}, INT64_MAX / 2);
            assert_memory_equal(all + FIRST * size.columns, some, sizeof(float) * SOME * (size_t)size.columns);
            cpu_code_destroy(code);
            cpu_code_destroy(code_some);
            arena_destroy(arena);
            free(a), free(a_some), free(b), free(all), free(some);
        }
}

static void parts_need_little_room(void **state) {
    (void)state;
    enum { LONG = 1 << 17 };
    Arena *arena = arena_create();
    for (int i = 0; i < 2; i++) {
        static const struct { Size size; int64_t tasks; } cases[] = {{{384, 384, LONG}, 8}, {{128, 128, LONG}, 4}};
        CpuCode *code;
        CpuKernel kernel = compile_gradient(ir_create(arena), cases[i].size, PLAIN, "cooperlake", &code);
        assert_int_equal(kernel.phase_count, 1);
        assert_int_equal(kernel.pack_count, 0);
        assert_int_equal(kernel.tasks[0], cases[i].tasks);
        assert_true(kernel.scratch_bytes < 1 << 20);
        cpu_code_destroy(code);
    }
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_of_parts), cmocka_unit_test(parts_of_several_products),
                                       cmocka_unit_test(rows_have_their_bits), cmocka_unit_test(parts_need_little_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
