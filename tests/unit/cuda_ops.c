// Every op case and every kind of nest as CUDA C on the emulated GPU, against the reference evaluator: with
// products left to the library, and with generated tiles in their place.
//   unit_cuda_ops [FILTER]      unit_cuda_ops dot/batched
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/case_sweep.h"
#include "tests/cuda/run.h"

static const char *filter;

static void run_program(void *context, const Program *program, char *const *buffers) {
    emulation_run_program(context, program, buffers);
}

static size_t count_products(const Program *program) {
    size_t products = 0;
    for (size_t k = 0; k < program->kernels.count; k++)
        for (int p = 0; p < program->kernels.items[k].cuda.phase_count; p++)
            products += !program->kernels.items[k].cuda.phases[p].function;
    return products;
}

// Products that the library does in parts: the rests behind the first.
static size_t count_rests(const Program *program) {
    size_t rests = 0;
    for (size_t k = 0; k < program->kernels.count; k++) {
        const CudaKernel *code = &program->kernels.items[k].cuda;
        for (int p = 1; p < code->phase_count; p++) rests += !code->phases[p].function && !code->phases[p - 1].function;
    }
    return rests;
}

// Products behind which the library does an activation.
static size_t count_activations(const Program *program) {
    size_t activations = 0;
    for (size_t k = 0; k < program->kernels.count; k++)
        for (int p = 0; p < program->kernels.items[k].cuda.phase_count; p++) {
            const CudaPhase *phase = &program->kernels.items[k].cuda.phases[p];
            activations += !phase->function && phase->product.activation != CUDA_LINEAR;
        }
    return activations;
}

static size_t count_kept_rows(const Program *program) {
    size_t kept = 0;
    for (size_t k = 0; k < program->kernels.count; k++) {
        const char *text = program->kernels.items[k].cuda.text;
        kept += text && strstr(text, "load_pack<4>(&row0[i])") != NULL;
        kept += text && strstr(text, " ? &row0[i] : &") != NULL;
        kept += text && strstr(text, "load_pack<1>(&row0[i])") != NULL;
    }
    return kept;
}

static size_t count_folds(const Program *program) {
    size_t folds = 0;
    for (size_t k = 0; k < program->kernels.count; k++) {
        const char *text = program->kernels.items[k].cuda.text;
        folds += text && strstr(text, "for (int row = 0; row < 8; row++)") != NULL;
    }
    return folds;
}

static void run_sweep(bool no_library) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CaseSweep sweep;
    assert_true(case_sweep_create(ir, filter, cuda_has_kernel, &sweep));
    CudaOptions options = {.no_library = no_library};
    if (!cuda_generate(ir, sweep.programs, sweep.count, &options)) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail();
    }
    Emulation *emulation = emulation_create(sweep.programs, sweep.count);
    assert_non_null(emulation);
    size_t products = 0, rests = 0, activations = 0, kept = 0, folds = 0;
    for (size_t i = 0; i < sweep.count; i++) {
        kept += count_kept_rows(sweep.programs[i]);
        folds += count_folds(sweep.programs[i]);
        products += count_products(sweep.programs[i]);
        rests += count_rests(sweep.programs[i]);
        activations += count_activations(sweep.programs[i]);
        assert_int_equal(sweep_case_run(&sweep.cases[i], "the emulated GPU", run_program, emulation), 0);
    }
    emulation_destroy(emulation);
    print_message("%zu cases, %zu products for the library; %d of %d ops that are lowered = %d %%\n", sweep.count,
                  products, sweep.covered, sweep.lowered, sweep.covered * 100 / sweep.lowered);
    if (!filter) assert_int_equal(sweep.covered, sweep.lowered);
    if (!filter) assert_true(kept >= 3);  // a whole row, part of one, an odd one
    if (!filter) assert_int_equal(folds, 2);
    if (!filter) assert_int_equal(rests, no_library ? 0 : 7);  // columns twice, rows, steps twice; columns and steps
    if (!filter) assert_int_equal(activations, no_library ? 0 : 3);  // one of them in two parts
    arena_destroy(arena);
}

static void with_library(void **state) {
    (void)state;
    run_sweep(false);
}

static void with_tiles(void **state) {
    (void)state;
    run_sweep(true);
}

int main(int argc, char **argv) {
    filter = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(with_library), cmocka_unit_test(with_tiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
