// Contractions on the CPU against the reference interpreter: all forms and strides, odd extents, several
// blocks of k, epilogues, batches, bounded loops; and the law that a row's bits depend on the row alone.
#include "tests/unit/cpu_machines.h"

// What the operands hold: f32; bf16; f32 that is rounded as it is read; one of each of these two.
typedef enum Numbers { PLAIN, HALVES, ROUNDED, MIXED, NUMBERS } Numbers;
static const char *const number_names[] = {"f32", "bf16", "rounded", "bf16 and rounded"};

static const char *factor(Arena *arena, bool in_memory, bool narrow, int operand, const char *index) {
    return arena_format(arena, !narrow ? "@%d[%s]" : in_memory ? "cast f32(@%d[%s])" : "cast f32(cast bf16(@%d[%s]))", operand,
                        index);
}

// How the operands of r x c over k stand in memory; A is operand 0, B operand 1, the result operand 2.
typedef enum Form { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, STRIDED, FORMS } Form;
static const char *const form_names[] = {"forward", "input gradient", "weight gradient", "strided"};

static const char *form_text(Arena *arena, Form form, Numbers numbers, int64_t m, int64_t n, int64_t k) {
    typedef long long L;
    char *a, *b;
    const char *a_index = "r, k", *b_index = "k, c", *kind = "store", *use = "write";
    int64_t result_stride = n;
    a = arena_format(arena, "[%lld:%lld, %lld:1]", (L)m, (L)k, (L)k);
    b = arena_format(arena, "[%lld:%lld, %lld:1]", (L)k, (L)n, (L)n);
    if (form == INPUT_GRADIENT) {
        b = arena_format(arena, "[%lld:%lld, %lld:1]", (L)n, (L)k, (L)k);
        b_index = "c, k";
    }
    if (form == WEIGHT_GRADIENT) {
        a = arena_format(arena, "[%lld:%lld, %lld:1]", (L)k, (L)m, (L)m);
        a_index = "k, r", kind = "add", use = "update";
    }
    if (form == STRIDED) {
        a = arena_format(arena, "[%lld:%lld, %lld:2]", (L)m, (L)(2 * k + 1), (L)k);
        b = arena_format(arena, "[%lld:3, %lld:%lld]", (L)k, (L)n, (L)(3 * k));
        result_stride = n + 5;
    }
    bool half_a = numbers == HALVES || numbers == MIXED, half_b = numbers == HALVES;
    return arena_format(arena,
                        "nest t {\n  outer r=%lld, c=%lld\n  inner k=%lld\n  parallel r, c\n"
                        "  operand 0: read %s %s\n  operand 1: read %s %s\n"
                        "  operand 2: %s f32 [%lld:%lld, %lld:1]\n"
                        "  stage 0: sum over k { mul(%s, %s) }\n  stage 1: %s @2[r, c] { stage 0 }\n}\n",
                        (L)m, (L)n, (L)k, half_a ? "bf16" : "f32", a, half_b ? "bf16" : "f32", b, use, (L)m,
                        (L)result_stride, (L)n, factor(arena, half_a, numbers != PLAIN, 0, a_index),
                        factor(arena, half_b, numbers != PLAIN, 1, b_index), kind);
}

static void forms_and_extents(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},     {1, 70, 3},   {7, 16, 5},    {8, 48, 64},  {9, 49, 17},
                                       {13, 33, 70},  {70, 70, 70}, {67, 5, 1100}, {3, 100, 513}, {2, 2, 2000},
                                       {100, 97, 31}, {5, 17, 33},  {1, 257, 600}, {300, 1, 40},
                                       // operands that tiles read as they lie: no panels
                                       {24, 96, 600}, {48, 64, 33}, {3, 64, 70},  {9, 144, 600}, {96, 160, 40},
                                       {1, 1408, 70}, {2, 673, 33}, {4, 416, 600},
                                       // few rows: several chunks, halves of vectors
                                       {1, 4640, 37}, {2, 48, 130}, {3, 2080, 18}, {4, 2112, 40},
                                       // vectors that reach back, in the first chunk or out of the last one
                                       {1, 4609, 37}, {2, 35, 130}, {1, 17, 64}, {3, 2079, 18}, {4, 2053, 40}, {4, 1063, 9},
                                       // groups of few rows, whole and with a rest, and steps that make no round
                                       {7, 1048, 13}, {8, 1024, 12}, {32, 1032, 5}, {33, 1032, 3},
                                       // whole panels of B that tiles read as they lie, and keep, before one that is packed
                                       {1, 1409, 64}, {5, 200, 96}, {20, 137, 75}, {12, 137, 96}, {17, 100, 1056},
                                       // columns along k that lie pages apart, beside one tile of rows and two
                                       {3, 70, 1024}, {10, 64, 1024},
                                       // panels of A whose lines are copied together, with some left; none, in long steps
                                       {72, 420, 37}, {88, 40, 19}, {136, 300, 21}, {240, 70, 35},
                                       // tall tiles
                                       {14, 96, 40}, {12, 64, 66}, {10, 100, 33}, {11, 352, 24}};
    Arena *arena = arena_create();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int choice = 0; choice < FORMS * NUMBERS; choice++) {
            Form form = (Form)(choice % FORMS);
            Numbers numbers = (Numbers)(choice / FORMS);
            if (numbers != PLAIN && (i + numbers) % 4) continue;  // each compiles for three machines
            const int64_t *s = sizes[i];
            Case test = {.name = arena_format(arena, "%s %lldx%lldx%lld, %s", form_names[form], (long long)s[0],
                                              (long long)s[1], (long long)s[2], number_names[numbers]),
                         .text = form_text(arena, form, numbers, s[0], s[1], s[2]), .tolerance = 3e-4};
            run_on_all(&test);
        }
    arena_destroy(arena);
}

