// Vector maths as inline polynomials, for f32 and f64 scalars and vectors of any width. Errors: f32 below
// 4e-7 relative, f64 below 1e-15 or so (tests/unit/cpu_math.c). No branches, no tables, no calls.
// Coefficients are minimax fits (highest power first), but those of sin, cos and log f64, which are
// fdlibm's, log f32 (Cephes) and the f32 branches of erf.
// Legend: x argument, n whole number taken out, r what remains, z = r * r.
#include <math.h>

#include "codegen/cpu_emit.h"

typedef struct Kit {  // shorthand for one value's type
    CpuUnit *unit;
    LLVMBuilderRef builder;
    LLVMTypeRef type, integer;  // integer: same width, same lanes
    bool wide;                  // f64
    int lanes;
} Kit;

static Kit kit_of(CpuUnit *unit, LLVMValueRef x) {
    LLVMTypeRef type = LLVMTypeOf(x);
    int lanes = cpu_lanes(x);
    bool wide = (lanes == 1 ? type : LLVMGetElementType(type)) == unit->f64;
    return (Kit){unit, unit->builder, type, cpu_vector_of(wide ? unit->i64 : unit->i32, lanes), wide, lanes};
}

static LLVMValueRef real(const Kit *k, double value) {
    return cpu_number(k->unit, k->wide ? ELEMENT_F64 : ELEMENT_F32, value, k->lanes);
}

static LLVMValueRef whole(const Kit *k, int64_t value) {
    LLVMTypeRef scalar = k->wide ? k->unit->i64 : k->unit->i32;
    return cpu_splat(k->unit, LLVMConstInt(scalar, (unsigned long long)value, true), k->lanes);
}

static LLVMValueRef multiply(const Kit *k, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildFMul(k->builder, a, b, "");
}

static LLVMValueRef multiply_add(const Kit *k, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c) {
    return cpu_fma(k->unit, a, b, c);
}

static LLVMValueRef subtract(const Kit *k, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildFSub(k->builder, a, b, "");
}

static LLVMValueRef bits_of(const Kit *k, LLVMValueRef x) { return LLVMBuildBitCast(k->builder, x, k->integer, ""); }

static LLVMValueRef real_of(const Kit *k, LLVMValueRef bits) {
    return LLVMBuildBitCast(k->builder, bits, k->type, "");
}

static LLVMValueRef horner(const Kit *k, LLVMValueRef x, const double *coefficients, int count) {
    LLVMValueRef sum = real(k, coefficients[0]);
    for (int i = 1; i < count; i++) sum = multiply_add(k, sum, x, real(k, coefficients[i]));
    return sum;
}
#define HORNER(kit, x, table) horner((kit), (x), (table), sizeof(table) / sizeof *(table))

// The order of the operands lets a NaN through.
static LLVMValueRef clamp(const Kit *k, LLVMValueRef x, double low, double high) {
    LLVMValueRef l = real(k, low), h = real(k, high);
    x = cpu_select(k->unit, LLVMBuildFCmp(k->builder, LLVMRealOGT, l, x, ""), l, x);
    return cpu_select(k->unit, LLVMBuildFCmp(k->builder, LLVMRealOLT, h, x, ""), h, x);
}

static LLVMValueRef magnitude(const Kit *k, LLVMValueRef x) {
    return cpu_intrinsic(k->unit, "llvm.fabs", &k->type, 1, &x, 1);
}

static LLVMValueRef with_sign(const Kit *k, LLVMValueRef x, LLVMValueRef sign) {
    return cpu_intrinsic(k->unit, "llvm.copysign", &k->type, 1, (LLVMValueRef[]){x, sign}, 2);
}

// Adding this number leaves the nearest whole number in the low bits of the sum.
static LLVMValueRef rounder(const Kit *k) { return real(k, k->wide ? 0x1.8p52 : 0x1.8p23); }

static bool hardware_scales(const Kit *k) { return k->unit->target->avx512 && !k->wide && k->lanes == 16; }

// Added to n it leaves, in the low bits of the sum, twice the bias of an exponent more: halves of that are exponents of
// factors.
static LLVMValueRef exponent_rounder(const Kit *k) { return real(k, k->wide ? 0x1.8p52 + 2046 : 0x1.8p23 + 254); }

