// The attention kernels of models on the emulated GPU, in f32 and in bf16 on tensor cores, against their
// meaning: causal, grouped queries, a window, positions in any order; the gradient starts from the reference's o and
// lse, and what turns gives what it would if queries were turned in front of it and gradients behind it.
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
    {"tests/pass/experts.cherry", {"time=150", "layers=1", "key=16", "batch=1"}},
};

static const NamedKernel *find_kernel(const Program *program, const char *name) {
    for (size_t k = 0; k < program->kernels.count; k++) {
        const NamedKernel *named = program->kernels.items[k].named;
        if (named && strcmp(named->name, name) == 0) return named;
    }
    fail_msg("no %s", name);
    return NULL;
}

static bool is_gradient(const NamedKernel *named) { return strncmp(named->name, "attention_gradient", 18) == 0; }

static int table_of(const NamedKernel *named) {  // the first operand that is a table of angles, or the first result
    return strstr(named->name, "_turned") ? named->output_start - 2 : named->output_start;
}

static bool is_sum(const NamedKernel *named, int operand) {  // lse, d_lse and what turns stay f32
    bool turns = operand >= table_of(named) && operand < named->output_start;
    return turns || (is_gradient(named) ? operand == 5 || operand == 7 : operand == named->output_start + 1);
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

// Positions in order or, from tile to tile and within each, not.
static double *numbers(Arena *arena, const Type *type, int operand, bool ordered) {
    double *values = ARENA_ARRAY(arena, double, type_count(type));
    for (int64_t i = 0; i < type_count(type); i++)
        values[i] = operand != 3 ? 2 * test_random() - 1 : (double)(ordered ? i : (i * 37 + 5) % type_count(type));
    return values;
}

// The kernel of the program that the model's loss has on a GPU or, where nothing is turned, on a processor.
static const NamedKernel *kernel_of(Ir *ir, const Module *module, const char *name, bool cuda) {
    CompileOptions compile = {.chunk = 1, .context = 1, .sequences = 1, .cuda = cuda};
    Compilation *compilation = module ? compile_programs(ir, module, 1u << ENTRY_ACCUMULATE, &compile) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(compilation);
    return find_kernel(compilation->programs[ENTRY_ACCUMULATE], name);
}

static Module *load(Ir *ir, const char *file, const char *const *settings, size_t most) {
    FrontendOptions options = {.settings = settings};
    while (options.setting_count < most && settings[options.setting_count]) options.setting_count++;
    return derive_module(ir, frontend_load(ir, arena_format(ir->arena, CHERRY_SOURCE "/%s", file), &options));
}

// Turns rows [.., key] with `along` somewhere in front as `rope` does, or back, in f32.
static void turn_rows(const Type *type, const char *along, char *rows, const char *cos, const char *sin, bool back) {
    int64_t keys = type->dimensions[type->rank - 1].extent, below = 1, extent = 1;
    int width = element_bytes(type->element), at = named_kernel_dimension(type, along);
    for (int d = at + 1; d < type->rank - 1; d++) below *= type->dimensions[d].extent;
    extent = type->dimensions[at].extent;
    for (int64_t i = 0; i < type_count(type) / keys * (keys / 2); i++) {
        int64_t row = i / (keys / 2), pair = i % (keys / 2), angle = row / below % extent * (keys / 2) + pair;
        char *x = rows + (row * keys + pair) * width, *y = x + keys / 2 * width;
        float a = (float)element_read(type->element, x), b = (float)element_read(type->element, y);
        float c = (float)element_read(ELEMENT_F32, cos + angle * 4);
        float s = (float)element_read(ELEMENT_F32, sin + angle * 4) * (back ? -1 : 1);
        float as = a * s, bs = b * s, ac = a * c, bc = b * c;
        element_write(type->element, x, ac - bs);
        element_write(type->element, y, bc + as);
    }
}

// What turns leaves, to the bit, what the kernel that does not leaves of queries that are turned before, or where d_q
// and d_k are turned afterwards.
static void check_turned(const Emulation *emulation, const Program *plain, const Program *turned, double **values) {
    const NamedKernel *a = plain->kernels.items[0].named, *b = turned->kernels.items[0].named;
    char *first[NEST_OPERAND_MAX], *second[NEST_OPERAND_MAX];
    bool back = is_gradient(a);
    int out = a->output_start, results = a->operand_count - out;
    for (int i = 0; i < b->operand_count; i++) second[i] = device_copy(b->types[i], values[i], false);
    for (int i = 0; i < a->operand_count; i++) first[i] = device_copy(a->types[i], values[i < out ? i : i + 2], false);
    const char *cos = second[out], *sin = second[out + 1];
    if (!back) turn_rows(a->types[0], "time", first[0], cos, sin, false);
    emulation_run_kernel(emulation, &plain->kernels.items[0], first);
    emulation_run_kernel(emulation, &turned->kernels.items[0], second);
    if (back) turn_rows(a->types[out], "time", first[out], cos, sin, true);
    if (back) turn_rows(a->types[out + 1], "past", first[out + 1], cos, sin, true);
    for (int i = 0; i < results; i++)
        assert_memory_equal(first[out + i], second[out + 2 + i], (size_t)type_bytes(a->types[out + i]));
    if (!back) assert_memory_equal(first[0], second[out + 2 + results], (size_t)type_bytes(a->types[0]));
    for (int i = 0; i < b->operand_count; i++) free(second[i]);
    for (int i = 0; i < a->operand_count; i++) free(first[i]);
}

// Each, and then what it is where it turns.
static const char *const kernels[] = {"attention", "attention_turned", "attention_gradient",
                                      "attention_gradient_turned"};

static void check_subject(const Subject *subject, const char *architecture, Element element, bool ordered) {
    enum { PLAIN, TURNED, GRADIENT, KERNELS = 4 };
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Module *module = load(ir, subject->file, subject->settings, 10);
    const NamedKernel *named[KERNELS];
    for (int k = 0; k < KERNELS; k++) named[k] = kernel_of(ir, module, kernels[k], k & TURNED);
    Program *device[KERNELS], *reference[KERNELS];
    for (int k = 0; k < KERNELS; k++) {
        device[k] = program_of(ir, named[k], element);
        reference[k] = program_of(ir, named[k], ELEMENT_F32);
    }
    if (!cuda_generate(ir, device, KERNELS, &(CudaOptions){.architecture = architecture})) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail();
    }
    Emulation *emulation = emulation_create(device, KERNELS);
    assert_non_null(emulation);
    double *values[KERNELS][NEST_OPERAND_MAX];
    for (int k = 0; k < KERNELS; k++) {
        const double *const *forward = (const double *const *)values[k & TURNED];
        int out = named[k & TURNED]->output_start;
        for (int i = 0; i < named[k]->operand_count; i++)
            values[k][i] = numbers(arena, named[k]->types[i], i, ordered);
        for (int i = 0; k >= GRADIENT && i < 6; i++)  // the queries of PLAIN, the turned ones of TURNED
            memcpy(values[k][i], forward[i >= 4 ? out + i - 4 : i == 0 && k & TURNED ? out + 2 : i],
                   (size_t)type_count(named[k]->types[i]) * sizeof(double));
        run_beside(emulation, reference[k], device[k], values[k],
                   arena_format(arena, "%s %s %s", subject->file, named[k]->name, element_name(element)));
        if (k & TURNED) check_turned(emulation, device[k - TURNED], device[k], values[k]);
    }
    emulation_destroy(emulation);
    arena_destroy(arena);
}

