// Arithmetic on scalars and vectors in register form.
#include "codegen/cpu_emit.h"

static bool is_float(LLVMValueRef value) {
    LLVMTypeRef type = LLVMTypeOf(value);
    if (LLVMGetTypeKind(type) == LLVMVectorTypeKind) type = LLVMGetElementType(type);
    LLVMTypeKind kind = LLVMGetTypeKind(type);
    return kind == LLVMFloatTypeKind || kind == LLVMDoubleTypeKind;
}

LLVMValueRef cpu_fma(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c) {
    LLVMTypeRef type = LLVMTypeOf(a);
    return cpu_intrinsic(unit, "llvm.fma", &type, 1, (LLVMValueRef[]){a, b, c}, 3);
}

LLVMValueRef cpu_select(CpuUnit *unit, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildSelect(unit->builder, condition, a, b, "");
}

LLVMValueRef cpu_mask(CpuUnit *unit, int lanes, LLVMValueRef count) {
    if (LLVMIsAConstantInt(count)) {
        int64_t on = LLVMConstIntGetSExtValue(count);
        if (on >= lanes) return NULL;
        LLVMValueRef items[256];
        for (int i = 0; i < lanes; i++) items[i] = LLVMConstInt(unit->i1, i < on, false);
        return lanes == 1 ? items[0] : LLVMConstVector(items, (unsigned)lanes);
    }
    LLVMValueRef low = cpu_min(unit, count, cpu_i64(unit, lanes));
    LLVMValueRef narrow = LLVMBuildTrunc(unit->builder, low, unit->i32, "");
    return LLVMBuildICmp(unit->builder, LLVMIntSLT, cpu_iota(unit, unit->i32, lanes, 1),
                         cpu_splat(unit, narrow, lanes), "mask");
}

LLVMValueRef cpu_shuffle(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, const int *from, int count) {
    LLVMValueRef items[256];
    CHECK(count <= 256);
    for (int i = 0; i < count; i++) items[i] = cpu_i32(unit, from[i]);
    return LLVMBuildShuffleVector(unit->builder, a, b ? b : LLVMGetUndef(LLVMTypeOf(a)),
                                  LLVMConstVector(items, (unsigned)count), "");
}

static LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return is_float(a) ? LLVMBuildFAdd(unit->builder, a, b, "") : LLVMBuildAdd(unit->builder, a, b, "");
}

// a < b ? b : a, which is one instruction and what primitive_evaluate says of NaN.
LLVMValueRef cpu_max(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    LLVMValueRef smaller = is_float(a) ? LLVMBuildFCmp(unit->builder, LLVMRealOLT, a, b, "")
                                       : LLVMBuildICmp(unit->builder, LLVMIntSLT, a, b, "");
    return cpu_select(unit, smaller, b, a);
}

LLVMValueRef cpu_min(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    LLVMValueRef smaller = is_float(a) ? LLVMBuildFCmp(unit->builder, LLVMRealOLT, b, a, "")
                                       : LLVMBuildICmp(unit->builder, LLVMIntSLT, b, a, "");
    return cpu_select(unit, smaller, b, a);
}

static LLVMValueRef fold(CpuUnit *unit, LLVMValueRef vector,
                         LLVMValueRef (*combine)(CpuUnit *, LLVMValueRef, LLVMValueRef)) {
    int low[128], high[128];
    for (int lanes = cpu_lanes(vector); lanes > 1; lanes /= 2) {
        for (int i = 0; i < lanes / 2; i++) low[i] = i, high[i] = i + lanes / 2;
        if (lanes == 2) {
            LLVMValueRef first = LLVMBuildExtractElement(unit->builder, vector, cpu_i32(unit, 0), "");
            LLVMValueRef second = LLVMBuildExtractElement(unit->builder, vector, cpu_i32(unit, 1), "");
            return combine(unit, first, second);
        }
        vector = combine(unit, cpu_shuffle(unit, vector, NULL, low, lanes / 2),
                         cpu_shuffle(unit, vector, NULL, high, lanes / 2));
    }
    return vector;
}

LLVMValueRef cpu_horizontal_sum(CpuUnit *unit, LLVMValueRef vector) { return fold(unit, vector, add); }

