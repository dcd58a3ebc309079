// Functions that kernels share: register tiles, packing, the loops around tiles. Their names say all that they
// depend on besides the target, so that one compilation needs each once, in whichever module asked first.
#ifndef CHERRY_CODEGEN_CPU_HELPER_H
#define CHERRY_CODEGEN_CPU_HELPER_H

#include "codegen/cpu_emit.h"

// Those that some module of a compilation defines; its threads ask at the same time.
CpuHelpers *cpu_helpers_create(Arena *arena);
void cpu_helpers_destroy(CpuHelpers *helpers);

typedef struct CpuHelper {
    LLVMValueRef function;
    LLVMBasicBlockRef before;
    bool fresh;
} CpuHelper;

// Starts the function of this name, or returns the one that is there or that another module defines (then `fresh`
// is false). The builder is left at its entry; cpu_helper_end puts it back to where it was.
CpuHelper cpu_helper_begin(CpuUnit *unit, const char *name, LLVMTypeRef type);
void cpu_helper_end(CpuUnit *unit, CpuHelper *helper);
void cpu_helper_call(CpuUnit *unit, LLVMValueRef function, LLVMValueRef *arguments, unsigned count);

#endif
