// The part of the CPU back end that knows which LLVM it is built with.
#ifndef CHERRY_CODEGEN_CPU_LLVM_H
#define CHERRY_CODEGEN_CPU_LLVM_H

#include "codegen/cpu.h"
#include "codegen/cpu_emit.h"

void cpu_llvm_start(void);  // registers the targets; may be called often, from any thread
const char *cpu_llvm_version(Arena *arena);

// A machine for this target, or NULL and why.
LLVMTargetMachineRef cpu_llvm_machine(const CpuTarget *target, const char **failure);

// A module in a context of its own for one compile thread, or NULL and why.
CpuUnit *cpu_unit_create(Arena *arena, const CpuTarget *target, CpuSanitize sanitize, const char **failure);
void cpu_unit_destroy(CpuUnit *unit);

bool cpu_llvm_has_intrinsic(const char *name);
// `place` is LLVMAttributeFunctionIndex or 1 + the number of an argument.
void cpu_llvm_attribute(CpuUnit *unit, LLVMValueRef function, unsigned place, const char *name);
void cpu_llvm_text_attribute(CpuUnit *unit, LLVMValueRef function, const char *name, const char *value);

// These return false or NULL after cpu_fail.
bool cpu_llvm_verify(CpuUnit *unit);
LLVMMemoryBufferRef cpu_llvm_emit(CpuUnit *unit, bool assembly);

// cpu_target.c: the machine of the options; reports and returns NULL.
const CpuTarget *cpu_target_create(Ir *ir, const CpuOptions *options);

// cpu_key.c: what the code of a kernel depends on, the same in every process.
uint64_t cpu_kernel_key(const Kernel *kernel);
uint64_t cpu_target_key(const CpuTarget *target, bool sanitize);  // machine, versions

#endif