static void epilogues(void **state) {
    (void)state;
    // A bias by column, a factor by row, a residual, two results of which one is bf16.
    run_on_all(&(Case){.name = "bias and residual", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=19, c=53\n  inner k=41\n  parallel r, c\n"
        "  operand 0: read f32 [19:41, 41:1]\n  operand 1: read f32 [41:53, 53:1]\n"
        "  operand 2: read f32 [53:1]\n  operand 3: read f32 [19:1]\n  operand 4: read f32 [19:53, 53:1]\n"
        "  operand 5: write f32 [19:53, 53:1]\n  operand 6: write bf16 [19:1, 53:19]\n"
        "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n"
        "  let v0 = add(mul(stage 0, @3[r]), @2[c])\n"
        "  stage 1: store @5[r, c] { add(max(v0, 0:f32), @4[r, c]) }\n"
        "  stage 2: store @6[r, c] { cast bf16(v0) }\n}\n"});
    run_on_all(&(Case){.name = "accumulates onto its own operand", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=33, c=70\n  inner k=700\n  parallel r, c\n"
        "  operand 0: read f32 [700:33, 33:1]\n  operand 1: read f32 [700:70, 70:1]\n"
        "  operand 2: update f32 [33:70, 70:1]\n"
        "  stage 0: sum over k { mul(@0[k, r], @1[k, c]) }\n"
        "  stage 1: store @2[r, c] { add(@2[r, c], mul(stage 0, 0.5:f32)) }\n}\n"});
    run_on_all(&(Case){.name = "index of loops", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=9, c=40\n  inner k=8\n  parallel r, c\n"
        "  operand 0: read f32 [9:8, 8:1]\n  operand 1: read f32 [40:8, 8:1]\n  operand 2: write f32 [9:40, 40:1]\n"
        "  stage 0: sum over k { mul(@0[r, k], @1[c, k]) }\n"
        "  stage 1: store @2[r, c] { select(le(index(c), index(r)), stage 0, -1000:f32) }\n}\n"});
    run_on_all(&(Case){.name = "bf16 operands", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=21, c=50\n  inner k=37\n  parallel r, c\n"
        "  operand 0: read bf16 [21:37, 37:1]\n  operand 1: read bf16 [37:50, 50:1]\n"
        "  operand 2: write f32 [21:50, 50:1]\n"
        "  stage 0: sum over k { mul(cast f32(@0[r, k]), cast f32(@1[k, c])) }\n"
        "  stage 1: store @2[r, c] { stage 0 }\n}\n"});
}

