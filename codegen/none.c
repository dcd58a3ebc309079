// The CPU back end of a build without LLVM: every call says so.
#ifndef CHERRY_LLVM
#include "codegen/cpu.h"

static bool missing(Ir *ir) {
    return report_error(ir->diagnostics, NO_PLACE, "E0601",
                        "this cherry was built without LLVM (-DCHERRY_LLVM=OFF): no CPU code generation");
}

CpuCode *cpu_compile(Ir *ir, Program *const *programs, size_t count, const CpuOptions *options) {
    (void)programs, (void)count, (void)options;
    missing(ir);
    return NULL;
}

void cpu_code_destroy(CpuCode *code) { (void)code; }

CpuStatistics cpu_code_statistics(const CpuCode *code) {
    (void)code;
    return (CpuStatistics){0};
}

bool cpu_has_kernel(const char *name) {
    (void)name;
    return false;
}

bool cpu_print(Ir *ir, const Program *program, const CpuOptions *options, bool assembly, FILE *stream) {
    (void)program, (void)options, (void)assembly, (void)stream;
    return missing(ir);
}

double cpu_measure_peak(Ir *ir, int threads, Element precision, const CpuOptions *options) {
    (void)ir, (void)threads, (void)precision, (void)options;
    return 0;  // not known
}

double cpu_peak_instruction_flops(Ir *ir, Element precision, const CpuOptions *options) {
    (void)ir, (void)precision, (void)options;
    return 0;
}

bool cpu_program_work(Ir *ir, const Program *program, const CpuOptions *options, CpuWork *works) {
    (void)ir, (void)program, (void)options, (void)works;
    return false;
}
#endif
