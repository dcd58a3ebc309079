// The attention kernels on the CPU against plain loops in double precision: odd lengths, windows, grouped
// queries, strided operands; cached decoding with the bits of the whole; gradients.
#include "tests/unit/cpu_test.h"

typedef struct Shape {
    int64_t batch, heads, group, time, past, keys, features;
    bool causal;
    int64_t window, start;  // start: position of the first query
    Element element;
} Shape;

typedef struct Problem {
    Shape shape;
    double *q, *k, *v, *o, *lse;
    double *d_o, *d_lse, *d_q, *d_k, *d_v;
} Problem;

static Dimension dimension(Ir *ir, const char *name, int64_t extent) {
    return (Dimension){names_intern(ir->names, name), extent, NULL};
}

// Types by letter: b batch, t time, p past, h heads, g group, k keys, f features.
static const Type *type_of(Ir *ir, const Shape *s, Element element, const char *letters) {
    Dimension dimensions[RANK_MAX];
    int rank = 0;
    for (const char *at = letters; *at; at++) {
        Dimension d = *at == 'b' ? dimension(ir, "batch", s->batch) : *at == 't' ? dimension(ir, "time", s->time)
                    : *at == 'p' ? dimension(ir, "past", s->past) : *at == 'h' ? dimension(ir, "heads", s->heads)
                    : *at == 'g' ? dimension(ir, "group", s->group) : *at == 'k' ? dimension(ir, "key", s->keys)
                                 : dimension(ir, s->keys == s->features ? "key" : "feature", s->features);
        if (*at == 'g' && s->group == 1) continue;
        dimensions[rank++] = d;
    }
    return type_make(ir, element, rank, dimensions);
}

static double *random_numbers(int64_t count, Element element) {
    double *values = malloc(sizeof(double) * (size_t)count);
    for (int64_t i = 0; i < count; i++) {
        char bytes[8] = {0};
        element_write(element, bytes, 2 * test_random() - 1);
        values[i] = element_read(element, bytes);
    }
    return values;
}

static bool visible(const Shape *s, int64_t t, int64_t p) {
    int64_t position = s->start + t;
    return (!s->causal || p <= position) && (s->window == 0 || position - p < s->window);
}

static Problem problem_create(const Shape *shape) {
    Problem x = {.shape = *shape};
    const Shape *s = &x.shape;
    int64_t rows = s->batch * s->time * s->heads * s->group, keys = s->batch * s->past * s->heads;
    x.q = random_numbers(rows * s->keys, s->element);
    x.k = random_numbers(keys * s->keys, s->element);
    x.v = random_numbers(keys * s->features, s->element);
    x.d_o = random_numbers(rows * s->features, s->element);
    x.d_lse = random_numbers(rows, ELEMENT_F32);
    x.o = calloc((size_t)(rows * s->features), sizeof(double));
    x.lse = calloc((size_t)rows, sizeof(double));
    x.d_q = calloc((size_t)(rows * s->keys), sizeof(double));
    x.d_k = calloc((size_t)(keys * s->keys), sizeof(double));
    x.d_v = calloc((size_t)(keys * s->features), sizeof(double));
    double *weight = malloc(sizeof(double) * (size_t)s->past);
    for (int64_t row = 0; row < rows; row++) {
        int64_t h = row / s->group % s->heads, t = row / s->group / s->heads % s->time;
        int64_t b = row / s->group / s->heads / s->time;
        double largest = -INFINITY, sum = 0, scale = 1 / sqrt((double)s->keys), own = 0;
        for (int64_t p = 0; p < s->past; p++) {
            int64_t key = (b * s->past + p) * s->heads + h;
            weight[p] = 0;
            for (int64_t i = 0; i < s->keys; i++) weight[p] += x.q[row * s->keys + i] * x.k[key * s->keys + i];
            weight[p] = visible(s, t, p) ? weight[p] * scale : -INFINITY;
            if (weight[p] > largest) largest = weight[p];
        }
        for (int64_t p = 0; p < s->past; p++) sum += exp(weight[p] - largest);
        x.lse[row] = largest + log(sum);
        for (int64_t p = 0; p < s->past; p++) {
            weight[p] = exp(weight[p] - x.lse[row]);
            const double *value = x.v + ((b * s->past + p) * s->heads + h) * s->features;
            for (int64_t i = 0; i < s->features; i++) x.o[row * s->features + i] += weight[p] * value[i];
        }
        for (int64_t i = 0; i < s->features; i++) own += x.d_o[row * s->features + i] * x.o[row * s->features + i];
        for (int64_t p = 0; p < s->past; p++) {
            int64_t key = (b * s->past + p) * s->heads + h;
            double from_value = x.d_lse[row] - own;
            for (int64_t i = 0; i < s->features; i++) {
                from_value += x.d_o[row * s->features + i] * x.v[key * s->features + i];
                x.d_v[key * s->features + i] += weight[p] * x.d_o[row * s->features + i];
            }
            double d_score = weight[p] * from_value * scale;
            for (int64_t i = 0; i < s->keys; i++) {
                x.d_q[row * s->keys + i] += d_score * x.k[key * s->keys + i];
                x.d_k[key * s->keys + i] += d_score * x.q[row * s->keys + i];
            }
        }
    }
    free(weight);
    return x;
}

