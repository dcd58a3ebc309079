// Arithmetic on scalars and vectors in register form, and the scalar primitives of formulas.
#include <math.h>

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

static LLVMValueRef cpu_min(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
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
    return cpu_intrinsic(unit, "llvm.x86.avx512bf16.dpbf16ps.512", NULL, 0, (LLVMValueRef[]){sum, x, y}, 3);
}

LLVMValueRef cpu_pair(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high) {
    LLVMTypeRef type = LLVMTypeOf(low), integer = cpu_vector_of(unit->i32, cpu_lanes(low));
    LLVMValueRef bits = LLVMBuildBitCast(unit->builder, low, integer, "");
    bits = LLVMBuildLShr(unit->builder, bits, cpu_number_like(bits, 16), "");
    if (high) bits = LLVMBuildOr(unit->builder, bits, LLVMBuildBitCast(unit->builder, high, integer, ""), "");
    return LLVMBuildBitCast(unit->builder, bits, type, "");
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

// x / 0 = 0 and x % 0 = 0; the quotient of the smallest number by -1 wraps to itself.
static LLVMValueRef integer_divide(CpuUnit *unit, LLVMValueRef x, LLVMValueRef y, bool remainder) {
    LLVMBuilderRef b = unit->builder;
    LLVMValueRef zero = cpu_zero(LLVMTypeOf(x)), one = cpu_number_like(x, 1);
    if (LLVMIsConstant(y) && !LLVMIsNull(y) && y != cpu_number_like(y, -1))
        return remainder ? LLVMBuildSRem(b, x, y, "") : LLVMBuildSDiv(b, x, y, "");
    LLVMValueRef by_zero = LLVMBuildICmp(b, LLVMIntEQ, y, zero, "");
    LLVMValueRef by_minus_one = LLVMBuildICmp(b, LLVMIntEQ, y, cpu_number_like(x, -1), "");
    LLVMValueRef safe = cpu_select(unit, LLVMBuildOr(b, by_zero, by_minus_one, ""), one, y);
    if (remainder) return cpu_select(unit, by_zero, zero, LLVMBuildSRem(b, x, safe, ""));
    LLVMValueRef quotient =
        cpu_select(unit, by_minus_one, LLVMBuildSub(b, zero, x, ""), LLVMBuildSDiv(b, x, safe, ""));
    return cpu_select(unit, by_zero, zero, quotient);
}

// Distances are taken modulo the width.
static LLVMValueRef shift(CpuUnit *unit, LLVMValueRef x, LLVMValueRef by, bool left) {
    LLVMTypeRef type = LLVMTypeOf(x);
    if (LLVMGetTypeKind(type) == LLVMVectorTypeKind) type = LLVMGetElementType(type);
    LLVMValueRef width = cpu_number_like(by, LLVMGetIntTypeWidth(type) - 1);
    LLVMValueRef safe = LLVMBuildAnd(unit->builder, by, width, "");
    return left ? LLVMBuildShl(unit->builder, x, safe, "") : LLVMBuildLShr(unit->builder, x, safe, "");
}

static LLVMValueRef compare(CpuUnit *unit, Primitive primitive, Element element, LLVMValueRef x,
                            LLVMValueRef y) {
    LLVMBuilderRef b = unit->builder;
    if (element_is_float(element)) {
        LLVMRealPredicate predicate = primitive == PRIMITIVE_lt   ? LLVMRealOLT
                                      : primitive == PRIMITIVE_le ? LLVMRealOLE
                                      : primitive == PRIMITIVE_eq ? LLVMRealOEQ
                                                                  : LLVMRealUNE;
        return LLVMBuildFCmp(b, predicate, x, y, "");
    }
    bool is_signed = element != ELEMENT_BOOL;
    LLVMIntPredicate predicate = primitive == PRIMITIVE_lt   ? is_signed ? LLVMIntSLT : LLVMIntULT
                                 : primitive == PRIMITIVE_le ? is_signed ? LLVMIntSLE : LLVMIntULE
                                 : primitive == PRIMITIVE_eq ? LLVMIntEQ
                                                             : LLVMIntNE;
    return LLVMBuildICmp(b, predicate, x, y, "");
}

static LLVMValueRef float_primitive(CpuUnit *unit, Primitive primitive, const LLVMValueRef *x) {
    LLVMBuilderRef b = unit->builder;
    LLVMTypeRef type = LLVMTypeOf(x[0]);
    switch (primitive) {
        case PRIMITIVE_add: return LLVMBuildFAdd(b, x[0], x[1], "");
        case PRIMITIVE_sub: return LLVMBuildFSub(b, x[0], x[1], "");
        case PRIMITIVE_mul: return LLVMBuildFMul(b, x[0], x[1], "");
        case PRIMITIVE_div: return LLVMBuildFDiv(b, x[0], x[1], "");
        case PRIMITIVE_max: return cpu_max(unit, x[0], x[1]);
        case PRIMITIVE_min: return cpu_min(unit, x[0], x[1]);
        case PRIMITIVE_neg: return LLVMBuildFNeg(b, x[0], "");
        case PRIMITIVE_abs: return cpu_intrinsic(unit, "llvm.fabs", &type, 1, x, 1);
        case PRIMITIVE_floor: return cpu_intrinsic(unit, "llvm.floor", &type, 1, x, 1);
        case PRIMITIVE_exp: return cpu_exp(unit, x[0]);
        case PRIMITIVE_log: return cpu_log(unit, x[0]);
        case PRIMITIVE_sin: return cpu_sin(unit, x[0]);
        case PRIMITIVE_cos: return cpu_cos(unit, x[0]);
        case PRIMITIVE_tanh: return cpu_tanh(unit, x[0]);
        case PRIMITIVE_erf: return cpu_erf(unit, x[0]);
        case PRIMITIVE_sqrt: return cpu_sqrt(unit, x[0]);
        case PRIMITIVE_rsqrt: return cpu_rsqrt(unit, x[0]);
        default: INTERNAL_ERROR("primitive %s on floats", primitive_name(primitive));
    }
}

static LLVMValueRef integer_primitive(CpuUnit *unit, Primitive primitive, Element element,
                                      const LLVMValueRef *x) {
    LLVMBuilderRef b = unit->builder;
    bool boolean = element == ELEMENT_BOOL;
    switch (primitive) {
        case PRIMITIVE_add: return LLVMBuildAdd(b, x[0], x[1], "");
        case PRIMITIVE_sub: return LLVMBuildSub(b, x[0], x[1], "");
        case PRIMITIVE_mul: return LLVMBuildMul(b, x[0], x[1], "");
        case PRIMITIVE_div: return integer_divide(unit, x[0], x[1], false);
        case PRIMITIVE_rem: return integer_divide(unit, x[0], x[1], true);
        case PRIMITIVE_max: return boolean ? LLVMBuildOr(b, x[0], x[1], "") : cpu_max(unit, x[0], x[1]);
        case PRIMITIVE_min: return boolean ? LLVMBuildAnd(b, x[0], x[1], "") : cpu_min(unit, x[0], x[1]);
        case PRIMITIVE_neg: return LLVMBuildNeg(b, x[0], "");
        case PRIMITIVE_abs: return cpu_max(unit, x[0], LLVMBuildNeg(b, x[0], ""));
        case PRIMITIVE_and: return LLVMBuildAnd(b, x[0], x[1], "");
        case PRIMITIVE_or: return LLVMBuildOr(b, x[0], x[1], "");
        case PRIMITIVE_xor: return LLVMBuildXor(b, x[0], x[1], "");
        case PRIMITIVE_not: return LLVMBuildXor(b, x[0], cpu_number_like(x[0], 1), "");
        case PRIMITIVE_shl: return shift(unit, x[0], x[1], true);
        case PRIMITIVE_shr: return shift(unit, x[0], x[1], false);
        default: INTERNAL_ERROR("primitive %s on integers", primitive_name(primitive));
    }
}

// Results that are bf16 numbers whenever the arguments are.
static bool keeps_bf16(Primitive primitive) {
    return primitive == PRIMITIVE_max || primitive == PRIMITIVE_min || primitive == PRIMITIVE_neg ||
           primitive == PRIMITIVE_abs || primitive == PRIMITIVE_floor;
}

LLVMValueRef cpu_primitive(CpuUnit *unit, Primitive primitive, Element element, Element from,
                           const LLVMValueRef *arguments) {
    if (primitive == PRIMITIVE_cast) return cpu_convert(unit, arguments[0], from, element);
    if (primitive == PRIMITIVE_select) return cpu_select(unit, arguments[0], arguments[1], arguments[2]);
    if (primitive_is_comparison(primitive))
        return compare(unit, primitive, from, arguments[0], arguments[1]);
    if (!element_is_float(element)) return integer_primitive(unit, primitive, element, arguments);
    LLVMValueRef result = float_primitive(unit, primitive, arguments);
    return element == ELEMENT_BF16 && !keeps_bf16(primitive) ? cpu_round_bf16(unit, result) : result;
}
