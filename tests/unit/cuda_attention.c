// The attention kernels of models on the emulated GPU, in f32 and in bf16 on tensor cores, against their
// meaning: causal, grouped queries, a window; the gradient starts from the reference's o and lse.
#include "cpu_test.h"
#include "driver/compile.h"
#include "driver/setup.h"
#include "tests/cuda/run.h"

typedef struct Subject {
    const char *file, *settings[10];
} Subject;

static const Subject subjects[] = {
    {"models/nano.cherry",
     {"vocab=11", "embed=24", "heads=2", "key=12", "ffn=8", "layers=1", "time=70", "batch=1"}},
    {"models/llama.cherry",
     {"vocab=11", "embed=24", "groups=2", "queries=3", "key=6", "ffn=8", "layers=1", "time=37",
      "accumulate=1", "batch=2"}},
    {"models/nano.cherry",
     {"vocab=11", "embed=24", "heads=1", "key=80", "ffn=8", "layers=1", "time=33", "batch=1"}},
    {"models/nano.cherry",
     {"vocab=11", "embed=24", "heads=2", "key=24", "ffn=8", "layers=1", "time=150", "batch=1"}},
    {"models/llama.cherry",
     {"vocab=11", "embed=24", "groups=2", "queries=3", "key=16", "ffn=8", "layers=1", "time=133",
      "accumulate=1", "batch=2"}},
    {"models/nano.cherry",
     {"vocab=11", "embed=24", "heads=1", "key=128", "ffn=8", "layers=1", "time=197", "batch=1"}},
    {"models/nano.cherry",
     {"vocab=11", "embed=24", "heads=2", "key=64", "ffn=8", "layers=1", "time=61", "batch=1"}},
    {"tests/pass/experts.cherry", {"time=70", "layers=1"}},
};

static const NamedKernel *find_kernel(const Program *program, const char *name) {
    for (size_t k = 0; k < program->kernels.count; k++) {
        const NamedKernel *named = program->kernels.items[k].named;
        if (named && strcmp(named->name, name) == 0) return named;
    }
    fail_msg("no %s", name);
    return NULL;
}

static bool is_sum(const NamedKernel *named, int operand) {  // lse, d_lse stay f32
    bool gradient = named->output_start == 8;
    return gradient ? operand == 5 || operand == 7 : operand == named->output_start + 1;
}

// A program of one launch: the kernel, its float operands as `element`.
static Program *program_of(Ir *ir, const NamedKernel *named, Element element) {
    Program *program = program_create(ir, named->name);
    NamedKernel *copy = ARENA_NEW(ir->arena, NamedKernel);
    *copy = *named;
    Launch launch = {.operand_count = named->operand_count, .workspaces = NO_WORKSPACES};
    for (int i = 0; i < named->operand_count; i++) {
        int64_t stride = 1;
        if (element_is_float(named->types[i]->element) && !is_sum(named, i))
            copy->types[i] = type_with_element(ir, named->types[i], element);
        for (int d = copy->types[i]->rank - 1; d >= 0; d--) {
            copy->strides[i][d] = stride;
            stride *= copy->types[i]->dimensions[d].extent;
        }
        launch.buffers[i] = program_add_buffer(
            program, (Buffer){.kind = i < named->output_start ? BUFFER_INPUT : BUFFER_OUTPUT,
                              .name = names_format(ir->names, "x%d", i),
                              .type = copy->types[i],
                              .bytes = type_bytes(copy->types[i]),
                              .offset = -1});
    }
    launch.kernel = program_add_named(program, copy);
    vector_push(ir->arena, &program->launches, launch);
    return program;
}

static char *device_copy(const Type *type, double *values, bool round) {
    int64_t count = type_count(type);
    int width = element_bytes(type->element);
    char *bytes = aligned_alloc(64, (size_t)(count * width + 63) & ~(size_t)63);
    for (int64_t i = 0; i < count; i++) {
        element_write(type->element, bytes + i * width, values[i]);
        if (round) values[i] = element_read(type->element, bytes + i * width);
    }
    return bytes;
}

static void compare(const char *what, const Type *type, const double *expected, const char *got) {
    double size = 0, tolerance = type->element == ELEMENT_BF16 ? 0.02 : 2e-2;
    if (type->element == ELEMENT_F32 && strstr(what, "f32")) tolerance = 2e-5;
    for (int64_t i = 0; i < type_count(type); i++) size = fabs(expected[i]) > size ? fabs(expected[i]) : size;
    for (int64_t i = 0; i < type_count(type); i++) {
        double found = element_read(type->element, got + i * element_bytes(type->element));
        if (!(fabs(expected[i] - found) <= tolerance * size))
            fail_msg("%s, element %lld: expected %.9g, found %.9g", what, (long long)i, expected[i], found);
    }
}