static void problem_destroy(Problem *x) {
    double *all[] = {x->q, x->k, x->v, x->o, x->lse, x->d_o, x->d_lse, x->d_q, x->d_k, x->d_v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

// ---- Running kernels ----

typedef struct Compiled {
    Arena *arena;
    Ir *ir;
    CpuCode *code;
    CpuKernel kernel;
} Compiled;

static Compiled compile_named(const Shape *s, bool gradient, const char *cpu) {
    Compiled c = {.arena = arena_create()};
    c.ir = ir_create(c.arena);
    Option *options = ARENA_ARRAY(c.arena, Option, 5);
    options[0] = (Option){.name = "over", .text = names_intern(c.ir->names, "key")};
    options[1] = (Option){.name = "along", .text = names_intern(c.ir->names, "time")};
    options[2] = (Option){.name = "past", .text = names_intern(c.ir->names, "past")};
    options[3] = (Option){.name = "causal", .number = s->causal};
    options[4] = (Option){.name = "window", .number = (double)s->window};
    NamedKernel *named = ARENA_NEW(c.arena, NamedKernel);
    *named = (NamedKernel){.name = gradient ? "attention_gradient" : "attention", .options = options,
                           .option_count = 5, .output_start = gradient ? 8 : 4, .operand_count = gradient ? 11 : 6};
    static const char *const forward[] = {"bthgk", "bphk", "bphf", "t", "bthgf", "bthg"};
    static const char *const backward[] = {"bthgk", "bphk", "bphf", "t", "bthgf", "bthg", "bthgf", "bthg",
                                           "bthgk", "bphk", "bphf"};
    for (int i = 0; i < named->operand_count; i++) {
        const char *letters = gradient ? backward[i] : forward[i];
        bool is_lse = strcmp(letters, "bthg") == 0;
        named->types[i] = type_of(c.ir, s, i == 3 ? ELEMENT_I32 : is_lse ? ELEMENT_F32 : s->element, letters);
        int64_t stride = 1;
        for (int d = named->types[i]->rank - 1; d >= 0; d--) {
            named->strides[i][d] = stride;
            stride *= named->types[i]->dimensions[d].extent;
        }
    }
    Program *program = program_create(c.ir, "test");
    program_add_named(program, named);
    CpuOptions compile = {.cpu = cpu, .threads = 1};
    c.code = cpu_compile(c.ir, &program, 1, &compile);
    if (!c.code) {
        diagnostics_print(c.ir->diagnostics, 0, stderr);
        fail_msg("attention does not compile");
    }
    c.kernel = program->kernels.items[0].cpu;
    return c;
}

static void compiled_destroy(Compiled *c) {
    cpu_code_destroy(c->code);
    arena_destroy(c->arena);
}

static char *to_memory(const double *values, int64_t count, Element element) {
    char *bytes = malloc((size_t)(count * element_bytes(element)));
    for (int64_t i = 0; i < count; i++)
        element_write(element, bytes + i * element_bytes(element), values ? values[i] : NAN);
    return bytes;
}

static void compare(const char *what, const double *expected, const char *found, int64_t count, Element element,
                    double tolerance) {
    if (element == ELEMENT_BF16) tolerance = 8e-3;
    for (int64_t i = 0; i < count; i++) {
        double value = element_read(element, found + i * element_bytes(element));
        if (!(fabs(value - expected[i]) <= tolerance * (fabs(expected[i]) > 1 ? fabs(expected[i]) : 1)))
            fail_msg("%s, element %lld: expected %.9g, found %.9g", what, (long long)i, expected[i], value);
    }
}

static void check_forward(const Shape *s, const char *cpu) {
    Problem x = problem_create(s);
    Compiled c = compile_named(s, false, cpu);
    int64_t rows = s->batch * s->time * s->heads * s->group, keys = s->batch * s->past * s->heads;
    int32_t *positions = malloc(sizeof(int32_t) * (size_t)s->time);
    for (int64_t t = 0; t < s->time; t++) positions[t] = (int32_t)(s->start + t);
    char *operands[] = {to_memory(x.q, rows * s->keys, s->element), to_memory(x.k, keys * s->keys, s->element),
                        to_memory(x.v, keys * s->features, s->element), (char *)positions,
                        to_memory(NULL, rows * s->features, s->element), to_memory(NULL, rows, ELEMENT_F32)};
    char *first = NULL;
    for (int round = 0; round < 2; round++) {
        run_split(&c.kernel, operands, round ? 1 : INT64_MAX / 2);
        compare("o", x.o, operands[4], rows * s->features, s->element, 2e-5);
        compare("lse", x.lse, operands[5], rows, ELEMENT_F32, 2e-5);
        size_t bytes = (size_t)(rows * s->features * element_bytes(s->element));
        if (!round) first = memcpy(malloc(bytes), operands[4], bytes);
        else assert_memory_equal(first, operands[4], bytes);
    }
    free(first);
    for (int i = 0; i < 6; i++) free(operands[i]);
    compiled_destroy(&c);
    problem_destroy(&x);
}

static const Shape shapes[] = {
    {1, 1, 1, 1, 1, 1, 1, true, 0, 0, ELEMENT_F32},        {2, 3, 1, 37, 37, 16, 16, true, 0, 0, ELEMENT_F32},
    {1, 2, 1, 150, 150, 64, 64, true, 0, 0, ELEMENT_F32},  {1, 2, 1, 70, 70, 8, 8, false, 0, 0, ELEMENT_F32},
    {1, 1, 1, 200, 200, 16, 16, true, 33, 0, ELEMENT_F32}, {1, 1, 1, 200, 200, 16, 16, true, 130, 0, ELEMENT_F32},
    {1, 1, 1, 90, 90, 16, 16, false, 20, 0, ELEMENT_F32},  {2, 2, 3, 33, 33, 12, 12, true, 0, 0, ELEMENT_F32},
    {1, 2, 1, 5, 100, 10, 10, true, 0, 60, ELEMENT_F32},   {1, 2, 2, 1, 90, 64, 64, true, 0, 89, ELEMENT_F32},
    {1, 1, 1, 1, 90, 7, 7, true, 0, 3, ELEMENT_F32},       {1, 2, 1, 40, 40, 16, 24, true, 0, 0, ELEMENT_F32},
    {1, 2, 1, 40, 40, 17, 5, true, 0, 0, ELEMENT_F32},     {1, 2, 1, 65, 65, 32, 32, true, 0, 0, ELEMENT_BF16},
    {1, 1, 1, 40, 100, 16, 16, true, 10, 60, ELEMENT_F32}, {3, 1, 1, 1, 1, 64, 64, true, 0, 0, ELEMENT_F32},
    // few queries: keys in lanes, the last of which reach back, out of a block of keys too; not causal; a window
    {1, 2, 1, 1, 100, 64, 64, true, 0, 77, ELEMENT_BF16},  {2, 1, 2, 3, 70, 32, 48, true, 0, 67, ELEMENT_BF16},
    {1, 2, 1, 4, 37, 16, 32, false, 0, 0, ELEMENT_F32},    {1, 1, 1, 2, 133, 16, 16, true, 20, 130, ELEMENT_F32},
    {1, 2, 1, 4, 37, 16, 32, false, 0, 0, ELEMENT_BF16},   {1, 1, 1, 2, 133, 32, 16, true, 20, 130, ELEMENT_BF16},
    // pairs: of queries, keys, their elements and features one may be without the other
    {2, 3, 1, 37, 37, 16, 16, true, 0, 0, ELEMENT_BF16},   {1, 2, 2, 150, 150, 64, 64, true, 0, 0, ELEMENT_BF16},
    {1, 1, 1, 9, 9, 7, 5, true, 0, 0, ELEMENT_BF16},       {1, 1, 1, 33, 71, 12, 12, false, 0, 0, ELEMENT_BF16},
    {1, 1, 1, 90, 90, 16, 34, false, 20, 0, ELEMENT_BF16}, {1, 2, 1, 1, 1, 3, 1, true, 0, 0, ELEMENT_BF16},
    {1, 1, 1, 200, 200, 18, 16, true, 33, 0, ELEMENT_BF16},
};

static void forward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_forward(&shapes[i], NULL);
        check_forward(&shapes[i], "x86-64-v3");
    }
}

