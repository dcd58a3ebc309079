// The inline vector maths against libm (f32 against double, f64 against long double), over dense sweeps
// and at the extremes. Prints the largest errors with --print.
#include "cpu_test.h"

typedef struct Function {
    const char *name;
    long double (*exact)(long double);
    double low, high;      // of the sweep
    double narrow, wide;   // largest relative error
    double floor;          // results below it are compared with it instead of with themselves
} Function;

static long double exact_rsqrt(long double x) { return 1 / sqrtl(x); }

static const Function functions[] = {
    {"exp", expl, -104, 89, 4e-7, 2e-15, 0},        {"exp", expl, -1, 1, 4e-7, 1e-15, 0},
    {"exp", expl, -700, 700, 4e-7, 2e-15, 0},       {"log", logl, 1e-30, 1e30, 4e-7, 1e-15, 0},
    {"log", logl, 0.5, 2, 4e-7, 1e-15, 0},          {"sin", sinl, -7, 7, 4e-7, 1e-15, 1e-6},
    {"sin", sinl, -1e5, 1e5, 4e-7, 1e-15, 1e-6},    {"cos", cosl, -7, 7, 4e-7, 1e-15, 1e-6},
    {"cos", cosl, -1e5, 1e5, 4e-7, 1e-15, 1e-6},    {"tanh", tanhl, -12, 12, 4e-7, 2e-15, 0},
    {"tanh", tanhl, -1e-3, 1e-3, 4e-7, 1e-15, 0},   {"erf", erfl, -7, 7, 4e-7, 2e-15, 0},
    {"erf", erfl, -1e-3, 1e-3, 4e-7, 1e-15, 0},     {"sqrt", sqrtl, 0, 1e30, 1.3e-7, 3e-16, 0},
    {"rsqrt", exact_rsqrt, 1e-30, 1e30, 2e-7, 5e-16, 0},
};

enum { POINTS = 100003 };  // odd: the masked tail is in every run

static bool print_errors;

static double point(const Function *function, int i) {
    double at = (double)i / (POINTS - 1);
    if (function->low > 0 && function->high / function->low > 100)  // evenly over the exponents
        return function->low * pow(function->high / function->low, at);
    return function->low + at * (function->high - function->low);
}

static CpuCode *compile_function(Ir *ir, const char *name, Element element, int64_t count, const char *cpu,
                                 CpuKernel *kernel) {
    const char *type = element_name(element);
    const char *text = arena_format(ir->arena,
        "nest maths {\n  outer n=%lld\n  parallel n\n  operand 0: read %s [%lld:1]\n  operand 1: write %s [%lld:1]\n"
        "  stage 0: store @1[n] { %s(@0[n]) }\n}\n", (long long)count, type, (long long)count, type,
        (long long)count, name);
    Nest *nest = nest_read(ir, "maths", text);
    assert_non_null(nest);
    CpuOptions options = {.cpu = cpu, .threads = 1};
    return compile_nest(ir, nest, &options, kernel);
}

static void sweep_function(const Function *function, Element element, const char *cpu) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    size_t width = (size_t)element_bytes(element);
    char *in = malloc(POINTS * width), *out = malloc(POINTS * width);
    for (int i = 0; i < POINTS; i++) element_write(element, in + (size_t)i * width, point(function, i));
    CpuKernel kernel;
    CpuCode *code = compile_function(ir, function->name, element, POINTS, cpu, &kernel);
    char *operands[] = {in, out};
    run_split(&kernel, operands, 1);
    double worst = 0, limit = element == ELEMENT_F32 ? function->narrow : function->wide;
    // Denormal results have fewer digits.
    double floor = element == ELEMENT_F32 ? 0x1p-126 : 0x1p-1022;
    if (function->floor > floor) floor = function->floor;
    for (int i = 0; i < POINTS; i++) {
        double x = element_read(element, in + (size_t)i * width), y = element_read(element, out + (size_t)i * width);
        long double exact = function->exact((long double)x);
        if (element == ELEMENT_F32 && fabsl(exact) > 3.4028235e38L) exact = copysignl(INFINITY, exact);
        if ((long double)y == exact) continue;
        if (y == 0 && fabsl(exact) < floor) continue;  // flushed
        double error = (double)(fabsl((long double)y - exact) / fmaxl(fabsl(exact), floor));
        if (!(error <= limit))
            fail_msg("%s(%.9g) %s on %s: expected %.17Lg, found %.17g, error %.3g", function->name, x,
                     element_name(element), cpu ? cpu : "native", exact, y, error);
        if (error > worst) worst = error;
    }
    if (print_errors)
        printf("%-6s %s %12g .. %-8g %-10s %.2e\n", function->name, element_name(element), function->low,
               function->high, cpu ? cpu : "native", worst);
    cpu_code_destroy(code);
    free(in);
    free(out);
    arena_destroy(arena);
}

