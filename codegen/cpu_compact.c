// The kernel `compact`: the positions where a mask is true, and how many. One task: the place of each
// position depends on all before it, and there are thousands of them, not millions.
#include "codegen/cpu_emit.h"

enum { MASK, INDICES, COUNT };  // operands

bool cpu_compact_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    const NamedKernel *named = kernel->named;
    LLVMBuilderRef builder = unit->builder;
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    LLVMValueRef zero = cpu_i64(unit, 0), start = cpu_i64(unit, (int64_t)named->options[0].number);
    LLVMValueRef capacity = cpu_i64(unit, named->types[INDICES]->dimensions[0].extent);
    CpuLoop tasks, rows;
    CpuIf is_set, fits;
    cpu_loop_begin(unit, &tasks, body->begin, body->end, 1, NULL, 0);
    cpu_loop_begin(unit, &rows, zero, cpu_i64(unit, named->types[MASK]->dimensions[0].extent), 1, &zero, 1);
    LLVMValueRef at = LLVMBuildMul(builder, rows.index, cpu_i64(unit, named->strides[MASK][0]), "");
    at = cpu_at(unit, body->operand[MASK], ELEMENT_BOOL, at);
    LLVMValueRef set = LLVMBuildLoad2(builder, cpu_memory_type(unit, ELEMENT_BOOL, 1), at, "");
    set = LLVMBuildIsNotNull(builder, set, "");
    LLVMValueRef number = LLVMBuildSub(builder, rows.carried[0], start, "");
    cpu_if_begin(unit, &is_set, set);
    LLVMValueRef inside =
        LLVMBuildICmp(builder, LLVMIntULT, number, capacity, "");  // a negative one is large
    cpu_if_begin(unit, &fits, inside);
    LLVMValueRef to = LLVMBuildMul(builder, number, cpu_i64(unit, named->strides[INDICES][0]), "");
    cpu_store(unit, ELEMENT_I32, cpu_at(unit, body->operand[INDICES], ELEMENT_I32, to),
              LLVMBuildTrunc(builder, rows.index, unit->i32, ""), NULL);
    cpu_if_end(unit, &fits);
    cpu_if_end(unit, &is_set);
    LLVMValueRef next =
        LLVMBuildAdd(builder, rows.carried[0], LLVMBuildZExt(builder, set, unit->i64, ""), "");
    cpu_loop_end(unit, &rows, &next);
    LLVMValueRef count = cpu_min(unit, LLVMBuildSub(builder, rows.carried[0], start, ""), capacity);
    LLVMValueRef some = LLVMBuildICmp(builder, LLVMIntSGT, count, zero, "");
    cpu_store(unit, ELEMENT_I64, body->operand[COUNT], LLVMBuildSelect(builder, some, count, zero, ""), NULL);
    cpu_loop_end(unit, &tasks, NULL);
    cpu_body_end(body);
    out->phase_count = 1;
    out->tasks[0] = 1;
    return true;
}