static void check_gradient(const Shape *s, const char *cpu) {
    Problem x = problem_create(s);
    Compiled c = compile_named(s, true, cpu);
    int64_t rows = s->batch * s->time * s->heads * s->group, keys = s->batch * s->past * s->heads;
    int32_t *positions = malloc(sizeof(int32_t) * (size_t)s->time);
    for (int64_t t = 0; t < s->time; t++) positions[t] = (int32_t)(s->start + t);
    char *operands[] = {to_memory(x.q, rows * s->keys, s->element),
                        to_memory(x.k, keys * s->keys, s->element),
                        to_memory(x.v, keys * s->features, s->element),
                        (char *)positions,
                        to_memory(x.o, rows * s->features, s->element),
                        to_memory(x.lse, rows, ELEMENT_F32),
                        to_memory(x.d_o, rows * s->features, s->element),
                        to_memory(x.d_lse, rows, ELEMENT_F32),
                        to_memory(NULL, rows * s->keys, s->element),
                        to_memory(NULL, keys * s->keys, s->element),
                        to_memory(NULL, keys * s->features, s->element)};
    run_split(&c.kernel, operands, INT64_MAX / 2);
    compare("d_q", x.d_q, operands[8], rows * s->keys, s->element, 3e-5);
    compare("d_k", x.d_k, operands[9], keys * s->keys, s->element, 3e-5);
    compare("d_v", x.d_v, operands[10], keys * s->features, s->element, 3e-5);
    size_t bytes = (size_t)(keys * s->keys * element_bytes(s->element));
    char *first = memcpy(malloc(bytes), operands[9], bytes);
    run_split(&c.kernel, operands, 1);
    assert_memory_equal(first, operands[9], bytes);
    free(first);
    for (int i = 0; i < 11; i++) free(operands[i]);
    compiled_destroy(&c);
    problem_destroy(&x);
}

