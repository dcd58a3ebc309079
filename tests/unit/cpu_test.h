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
#include "tests/nest_case.h"

// In a sanitized build generated code is checked as well.
#ifdef __SANITIZE_ADDRESS__
#define SANITIZE cpu_sanitize
#else
#define SANITIZE NULL
#endif

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
    if (storage_differs(test, cpu ? cpu : "native", nest, operand, storage, got)) fail();
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