LLVMValueRef cpu_horizontal_max(CpuUnit *unit, LLVMValueRef vector) { return fold(unit, vector, cpu_max); }

static LLVMTypeRef bfloat_vector(CpuUnit *unit, int lanes) {
    return cpu_vector_of(LLVMBFloatTypeInContext(unit->context), lanes);
}

LLVMValueRef cpu_dot_pairs(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, LLVMValueRef sum) {
    LLVMTypeRef pairs = bfloat_vector(unit, 2 * cpu_lanes(sum));
    LLVMValueRef x = LLVMBuildBitCast(unit->builder, a, pairs, ""), y = LLVMBuildBitCast(unit->builder, b, pairs, "");
    const char *name = arena_format(unit->arena, "llvm.x86.avx512bf16.dpbf16ps.%d", cpu_lanes(sum) * 32);
    return cpu_intrinsic(unit, name, NULL, 0, (LLVMValueRef[]){sum, x, y}, 3);
}

LLVMValueRef cpu_pair(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high) {
    LLVMTypeRef type = LLVMTypeOf(low), integer = cpu_vector_of(unit->i32, cpu_lanes(low));
    LLVMValueRef bits = LLVMBuildBitCast(unit->builder, low, integer, "");
    bits = LLVMBuildLShr(unit->builder, bits, cpu_number_like(bits, 16), "");
    if (high) bits = LLVMBuildOr(unit->builder, bits, LLVMBuildBitCast(unit->builder, high, integer, ""), "");
    return LLVMBuildBitCast(unit->builder, bits, type, "");
}

void cpu_unpair(CpuUnit *unit, LLVMValueRef pairs, LLVMValueRef *halves) {
    LLVMTypeRef type = LLVMTypeOf(pairs), integer = cpu_vector_of(unit->i32, cpu_lanes(pairs));
    LLVMValueRef bits = LLVMBuildBitCast(unit->builder, pairs, integer, "");
    LLVMValueRef low = LLVMBuildShl(unit->builder, bits, cpu_number_like(bits, 16), "");
    LLVMValueRef high = LLVMBuildAnd(unit->builder, bits, cpu_number_like(bits, -65536), "");
    halves[0] = LLVMBuildBitCast(unit->builder, low, type, "");
    halves[1] = LLVMBuildBitCast(unit->builder, high, type, "");
}

void cpu_pair_two(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high, LLVMValueRef *pairs) {
    int lanes = cpu_lanes(low), from[128];
    LLVMTypeRef halves = cpu_vector_of(unit->i16, 2 * lanes);
    LLVMValueRef a = LLVMBuildBitCast(unit->builder, low, halves, "");
    LLVMValueRef b = LLVMBuildBitCast(unit->builder, high, halves, "");
    for (int side = 0; side < 2; side++) {
        for (int i = 0; i < 2 * lanes; i++) from[i] = side * lanes + i / 2 + i % 2 * 2 * lanes;
        pairs[side] = LLVMBuildBitCast(unit->builder, cpu_shuffle(unit, a, b, from, 2 * lanes), LLVMTypeOf(low), "");
    }
}

LLVMValueRef cpu_narrow_pairs(CpuUnit *unit, LLVMValueRef numbers) {
    int lanes = cpu_lanes(numbers);
    LLVMValueRef halves = LLVMBuildFPTrunc(unit->builder, numbers, bfloat_vector(unit, lanes), "");
    return LLVMBuildBitCast(unit->builder, halves, cpu_vector_of(unit->f32, lanes / 2), "");
}

LLVMValueRef cpu_narrow_two(CpuUnit *unit, LLVMValueRef first, LLVMValueRef second) {
    int bits = cpu_lanes(first) * 32;
    const char *name = arena_format(unit->arena, "llvm.x86.avx512bf16.cvtne2ps2bf16.%d", bits);
    LLVMValueRef halves = cpu_intrinsic(unit, name, NULL, 0, (LLVMValueRef[]){second, first}, 2);
    return LLVMBuildBitCast(unit->builder, halves, LLVMTypeOf(first), "");
}

