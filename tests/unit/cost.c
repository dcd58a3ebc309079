// FLOPs in closed form: against the formula of a transformer, written out by hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "driver/cost.h"
#include "frontend/frontend.h"

static double model_flops(const char *file, const char *const *settings, size_t count) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = settings, .setting_count = count};
    Module *module = frontend_load(ir, file, &options);
    assert_non_null(module);
    double flops = cost_model_flops(module_find_graph(module, "loss"));
    arena_destroy(arena);
    return flops;
}

// Forward: 2 FLOPs a weight and row, 4 d a pair of positions; causal pairs are half of time x time.
// Backward costs twice the forward pass.
static double by_hand(double layers, double time) {
    double rows = 8 * time, width = 512, ffn = 1408, vocab = 8192;
    double weights = layers * (4 * width * width + 3 * width * ffn) + vocab * width;
    return 3 * (2 * rows * weights + layers * 4 * 8 * time * time / 2 * width);
}

static void test_step34m(void **state) {
    (void)state;
    const char *file = CHERRY_SOURCE "/bench/step34m.cherry";
    assert_true(model_flops(file, NULL, 0) == by_hand(8, 256));
    assert_true(model_flops(file, (const char *const[]){"layers=3"}, 1) == by_hand(3, 256));
    assert_true(model_flops(file, (const char *const[]){"time=64"}, 1) == by_hand(8, 64));
}

// Each token passes the router and `k` of four experts.
static double experts_by_hand(double k) {
    double rows = 8 * 128, layers = 4, width = 128, ffn = 256, vocab = 256;
    double weights = layers * (4 * width * width + width * 4 + k * 3 * width * ffn) + vocab * width;
    return 3 * (2 * rows * weights + layers * 4 * 8 * 128 * 128 / 2 * width);
}

static void test_experts(void **state) {
    (void)state;
    const char *file = CHERRY_SOURCE "/models/moe.cherry";
    assert_true(model_flops(file, NULL, 0) == experts_by_hand(2));
    assert_true(model_flops(file, (const char *const[]){"k=1"}, 1) == experts_by_hand(1));
    assert_true(model_flops(file, (const char *const[]){"k=4"}, 1) == experts_by_hand(4));
}

// A function's rows are as many as its caller counts, half of those there are; without a choice, all.
static void test_rows_of_callers(void **state) {
    (void)state;
    static const char text[] =
        "graph @f {\n"
        "  %%0 = input {name = \"x\", role = data} : f32[row=64, a=4]\n"
        "  %%1 = input {name = \"w\", role = parameter} : f32[a=4, b=8]\n"
        "  %%2 = top_k %%0 {along = a, count = %s} : f32[row=64, a=%s], i32[row=64, a=%s]\n"
        "  %%3 = neg %%2 : f32[row=64, a=%s]\n"
        "  %%4 = max_over %%3 {over = (a)} : f32[row=64]\n"
        "  %%5 = neg %%4 : f32[row=64]\n"
        "  %%6 = le %%5, %%0 : bool[row=64, a=4]\n"
        "  %%7 = pick %%6 {along = a, at = 1} : bool[row=64]\n"
        "  %%8 = compact %%7 {name = \"n\", along = kept} : i32[kept<=64:n], i64[]\n"
        "  %%9 = gather %%0, %%8 {along = row} : f32[kept<=64:n, a=4]\n"
        "  %%10 = call %%9, %%1 {function = @product} : f32[kept<=64:n, b=8]\n"
        "  output y = %%10\n"
        "}\n"
        "graph @product {\n"
        "  %%0 = input {name = \"x\", role = argument} : f32[kept<=64:n, a=4]\n"
        "  %%1 = input {name = \"w\", role = argument} : f32[a=4, b=8]\n"
        "  %%2 = dot %%0, %%1 {over = (a)} : f32[kept<=64:n, b=8]\n"
        "  output y = %%2\n"
        "}\n";
    for (int k = 2; k <= 4; k += 2) {
        Arena *arena = arena_create();
        const char *count = k == 2 ? "2" : "4";
        Module *module =
            module_read(ir_create(arena), "rows", arena_format(arena, text, count, count, count, count));
        assert_non_null(module);
        double rows = 64.0 * k / 4;  // forward, and the gradient of w
        assert_true(cost_model_flops(module_find_graph(module, "f")) == 2 * (2 * rows * 4 * 8));
        arena_destroy(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_step34m), cmocka_unit_test(test_experts),
                                       cmocka_unit_test(test_rows_of_callers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