// p * 2^n for whole n; n may leave the range of one factor, so the hardware does it or two factors do. `rounded` is n
// and the exponent_rounder.
static LLVMValueRef scale(const Kit *k, LLVMValueRef p, LLVMValueRef n, LLVMValueRef rounded) {
    CpuUnit *unit = k->unit;
    if (hardware_scales(k)) {
        LLVMValueRef arguments[] = {p, n, p, LLVMConstInt(unit->i16, 0xffff, false), cpu_i32(unit, 4)};
        return cpu_intrinsic(unit, "llvm.x86.avx512.mask.scalef.ps.512", NULL, 0, arguments, 5);
    }
    LLVMBuilderRef b = k->builder;
    LLVMValueRef both = bits_of(k, rounded), position = whole(k, k->wide ? 52 : 23);
    LLVMValueRef half = LLVMBuildLShr(b, both, whole(k, 1), "");
    LLVMValueRef first = LLVMBuildShl(b, half, position, "");
    LLVMValueRef second = LLVMBuildShl(b, LLVMBuildSub(b, both, half, ""), position, "");
    return multiply(k, multiply(k, p, real_of(k, first)), real_of(k, second));
}

// What remains of an argument so large, or NaN, that n alone decides: any number up to 1/2, for one instruction and
// not the two that clamp.
static LLVMValueRef near_zero(const Kit *k, LLVMValueRef r) {
    enum { SMALLER_MAGNITUDE = 2, AS_ROUNDED = 4 };
    LLVMValueRef arguments[] = {r, real(k, 0.5), cpu_i32(k->unit, SMALLER_MAGNITUDE), r,
                                LLVMConstInt(k->unit->i16, 0xffff, false), cpu_i32(k->unit, AS_ROUNDED)};
    return cpu_intrinsic(k->unit, "llvm.x86.avx512.mask.range.ps.512", NULL, 0, arguments, 6);
}

LLVMValueRef cpu_exp(CpuUnit *unit, LLVMValueRef x) {
    static const double narrow[] = {1.39261763353995842e-03, 8.36317324699992551e-03,
                                    4.16665546607567425e-02, 1.66665770245623068e-01, 0.5, 1, 1};
    static const double wide[] = {
        2.09146795956177339e-09, 2.51052066806810613e-08, 2.75572736608224658e-07, 2.75572554250096138e-06,
        2.48015873255337802e-05, 1.98412698748010730e-04, 1.38888888888837525e-03, 8.33333333332614105e-03,
        4.16666666666666713e-02, 1.66666666666666713e-01, 0.5, 1, 1};
    Kit kit = kit_of(unit, x), *k = &kit;
    bool scales = hardware_scales(k);
    if (!scales) x = k->wide ? clamp(k, x, -760, 720) : clamp(k, x, -106, 90);
    LLVMValueRef rounded = multiply_add(k, x, real(k, M_LOG2E), exponent_rounder(k));
    LLVMValueRef n = subtract(k, rounded, exponent_rounder(k));
    LLVMValueRef r = multiply_add(k, n, real(k, k->wide ? -M_LN2 : -6.931471825e-01), x);
    r = multiply_add(k, n, real(k, k->wide ? -2.31904681384629956e-17 : 1.904654212e-09), r);
    if (scales) r = near_zero(k, r);
    LLVMValueRef p = k->wide ? HORNER(k, r, wide) : HORNER(k, r, narrow);
    return scale(k, p, n, rounded);
}

// 2^x, exact at whole x: for weights of attention. Where the hardware scales, what lies too low needs no care.
LLVMValueRef cpu_exp2(CpuUnit *unit, LLVMValueRef x) {
    static const double table[] = {1.32647270653948662e-03, 9.67151264892540316e-03, 5.55073374369070005e-02,
                                   2.40222420851728596e-01, 6.93146977598857794e-01, 1};
    Kit kit = kit_of(unit, x), *k = &kit;
    CHECK(!k->wide);
    if (!hardware_scales(k)) x = clamp(k, x, -150, 128);
    LLVMValueRef rounded = LLVMBuildFAdd(k->builder, x, exponent_rounder(k), "");
    LLVMValueRef n = subtract(k, rounded, exponent_rounder(k));
    return scale(k, HORNER(k, subtract(k, x, n), table), n, rounded);
}

// log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)], plus n ln 2.
static LLVMValueRef log_narrow(const Kit *k, LLVMValueRef f, LLVMValueRef n) {
    static const double table[] = {7.0376836292e-2,  -1.1514610310e-1, 1.1676998740e-1,
                                   -1.2420140846e-1, 1.4249322787e-1,  -1.6668057665e-1,
                                   2.0000714765e-1,  -2.4999993993e-1, 3.3333331174e-1};
    LLVMValueRef z = multiply(k, f, f);
    LLVMValueRef y = multiply(k, multiply(k, HORNER(k, f, table), f), z);
    y = multiply_add(k, n, real(k, -2.12194440e-4), y);
    y = multiply_add(k, z, real(k, -0.5), y);
    return multiply_add(k, n, real(k, 0.693359375), LLVMBuildFAdd(k->builder, f, y, ""));
}