static void groups_of_loops(void **state) {
    (void)state;
    run_on_all(&(Case){.name = "batch of both", .tolerance = 1e-4, .text =
        "nest t {\n  outer b=5, r=20, c=35\n  inner k=24\n  parallel b, r, c\n"
        "  operand 0: read f32 [5:480, 20:24, 24:1]\n  operand 1: read f32 [5:840, 35:24, 24:1]\n"
        "  operand 2: write f32 [5:700, 20:35, 35:1]\n"
        "  stage 0: sum over k { mul(@0[b, r, k], @1[b, c, k]) }\n  stage 1: store @2[b, r, c] { stage 0 }\n}\n"});
    run_on_all(&(Case){.name = "rows and columns that do not join", .tolerance = 1e-4, .text =
        "nest t {\n  outer h=3, b=4, r=5, c=18\n  inner k=9\n  parallel h, b, r, c\n"
        "  operand 0: read f32 [4:45, 5:9, 9:1]\n  operand 1: read f32 [9:54, 3:18, 18:1]\n"
        "  operand 2: write f32 [3:360, 4:18, 5:72, 18:1]\n"
        "  stage 0: sum over k { mul(@0[b, r, k], @1[k, h, c]) }\n"
        "  stage 1: store @2[h, b, r, c] { stage 0 }\n}\n"});
    run_on_all(&(Case){.name = "two reduced loops", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=10, c=20\n  inner h=3, d=200\n  parallel r, c\n"
        "  operand 0: read f32 [10:200, 3:2000, 200:1]\n  operand 1: read f32 [3:4000, 200:20, 20:1]\n"
        "  operand 2: write f32 [10:20, 20:1]\n"
        "  stage 0: sum over h, d { mul(@0[r, h, d], @1[h, d, c]) }\n  stage 1: store @2[r, c] { stage 0 }\n}\n"});
    run_on_all(&(Case){.name = "three reduced loops, short", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=10, c=20\n  inner h=3, i=2, d=7\n  parallel r, c\n"
        "  operand 0: read f32 [10:7, 3:140, 2:70, 7:1]\n  operand 1: read f32 [20:14, 3:280, 2:840, 7:1]\n"
        "  operand 2: write f32 [10:20, 20:1]\n"
        "  stage 0: sum over h, i, d { mul(@0[r, h, i, d], @1[c, h, i, d]) }\n"
        "  stage 1: store @2[r, c] { stage 0 }\n}\n"});
    run_on_all(&(Case){.name = "two reduced loops of bf16, odd", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=10, c=36\n  inner h=3, d=201\n  parallel r, c\n"
        "  operand 0: read bf16 [10:201, 3:2010, 201:1]\n  operand 1: read bf16 [3:7236, 201:36, 36:1]\n"
        "  operand 2: write f32 [10:36, 36:1]\n"
        "  stage 0: sum over h, d { mul(cast f32(@0[r, h, d]), cast f32(@1[h, d, c])) }\n"
        "  stage 1: store @2[r, c] { stage 0 }\n}\n"});
    run_on_all(&(Case){.name = "result turned", .tolerance = 1e-4, .text =
        "nest t {\n  outer r=40, c=20\n  inner k=30\n  parallel r, c\n"
        "  operand 0: read f32 [40:30, 30:1]\n  operand 1: read f32 [30:20, 20:1]\n"
        "  operand 2: write f32 [40:1, 20:40]\n"
        "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n  stage 1: store @2[r, c] { stage 0 }\n}\n"});
}

static void bounded_loops(void **state) {
    (void)state;
    static const char *const texts[] = {
        "nest t {\n  outer b<=4:batch@3, r<=30:rows@4, c<=60:columns@5\n  inner k<=50:depth@6\n  parallel b, r, c\n"
        "  operand 0: read f32 [4:1500, 30:50, 50:1]\n  operand 1: read f32 [60:50, 50:1]\n"
        "  operand 2: update f32 [4:1800, 30:60, 60:1]\n  operand 3: read i64 []\n  operand 4: read i64 []\n"
        "  operand 5: read i64 []\n  operand 6: read i64 []\n"
        "  stage 0: sum over k { mul(@0[b, r, k], @1[c, k]) }\n  stage 1: store @2[b, r, c] { stage 0 }\n}\n",
        "nest t {\n  outer b<=4:batch@3, r<=30:rows@4, c<=60:columns@5\n  inner k<=50:depth@6\n  parallel b, r, c\n"
        "  operand 0: read bf16 [4:1500, 30:50, 50:1]\n  operand 1: read f32 [60:50, 50:1]\n"
        "  operand 2: update f32 [4:1800, 30:60, 60:1]\n  operand 3: read i64 []\n  operand 4: read i64 []\n"
        "  operand 5: read i64 []\n  operand 6: read i64 []\n"
        "  stage 0: sum over k { mul(cast f32(@0[b, r, k]), cast f32(cast bf16(@1[c, k]))) }\n"
        "  stage 1: store @2[b, r, c] { stage 0 }\n}\n",
        // B of one task: read as it lies, across k and along it
        "nest t {\n  outer b<=4:batch@3, r<=30:rows@4, c<=60:columns@5\n  inner k<=50:depth@6\n  parallel b, r, c\n"
        "  operand 0: read f32 [4:1500, 30:50, 50:1]\n  operand 1: read f32 [4:3000, 50:60, 60:1]\n"
        "  operand 2: update f32 [4:1800, 30:60, 60:1]\n  operand 3: read i64 []\n  operand 4: read i64 []\n"
        "  operand 5: read i64 []\n  operand 6: read i64 []\n"
        "  stage 0: sum over k { mul(@0[b, r, k], @1[b, k, c]) }\n  stage 1: store @2[b, r, c] { stage 0 }\n}\n",
        "nest t {\n  outer b<=4:batch@3, r<=30:rows@4, c<=60:columns@5\n  inner k=48\n  parallel b, r, c\n"
        "  operand 0: read f32 [4:1440, 30:48, 48:1]\n  operand 1: read f32 [4:2880, 60:48, 48:1]\n"
        "  operand 2: update f32 [4:1800, 30:60, 60:1]\n  operand 3: read i64 []\n  operand 4: read i64 []\n"
        "  operand 5: read i64 []\n  operand 6: read i64 []\n"
        "  stage 0: sum over k { mul(@0[b, r, k], @1[b, c, k]) }\n  stage 1: store @2[b, r, c] { stage 0 }\n}\n"};
    enum { TEXTS = sizeof texts / sizeof *texts };
    static const int64_t bounds[][4] = {{4, 30, 60, 50}, {2, 17, 33, 21}, {1, 1, 1, 1}, {3, 0, 60, 50}, {4, 9, 7, 0}};
    for (size_t i = 0; i < TEXTS * (sizeof bounds / sizeof *bounds); i++) {
        Case test = {.name = "bounded", .text = texts[i % TEXTS], .tolerance = 1e-4};
        memcpy(test.bounds, bounds[i / TEXTS], sizeof test.bounds);
        run_on_all(&test);
    }
}

