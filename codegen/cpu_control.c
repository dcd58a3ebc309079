// Loops, branches and functions.
#include <inttypes.h>

#include "codegen/cpu_llvm.h"

static LLVMBasicBlockRef new_block(CpuUnit *unit) {
    LLVMValueRef function = LLVMGetBasicBlockParent(LLVMGetInsertBlock(unit->builder));
    return LLVMAppendBasicBlockInContext(unit->context, function, "");
}

static bool surely_less(LLVMValueRef a, LLVMValueRef b) {
    return LLVMIsAConstantInt(a) && LLVMIsAConstantInt(b) &&
           LLVMConstIntGetSExtValue(a) < LLVMConstIntGetSExtValue(b);
}

// The test stands at the bottom; a loop that may run no iteration is guarded by one test before it.
void cpu_loop_begin(CpuUnit *unit, CpuLoop *loop, LLVMValueRef begin, LLVMValueRef end, int64_t step,
                    const LLVMValueRef *initial, int carry_count) {
    CHECK(carry_count <= CPU_CARRY_MAX);
    LLVMBuilderRef b = unit->builder;
    loop->begin = begin, loop->end = end, loop->step = step, loop->carry_count = carry_count;
    loop->before = LLVMGetInsertBlock(b);
    loop->body = new_block(unit);
    loop->after = new_block(unit);
    loop->guarded = !surely_less(begin, end);
    if (loop->guarded)
        LLVMBuildCondBr(b, LLVMBuildICmp(b, LLVMIntSLT, begin, end, ""), loop->body, loop->after);
    else
        LLVMBuildBr(b, loop->body);
    LLVMPositionBuilderAtEnd(b, loop->body);
    loop->index = LLVMBuildPhi(b, unit->i64, "i");
    LLVMAddIncoming(loop->index, &loop->begin, &loop->before, 1);
    for (int i = 0; i < carry_count; i++) {
        loop->initial[i] = initial[i];
        loop->carried[i] = LLVMBuildPhi(b, LLVMTypeOf(initial[i]), "");
        LLVMAddIncoming(loop->carried[i], &loop->initial[i], &loop->before, 1);
    }
}

void cpu_loop_end(CpuUnit *unit, CpuLoop *loop, const LLVMValueRef *next) {
    LLVMBuilderRef b = unit->builder;
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(b);
    LLVMValueRef advanced = LLVMBuildNSWAdd(b, loop->index, cpu_i64(unit, loop->step), "");
    LLVMAddIncoming(loop->index, &advanced, &latch, 1);
    LLVMValueRef again = LLVMBuildICmp(b, LLVMIntSLT, advanced, loop->end, "");
    LLVMBuildCondBr(b, again, loop->body, loop->after);
    LLVMMoveBasicBlockAfter(loop->after, latch);
    LLVMPositionBuilderAtEnd(b, loop->after);
    for (int i = 0; i < loop->carry_count; i++) {
        LLVMValueRef value = next[i];
        LLVMAddIncoming(loop->carried[i], &value, &latch, 1);
        loop->carried[i] = LLVMBuildPhi(b, LLVMTypeOf(value), "");
        LLVMAddIncoming(loop->carried[i], &value, &latch, 1);
        if (loop->guarded) LLVMAddIncoming(loop->carried[i], &loop->initial[i], &loop->before, 1);
    }
}

void cpu_if_begin(CpuUnit *unit, CpuIf *branch, LLVMValueRef condition) {
    LLVMBasicBlockRef then = new_block(unit);
    *branch = (CpuIf){.otherwise = new_block(unit), .after = new_block(unit)};
    LLVMBuildCondBr(unit->builder, condition, then, branch->otherwise);
    LLVMPositionBuilderAtEnd(unit->builder, then);
}

void cpu_if_else(CpuUnit *unit, CpuIf *branch) {
    LLVMBuildBr(unit->builder, branch->after);
    LLVMPositionBuilderAtEnd(unit->builder, branch->otherwise);
    branch->has_else = true;
}

void cpu_if_end(CpuUnit *unit, CpuIf *branch) {
    if (!branch->has_else) cpu_if_else(unit, branch);
    LLVMBuildBr(unit->builder, branch->after);
    LLVMPositionBuilderAtEnd(unit->builder, branch->after);
}

void cpu_divide(CpuUnit *unit, LLVMValueRef value, LLVMValueRef by, LLVMValueRef *quotient,
                LLVMValueRef *remainder) {
    LLVMBuilderRef b = unit->builder;
    if (LLVMIsAConstantInt(by) && LLVMConstIntGetSExtValue(by) == 1) {
        *quotient = value, *remainder = cpu_i64(unit, 0);
        return;
    }
    *quotient = LLVMBuildUDiv(b, value, by, "");
    *remainder = LLVMBuildSub(b, value, LLVMBuildMul(b, *quotient, by, ""), "");
}

