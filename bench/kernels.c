// Generated contraction and attention kernels as a share of the machine's peak, which is measured between
// the repetitions: medians of the ratio, and the best tenth, which a busy machine disturbs less.
//
// Beside it the share of a floor, which is what takes longer: the multiply-adds at that peak, or bringing each operand
// in once, results too, and those that are added to once more, at the rate at which as many threads read (reading.h)
// these very operands where they lie, between the repetitions as well. Packing is not counted, nor is a barrier.
//
//   bench_kernels [--threads N] [--cpu NAME] [--cpu-time] [--bf16 | --panels] [--cold] [--only TEXT | --size SIZE]
//
// --size BATCHxROWSxCOLUMNSxK or ROWSxCOLUMNSxK: the three products of this size in place of those of the list.
// --cold: contractions alone, each as a step runs it: a barrier before each launch, whose weights, or gradients of
// weights, are in no cache.
// --bf16: contractions of bf16 activations with f32 weights that are rounded as they are packed; attention of bf16.
// --panels: products of few rows of bf16 with bf16 weights in panels, as generation reads them (panel-rounded).
// --cpu-time counts the processor time of one thread instead of the clock on the wall.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/median.h"
#include "base/thread.h"
#include "bench/reading.h"
#include "codegen/cpu.h"
#include "runtime/task_share.h"

enum { REPETITIONS = 100, REPETITIONS_MIN = 15, OPERANDS_MAX = 16, ELEMENTS_MAX = 1 << 30 };
enum { THREADS_MAX = 256, COLD_BYTES = 160 << 20, COLD_SETS = 256 };  // of operands that are taken in turn
static const double TARGET_SECONDS = 1e-3, KERNEL_SECONDS = 1;  // of one repetition, and of all

typedef struct Bench {
    ThreadPool *pool;
    CpuOptions options;
    bool cpu_time, bf16, panels, cold;
    const char *only;
    CpuKernel peak;
    double flops_per_step;
} Bench;