static LLVMValueRef log_wide(const Kit *k, LLVMValueRef f, LLVMValueRef n) {
    static const double table[] = {1.479819860511658591e-01, 1.531383769920937332e-01,
                                   1.818357216161805012e-01, 2.222219843214978396e-01,
                                   2.857142874366239149e-01, 3.999999999940941908e-01,
                                   6.666666666666735130e-01};
    LLVMValueRef s = LLVMBuildFDiv(k->builder, f, LLVMBuildFAdd(k->builder, f, real(k, 2), ""), "");
    LLVMValueRef z = multiply(k, s, s);
    LLVMValueRef tail = multiply(k, HORNER(k, z, table), z);
    LLVMValueRef half = multiply(k, multiply(k, f, f), real(k, 0.5));
    LLVMValueRef y = multiply(k, s, LLVMBuildFAdd(k->builder, half, tail, ""));
    y = multiply_add(k, n, real(k, 1.90821492927058770002e-10), y);
    LLVMValueRef low = subtract(k, subtract(k, half, y), f);
    return subtract(k, multiply(k, n, real(k, 6.93147180369123816490e-01)), low);
}

LLVMValueRef cpu_log(CpuUnit *unit, LLVMValueRef x) {
    Kit kit = kit_of(unit, x), *k = &kit;
    LLVMBuilderRef b = k->builder;
    int position = k->wide ? 52 : 23;
    LLVMValueRef smallest = real(k, k->wide ? 0x1p-1022 : 0x1p-126);
    LLVMValueRef tiny = LLVMBuildFCmp(b, LLVMRealOLT, x, smallest, "");
    LLVMValueRef lifted = cpu_select(unit, tiny, multiply(k, x, real(k, k->wide ? 0x1p54 : 0x1p24)), x);
    LLVMValueRef bits = bits_of(k, lifted);
    // The exponent of x / sqrt(1/2), rounded down.
    int64_t root = k->wide ? INT64_C(0x3fe6a09e667f3bcd) : INT64_C(0x3f3504f3);
    LLVMValueRef e = LLVMBuildAShr(b, LLVMBuildSub(b, bits, whole(k, root), ""), whole(k, position), "");
    LLVMValueRef mantissa = LLVMBuildSub(b, bits, LLVMBuildShl(b, e, whole(k, position), ""), "");
    e = LLVMBuildSub(b, e, cpu_select(unit, tiny, whole(k, k->wide ? 54 : 24), whole(k, 0)), "");
    LLVMValueRef n = LLVMBuildSIToFP(b, e, k->type, "");
    LLVMValueRef f = subtract(k, real_of(k, mantissa), real(k, 1));
    LLVMValueRef result = k->wide ? log_wide(k, f, n) : log_narrow(k, f, n);
    LLVMValueRef zero = LLVMBuildFCmp(b, LLVMRealOEQ, x, real(k, 0), "");
    LLVMValueRef outside = cpu_select(unit, zero, real(k, -INFINITY), real(k, NAN));
    result = cpu_select(unit, LLVMBuildFCmp(b, LLVMRealOGT, x, real(k, 0), ""), result, outside);
    return cpu_select(unit, LLVMBuildFCmp(b, LLVMRealOEQ, x, real(k, INFINITY), ""), x, result);
}