static void gradient(void **state) {
    (void)state;
    static const Shape more[] = {{1, 1, 2, 300, 300, 8, 8, true, 0, 0, ELEMENT_F32},
                                 {1, 1, 1, 600, 600, 4, 4, true, 50, 0, ELEMENT_F32}};
    for (int machine = 0; machine < 2; machine++) {
        const char *cpu = machine ? "x86-64-v3" : NULL;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gradient(&shapes[i], cpu);
        for (size_t i = 0; i < 2; i++) check_gradient(&more[i], cpu);
    }
}

static int64_t scratch_of(int64_t group, int64_t queries, Element element, const char *cpu) {
    Shape shape = {1, 2, group, queries, 4000, 64, 64, true, 0, 4000 - queries, element};
    Compiled c = compile_named(&shape, false, cpu);
    int64_t bytes = c.kernel.scratch_bytes;
    compiled_destroy(&c);
    return bytes;
}

// Few queries read keys where they are. Those that one block of more queries takes, once, pass through room for a block
// of them.
static void keys_pass(void **state) {
    (void)state;
    int64_t keys = 4000 * 64 * 4, block = 64 * 64 * 4;
    assert_true(scratch_of(1, 1, ELEMENT_F32, NULL) < block);
    assert_true(scratch_of(2, 1, ELEMENT_F32, NULL) < block);
    assert_in_range(scratch_of(1, 6, ELEMENT_F32, NULL), 2 * block, keys / 10);
    assert_true(scratch_of(2, 6, ELEMENT_F32, NULL) > 2 * keys);
}