static const char *const rows_that_exist =
    "nest t {\n  outer r<=512:rows@3, c=256\n  inner k=64\n  parallel r, c\n  operand 0: read f32 [512:64, 64:1]\n"
    "  operand 1: read f32 [64:256, 256:1]\n  operand 2: update f32 [512:256, 256:1]\n  operand 3: read i64 []\n"
    "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n  stage 1: store @2[r, c] { stage 0 }\n}\n";

// Half of the tasks compute half of the rows that there are, not half of those that there might be.
static void bounded_rows_are_shared(void **state) {
    (void)state;
    enum { ROWS = 512, COLUMNS = 256, DEPTH = 64, EXIST = 200, TILE = 16 };
    static const int64_t bounds[] = {ROWS, 257, EXIST, 7, 0};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        run_on_all(&(Case){.name = "bounded rows", .text = rows_that_exist, .tolerance = 1e-4, .bounds = {bounds[i]}});
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CpuKernel kernel;
    CpuOptions options = {.threads = 1, .sanitize = SANITIZE};
    CpuCode *code = compile_nest(ir, nest_read(ir, "rows", rows_that_exist), &options, &kernel);
    float *a = calloc(ROWS * DEPTH, 4), *b = calloc(DEPTH * COLUMNS, 4), *result = calloc(ROWS * COLUMNS, 4);
    for (int at = 0; at < ROWS * DEPTH; at++) a[at] = 1;
    for (int at = 0; at < DEPTH * COLUMNS; at++) b[at] = 1;
    int64_t rows = EXIST;
    char *operands[] = {(char *)a, (char *)b, (char *)result, (char *)&rows}, *workspaces[WORKSPACE_MAX];
    for (int i = 0; i < WORKSPACE_MAX; i++) workspaces[i] = aligned_alloc(64, (kernel.workspace_bytes[i] + 127) & ~63ll);
    char *scratch = aligned_alloc(64, (size_t)(kernel.scratch_bytes + 191) & ~(size_t)63);
    memset(scratch, 0xff, SCRATCH_NOTE);
    for (int phase = 0; phase < kernel.phase_count; phase++) {
        int64_t tasks = kernel.tasks[phase];
        kernel.functions[phase](operands, workspaces, scratch + 64, 0, phase < kernel.pack_count ? tasks : tasks / 2);
    }
    int written = 0;
    for (int row = 0; row < EXIST; row++) written += result[row * COLUMNS] != 0;
    assert_in_range(written, EXIST / 2 - TILE, EXIST / 2 + TILE);
    for (int i = 0; i < WORKSPACE_MAX; i++) free(workspaces[i]);
    free(scratch), free(a), free(b), free(result);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

// Results of 16 MB and more are stored past the caches where their operands start on cache lines: two of them, one in
// place, have the same bits wherever they start and however tasks are split, and are what they should be.
enum { WIDE = 1536, SHORT = 65, SKIPS = 3 };

static float *numbers_at(char *memory, int64_t count) {
    float *values = (float *)memory;
    for (int64_t i = 0; i < count; i++) values[i] = (float)test_random() - 0.5f;
    return values;
}

static void streamed_results(void **state) {
    (void)state;
    static const char text[] =
        "nest t {\n  outer r=1536, c=1536\n  inner k=65\n  parallel r, c\n"
        "  operand 0: read f32 [1536:65, 65:1]\n  operand 1: read f32 [65:1536, 1536:1]\n"
        "  operand 2: update f32 [1536:1536, 1536:1]\n  operand 3: write f32 [1536:1536, 1536:1]\n"
        "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n"
        "  stage 1: store @3[r, c] { mul(@2[r, c], stage 0) }\n"
        "  stage 2: store @2[r, c] { add(@2[r, c], stage 0) }\n}\n";
    int64_t cells = (int64_t)WIDE * WIDE, bytes = cells * 4;
    char *memory[SKIPS][2];
    float *a = numbers_at(malloc(sizeof(float) * WIDE * SHORT), WIDE * SHORT);
    float *b = numbers_at(malloc(sizeof(float) * WIDE * SHORT), WIDE * SHORT);
    float *old = numbers_at(malloc((size_t)bytes), cells);
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CpuKernel kernel;
    CpuOptions options = {.threads = 1, .sanitize = SANITIZE};
    CpuCode *code = compile_nest(ir, case_nest(ir, &(Case){.name = "streamed", .text = text}), &options, &kernel);
    for (int i = 0; i < SKIPS; i++) {
        static const int64_t skips[] = {0, 4, 64}, steps[] = {INT64_MAX / 2, 3, 1};
        for (int j = 0; j < 2; j++) memory[i][j] = aligned_alloc(64, (size_t)bytes + 64);
        char *sum = memory[i][0] + skips[i], *product = memory[i][1] + skips[i];
        memcpy(sum, old, (size_t)bytes);
        run_split(&kernel, (char *[]){(char *)a, (char *)b, sum, product}, steps[i]);
        if (i) assert_memory_equal(sum, memory[0][0], (size_t)bytes);
        if (i) assert_memory_equal(product, memory[0][1], (size_t)bytes);
    }
    for (int64_t cell = 0; cell < cells; cell += 997) {
        double sum = 0;
        for (int k = 0; k < SHORT; k++) sum += (double)a[cell / WIDE * SHORT + k] * b[k * WIDE + cell % WIDE];
        assert_true(fabs(((float *)memory[0][0])[cell] - (old[cell] + sum)) < 1e-4);
        assert_true(fabs(((float *)memory[0][1])[cell] - old[cell] * sum) < 1e-4);
    }
    for (int i = 0; i < SKIPS; i++)
        for (int j = 0; j < 2; j++) free(memory[i][j]);
    free(a);
    free(b);
    free(old);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

static CpuKernel compile_form(Ir *ir, Form form, Numbers numbers, int64_t m, int64_t n, int64_t k, const char *cpu, CpuCode **code) {
    CpuKernel kernel;
    Case test = {.name = "rows", .text = form_text(ir->arena, form, numbers, m, n, k)};
    CpuOptions options = {.cpu = cpu, .threads = 1};
    *code = compile_nest(ir, case_nest(ir, &test), &options, &kernel);
    return kernel;
}

// Every row of a large product, computed alone and with some others, has the bits that it has in the product.
enum { M = 64, N_LONG = 1024, K = 1120 };

static void check_rows(Form form, Numbers numbers, int n, const char *machine, const float *a, const float *b, float *all, float *some) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    CpuCode *code, *code_some;
    CpuKernel kernel = compile_form(ir, form, numbers, M, n, K, machine, &code);
    run_split(&kernel, (char *[]){(char *)a, (char *)b, (char *)all}, INT64_MAX / 2);
    for (int rows = 1; rows <= 13; rows += 2) {
        kernel = compile_form(ir, form, numbers, rows, n, K, machine, &code_some);
        for (int row = 0; row + rows <= M; row += rows)
            run_split(&kernel, (char *[]){(char *)(a + row * K), (char *)b, (char *)(some + row * n)}, 1);
        assert_memory_equal(all, some, sizeof(float) * n * (M / rows * rows));
        cpu_code_destroy(code_some);
    }
    cpu_code_destroy(code);
    arena_destroy(arena);
}

static void rows_stand_alone(void **state) {
    (void)state;
    static const int columns[] = {150, 144, 128};  // in panels, and read as they lie
    float *a = malloc(sizeof(float) * M * K), *b = malloc(sizeof(float) * K * N_LONG);
    float *all = malloc(sizeof(float) * M * N_LONG), *some = malloc(sizeof(float) * M * N_LONG);
    for (int i = 0; i < M * K; i++) a[i] = (float)test_random() - 0.5f;
    for (int i = 0; i < K * N_LONG; i++) b[i] = (float)test_random() - 0.5f;
    for (Form form = FORWARD; form <= INPUT_GRADIENT; form++)
        for (int machine = 0; machine < MACHINES; machine++)
            for (int n = 0; n < 6; n++) {
                Numbers numbers = n < 3 ? PLAIN : ROUNDED;
                if (runs(machines[machine], numbers == ROUNDED))
                    check_rows(form, numbers, columns[n % 3], machines[machine], a, b, all, some);
            }
    check_rows(FORWARD, PLAIN, N_LONG, "x86-64-v3", a, b, all, some);  // swept in groups
    free(a);
    free(b);
    free(all);
    free(some);
}

// Of no part of B that one task takes is there a phase that packs it, nor a panel where one tile has all the rows.
static void reads_where_it_lies(void **state) {
    (void)state;
    enum { COLUMNS = 256, STEPS = 512 };
    static const int64_t rows[] = {1, 8, 40};
    for (Form form = FORWARD; form <= INPUT_GRADIENT; form++)
        for (int i = 0; i < 3; i++) {
            Arena *arena = arena_create();
            CpuCode *code;
            CpuKernel kernel = compile_form(ir_create(arena), form, PLAIN, rows[i], COLUMNS, STEPS, NULL, &code);
            for (int pack = 0; pack < kernel.pack_count; pack++) assert_int_equal(kernel.packed_operand[pack], 0);
            int64_t panel = 4 * STEPS * COLUMNS / 4;
            if (rows[i] <= 8) assert_true(kernel.scratch_bytes < panel);
            cpu_code_destroy(code);
            arena_destroy(arena);
        }
}

// A product of 64 rows is one phase, without a barrier, and no task has two panels of it; and panels are as many and as
// wide as threads share evenly: six, of three and of two vectors, would leave one of two threads with more work.
static void few_rows_are_shared(void **state) {
    (void)state;
    enum { ROWS = 64, COLUMNS = 256, STEPS = 256, PANELS = 8 };
    for (Form form = FORWARD; form <= INPUT_GRADIENT; form++) {
        Arena *arena = arena_create();
        CpuCode *code;
        CpuKernel kernel = compile_form(ir_create(arena), form, PLAIN, ROWS, COLUMNS, STEPS, "cooperlake", &code);
        assert_int_equal(kernel.phase_count, 1);
        assert_int_equal(kernel.tasks[0], PANELS);
        cpu_code_destroy(code);
        arena_destroy(arena);
    }
}

// Few steps of k are packed by several tasks too.
static void short_sums_are_shared(void **state) {
    (void)state;
    Arena *arena = arena_create();
    CpuCode *code;
    CpuKernel kernel = compile_form(ir_create(arena), WEIGHT_GRADIENT, PLAIN, 256, 704, 64, "cooperlake", &code);
    assert_int_equal(kernel.pack_count, 2);
    for (int pack = 0; pack < kernel.pack_count; pack++) assert_int_equal(kernel.tasks[pack], 4);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

// Two rows along k are not packed, nor are columns that are no whole vectors: there is room for sums alone, however
// long they are.
static void sweeps_pack_nothing(void **state) {
    (void)state;
    enum { STEPS = 1 << 15 };
    for (int numbers = PLAIN; numbers <= ROUNDED; numbers++)
        for (int columns = 256; columns <= 257; columns++) {
            Arena *arena = arena_create();
            CpuCode *code;
            CpuKernel kernel = compile_form(ir_create(arena), FORWARD, (Numbers)numbers, 2, columns, STEPS, NULL, &code);
            assert_int_equal(kernel.phase_count, 1);
            assert_true(kernel.scratch_bytes < STEPS);
            cpu_code_destroy(code);
            arena_destroy(arena);
        }
}

// Tiles of a machine with 16 registers read few columns of a row: up to 32 rows are swept where rows of B are long.
static void narrow_tiles_give_way(void **state) {
    (void)state;
    enum { COLUMNS = 1024, STEPS = 64, TASK_COLUMNS = 128 };
    static const struct { int64_t rows, columns; bool swept; } cases[] = {
        {8, COLUMNS, true}, {31, COLUMNS, true}, {32, COLUMNS, true}, {33, COLUMNS, false}, {8, COLUMNS / 2, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Arena *arena = arena_create();
        CpuCode *code;
        CpuKernel kernel = compile_form(ir_create(arena), FORWARD, PLAIN, cases[i].rows, cases[i].columns, STEPS,
                                        "x86-64-v3", &code);
        bool swept = kernel.phase_count == 1 && kernel.tasks[0] == cases[i].columns / TASK_COLUMNS;
        assert_int_equal(swept, cases[i].swept);
        cpu_code_destroy(code);
        arena_destroy(arena);
    }
}

// The generated code of a form. It is the caller's to free.
static char *form_code(Form form, Numbers numbers, int64_t m, int64_t n, int64_t k, const char *cpu, bool assembly) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Program *program = program_create(ir, "code");
    program_add_nest(program, nest_read(ir, "code", form_text(arena, form, numbers, m, n, k)));
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    assert_true(cpu_print(ir, program, &(CpuOptions){.cpu = cpu}, assembly, stream));
    fclose(stream);
    arena_destroy(arena);
    return text;
}

// Lines that have both texts.
static int lines_with(const char *text, const char *one, const char *other) {
    int count = 0;
    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        const char *first = strstr(line, one), *second = strstr(line, other);
        count += first && first < end && second && second < end;
    }
    return count;
}

// B along k is turned in registers alone, also where there are 16 of them, and a product of pairs reads its row of A
// itself. Columns that are a multiple of a page apart are taken eight at a time where a vector has as many.
static void turns_in_registers(void **state) {
    (void)state;
    enum { ROWS = 4, COLUMNS = 512, STEPS = 512, PAGES = 2048, LANES = 16 };
    char *text = form_code(INPUT_GRADIENT, PLAIN, ROWS, COLUMNS, STEPS, "x86-64-v3", true);
    assert_true(lines_with(text, "%ymm", "(%rsp)") < ROWS);
    free(text);
    text = form_code(INPUT_GRADIENT, ROUNDED, ROWS, COLUMNS, STEPS, "cooperlake", true);
    assert_true(lines_with(text, "vdpbf16ps", "{1to16}") >= ROWS * LANES);
    free(text);
    int sums[2];
    for (int i = 0; i < 2; i++) {
        text = form_code(INPUT_GRADIENT, PLAIN, 1, COLUMNS, i ? PAGES : STEPS, "x86-64-v3", true);
        sums[i] = lines_with(text, "vfmadd", "%ymm");
        free(text);
    }
    assert_true(sums[1] < sums[0]);
}

// Sums of several rows, of which each round takes all, do not compete for one place of the first cache.
static void sums_lie_apart(void **state) {
    (void)state;
    enum { ROWS = 4, COLUMNS = 2048, STEPS = 64 };
    char *text = form_code(FORWARD, ROUNDED, ROWS, COLUMNS, STEPS, "cooperlake", true);
    assert_true(lines_with(text, "vdpbf16ps", "%zmm") > 0);
    assert_int_equal(lines_with(text, "vmovups", "\t4096("), 0);
    free(text);
}

// Of 16 registers tiles have six rows, or four where more rows would be computed for nothing. They read panels of A where
// its steps are pages apart.
static void tiles_of_few_registers(void **state) {
    (void)state;
    static const struct {
        int64_t rows, columns;
        const char *tile;
    } forms[] = {{3072, 64, "@cherry_tile_6x2_panel_panel("}, {2016, 64, "@cherry_tile_6x2_across_panel("},
                 {2048, 96, "@cherry_tile_6x2_"}, {512, 96, "@cherry_tile_4x3_"}, {32, 512, "@cherry_tile_4x3_"},
                 {24, 512, "@cherry_tile_6x2_"}, {10, 512, "@cherry_tile_5x2_"}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char *text = form_code(WEIGHT_GRADIENT, PLAIN, forms[i].rows, forms[i].columns, 64, "x86-64-v3", false);
        if (!strstr(text, forms[i].tile)) fail_msg("%lld rows: no %s", (long long)forms[i].rows, forms[i].tile);
        free(text);
    }
    // Panels of four are copied by vectors, not number by number.
    char *text = form_code(WEIGHT_GRADIENT, PLAIN, 511, 96, 64, "x86-64-v3", false);
    assert_non_null(strstr(text, "@cherry_pack_unit_f32_4_4("));
    free(text);
}

// The same for Zen 4, of helper function `name` alone; NULL: there is none.
static char *code_of(Form form, Numbers numbers, int64_t m, int64_t n, int64_t k, const char *name, bool assembly) {
    char start[128], *text = form_code(form, numbers, m, n, k, "znver4", assembly);
    snprintf(start, sizeof start, assembly ? "\n%s:" : "@%s(ptr %%0", name);
    char *begin = strstr(text, start), *end = begin ? strstr(begin, assembly ? ".Lfunc_end" : "\n}") : NULL;
    char *part = end ? strndup(begin, (size_t)(end - begin)) : NULL;
    free(text);
    return part;
}

static void assert_code(Form form, Numbers numbers, int64_t m, int64_t n, int64_t k, const char *name, const char *has) {
    char *code = code_of(form, numbers, m, n, k, name, false);
    if (!code || !strstr(code, has)) fail_msg("%s of %s: no %s", name, form_names[form], has);
    free(code);
}

// What tiles and packing ask of the machine, which no result shows.
static void code_of_tiles(void **state) {
    (void)state;
    static const char to_write[] = "i32 1, i32 3, i32 1)", far[] = "i32 0, i32 2, i32 1)";
    // Few panels: A is read as it lies, however far its steps are apart; what is added to is brought nearer.
    assert_code(WEIGHT_GRADIENT, PLAIN, 2048, 96, 64, "cherry_tile_8x3_across_panel", to_write);
    assert_null(code_of(WEIGHT_GRADIENT, PLAIN, 2048, 96, 64, "cherry_pack_unit_f32_8_8", false));
    // Two panels of a line are copied at once, of bf16 four.
    assert_code(WEIGHT_GRADIENT, PLAIN, 512, 512, 64, "cherry_pack_unit_f32_8_8", "load <16 x float>");
    // No phase packs B where k is long: the first tile of a part leaves panels for the others.
    assert_code(WEIGHT_GRADIENT, PLAIN, 128, 384, 8192, "cherry_tile_8x3_panel_acrossf32_once_keeps", far);
    assert_code(WEIGHT_GRADIENT, HALVES, 512, 64, 64, "cherry_pack_unit_bf16_pairs_8_8", "load <16 x i16>");
    // Two vectors of pairs are made at once of two rows of bf16.
    static const char pairs[] = "cherry_tile_8x3_along_acrossbf16_pairs_once";
    assert_code(FORWARD, HALVES, 8, 128, 64, pairs, "shufflevector <32 x i16>");
    assert_code(FORWARD, HALVES, 8, 128, 64, pairs, "load <16 x i16>");  // of the third vector
    // A few more rows than eight are one tile, unless rows of pairs are pages apart.
    assert_code(FORWARD, PLAIN, 12, 2048, 64, "cherry_tile_12x2_panel_acrossf32_once", far);
    assert_code(FORWARD, ROUNDED, 14, 512, 64, "cherry_tile_14x2_panel_acrossf32_pairs_once", far);
    assert_code(FORWARD, ROUNDED, 12, 2048, 64, "cherry_tile_6x4_panel_acrossf32_pairs_once_keeps_apart", far);
    // Few rows come out of a panel where columns along k, pages apart, fill their places in the first cache; those columns
    // are asked for in the order of memory: a number of steps is divided by those of a column.
    static const char apart[] = "cherry_tile_4x4_panel_alongf32_once_near8";
    assert_code(INPUT_GRADIENT, PLAIN, 4, 64, 1024, apart, "udiv");
    assert_null(code_of(INPUT_GRADIENT, PLAIN, 4, 64, 1024, "cherry_tile_4x4_along_alongf32_once_near8", false));
    // Columns along k are asked for, and turned with hardly a vector left on the stack.
    static const char turning[] = "cherry_tile_8x2_along_alongf32_pairs_once_keeps_near16";
    assert_code(INPUT_GRADIENT, MIXED, 64, 64, 64, turning, far);
    char *code = code_of(INPUT_GRADIENT, MIXED, 64, 64, 64, turning, true);
    assert_non_null(code);
    int spilled = 0;
    for (char *line = strtok(code, "\n"); line; line = strtok(NULL, "\n"))
        spilled += strstr(line, "(%rsp)") && strstr(line, "%zmm");
    assert_in_range(spilled, 0, 4);
    free(code);
}

// Products of tiles read A themselves, all of a round of four steps and of the rest: it is not loaded for them.
static void products_read_a(void **state) {
    (void)state;
    enum { PRODUCTS = 8 * 3 * (4 + 1) };
    static const char *const names[] = {"cherry_tile_8x3_panel_panel", "cherry_tile_8x3_panel_panel_pairs"};
    for (int i = 0; i < 2; i++) {
        char *code = code_of(FORWARD, i ? HALVES : PLAIN, 512, 960, 64, names[i], true);
        assert_non_null(code);
        assert_int_equal(lines_with(code, i ? "vdpbf16ps" : "vfmadd", "{1to16}"), PRODUCTS);
        assert_int_equal(lines_with(code, "vbroadcastss", "%rdi"), 0);
        free(code);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms_and_extents), cmocka_unit_test(epilogues),
                                       cmocka_unit_test(narrow_tiles_give_way),
                                       cmocka_unit_test(groups_of_loops), cmocka_unit_test(bounded_loops),
                                       cmocka_unit_test(rows_stand_alone), cmocka_unit_test(streamed_results),
                                       cmocka_unit_test(reads_where_it_lies), cmocka_unit_test(sweeps_pack_nothing),
                                       cmocka_unit_test(bounded_rows_are_shared), cmocka_unit_test(few_rows_are_shared),
                                       cmocka_unit_test(short_sums_are_shared), cmocka_unit_test(turns_in_registers),
                                       cmocka_unit_test(sums_lie_apart),
                                       cmocka_unit_test(tiles_of_few_registers), cmocka_unit_test(code_of_tiles),
                                       cmocka_unit_test(products_read_a)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