static double now(const Bench *bench) {
    struct timespec time;
    clock_gettime(bench->cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// ---- Running kernels ----

// Operands of one launch after the other.
typedef struct Operands {
    char *sets[COLD_SETS][OPERANDS_MAX];
    int set_count, count;
    int64_t bytes[OPERANDS_MAX], moved;  // of each; of all that a launch has to read and write
} Operands;

typedef struct Run {
    ThreadPool *pool;
    const CpuKernel *kernel;
    const Operands *operands;
    char **workspaces, **scratch;
    int64_t limit;  // of the peak's tasks, the same on every thread
    uint64_t sums[THREADS_MAX];  // of what was read
    TaskCounter counters[PHASE_MAX][THREADS_MAX];
    uint32_t launches;
} Run;

static void launch(Run *run, int set, int thread) {
    const CpuKernel *kernel = run->kernel;
    char *const *operands = run->operands->sets[set], *scratch = run->scratch[thread];
    int threads = thread_pool_count(run->pool);
    for (int phase = 0; phase < kernel->phase_count; phase++) {
        if (phase < kernel->pack_count && !run->workspaces[phase]) continue;
        if (set || phase) thread_pool_barrier(run->pool, thread);
        if (scratch) memset(scratch - SCRATCH_NOTE, 0xff, SCRATCH_NOTE);
        TaskPhase tasks = {.function = kernel->functions[phase], .operands = operands, .workspaces = run->workspaces,
                           .tasks = kernel->tasks[phase], .counters = run->counters[phase]};
        if (run->limit) tasks.function(operands, run->workspaces, scratch, 0, run->limit);
        else task_share_run(&tasks, thread, threads, run->launches + (uint32_t)set, scratch);
    }
}

static void run_thread(void *context, int thread) {
    Run *run = context;
    for (int set = 0; set < run->operands->set_count; set++) launch(run, set, thread);
}

static void run_once(Run *run) {
    thread_pool_run(run->pool, run_thread, run);
    run->launches += (uint32_t)run->operands->set_count;
}

static char *room(int64_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };  // as the runtime has them
    size_t size = ((size_t)bytes + HUGE_PAGE) & ~(size_t)(HUGE_PAGE - 1);
    char *memory = aligned_alloc(HUGE_PAGE, size);
    if (!memory) {
        fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", size);
        exit(1);
    }
    (void)madvise(memory, size, MADV_HUGEPAGE);
    return memset(memory, 0, size);
}

static CpuCode *compile(const Bench *bench, Ir *ir, Program *program, CpuKernel *kernel) {
    CpuCode *code = cpu_compile(ir, &program, 1, &bench->options);
    if (!code) {
        diagnostics_print(ir->diagnostics, 0, stdout);
        exit(1);
    }
    *kernel = program->kernels.items[0].cpu;
    return code;
}

static void start_peak(Bench *bench, Ir *ir) {
    Program *program = program_create(ir, "peak");
    NamedKernel *named = ARENA_NEW(ir->arena, NamedKernel);
    const Type *type = type_scalar(ir, bench->bf16 ? ELEMENT_BF16 : ELEMENT_F32);
    *named = (NamedKernel){.name = "_peak", .operand_count = 2, .types = {type, type}, .output_start = 1};
    program_add_named(program, named);
    compile(bench, ir, program, &bench->peak);
    bench->flops_per_step = 1;
}

static double peak_seconds_per_step(const Bench *bench) {
    enum { STEPS = 100000 };  // 0.6 ms: the start of a region is no part of it
    float input[2] = {0.5f, 1}, output[64];
    Operands operands = {.sets = {{(char *)input, (char *)output}}, .set_count = 1};
    char *scratch[THREADS_MAX] = {0};
    Run run = {.pool = bench->pool, .kernel = &bench->peak, .operands = &operands, .scratch = scratch, .limit = STEPS};
    double start = now(bench);
    run_once(&run);
    return (now(bench) - start) / STEPS;
}

static void read_thread(void *context, int thread) {
    Run *run = context;
    const Operands *operands = run->operands;
    int threads = thread_pool_count(run->pool);
    for (int set = 0; set < operands->set_count; set++)
        for (int i = 0; i < operands->count; i++)
            run->sums[thread] += reading_share(operands->sets[set][i], operands->bytes[i], thread, threads);
}

static void read_once(Run *run) { thread_pool_run(run->pool, read_thread, run); }

// Seconds of a launch, `inner` times all of them.
static double seconds_of(const Bench *bench, Run *run, void (*once)(Run *run), int inner) {
    double start = now(bench);
    for (int i = 0; i < inner; i++) once(run);
    return (now(bench) - start) / (inner * run->operands->set_count);
}

static double bytes_of(const Operands *operands) {
    double bytes = 0;
    for (int i = 0; i < operands->count; i++) bytes += (double)operands->bytes[i];
    return bytes;
}

// `flops` of one launch.
static void measure(const Bench *bench, const char *name, const CpuKernel *kernel, const Operands *operands,
                    double flops, double compile_seconds) {
    int threads = thread_pool_count(bench->pool);
    char *scratch[THREADS_MAX], *workspaces[WORKSPACE_MAX];
    for (int i = 0; i < WORKSPACE_MAX; i++) workspaces[i] = kernel->pack_optional[i] ? NULL : room(kernel->workspace_bytes[i]);
    for (int i = 0; i < threads; i++) scratch[i] = room(kernel->scratch_bytes + 64) + 64;
    Run run = {.pool = bench->pool, .kernel = kernel, .operands = operands, .workspaces = workspaces,
               .scratch = scratch};
    double shares[REPETITIONS], floors[REPETITIONS], of_floor[REPETITIONS], seconds[REPETITIONS];
    double all = seconds_of(bench, &run, run_once, 2) * operands->set_count;
    double moved = (double)operands->moved / bytes_of(operands);
    int inner = all < TARGET_SECONDS ? (int)ceil(TARGET_SECONDS / all) : 1;
    double before = peak_seconds_per_step(bench);
    int count = all * REPETITIONS > KERNEL_SECONDS ? (int)(KERNEL_SECONDS / all) : REPETITIONS;
    if (count < REPETITIONS_MIN) count = REPETITIONS_MIN;
    for (int i = 0; i < count; i++) {
        seconds[i] = seconds_of(bench, &run, run_once, inner);
        double after = peak_seconds_per_step(bench), step = (before + after) / 2;
        double computing = flops / (bench->flops_per_step * threads) * step;
        floors[i] = fmax(computing, moved * seconds_of(bench, &run, read_once, inner));
        shares[i] = computing / seconds[i];
        of_floor[i] = floors[i] / seconds[i];
        before = after;
    }
    double share = median(shares, (size_t)count), time = median(seconds, (size_t)count);
    double floor_share = median(of_floor, (size_t)count), floor_time = median(floors, (size_t)count);
    printf("%-44s %5.1f %% of peak, best tenth %5.1f %%, %5.1f %% of a floor of %8.1f us, %8.1f us (least %8.1f), "
           "%6.1f GFLOP/s, compiled in %.1f ms\n",
           name, 100 * share, 100 * shares[count * 9 / 10], 100 * floor_share, floor_time * 1e6, time * 1e6,
           seconds[0] * 1e6, flops / time * 1e-9, compile_seconds * 1e3);
    fflush(stdout);
    for (int i = 0; i < WORKSPACE_MAX; i++) free(workspaces[i]);
    for (int i = 0; i < threads; i++) free(scratch[i] - 64);
}

static float *numbers(int64_t count) {
    float *values = (float *)room(count * 4);
    for (int64_t i = 0; i < count; i++) values[i] = (float)(i * 7919 % 2003) * 1e-3f - 1;
    return values;
}

// The upper halves of f32 numbers.
static float *halves(int64_t count) {
    float *values = numbers(count);
    for (int64_t i = 0; i < count; i++) memcpy((char *)values + 2 * i, (char *)values + 4 * i + 2, 2);
    return values;
}

// ---- Contractions ----

typedef enum Form { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, PANELS } Form;

enum { PANEL = 128 };  // columns

// @2[r, PANEL p + c] = @0[r, k] @1[p, k, c]
static const char *panels_text(Arena *arena, int64_t m, int64_t n, int64_t k) {
    typedef long long L;
    L panels = n / PANEL;
    return arena_format(arena,
                        "nest t {\n  outer r=%lld, p=%lld, c=%d\n  inner k=%lld\n  parallel r, p, c\n"
                        "  operand 0: read bf16 [%lld:%lld, %lld:1]\n"
                        "  operand 1: read bf16 [%lld:%lld, %lld:%d, %d:1]\n"
                        "  operand 2: write f32 [%lld:%lld, %lld:1]\n"
                        "  stage 0: sum over k { mul(cast f32(@0[r, k]), cast f32(@1[p, k, c])) }\n"
                        "  stage 1: store @2[r, %d*p + c] { stage 0 }\n}\n",
                        (L)m, panels, PANEL, (L)k, (L)m, (L)k, (L)k, panels, (L)k * PANEL, (L)k, PANEL, PANEL, (L)m,
                        (L)n, (L)n, PANEL);
}

static void contraction(const Bench *bench, Form form, int64_t batch, int64_t m, int64_t n, int64_t k) {
    static const char *const names[] = {"forward", "input gradient", "weight gradient", "panels"};
    typedef long long L;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char *name = arena_format(arena, "%s %lldx %lld x %lld x %lld", names[form], (L)batch, (L)m, (L)n, (L)k);
    if (bench->only && !strstr(name, bench->only)) {
        arena_destroy(arena);
        return;
    }
    bool add = form == WEIGHT_GRADIENT;
    const char *a = form == WEIGHT_GRADIENT ? "k, r" : "r, k", *b = form == INPUT_GRADIENT ? "c, k" : "k, c";
    int64_t a1 = form == WEIGHT_GRADIENT ? k : m, a2 = m * k / a1, b1 = form == INPUT_GRADIENT ? n : k, b2 = n * k / b1;
    bool half_b = bench->bf16 && form >= WEIGHT_GRADIENT;  // else B is weights that are rounded as they are read
    const char *get_a = bench->bf16 ? "cast f32(@0[b, %s])" : "@0[b, %s]";
    const char *get_b = half_b ? "cast f32(@1[b, %s])" : bench->bf16 ? "cast f32(cast bf16(@1[b, %s]))" : "@1[b, %s]";
    a = arena_format(arena, get_a, a);
    b = arena_format(arena, get_b, b);
    const char *text = form == PANELS ? panels_text(arena, m, n, k) : arena_format(
        arena,
        "nest t {\n  outer b=%lld, r=%lld, c=%lld\n  inner k=%lld\n  parallel b, r, c\n"
        "  operand 0: read %s [%lld:%lld, %lld:%lld, %lld:1]\n  operand 1: read %s [%lld:%lld, %lld:%lld, %lld:1]\n"
        "  operand 2: %s f32 [%lld:%lld, %lld:%lld, %lld:1]\n"
        "  stage 0: sum over k { mul(%s, %s) }\n  stage 1: %s @2[b, r, c] { stage 0 }\n}\n",
        (L)batch, (L)m, (L)n, (L)k, bench->bf16 ? "bf16" : "f32", (L)batch, (L)(m * k), (L)a1, (L)a2, (L)a2,
        half_b ? "bf16" : "f32", (L)batch, (L)(n * k), (L)b1, (L)b2, (L)b2,
        add ? "update" : "write", (L)batch, (L)(m * n), (L)m, (L)n, (L)n, a, b, add ? "add" : "store");
    Nest *nest = nest_read(ir, "bench", text);
    Program *program = program_create(ir, "bench");
    if (nest) program_add_nest(program, nest);
    CpuKernel kernel;
    double start = clock_seconds();
    CpuCode *code = compile(bench, ir, program, &kernel);
    double compile_seconds = clock_seconds() - start;
    int64_t counts[] = {batch * m * k, batch * n * k, batch * m * n};
    bool half[] = {bench->bf16, half_b, false};
    Operands operands = {.set_count = 1, .count = 3};
    int weights = form == WEIGHT_GRADIENT ? 2 : 1;
    if (bench->cold)
        operands.set_count = (int)fmin(COLD_SETS, ceil((double)COLD_BYTES / (double)(4 * counts[weights])));
    for (int j = 0; j < 3; j++) operands.moved += operands.bytes[j] = counts[j] * (half[j] ? 2 : 4);
    if (add) operands.moved += operands.bytes[2];
    for (int i = 0; i < operands.set_count; i++)
        for (int j = 0; j < 3; j++)
            operands.sets[i][j] = i && j != weights ? operands.sets[0][j]
                                                    : (char *)(half[j] ? halves : numbers)(counts[j]);
    measure(bench, name, &kernel, &operands, 2.0 * (double)batch * (double)m * (double)n * (double)k, compile_seconds);
    for (int i = 0; i < operands.set_count; i++)
        for (int j = 0; j < 3; j++)
            if (!i || j == weights) free(operands.sets[i][j]);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

// ---- Attention ----

static const Type *type_of(Ir *ir, Element element, int64_t batch, const char *along, int64_t extent, int64_t heads,
                           int64_t key) {
    Dimension dimensions[] = {{names_intern(ir->names, "batch"), batch, NULL}, {names_intern(ir->names, along), extent, NULL},
                              {names_intern(ir->names, "heads"), heads, NULL}, {names_intern(ir->names, "key"), key, NULL}};
    return type_make(ir, element, key ? 4 : 3, dimensions);
}

// `queries` at the end of `time` positions; FLOPs are those of the pairs that causality leaves, twice two
// products forward and five backward.
static void attention(const Bench *bench, bool gradient, int64_t batch, int64_t heads, int64_t queries, int64_t time,
                      int64_t key) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char *name = arena_format(arena, "attention%s %lldx %lld of %lld, key %lld", gradient ? " gradient" : "",
                              (long long)(batch * heads), (long long)queries, (long long)time, (long long)key);
    if (bench->only && !strstr(name, bench->only)) {
        arena_destroy(arena);
        return;
    }
    Option *options = ARENA_ARRAY(arena, Option, 4);
    const char *texts[] = {"over", "key", "along", "time", "past", "past"};
    for (int i = 0; i < 3; i++) options[i] = (Option){.name = texts[2 * i], .text = names_intern(ir->names, texts[2 * i + 1])};
    options[3] = (Option){.name = "causal", .number = 1};
    Dimension along = {names_intern(ir->names, "time"), queries, NULL};
    Element element = bench->bf16 ? ELEMENT_BF16 : ELEMENT_F32;
    const Type *q = type_of(ir, element, batch, "time", queries, heads, key);
    const Type *k = type_of(ir, element, batch, "past", time, heads, key);
    const Type *lse = type_of(ir, ELEMENT_F32, batch, "time", queries, heads, 0);
    const Type *positions = type_make(ir, ELEMENT_I32, 1, &along);
    NamedKernel *named = ARENA_NEW(arena, NamedKernel);
    *named = (NamedKernel){.name = "attention", .options = options, .option_count = 4, .operand_count = 6,
                           .output_start = 4, .types = {q, k, k, positions, q, lse}};
    if (gradient)
        *named = (NamedKernel){.name = "attention_gradient", .options = options, .option_count = 4, .operand_count = 11,
                               .output_start = 8, .types = {q, k, k, positions, q, lse, q, lse, q, k, k}};
    Operands operands = {.set_count = 1, .count = named->operand_count};
    char **places = operands.sets[0];
    for (int i = 0; i < named->operand_count; i++) {
        int64_t stride = 1;
        for (int d = named->types[i]->rank - 1; d >= 0; d--) {
            named->strides[i][d] = stride;
            stride *= named->types[i]->dimensions[d].extent;
        }
        bool half = named->types[i]->element == ELEMENT_BF16;
        places[i] = (char *)(half ? halves(stride) : numbers(stride));
        operands.moved += operands.bytes[i] = element_bytes(named->types[i]->element) * stride;
    }
    for (int64_t i = 0; i < queries; i++) ((int32_t *)places[3])[i] = (int32_t)(time - queries + i);
    if (gradient)
        for (int64_t i = 0; i < type_count(lse); i++) ((float *)places[5])[i] = 5;
    Program *program = program_create(ir, "bench");
    program_add_named(program, named);
    CpuKernel kernel;
    double start = clock_seconds(), pairs = (double)queries * ((double)time - (double)(queries - 1) / 2);
    CpuCode *code = compile(bench, ir, program, &kernel);
    double compile_seconds = clock_seconds() - start;
    measure(bench, name, &kernel, &operands, 2 * (gradient ? 5 : 2) * (double)(batch * heads) * pairs * (double)key,
            compile_seconds);
    for (int i = 0; i < named->operand_count; i++) free(places[i]);
    cpu_code_destroy(code);
    arena_destroy(arena);
}

static int usage(void) {
    fprintf(stderr, "usage: bench_kernels [--threads N] [--cpu NAME] [--cpu-time] [--bf16 | --panels] [--cold]\n"
                    "                     [--only TEXT | --size [BATCHx]ROWSxCOLUMNSxK]\n"
                    "--size is not of --panels; an operand has at most %d elements\n", ELEMENTS_MAX);
    return 2;
}

// Whether each operand has at most ELEMENTS_MAX elements.
static bool fits(const int64_t size[4]) {
    for (int i = 1; i < 4; i++)
        for (int j = i + 1; j < 4; j++)
            if ((double)size[0] * (double)size[i] * (double)size[j] > ELEMENTS_MAX) return false;
    return true;
}

// Returns false unless `text` is three or four extents, the first of which is else 1.
static bool read_size(const char *text, int64_t size[4]) {
    int count = 0;
    for (char *end; count < 4; text = end + 1) {
        size[count] = strtoll(text, &end, 10);
        if (end == text || size[count++] < 1 || (*end && *end != 'x')) return false;
        if (*end) continue;
        if (count == 3) memmove(size + 1, size, 3 * sizeof *size), size[0] = 1;
        return count >= 3 && fits(size);
    }
    return false;
}

static void contractions(const Bench *bench, const int64_t size[4]) {
    for (Form form = FORWARD; form <= WEIGHT_GRADIENT; form++)
        contraction(bench, form, size[0], size[1], size[2], size[3]);
}

int main(int argc, char **argv) {
    Bench bench = {.options = {.threads = 1}};
    int threads = 1;
    int64_t size[4] = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--cpu") == 0 && i + 1 < argc) bench.options.cpu = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) bench.only = argv[++i];
        else if (strcmp(argv[i], "--size") == 0 && i + 1 < argc && read_size(argv[i + 1], size)) i++;
        else if (strcmp(argv[i], "--cpu-time") == 0) bench.cpu_time = true;
        else if (strcmp(argv[i], "--bf16") == 0) bench.bf16 = true;
        else if (strcmp(argv[i], "--panels") == 0) bench.bf16 = bench.panels = true;
        else if (strcmp(argv[i], "--cold") == 0) bench.cold = true;
        else return usage();
    }
    if (threads < 1 || threads > THREADS_MAX || (bench.panels && size[0])) return usage();
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    bench.pool = thread_pool_create(1);
    start_peak(&bench, ir);
    // The kernel does 24 multiply-adds on vectors of 16 floats or pairs a step, or 96 floats on lesser machines.
    double peak = 0, fastest = 1;
    Element precision = bench.bf16 ? ELEMENT_BF16 : ELEMENT_F32;
    for (int i = 0; i < 5; i++) peak = fmax(peak, cpu_measure_peak(ir, 1, precision, &bench.options));
    for (int i = 0; i < 50; i++) {
        double seconds = peak_seconds_per_step(&bench);
        if (seconds < fastest) fastest = seconds;
    }
    bench.flops_per_step = peak * fastest > 1100 ? 1536 : peak * fastest > 400 ? 768 : 192;
    peak = bench.flops_per_step / fastest;
    thread_pool_destroy(bench.pool);
    bench.pool = thread_pool_create(threads);
    printf("%d threads, peak of one %.1f GFLOP/s\n", threads, peak * 1e-9);
    static const int64_t sizes[][4] = {{1, 512, 512, 512},   {1, 2048, 1536, 512}, {1, 2048, 512, 1536},
                                       {1, 2048, 2048, 2048}, {1, 2048, 256, 256},  {1, 2048, 704, 256},
                                       {1, 256, 704, 2048},  {1, 64, 512, 512},    {32, 64, 64, 64},
                                       {1, 64, 256, 256},    {1, 64, 704, 256},    {1, 64, 256, 704},
                                       {8, 256, 256, 64},    {1, 2048, 64, 64},    {1, 32, 2048, 512},
                                       {1, 24, 2048, 512},   {1, 16, 2048, 512},   {1, 12, 2048, 512},
                                       {1, 8, 2048, 512},    {1, 4, 2048, 512},    {1, 2, 2048, 512},
                                       {1, 1, 2048, 512},    {1, 16, 512, 2048},   {1, 8, 512, 2048},
                                       {1, 4, 512, 2048},    {1, 2, 512, 2048},    {1, 1, 512, 2048},
                                       {1, 16, 768, 768},    {1, 8, 768, 768},     {1, 4, 768, 768},
                                       {1, 2, 768, 768},     {1, 1, 768, 768},     {1, 1, 50257, 768},
                                       {1, 768, 512, 128},  {1, 768, 128, 512},    {1, 768, 128, 128},
                                       {1, 128, 512, 768},  {1, 512, 128, 768},    {1, 128, 128, 768}};
    static const int64_t decoded[][2] = {{512, 512}, {1408, 512}, {512, 1408}, {2048, 2048}, {8192, 512}};
    for (int64_t rows = 1; bench.panels && rows <= 16; rows *= 2)
        for (size_t i = 0; i < sizeof decoded / sizeof *decoded; i++)
            contraction(&bench, PANELS, 1, rows, decoded[i][0], decoded[i][1]);
    if (size[0]) contractions(&bench, size);
    bool listed = !size[0] && !bench.panels, others = listed && !bench.cold;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && listed; i++) contractions(&bench, sizes[i]);
    for (int gradient = 0; gradient < 2 && others; gradient++) {
        attention(&bench, gradient, 8, 4, 256, 256, 64);
        attention(&bench, gradient, 2, 4, 1024, 1024, 64);
        attention(&bench, gradient, 1, 2, 2048, 2048, 64);
        attention(&bench, gradient, 1, 2, 2048, 2048, 128);
        attention(&bench, gradient, 8, 4, 256, 256, 32);
        attention(&bench, gradient, 12, 4, 64, 64, 32);
    }
    if (others) attention(&bench, false, 1, 4, 1, 256, 64);
    thread_pool_destroy(bench.pool);
    arena_destroy(arena);
    return 0;
}
