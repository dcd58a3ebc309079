// Every large product of bf16 that a model file trains with is one that cuBLASLt has a fast kernel for: extents along
// memory are multiples of 8 elements, rows, batches and places of 16 bytes. No GPU is needed, and no library.
//   unit_cuda_products [NAME]
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <glob.h>
#include <string.h>

#include "codegen/cuda.h"
#include "driver/compile.h"
#include "driver/setup.h"

enum { WIDE = 16 };  // bytes
static const double large = 0x1p30;  // multiply-adds: a few microseconds, what a launch takes

static const char *filter;
static int products, parts;

static bool is_wide(Element element, int64_t a, int64_t b, int64_t c) {
    return (a | b | c) * element_bytes(element) % WIDE == 0;
}

static bool is_fast(const CudaProduct *p) {
    int64_t width_a = p->turned_a ? p->m : p->k, width_b = p->turned_b ? p->k : p->n;
    bool has_c = p->c.operand != CUDA_NONE;
    return (width_a | width_b | p->n) % 8 == 0 && is_wide(p->element_ab, p->lead_a, p->step_a, p->a.offset) &&
           is_wide(p->element_ab, p->lead_b, p->step_b, p->b.offset) &&
           is_wide(p->element_d, p->lead_d, p->step_d, p->d.offset) &&
           (!has_c || is_wide(p->element_d, p->lead_c, p->step_c, p->c.offset));
}

static void check_kernel(const char *path, const Kernel *kernel) {
    for (int i = 0; i < kernel->cuda.phase_count; i++) {
        const CudaProduct *p = &kernel->cuda.phases[i].product;
        if (kernel->cuda.phases[i].function || p->element_ab != ELEMENT_BF16) continue;
        parts += i > 0 && !kernel->cuda.phases[i - 1].function;
        if ((double)p->m * (double)p->n * (double)p->k * (double)p->batch < large) continue;
        products++;
        if (!is_fast(p))
            fail_msg("%s: %s: %s of %lld x %lld by %lld x %lld%s", path, kernel->name, element_name(p->element_ab),
                     (long long)p->m, (long long)p->k, (long long)p->k, (long long)p->n, p->turned_a ? ", turned" : "");
    }
}

static void check_model(const char *path, const char *const *settings, int count) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = (const char **)(uintptr_t)settings, .setting_count = count};
    Module *module = derive_module(ir, frontend_load(ir, path, &options));
    CompileOptions compile = {.chunk = 64, .context = 256, .sequences = 1, .cuda = true};
    uint32_t entries = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_EVALUATE;
    Compilation *compilation = module ? compile_programs(ir, module, entries, &compile) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(compilation);
    for (int entry = 0; entry < ENTRY_COUNT; entry++) {
        Program *program = compilation->programs[entry];
        if (!program) continue;
        assert_true(cuda_generate(ir, &program, 1, NULL));
        for (size_t k = 0; k < program->kernels.count; k++) check_kernel(path, &program->kernels.items[k]);
    }
    arena_destroy(arena);
}

static void every_model(void **state) {
    (void)state;
    static const char *const settings[] = {"precision=bf16"};
    glob_t files;
    assert_int_equal(glob(CHERRY_SOURCE "/models/*.cherry", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++)
        if (!filter || strstr(files.gl_pathv[i], filter)) check_model(files.gl_pathv[i], settings, 1);
    globfree(&files);
    print_message("%d large products, %d parts behind others\n", products, parts);
    assert_true(filter || (products > 100 && parts > 0));
}

// Any vocabulary: its chunks of rows begin at whole rows, which are padded.
static void odd_vocabularies(void **state) {
    (void)state;
    static const char *const settings[][2] = {{"precision=bf16", "vocab=32003"}, {"precision=bf16", "vocab=65534"}};
    for (int i = 0; i < 2; i++) {
        parts = 0;
        check_model(CHERRY_SOURCE "/models/cherry_566m.cherry", settings[i], 2);
        assert_true(parts > 0);
    }
}

int main(int argc, char **argv) {
    filter = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_model), cmocka_unit_test(odd_vocabularies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
