// The small vocabulary of types and constants.
#include "codegen/cpu_emit.h"

// ---- Types ----

LLVMTypeRef cpu_vector_of(LLVMTypeRef type, int lanes) {
    return lanes == 1 ? type : LLVMVectorType(type, (unsigned)lanes);
}

LLVMTypeRef cpu_register_type(CpuUnit *unit, Element element, int lanes) {
    LLVMTypeRef types[ELEMENT_COUNT] = {
        [ELEMENT_BOOL] = unit->i1, [ELEMENT_I32] = unit->i32, [ELEMENT_I64] = unit->i64,
        [ELEMENT_BF16] = unit->f32, [ELEMENT_F32] = unit->f32, [ELEMENT_F64] = unit->f64};
    return cpu_vector_of(types[element], lanes);
}

LLVMTypeRef cpu_memory_type(CpuUnit *unit, Element element, int lanes) {
    if (element == ELEMENT_BOOL) return cpu_vector_of(unit->i8, lanes);
    if (element == ELEMENT_BF16) return cpu_vector_of(unit->i16, lanes);
    return cpu_register_type(unit, element, lanes);
}

int cpu_lanes(LLVMValueRef value) {
    LLVMTypeRef type = LLVMTypeOf(value);
    return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? (int)LLVMGetVectorSize(type) : 1;
}

// ---- Constants ----

LLVMValueRef cpu_i32(CpuUnit *unit, int64_t value) {
    return LLVMConstInt(unit->i32, (unsigned long long)value, true);
}

LLVMValueRef cpu_i64(CpuUnit *unit, int64_t value) {
    return LLVMConstInt(unit->i64, (unsigned long long)value, true);
}

LLVMValueRef cpu_zero(LLVMTypeRef type) { return LLVMConstNull(type); }

static LLVMValueRef constant_splat(LLVMValueRef value, int lanes) {
    if (lanes == 1) return value;
    LLVMValueRef items[256];
    CHECK(lanes <= 256);
    for (int i = 0; i < lanes; i++) items[i] = value;
    return LLVMConstVector(items, (unsigned)lanes);
}

static LLVMValueRef number_of_type(LLVMTypeRef type, double value) {
    LLVMTypeKind kind = LLVMGetTypeKind(type);
    if (kind == LLVMFloatTypeKind || kind == LLVMDoubleTypeKind) return LLVMConstReal(type, value);
    if (LLVMGetIntTypeWidth(type) == 1) return LLVMConstInt(type, value != 0, false);
    // 2^63 and above can only mean the unsigned pattern.
    uint64_t bits = value >= 0x1p63 ? (uint64_t)value : (uint64_t)(int64_t)value;
    return LLVMConstInt(type, bits, true);
}

LLVMValueRef cpu_number(CpuUnit *unit, Element element, double value, int lanes) {
    return constant_splat(number_of_type(cpu_register_type(unit, element, 1), value), lanes);
}

LLVMValueRef cpu_number_like(LLVMValueRef like, double value) {
    LLVMTypeRef type = LLVMTypeOf(like);
    int lanes = cpu_lanes(like);
    return constant_splat(number_of_type(lanes == 1 ? type : LLVMGetElementType(type), value), lanes);
}

// What a block before this one computed is spread there: no pass moves it out of a loop where constants have taken half
// of the registers.
static void move_to_end_of_origin(CpuUnit *unit, LLVMValueRef value) {
    if (!LLVMIsAInstruction(value)) return;
    LLVMBasicBlockRef origin = LLVMGetInstructionParent(value);
    LLVMValueRef end = LLVMGetBasicBlockTerminator(origin);
    if (end && origin != LLVMGetInsertBlock(unit->builder)) LLVMPositionBuilderBefore(unit->builder, end);
}

LLVMValueRef cpu_splat(CpuUnit *unit, LLVMValueRef value, int lanes) {
    if (lanes == 1 || cpu_lanes(value) > 1) return value;
    if (LLVMIsConstant(value)) return constant_splat(value, lanes);
    LLVMBasicBlockRef here = LLVMGetInsertBlock(unit->builder);
    move_to_end_of_origin(unit, value);
    LLVMTypeRef type = LLVMVectorType(LLVMTypeOf(value), (unsigned)lanes);
    LLVMValueRef first =
        LLVMBuildInsertElement(unit->builder, LLVMGetUndef(type), value, cpu_i32(unit, 0), "");
    LLVMValueRef zeros = cpu_zero(LLVMVectorType(unit->i32, (unsigned)lanes));
    LLVMValueRef all = LLVMBuildShuffleVector(unit->builder, first, LLVMGetUndef(type), zeros, "");
    if (LLVMGetInsertBlock(unit->builder) != here) LLVMPositionBuilderAtEnd(unit->builder, here);
    return all;
}

LLVMValueRef cpu_iota(CpuUnit *unit, LLVMTypeRef integer, int lanes, int64_t scale) {
    (void)unit;
    LLVMValueRef items[256];
    CHECK(lanes <= 256);
    for (int i = 0; i < lanes; i++) items[i] = LLVMConstInt(integer, (unsigned long long)(i * scale), true);
    return lanes == 1 ? items[0] : LLVMConstVector(items, (unsigned)lanes);
}