// Pairs of bf16 take the room of one float, where the machine multiplies pairs as fast.
static void pairs_take_half(void **state) {
    (void)state;
    int64_t keys = 4000 * 64 * 4;
    assert_in_range(scratch_of(2, 64, ELEMENT_BF16, "znver4"), keys, keys * 5 / 4);
    assert_true(scratch_of(2, 64, ELEMENT_BF16, "sapphirerapids") > 2 * keys);
    assert_true(scratch_of(2, 64, ELEMENT_BF16, "x86-64-v3") > 2 * keys);
}

// Queries one by one against a cache, the rest of which holds NaN, have the bits that they have together.
static void decoding_has_the_same_bits(void **state) {
    (void)state;
    static const Shape wholes[] = {{1, 2, 1, 150, 150, 64, 64, true, 0, 0, ELEMENT_F32},
                                   {1, 2, 2, 150, 150, 20, 20, true, 70, 0, ELEMENT_F32},
                                   {1, 2, 2, 150, 150, 32, 32, true, 40, 0, ELEMENT_F32},
                                   {1, 2, 1, 149, 149, 64, 64, true, 0, 0, ELEMENT_BF16},
                                   {1, 2, 2, 150, 150, 21, 21, true, 33, 0, ELEMENT_BF16}};
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++)
        for (int machine = 0; machine < 2; machine++) {
            const Shape *s = &wholes[i];
            const char *cpu = machine ? "x86-64-v3" : NULL;
            Problem x = problem_create(s);
            Compiled whole = compile_named(s, false, cpu);
            Element element = s->element;
            int64_t row = s->heads * s->group * s->keys, keys = s->past * s->heads * s->keys, bytes = element_bytes(element);
            char *q = to_memory(x.q, s->time * row, element), *k = to_memory(x.k, keys, element);
            char *v = to_memory(x.v, keys, element), *o = to_memory(NULL, s->time * row, element);
            char *lse = to_memory(NULL, s->time * s->heads * s->group, ELEMENT_F32);
            int32_t positions[150];
            for (int t = 0; t < 150; t++) positions[t] = t;
            run_split(&whole.kernel, (char *[]){q, k, v, (char *)positions, o, lse}, 1);
            static const int64_t counts[] = {1, 3, 6, 21};  // lanes of four; with one unused; a part of a vector; of two
            for (int at = 0; at < 4; at++) {
                int64_t count = counts[at];
                Shape part = *s;
                part.time = count;
                Compiled some = compile_named(&part, false, cpu);
                char *o_some = to_memory(NULL, count * row, element);
                char *lse_some = to_memory(NULL, count * s->heads * s->group, ELEMENT_F32);
                for (int64_t t = 0; t + count <= s->time; t += count) {
                    int64_t known = (t + count) * s->heads * s->keys;
                    char *k_some = to_memory(NULL, keys, element), *v_some = to_memory(NULL, keys, element);
                    memcpy(k_some, k, (size_t)(known * bytes));
                    memcpy(v_some, v, (size_t)(known * bytes));
                    run_split(&some.kernel, (char *[]){q + t * row * bytes, k_some, v_some, (char *)(positions + t), o_some,
                                                       lse_some}, 1);
                    assert_memory_equal(o_some, o + t * row * bytes, (size_t)(count * row * bytes));
                    free(k_some);
                    free(v_some);
                }
                free(o_some);
                free(lse_some);
                compiled_destroy(&some);
            }
            char *all[] = {q, k, v, o, lse};
            for (int j = 0; j < 5; j++) free(all[j]);
            compiled_destroy(&whole);
            problem_destroy(&x);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(forward), cmocka_unit_test(gradient),
                                       cmocka_unit_test(keys_pass), cmocka_unit_test(pairs_take_half),
                                       cmocka_unit_test(decoding_has_the_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