LLVMValueRef cpu_round_pair(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high) {
    int lanes = cpu_lanes(low), from[32];
    if (lanes == 1) return cpu_pair(unit, cpu_round_bf16(unit, low), cpu_round_bf16(unit, high));
    LLVMTypeRef halves = cpu_vector_of(unit->i16, 2 * lanes);
    LLVMValueRef both = LLVMBuildBitCast(unit->builder, cpu_narrow_two(unit, low, high), halves, "");
    for (int i = 0; i < 2 * lanes; i++) from[i] = i / 2 + i % 2 * lanes;
    return LLVMBuildBitCast(unit->builder, cpu_shuffle(unit, both, NULL, from, 2 * lanes), LLVMTypeOf(low), "");
}

LLVMValueRef cpu_round_bf16(CpuUnit *unit, LLVMValueRef value) {
    LLVMBuilderRef b = unit->builder;
    int lanes = cpu_lanes(value);
    LLVMTypeRef integer = cpu_vector_of(unit->i32, lanes);
    if (unit->target->avx512_bf16) {
        LLVMValueRef half = LLVMBuildFPTrunc(b, value, bfloat_vector(unit, lanes), "");
        half = LLVMBuildZExt(b, LLVMBuildBitCast(b, half, cpu_vector_of(unit->i16, lanes), ""), integer, "");
        return LLVMBuildBitCast(b, LLVMBuildShl(b, half, cpu_number_like(half, 16), ""), LLVMTypeOf(value), "");
    }
    LLVMValueRef bits = LLVMBuildBitCast(b, value, integer, "");
    LLVMValueRef odd = LLVMBuildAnd(b, LLVMBuildLShr(b, bits, cpu_number_like(bits, 16), ""),
                                    cpu_number_like(bits, 1), "");
    LLVMValueRef up = LLVMBuildAdd(b, LLVMBuildAdd(b, bits, cpu_number_like(bits, 0x7fff), ""), odd, "");
    LLVMValueRef nan = LLVMBuildOr(b, bits, cpu_number_like(bits, 0x400000), "");
    LLVMValueRef ordered = LLVMBuildFCmp(b, LLVMRealORD, value, value, "");
    LLVMValueRef kept = LLVMBuildAnd(b, cpu_select(unit, ordered, up, nan),
                                     cpu_number_like(bits, (double)INT32_C(-65536)), "");
    return LLVMBuildBitCast(b, kept, LLVMTypeOf(value), "");
}

static LLVMValueRef convert_from_float(CpuUnit *unit, LLVMValueRef value, Element from, Element to) {
    LLVMBuilderRef b = unit->builder;
    LLVMTypeRef type = cpu_register_type(unit, to, cpu_lanes(value));
    switch (to) {
        case ELEMENT_BOOL:
            return LLVMBuildFCmp(b, LLVMRealUNE, value, cpu_number_like(value, 0), "");
        case ELEMENT_I32:
        case ELEMENT_I64:
            return LLVMBuildFPToSI(b, value, type, "");
        case ELEMENT_BF16:
            if (from == ELEMENT_F64) value = LLVMBuildFPTrunc(b, value, type, "");
            return cpu_round_bf16(unit, value);
        case ELEMENT_F32:
            return from == ELEMENT_F64 ? LLVMBuildFPTrunc(b, value, type, "") : value;
        default:
            return from == ELEMENT_F64 ? value : LLVMBuildFPExt(b, value, type, "");
    }
}

LLVMValueRef cpu_convert(CpuUnit *unit, LLVMValueRef value, Element from, Element to) {
    if (from == to) return value;
    LLVMBuilderRef b = unit->builder;
    if (element_is_float(from)) return convert_from_float(unit, value, from, to);
    LLVMTypeRef type = cpu_register_type(unit, to, cpu_lanes(value));
    if (to == ELEMENT_BOOL) return LLVMBuildICmp(b, LLVMIntNE, value, cpu_zero(LLVMTypeOf(value)), "");
    if (element_is_float(to)) {
        LLVMValueRef number = from == ELEMENT_BOOL ? LLVMBuildUIToFP(b, value, type, "")
                                                   : LLVMBuildSIToFP(b, value, type, "");
        return to == ELEMENT_BF16 ? cpu_round_bf16(unit, number) : number;
    }
    if (from == ELEMENT_BOOL) return LLVMBuildZExt(b, value, type, "");
    return to == ELEMENT_I64 ? LLVMBuildSExt(b, value, type, "") : LLVMBuildTrunc(b, value, type, "");
}