// At the sizes of real models: registers enough for every tile.
static void fits_registers(void **state) {
    (void)state;
    static const struct {
        const char *keys, *architecture;
        Element element;
    } cases[] = {{"key=64", "sm_90", ELEMENT_BF16},   {"key=128", "sm_90", ELEMENT_BF16},
                 {"key=64", "sm_90a", ELEMENT_BF16},  {"key=128", "sm_90a", ELEMENT_BF16},
                 {"key=256", "sm_90", ELEMENT_BF16},  {"key=256", "sm_120", ELEMENT_BF16},
                 {"key=256", "sm_120", ELEMENT_F32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *why = NULL;
        if (!cuda_compiler_version(ir, &why)) {
            print_message("skipped: %s\n", why);
            arena_destroy(arena);
            skip();
        }
        const char *settings[] = {"layers=1", "time=2048", cases[i].keys};
        Module *module = load(ir, "models/nano.cherry", settings, 3);
        Element element = cases[i].element;
        Program *device[4];
        for (int k = 0; k < 4; k++) device[k] = program_of(ir, kernel_of(ir, module, kernels[k], k & 1), element);
        assert_true(cuda_compile(ir, device, 4, &(CudaOptions){.architecture = cases[i].architecture}, NULL));
        for (int d = 0; d < 4; d++) {
            const CudaKernel *kernel = &device[d]->kernels.items[0].cuda;
            print_message("%s of %s, %s, %s: %d registers, %d bytes spilled\n", device[d]->name,
                          element_name(element), cases[i].keys, cases[i].architecture, kernel->registers,
                          kernel->spill_bytes);
            assert_int_equal(kernel->spill_bytes, 0);
            assert_int_equal(kernel->early_waits, 0);
        }
        arena_destroy(arena);
    }
}

static void in_f32(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
        check_subject(&subjects[i], "sm_90", ELEMENT_F32, i % 2 == 0);
}

static void in_bf16(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++)
        check_subject(&subjects[i], "sm_90", ELEMENT_BF16, i % 2 == 1);
}

// Products of warpgroups: rows of one panel and two, whole ones and not; several tiles of queries, keys, groups.
static void in_warpgroups(void **state) {
    (void)state;
    static const Subject whole[] = {
        {"models/nano.cherry",
         {"vocab=11", "embed=24", "heads=2", "key=64", "ffn=8", "layers=1", "time=150", "batch=1"}},
        {"models/nano.cherry",
         {"vocab=11", "embed=24", "heads=1", "key=128", "ffn=8", "layers=1", "time=197", "batch=1"}},
        {"models/nano.cherry",
         {"vocab=11", "embed=24", "heads=1", "key=104", "ffn=8", "layers=1", "time=61", "batch=1"}},
        {"models/llama.cherry",
         {"vocab=11", "embed=24", "groups=2", "queries=3", "key=48", "ffn=8", "layers=1", "time=133",
          "accumulate=1", "batch=1"}},
        {"models/nano.cherry",  // too much of its panel would be empty
         {"vocab=11", "embed=24", "heads=2", "key=24", "ffn=8", "layers=1", "time=70", "batch=1"}},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        check_subject(&whole[i], "sm_90a", ELEMENT_BF16, i % 2 == 1);
}

// A block may have too little of shared memory for whole tiles.
static void in_small_tiles(void **state) {
    (void)state;
    static const Subject subject = {
        "models/nano.cherry",
        {"vocab=11", "embed=24", "heads=1", "key=256", "ffn=8", "layers=1", "time=70", "batch=1"}};
    check_subject(&subject, "sm_120", ELEMENT_F32, false);
    check_subject(&subject, "sm_120", ELEMENT_BF16, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(in_f32), cmocka_unit_test(in_bf16),
                                       cmocka_unit_test(in_warpgroups),
                                       cmocka_unit_test(in_small_tiles), cmocka_unit_test(fits_registers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
