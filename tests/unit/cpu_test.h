// Helper of the CPU tests: compiles one nest, runs it over every kind of task split, and compares with
// the reference interpreter. Buffers are exactly as large as what the operands span.
#ifndef CHERRY_TESTS_CPU_TEST_H
#define CHERRY_TESTS_CPU_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codegen/cpu.h"
#include "tests/elements.h"

typedef struct Case {
    const char *name, *text;
    int64_t limit;           // integers are drawn from [0, limit); 0: any 16-bit number
    int64_t bounds[4];       // values of the i64 scalars, in the order of the operands
    double tolerance;        // relative; 0: 3e-6
    double low, high;        // floats are drawn from here; both 0: [-2, 2]
} Case;

typedef struct Storage {
    int64_t low, count;  // smallest offset, elements
    char *bytes;         // what the kernel sees
    double *values;      // what the reference sees
} Storage;

// In a sanitized build generated code is checked as well.
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZE = true };
#else
enum { SANITIZE = false };
#endif

static uint64_t test_random_state = 1;
static inline double test_random(void) {  // [0, 1)
    test_random_state = test_random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(test_random_state >> 40) * 0x1p-24;
}

static inline Storage storage_create(const NestOperand *operand, const Case *test, int *bounds_used) {
    Storage storage = {0};
    int64_t high = 0;
    for (int d = 0; d < operand->rank; d++) {
        int64_t last = (operand->extent[d] - 1) * operand->stride[d];
        *(last < 0 ? &storage.low : &high) += last;
    }
    storage.count = high - storage.low + 1;
    int width = element_bytes(operand->element);
    storage.bytes = malloc((size_t)(storage.count * width));
    storage.values = malloc((size_t)storage.count * sizeof(double));
    bool bound = operand->rank == 0 && operand->element == ELEMENT_I64;
    for (int64_t i = 0; i < storage.count; i++) {
        double low = test->low, span = test->high - test->low, value;
        if (low == 0 && span == 0) low = -2, span = 4;
        if (bound) value = (double)test->bounds[(*bounds_used)++];
        else if (operand->element == ELEMENT_BOOL) value = test_random() < 0.5;
        else if (element_is_float(operand->element)) value = low + span * test_random();
        else if (test->limit) value = floor(test_random() * (double)test->limit);
        else value = floor(test_random() * 65536) - 32768;
        element_write(operand->element, storage.bytes + i * width, value);
        storage.values[i] = element_read(operand->element, storage.bytes + i * width);
    }
    return storage;
}

static inline void run_split(const CpuKernel *kernel, char *const *operands, int64_t step) {
    char *workspaces[WORKSPACE_MAX];
    char *memory = aligned_alloc(64, (size_t)(kernel->scratch_bytes + 191) & ~(size_t)63), *scratch = memory + 64;
    for (int i = 0; i < WORKSPACE_MAX; i++) {  // NaN: nothing may be read before it is written
        workspaces[i] = aligned_alloc(64, (size_t)(kernel->workspace_bytes[i] + 127) & ~(size_t)63);
        memset(workspaces[i], 0xff, (size_t)kernel->workspace_bytes[i]);
    }
    memset(scratch, 0xff, (size_t)kernel->scratch_bytes);
    for (int phase = 0; phase < kernel->phase_count; phase++) {
        memset(scratch - SCRATCH_NOTE, 0xff, SCRATCH_NOTE);
        if (phase < kernel->pack_count && kernel->pack_optional[phase] && step == 3) {  // with it and without
            free(workspaces[phase]);
            workspaces[phase] = NULL;
            continue;
        }
        kernel->functions[phase](operands, workspaces, scratch, 0, 0);  // an empty share
        for (int64_t begin = 0; begin < kernel->tasks[phase]; begin += step) {
            int64_t end = begin + step < kernel->tasks[phase] ? begin + step : kernel->tasks[phase];
            kernel->functions[phase](operands, workspaces, scratch, begin, end);
        }
        kernel->functions[phase](operands, workspaces, scratch, kernel->tasks[phase], kernel->tasks[phase]);
    }
    for (int i = 0; i < WORKSPACE_MAX; i++) free(workspaces[i]);
    free(memory);
}

