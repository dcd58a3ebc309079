// The scalar primitives of formulas, on scalars and vectors.
#include "codegen/cpu_emit.h"

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