// sin (quarter 0) and cos (quarter 1): x = n pi/2 + r, |r| <= pi/4; the parity of n + quarter picks the
// polynomial, its second bit the sign. Exact reduction while |n| < 2^22 (f32), 2^30 (f64).
static LLVMValueRef circular(CpuUnit *unit, LLVMValueRef x, int64_t quarter) {
    static const double sin_narrow[] = {-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1};
    static const double cos_narrow[] = {2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2,
                                        -0.5, 1};
    static const double sin_wide[] = {1.58969099521155010221e-10, -2.50507602534068634195e-08,
                                      2.75573137070700676789e-06, -1.98412698298579493134e-04,
                                      8.33333333332248946124e-03, -1.66666666666666324348e-01};
    static const double cos_wide[] = {-1.13596475577881948265e-11, 2.08757232129817482790e-09,
                                      -2.75573143513906633035e-07, 2.48015872894767294178e-05,
                                      -1.38888888888741095749e-03, 4.16666666666666019037e-02, -0.5, 1};
    Kit kit = kit_of(unit, x), *k = &kit;
    LLVMBuilderRef b = k->builder;
    LLVMValueRef rounded = multiply_add(k, x, real(k, M_2_PI), rounder(k));
    LLVMValueRef n = subtract(k, rounded, rounder(k));
    LLVMValueRef r = multiply_add(k, n, real(k, k->wide ? -1.57079632679489656e+00 : -1.570796371e+00), x);
    r = multiply_add(k, n, real(k, k->wide ? -6.12323399573676604e-17 : 4.371138829e-08), r);
    r = multiply_add(k, n, real(k, k->wide ? 1.49738490485916983e-33 : 1.715124510e-15), r);
    r = clamp(k, r, -0.8, 0.8);  // huge arguments have no accuracy but stay within [-1, 1]
    LLVMValueRef z = multiply(k, r, r);
    LLVMValueRef sine = k->wide ? HORNER(k, z, sin_wide) : HORNER(k, z, sin_narrow);
    sine = multiply_add(k, multiply(k, sine, z), r, r);
    LLVMValueRef cosine = k->wide ? HORNER(k, z, cos_wide) : HORNER(k, z, cos_narrow);
    LLVMValueRef turns = LLVMBuildAdd(b, bits_of(k, rounded), whole(k, quarter), "");
    LLVMValueRef odd = LLVMBuildAnd(b, turns, whole(k, 1), "");
    LLVMValueRef even = LLVMBuildICmp(b, LLVMIntEQ, odd, whole(k, 0), "");
    LLVMValueRef value = cpu_select(unit, even, sine, cosine);
    LLVMValueRef sign = LLVMBuildShl(b, LLVMBuildAnd(b, turns, whole(k, 2), ""), whole(k, k->wide ? 62 : 30), "");
    return real_of(k, LLVMBuildXor(b, bits_of(k, value), sign, ""));
}

LLVMValueRef cpu_sin(CpuUnit *unit, LLVMValueRef x) { return circular(unit, x, 0); }
LLVMValueRef cpu_cos(CpuUnit *unit, LLVMValueRef x) { return circular(unit, x, 1); }

// x P(x^2) / Q(x^2) for |x| < 9.011, beyond which it is 1; rounding must not carry it past 1. Half the work of
// an exponential: it stands in the epilogues of gates, where nothing hides it.
static LLVMValueRef tanh_narrow(const Kit *k, LLVMValueRef x) {
    static const double above[] = {1.3336327542588404e-8, 2.0596090517883852e-5, 3.4948087114243791e-3,
                                   1.3380372625326775e-1, 1};
    static const double below[] = {7.7691259608340078e-7, 3.2843531183446221e-4, 2.5874027219871702e-2,
                                   4.6713688070916417e-1, 1};
    x = clamp(k, x, -9.011, 9.011);
    LLVMValueRef z = multiply(k, x, x);
    LLVMValueRef p = multiply(k, HORNER(k, z, above), x);
    return clamp(k, LLVMBuildFDiv(k->builder, p, HORNER(k, z, below), ""), -1, 1);
}

// x + x^3 P(x^2) for |x| < 0.55, else 1 - 2 / (exp(2 |x|) + 1).
static LLVMValueRef tanh_wide(const Kit *k, LLVMValueRef x) {
    static const double near[] = {
        7.87427434532582450e-06, -3.37208011204307787e-05, 9.45513305292240502e-05, -2.38472724801514613e-04,
        5.89905296949270455e-04, -1.45581909715135067e-03, 3.59212676996263462e-03, -8.86323546314679925e-03,
        2.18694885340739061e-02, -5.39682539682203727e-02, 1.33333333333333109e-01, -3.33333333333333315e-01};
    LLVMBuilderRef b = k->builder;
    LLVMValueRef t = magnitude(k, x), z = multiply(k, x, x);
    LLVMValueRef small = multiply_add(k, multiply(k, HORNER(k, z, near), z), x, x);
    LLVMValueRef power = LLVMBuildFAdd(b, cpu_exp(k->unit, multiply(k, t, real(k, 2))), real(k, 1), "");
    LLVMValueRef large = subtract(k, real(k, 1), LLVMBuildFDiv(b, real(k, 2), power, ""));
    LLVMValueRef is_small = LLVMBuildFCmp(b, LLVMRealOLT, t, real(k, 0.55), "");
    return cpu_select(k->unit, is_small, small, with_sign(k, large, x));
}

