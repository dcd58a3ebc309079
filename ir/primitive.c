// Scalar primitives: names, what they accept, and their values in double precision.
#include "ir/primitive.h"

#include <math.h>
#include <string.h>

typedef enum ResultKind { RESULT_SAME, RESULT_BOOL, RESULT_CAST } ResultKind;

static const struct {
    const char *name;
    int arguments;
    ResultKind result;
} primitives[PRIMITIVE_COUNT] = {
#define PRIMITIVE(name, arguments, result, doc) [PRIMITIVE_##name] = {#name, arguments, RESULT_##result},
#include "ir/primitives.def"
#undef PRIMITIVE
};

const char *primitive_name(Primitive primitive) { return primitives[primitive].name; }

int primitive_arguments(Primitive primitive) { return primitives[primitive].arguments; }

bool primitive_is_comparison(Primitive primitive) { return primitives[primitive].result == RESULT_BOOL; }

bool primitive_accepts(Primitive primitive, Element element) {
    bool is_float = element_is_float(element), is_integer = element_is_integer(element);
    switch (primitive) {
    case PRIMITIVE_add:
    case PRIMITIVE_sub:
    case PRIMITIVE_mul:
    case PRIMITIVE_div:
    case PRIMITIVE_max:
    case PRIMITIVE_min:
    case PRIMITIVE_neg:
    case PRIMITIVE_abs:
    case PRIMITIVE_lt:
    case PRIMITIVE_le: return is_float || is_integer;
    case PRIMITIVE_rem:
    case PRIMITIVE_shl:
    case PRIMITIVE_shr: return is_integer;
    case PRIMITIVE_and:
    case PRIMITIVE_or:
    case PRIMITIVE_xor: return !is_float;
    case PRIMITIVE_not: return element == ELEMENT_BOOL;
    case PRIMITIVE_eq:
    case PRIMITIVE_ne:
    case PRIMITIVE_select:
    case PRIMITIVE_cast: return true;
    default: return is_float;
    }
}

bool primitive_is_expensive(Primitive primitive) {
    switch (primitive) {
    case PRIMITIVE_exp:
    case PRIMITIVE_log:
    case PRIMITIVE_sin:
    case PRIMITIVE_cos:
    case PRIMITIVE_tanh:
    case PRIMITIVE_erf: return true;
    default: return false;
    }
}

// A double as the integer it holds: truncated toward zero, NaN is 0, out of range saturates.
static int64_t to_integer(double value) {
    if (isnan(value)) return 0;
    if (value >= 0x1p63) return INT64_MAX;
    if (value < -0x1p63) return INT64_MIN;
    return (int64_t)value;
}

static int64_t wrap(Element element, uint64_t bits) {
    switch (element) {
    case ELEMENT_BOOL: return bits & 1;
    case ELEMENT_I32: return (int32_t)(uint32_t)bits;
    default: return (int64_t)bits;
    }
}

// Values are exact below 2^53; larger i64 values are rounded by their double.
static double evaluate_integer(Primitive primitive, Element element, const double *arguments) {
    int64_t a = to_integer(arguments[0]);
    int64_t b = primitive_arguments(primitive) > 1 ? to_integer(arguments[1]) : 0;
    uint64_t ua = (uint64_t)a, ub = (uint64_t)b, result = 0;
    unsigned width = element == ELEMENT_I64 ? 64 : 32;  // shift distances are taken modulo the width
    bool negate = b == -1;                              // INT64_MIN / -1 would trap
    switch (primitive) {
    case PRIMITIVE_add: result = ua + ub; break;
    case PRIMITIVE_sub: result = ua - ub; break;
    case PRIMITIVE_mul: result = ua * ub; break;
    case PRIMITIVE_div: result = b == 0 ? 0 : negate ? -ua : (uint64_t)(a / b); break;
    case PRIMITIVE_rem: result = b == 0 || negate ? 0 : (uint64_t)(a % b); break;
    case PRIMITIVE_max: result = a < b ? ub : ua; break;
    case PRIMITIVE_min: result = b < a ? ub : ua; break;
    case PRIMITIVE_neg: result = -ua; break;
    case PRIMITIVE_abs: result = a < 0 ? -ua : ua; break;
    case PRIMITIVE_and: result = ua & ub; break;
    case PRIMITIVE_or: result = ua | ub; break;
    case PRIMITIVE_xor: result = ua ^ ub; break;
    case PRIMITIVE_not: result = !ua; break;
    case PRIMITIVE_shl: result = ua << (ub % width); break;
    case PRIMITIVE_shr: result = (width == 32 ? (uint32_t)ua : ua) >> (ub % width); break;
    default: INTERNAL_ERROR("%s of %s", primitive_name(primitive), element_name(element));
    }
    return (double)wrap(element, result);
}

static double evaluate_float(Primitive primitive, const double *arguments) {
    double a = arguments[0], b = primitive_arguments(primitive) > 1 ? arguments[1] : 0;
    switch (primitive) {
    case PRIMITIVE_add: return a + b;
    case PRIMITIVE_sub: return a - b;
    case PRIMITIVE_mul: return a * b;
    case PRIMITIVE_div: return a / b;
    case PRIMITIVE_max: return a < b ? b : a;
    case PRIMITIVE_min: return b < a ? b : a;
    case PRIMITIVE_neg: return -a;
    case PRIMITIVE_abs: return fabs(a);
    case PRIMITIVE_floor: return floor(a);
    case PRIMITIVE_exp: return exp(a);
    case PRIMITIVE_log: return log(a);
    case PRIMITIVE_sin: return sin(a);
    case PRIMITIVE_cos: return cos(a);
    case PRIMITIVE_tanh: return tanh(a);
    case PRIMITIVE_erf: return erf(a);
    case PRIMITIVE_sqrt: return sqrt(a);
    case PRIMITIVE_rsqrt: return 1 / sqrt(a);
    default: INTERNAL_ERROR("%s of floats", primitive_name(primitive));
    }
}

static double round_bf16(double value) {
    float single = (float)value;
    uint32_t bits;
    if (isnan(value)) return value;
    memcpy(&bits, &single, sizeof bits);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    memcpy(&single, &bits, sizeof bits);
    return single;
}

// From any element to `element`. A double does not tell what it was: floats are rounded to bf16 and else never,
// an integer that is too large for its new type wraps, a float that is too large saturates at 64 bits.
static double evaluate_cast(Element element, double value) {
    if (element == ELEMENT_BF16) return round_bf16(value);
    if (element_is_float(element)) return value;
    if (element == ELEMENT_BOOL) return value != 0;
    return (double)wrap(element, (uint64_t)to_integer(value));
}

double primitive_evaluate(Primitive primitive, Element element, const double *arguments) {
    switch (primitive) {
    case PRIMITIVE_lt: return arguments[0] < arguments[1];
    case PRIMITIVE_le: return arguments[0] <= arguments[1];
    case PRIMITIVE_eq: return arguments[0] == arguments[1];
    case PRIMITIVE_ne: return arguments[0] != arguments[1];
    case PRIMITIVE_select: return arguments[0] != 0 ? arguments[1] : arguments[2];
    case PRIMITIVE_cast: return evaluate_cast(element, arguments[0]);
    default: break;
    }
    if (element_is_float(element)) return evaluate_float(primitive, arguments);
    return evaluate_integer(primitive, element, arguments);
}