// Runs `device` beside `reference` on the same numbers, `values` by operand; outputs are the reference's.
static void run_beside(const Emulation *emulation, const Program *reference, const Program *device,
                       double **values, const char *what) {
    const NamedKernel *named = device->kernels.items[0].named;
    char *operands[NEST_OPERAND_MAX];
    for (int i = 0; i < named->operand_count; i++)
        operands[i] = device_copy(named->types[i], values[i], i < named->output_start);
    program_evaluate(reference, values);
    emulation_run_kernel(emulation, &device->kernels.items[0], operands);
    for (int i = 0; i < named->operand_count; i++) {
        if (i >= named->output_start) compare(what, named->types[i], values[i], operands[i]);
        free(operands[i]);
    }
}

static double *numbers(Arena *arena, const Type *type, int operand) {
    double *values = ARENA_ARRAY(arena, double, type_count(type));
    for (int64_t i = 0; i < type_count(type); i++)
        values[i] = operand == 3 ? (double)i : 2 * test_random() - 1;
    return values;
}

static void check_subject(const Subject *subject, Element element) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = subject->settings};
    while (options.setting_count < 10 && subject->settings[options.setting_count]) options.setting_count++;
    Module *module = derive_module(
        ir, frontend_load(ir, arena_format(arena, CHERRY_SOURCE "/%s", subject->file), &options));
    CompileOptions compile = {.chunk = 1, .context = 1, .sequences = 1, .cuda = true};
    Compilation *compilation = module ? compile_programs(ir, module, 1u << ENTRY_ACCUMULATE, &compile) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(compilation);
    const Program *whole = compilation->programs[ENTRY_ACCUMULATE];
    const NamedKernel *forward = find_kernel(whole, "attention"),
                      *gradient = find_kernel(whole, "attention_gradient");
    Program *device[] = {program_of(ir, forward, element), program_of(ir, gradient, element)};
    Program *reference[] = {program_of(ir, forward, ELEMENT_F32), program_of(ir, gradient, ELEMENT_F32)};
    if (!cuda_generate(ir, device, 2, NULL)) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail();
    }
    Emulation *emulation = emulation_create(device, 2);
    assert_non_null(emulation);
    double *values[NEST_OPERAND_MAX], *of_gradient[NEST_OPERAND_MAX];
    for (int i = 0; i < forward->operand_count; i++) values[i] = numbers(arena, forward->types[i], i);
    run_beside(emulation, reference[0], device[0], values,
               arena_format(arena, "%s forward %s", subject->file, element_name(element)));
    for (int i = 0; i < gradient->operand_count; i++) of_gradient[i] = numbers(arena, gradient->types[i], i);
    for (int i = 0; i < 4; i++) of_gradient[i] = values[i];
    of_gradient[4] = values[forward->output_start];
    of_gradient[5] = values[forward->output_start + 1];
    run_beside(emulation, reference[1], device[1], of_gradient,
               arena_format(arena, "%s gradient %s", subject->file, element_name(element)));
    emulation_destroy(emulation);
    arena_destroy(arena);
}

// At the sizes of real models, in bf16: registers enough for every tile.
static void fits_registers(void **state) {
    (void)state;
    static const char *const keys[] = {"key=64", "key=128"};
    for (int i = 0; i < 2; i++) {
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *why = NULL;
        if (!cuda_compiler_version(ir, &why)) {
            print_message("skipped: %s\n", why);
            arena_destroy(arena);
            skip();
        }
        const char *settings[] = {"layers=1", "time=2048", keys[i]};
        FrontendOptions options = {.settings = settings, .setting_count = 3};
        Module *module = derive_module(ir, frontend_load(ir, CHERRY_SOURCE "/models/nano.cherry", &options));
        CompileOptions compile = {.chunk = 1, .context = 1, .sequences = 1, .cuda = true};
        Compilation *compilation =
            module ? compile_programs(ir, module, 1u << ENTRY_ACCUMULATE, &compile) : NULL;
        assert_non_null(compilation);
        const Program *whole = compilation->programs[ENTRY_ACCUMULATE];
        Program *device[] = {program_of(ir, find_kernel(whole, "attention"), ELEMENT_BF16),
                             program_of(ir, find_kernel(whole, "attention_gradient"), ELEMENT_BF16)};
        assert_true(cuda_compile(ir, device, 2, &(CudaOptions){.architecture = "sm_90"}, NULL));
        for (int d = 0; d < 2; d++) {
            const CudaKernel *kernel = &device[d]->kernels.items[0].cuda;
            print_message("%s of bf16, %s: %d registers, %d bytes spilled\n", device[d]->name, keys[i],
                          kernel->registers, kernel->spill_bytes);
            assert_int_equal(kernel->spill_bytes, 0);
        }
        arena_destroy(arena);
    }
}

static void in_f32(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) check_subject(&subjects[i], ELEMENT_F32);
}

static void in_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) check_subject(&subjects[i], ELEMENT_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(in_f32), cmocka_unit_test(in_bf16),
                                       cmocka_unit_test(fits_registers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