static void test_sweep(void **state) {
    (void)state;
    static const char *const machines[] = {NULL, "x86-64-v3"};
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
        for (int machine = 0; machine < 2; machine++) {
            sweep_function(&functions[f], ELEMENT_F32, machines[machine]);
            sweep_function(&functions[f], ELEMENT_F64, machines[machine]);
        }
}

typedef struct Extreme {
    const char *name;
    double x, y;
} Extreme;

static const Extreme extremes[] = {
    {"exp", 0, 1}, {"exp", -0.0, 1}, {"exp", 1000, INFINITY}, {"exp", -1000, 0}, {"exp", INFINITY, INFINITY},
    {"exp", -INFINITY, 0}, {"exp", NAN, NAN}, {"exp", 1e30, INFINITY}, {"exp", -1e30, 0},
    {"log", 0, -INFINITY}, {"log", -0.0, -INFINITY}, {"log", 1, 0}, {"log", -1, NAN}, {"log", INFINITY, INFINITY},
    {"log", NAN, NAN}, {"log", -INFINITY, NAN}, {"exp", -87, 1.6458114310822737e-38}, {"exp", -800, 0},
    {"sin", 0, 0}, {"sin", INFINITY, NAN}, {"sin", NAN, NAN}, {"cos", 0, 1}, {"cos", -INFINITY, NAN},
    {"tanh", 0, 0}, {"tanh", 100, 1}, {"tanh", -100, -1}, {"tanh", INFINITY, 1}, {"tanh", -INFINITY, -1},
    {"tanh", NAN, NAN}, {"tanh", 1e-30, 1e-30}, {"erf", 0, 0}, {"erf", 100, 1}, {"erf", -100, -1},
    {"erf", INFINITY, 1}, {"erf", -INFINITY, -1}, {"erf", NAN, NAN}, {"erf", 1e-30, 1.1283791670955126e-30},
    {"sqrt", 0, 0}, {"sqrt", -1, NAN}, {"sqrt", INFINITY, INFINITY}, {"rsqrt", 0, INFINITY},
    {"rsqrt", INFINITY, 0}, {"rsqrt", 4, 0.5},
};

static void test_extremes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++)
        for (int round = 0; round < 8; round++) {
            Arena *arena = arena_create();
            Ir *ir = ir_create(arena);
            Element element = round & 1 ? ELEMENT_F64 : ELEMENT_F32;
            int64_t count = round & 2 ? 1 : 16;  // scalar code and vectors
            CpuKernel kernel;
            const char *cpu = round & 4 ? "x86-64-v3" : NULL;
            CpuCode *code = compile_function(ir, extremes[i].name, element, count, cpu, &kernel);
            char in[16 * 8], out[16 * 8], *operands[] = {in, out};
            for (int lane = 0; lane < 16; lane++)
                element_write(element, in + lane * element_bytes(element), extremes[i].x);
            run_split(&kernel, operands, 1);
            double y = element_read(element, out), expected = extremes[i].y;
            bool same = y == expected || (isnan(y) && isnan(expected)) || fabs(y - expected) <= 2e-7 * fabs(expected);
            if (!same) fail_msg("%s(%g) %s: expected %g, found %g", extremes[i].name, extremes[i].x,
                                element_name(element), expected, y);
            cpu_code_destroy(code);
            arena_destroy(arena);
        }
}

// Beyond the accuracy of the reduction sine and cosine still stay in their range.
static void test_huge_angles(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CpuKernel kernel;
    CpuCode *code = compile_function(ir, "sin", ELEMENT_F32, 16, NULL, &kernel);
    float in[16], out[16];
    for (int i = 0; i < 16; i++) in[i] = (float)pow(10, i + 5);
    char *operands[] = {(char *)in, (char *)out};
    run_split(&kernel, operands, 1);
    for (int i = 0; i < 16; i++) assert_true(fabsf(out[i]) <= 1);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

// Where the quotient is within rounding of 1, tanh is never more: gates take 1 - tanh^2.
static void test_tanh_range(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CpuKernel kernel;
    CpuCode *code = compile_function(ir, "tanh", ELEMENT_F32, POINTS, NULL, &kernel);
    float *in = malloc(POINTS * sizeof *in), *out = malloc(POINTS * sizeof *out);
    for (int i = 0; i < POINTS; i++) in[i] = (i % 2 ? -1 : 1) * (8 + 2 * (float)i / POINTS);
    run_split(&kernel, (char *[]){(char *)in, (char *)out}, 1);
    for (int i = 0; i < POINTS; i++) assert_true(fabsf(out[i]) <= 1 && out[i] * in[i] > 0);
    free(in);
    free(out);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

int main(int argc, char **argv) {
    print_errors = argc > 1 && strcmp(argv[1], "--print") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_huge_angles),
        cmocka_unit_test(test_tanh_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
