// FLOPs in closed form: against the formula of a transformer, written out by hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "driver/cost.h"
#include "frontend/frontend.h"

static double model_flops(const char *const *settings, size_t count) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = settings, .setting_count = count};
    Module *module = frontend_load(ir, CHERRY_SOURCE "/bench/step34m.cherry", &options);
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
    assert_true(model_flops(NULL, 0) == by_hand(8, 256));
    assert_true(model_flops((const char *const[]){"layers=3"}, 1) == by_hand(3, 256));
    assert_true(model_flops((const char *const[]){"time=64"}, 1) == by_hand(8, 64));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_step34m)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