LLVMValueRef cpu_tanh(CpuUnit *unit, LLVMValueRef x) {
    Kit kit = kit_of(unit, x);
    return kit.wide ? tanh_wide(&kit, x) : tanh_narrow(&kit, x);
}

// 1 - exp(-t P(t)) for |x| > 0.93.
static LLVMValueRef erf_narrow(const Kit *k, LLVMValueRef x, LLVMValueRef t) {
    static const double near[] = {-5.96761703e-4, 4.99119423e-3, -2.67681349e-2,
                                  1.12819925e-1,  -3.76125336e-1, 1.28379166e-1};
    static const double far[] = {-1.72853470e-5, 3.83197126e-4,  -3.88396438e-3, 2.42546219e-2,
                                 -1.06777877e-1, -6.34846687e-1, -1.28717512e-1};
    LLVMValueRef s = multiply(k, x, x);
    LLVMValueRef small = multiply_add(k, HORNER(k, s, near), x, x);
    t = clamp(k, t, 0, 5);
    LLVMValueRef power = cpu_exp(k->unit, multiply_add(k, HORNER(k, t, far), t, LLVMBuildFNeg(k->builder, t, "")));
    LLVMValueRef large = with_sign(k, subtract(k, real(k, 1), power), x);
    LLVMValueRef is_large = LLVMBuildFCmp(k->builder, LLVMRealOGT, magnitude(k, x), real(k, 0.927734375), "");
    return cpu_select(k->unit, is_large, large, small);
}

// x P(x^2) for |x| < 1, else 1 - exp(-t^2) Q((t - 4) / (t + 4)) / (1 + 2 t), t up to 6.
static LLVMValueRef erf_wide(const Kit *k, LLVMValueRef x, LLVMValueRef t) {
    static const double near[] = {
        -4.23094582429533771e-12, 8.70904512905310619e-11, -1.21645600572834498e-09, 1.47924012094048135e-08,
        -1.63646421581676160e-07, 1.64620454414684182e-06, -1.49256475675193321e-05, 1.20553329028887357e-04,
        -8.54832702193482970e-04, 5.22397762542329853e-03, -2.68661706451298402e-02, 1.12837916709551206e-01,
        -3.76126389031837538e-01, 1.12837916709551256e+00};
    static const double far[] = {
        -2.99015297839965225e-07, 1.42187353111302205e-06, 6.68830971191914441e-06, -1.08370000427340774e-05,
        -2.43862559204171010e-05, 1.50576466799613588e-04, -1.99269785259202382e-04, -7.57772490487551272e-04,
        5.03197083726724878e-03, -1.61977340013842695e-02, 3.71675155141521565e-02, -6.63303658145710934e-02,
        9.37328349986675802e-02, -1.01039066036282141e-01, 6.80970542546901203e-02, 1.53796521026198299e-02,
        -1.39621116840562498e-01, 1.23299511862555256e+00};
    LLVMBuilderRef b = k->builder;
    LLVMValueRef small = multiply(k, HORNER(k, multiply(k, x, x), near), x);
    LLVMValueRef is_small = LLVMBuildFCmp(b, LLVMRealOLT, t, real(k, 1), "");
    t = clamp(k, t, 0, 6);
    LLVMValueRef s = LLVMBuildFDiv(b, subtract(k, t, real(k, 4)), LLVMBuildFAdd(b, t, real(k, 4), ""), "");
    LLVMValueRef power = cpu_exp(k->unit, multiply(k, LLVMBuildFNeg(b, t, ""), t));
    LLVMValueRef q = LLVMBuildFDiv(b, HORNER(k, s, far), multiply_add(k, t, real(k, 2), real(k, 1)), "");
    LLVMValueRef large = subtract(k, real(k, 1), multiply(k, power, q));
    return cpu_select(k->unit, is_small, small, with_sign(k, large, x));
}

LLVMValueRef cpu_erf(CpuUnit *unit, LLVMValueRef x) {
    Kit kit = kit_of(unit, x);
    LLVMValueRef t = magnitude(&kit, x);
    return kit.wide ? erf_wide(&kit, x, t) : erf_narrow(&kit, x, t);
}

LLVMValueRef cpu_sqrt(CpuUnit *unit, LLVMValueRef x) {
    LLVMTypeRef type = LLVMTypeOf(x);
    return cpu_intrinsic(unit, "llvm.sqrt", &type, 1, &x, 1);
}

LLVMValueRef cpu_rsqrt(CpuUnit *unit, LLVMValueRef x) {
    return LLVMBuildFDiv(unit->builder, cpu_number_like(x, 1), cpu_sqrt(unit, x), "");
}