static inline const Nest *case_nest(Ir *ir, const Case *test) {
    Nest *nest = nest_read(ir, test->name, test->text);
    if (!nest || !nest_verify(ir, nest)) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail_msg("%s is not a valid nest", test->name);
    }
    return nest;
}

static inline CpuCode *compile_nest(Ir *ir, const Nest *nest, const CpuOptions *options, CpuKernel *kernel) {
    Program *program = program_create(ir, "test");
    program_add_nest(program, nest);
    CpuCode *code = cpu_compile(ir, &program, 1, options);
    if (!code) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail_msg("%s does not compile", nest->name);
    }
    *kernel = program->kernels.items[0].cpu;
    return code;
}

static inline void compare_storage(const Case *test, const char *cpu, const Nest *nest, int operand,
                                   const Storage *storage, const char *got) {
    Element element = nest->operands[operand].element;
    double tolerance = test->tolerance > 0 ? test->tolerance : 3e-6;
    if (element == ELEMENT_BF16 && tolerance < 0x1p-7) tolerance = 0x1p-7;
    for (int64_t i = 0; i < storage->count; i++) {
        double expected = storage->values[i], found = element_read(element, got + i * element_bytes(element));
        if (isnan(expected) && isnan(found)) continue;
        if (expected == found) continue;
        double error = fabs(found - expected), size = fabs(expected) > 1 ? fabs(expected) : 1;
        if (!(error <= tolerance * size))
            fail_msg("%s on %s, operand %d, element %lld: expected %.9g, found %.9g", test->name,
                     cpu ? cpu : "native", operand, (long long)i, expected, found);
    }
}

// Runs the case on one machine: against the reference, and the same bits for any split into tasks.
static inline void run_case(const Case *test, const char *cpu) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    const Nest *nest = case_nest(ir, test);
    Storage storage[NEST_OPERAND_MAX];
    double *reference[NEST_OPERAND_MAX];
    int bounds_used = 0;
    for (int i = 0; i < nest->operand_count; i++) {
        storage[i] = storage_create(&nest->operands[i], test, &bounds_used);
        reference[i] = storage[i].values - storage[i].low;
    }
    CpuKernel kernel;
    CpuOptions options = {.cpu = cpu, .threads = 1, .sanitize = SANITIZE};
    CpuCode *code = compile_nest(ir, nest, &options, &kernel);
    nest_evaluate(nest, reference);
    char *first[NEST_OPERAND_MAX] = {0};
    for (int round = 0; round < 3; round++) {
        char *copy[NEST_OPERAND_MAX], *operands[NEST_OPERAND_MAX];
        for (int i = 0; i < nest->operand_count; i++) {
            size_t width = (size_t)element_bytes(nest->operands[i].element), bytes = (size_t)storage[i].count * width;
            copy[i] = malloc(bytes);
            memcpy(copy[i], storage[i].bytes, bytes);
            operands[i] = copy[i] - storage[i].low * (int64_t)width;
        }
        run_split(&kernel, operands, round == 0 ? INT64_MAX / 2 : round == 1 ? 1 : 3);
        for (int i = 0; i < nest->operand_count; i++) {
            size_t bytes = (size_t)(storage[i].count * element_bytes(nest->operands[i].element));
            if (round == 0) {
                compare_storage(test, cpu, nest, i, &storage[i], copy[i]);
                first[i] = copy[i];
                continue;
            }
            if (memcmp(first[i], copy[i], bytes) != 0)
                fail_msg("%s: the result depends on how tasks are split", test->name);
            free(copy[i]);
        }
    }
    for (int i = 0; i < nest->operand_count; i++) {
        free(first[i]);
        free(storage[i].bytes);
        free(storage[i].values);
    }
    cpu_code_destroy(code);
    arena_destroy(arena);
}

#endif