LLVMValueRef cpu_blocks(CpuUnit *unit, LLVMValueRef count, LLVMValueRef size) {
    LLVMValueRef up = LLVMBuildAdd(unit->builder, count, LLVMBuildSub(unit->builder, size, cpu_i64(unit, 1), ""), "");
    return LLVMBuildUDiv(unit->builder, up, size, "");
}

// ---- Functions ----

const char *cpu_symbol(CpuUnit *unit, const Kernel *kernel, int phase) {
    return arena_format(unit->arena, "cherry_%016" PRIx64 "_%016" PRIx64 "_%d", kernel->hash, unit->bundle, phase);
}

void cpu_function_attributes(CpuUnit *unit, LLVMValueRef function) {
    unsigned whole = (unsigned)LLVMAttributeFunctionIndex;
    cpu_llvm_attribute(unit, function, whole, "nounwind");
    if (unit->sanitize) cpu_llvm_attribute(unit, function, whole, "sanitize_address");
    // Machines that prefer half their width would split our vectors.
    if (unit->target->avx512) {
        cpu_llvm_text_attribute(unit, function, "prefer-vector-width", "512");
        cpu_llvm_text_attribute(unit, function, "min-legal-vector-width", "512");
    }
}

// Results below the smallest normal number become 0 while a kernel runs: on x86 each of them costs some
// hundred cycles, and a masked softmax or an idle optimiser moment is full of them.
enum { FLUSH_TO_ZERO = 0x8000 };

static void flush_denormals(CpuBody *body) {
    CpuUnit *unit = body->unit;
    if (unit->target->neon) return;
    LLVMBuilderRef b = unit->builder;
    body->control_word = LLVMBuildAlloca(b, unit->i32, "");
    LLVMValueRef changed = LLVMBuildAlloca(b, unit->i32, "");
    cpu_intrinsic(unit, "llvm.x86.sse.stmxcsr", NULL, 0, &body->control_word, 1);
    LLVMValueRef word = LLVMBuildLoad2(b, unit->i32, body->control_word, "");
    LLVMBuildStore(b, LLVMBuildOr(b, word, cpu_i32(unit, FLUSH_TO_ZERO), ""), changed);
    cpu_intrinsic(unit, "llvm.x86.sse.ldmxcsr", NULL, 0, &changed, 1);
}

static void restore_denormals(CpuBody *body) {
    if (!body->control_word) return;
    cpu_intrinsic(body->unit, "llvm.x86.sse.ldmxcsr", NULL, 0, &body->control_word, 1);
}

CpuBody *cpu_body_begin(CpuUnit *unit, const Kernel *kernel, int phase) {
    CpuBody *body = ARENA_NEW(unit->arena, CpuBody);
    body->unit = unit;
    body->function = LLVMAddFunction(unit->module, cpu_symbol(unit, kernel, phase), unit->function_type);
    cpu_function_attributes(unit, body->function);
    body->entry = LLVMAppendBasicBlockInContext(unit->context, body->function, "");
    LLVMPositionBuilderAtEnd(unit->builder, body->entry);
    LLVMValueRef operands = LLVMGetParam(body->function, 0);
    body->workspaces = LLVMGetParam(body->function, 1);
    body->scratch = LLVMGetParam(body->function, 2);
    body->begin = LLVMGetParam(body->function, 3);
    body->end = LLVMGetParam(body->function, 4);
    int count = kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
    for (int i = 0; i < count; i++) {
        LLVMValueRef index = cpu_i64(unit, i);
        LLVMValueRef slot = LLVMBuildGEP2(unit->builder, unit->pointer, operands, &index, 1, "");
        body->operand[i] = LLVMBuildLoad2(unit->builder, unit->pointer, slot, "");
    }
    if (phase < PHASE_MAX) flush_denormals(body);  // others are called by phases
    return body;
}

void cpu_body_end(CpuBody *body) {
    restore_denormals(body);
    LLVMBuildRetVoid(body->unit->builder);
}

LLVMValueRef cpu_note(CpuBody *body) {
    return cpu_at_bytes(body->unit, body->scratch, cpu_i64(body->unit, -SCRATCH_NOTE));
}

LLVMValueRef cpu_stack_slot(CpuBody *body, LLVMTypeRef type) {
    LLVMBuilderRef b = body->unit->builder;
    LLVMBasicBlockRef here = LLVMGetInsertBlock(b);
    LLVMPositionBuilder(b, body->entry, LLVMGetFirstInstruction(body->entry));
    LLVMValueRef slot = LLVMBuildAlloca(b, type, "");
    LLVMPositionBuilderAtEnd(b, here);
    return slot;
}

void cpu_set_place(CpuUnit *unit, Place place) {
    (void)unit;
    (void)place;
}
