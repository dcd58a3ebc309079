// The peak of this machine, measured: multiply-adds on registers alone, on all threads together. A kernel
// like any other, so that it is generated for the same machine by the same code.
#include "base/thread.h"
#include "codegen/cpu_llvm.h"

enum {
    PEAK_LANES = 16,         // floats of the one operand: multiplier, addend
    PEAK_STEPS = 1 << 19,    // iterations of one measurement: some 5 ms
    PEAK_ROUNDS = 5          // measurements; the best counts
};

static int accumulators(const CpuTarget *target) { return target->registers == 32 ? 24 : 12; }

// Products of bf16 as contractions make them: see PANEL_PAIRS in cpu_contract.h.
static bool takes_pairs(const CpuTarget *target, Element precision) {
    return precision == ELEMENT_BF16 && target->bf16_dot;
}

// Task = one iteration: every accumulator a = a * m + c, or a = a + m1 * m1 + m0 * m0. The sum is stored so that
// nothing is idle.
bool cpu_peak_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    int count = accumulators(unit->target), lanes = unit->target->lanes;
    LLVMValueRef pointer = body->operand[0], sums[CPU_CARRY_MAX], next[CPU_CARRY_MAX];
    LLVMValueRef m = cpu_splat(unit, cpu_load(unit, ELEMENT_F32, pointer, 1, NULL), lanes);
    LLVMValueRef second = cpu_at(unit, pointer, ELEMENT_F32, cpu_i64(unit, 1));
    LLVMValueRef c = cpu_splat(unit, cpu_load(unit, ELEMENT_F32, second, 1, NULL), lanes);
    for (int i = 0; i < count; i++) sums[i] = cpu_number(unit, ELEMENT_F32, i, lanes);
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, body->begin, body->end, 1, sums, count);
    bool pairs = takes_pairs(unit->target, kernel->named->types[0]->element);
    for (int i = 0; i < count; i++)
        next[i] = pairs ? cpu_dot_pairs(unit, m, c, loop.carried[i]) : cpu_fma(unit, loop.carried[i], m, c);
    cpu_loop_end(unit, &loop, next);
    LLVMValueRef sum = loop.carried[0];
    for (int i = 1; i < count; i++) sum = LLVMBuildFAdd(unit->builder, sum, loop.carried[i], "");
    cpu_store(unit, ELEMENT_F32, body->operand[1], sum, NULL);
    cpu_body_end(body);
    out->phase_count = 1;
    out->tasks[0] = PEAK_STEPS;
    return true;
}

typedef struct PeakRun {
    CpuFunction function;
    float input[2];
} PeakRun;

static void run_peak(void *context, int thread) {
    (void)thread;
    PeakRun *run = context;
    float output[2 * PEAK_LANES];
    char *operands[] = {(char *)run->input, (char *)output};
    run->function(operands, NULL, NULL, 0, PEAK_STEPS);
}

static CpuCode *compile_peak(Ir *ir, Element precision, const CpuOptions *options, CpuFunction *function) {
    Program *program = program_create(ir, "peak");
    const Type *type = type_scalar(ir, precision);
    NamedKernel *named = ARENA_NEW(ir->arena, NamedKernel);
    *named = (NamedKernel){.name = "_peak", .operand_count = 2, .types = {type, type}, .output_start = 1};
    program_add_named(program, named);
    CpuCode *code = cpu_compile(ir, &program, 1, options);
    if (code) *function = program->kernels.items[0].cpu.functions[0];
    return code;
}

double cpu_peak_instruction_flops(Ir *ir, Element precision, const CpuOptions *options) {
    const CpuTarget *target = cpu_target_create(ir, options);
    return target ? (takes_pairs(target, precision) ? 4.0 : 2.0) * target->lanes : 0;
}

double cpu_measure_peak(Ir *ir, int threads, Element precision, const CpuOptions *options) {
    PeakRun run = {.input = {0.5f, 1}};
    CpuCode *code = compile_peak(ir, precision, options, &run.function);
    if (!code) return 0;
    double flops = cpu_peak_instruction_flops(ir, precision, options);
    int count = accumulators(cpu_target_create(ir, options));
    ThreadPool *pool = thread_pool_create(threads);
    double best = 0;
    for (int round = 0; round < PEAK_ROUNDS; round++) {
        double start = clock_seconds();
        thread_pool_run(pool, run_peak, &run);
        double rate = flops * count * PEAK_STEPS * thread_pool_count(pool) / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    thread_pool_destroy(pool);
    cpu_code_destroy(code);
    return best;
}
