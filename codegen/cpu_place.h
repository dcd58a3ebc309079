// Arithmetic of places and extents, i64 all of them, by short names: for files that write much of it.
#ifndef CHERRY_CODEGEN_CPU_PLACE_H
#define CHERRY_CODEGEN_CPU_PLACE_H

#include "codegen/cpu_emit.h"

static inline LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildAdd(unit->builder, a, b, "");
}

static inline LLVMValueRef subtract(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildSub(unit->builder, a, b, "");
}

static inline LLVMValueRef multiply(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildMul(unit->builder, a, b, "");
}

static inline LLVMValueRef scaled(CpuUnit *unit, LLVMValueRef a, int64_t by) {
    return by == 1 ? a : multiply(unit, a, cpu_i64(unit, by));
}

static inline LLVMValueRef compare(CpuUnit *unit, LLVMIntPredicate predicate, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildICmp(unit->builder, predicate, a, b, "");
}

#endif
