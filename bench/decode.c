// One step of cached decoding, by number of sequences: tokens a second, and the least bytes that it moves (weights, and
// caches at capacity) beside what as many threads read of as many bytes, in order, in turns with it. Medians.
// With --draft a step reads what the model's heads expect as well, and computes what they say: tokens a second are
// those of steps in which nothing drafted stands.
//
//   bench_decode FILE [--set NAME=VALUE ...] [--sequences N] [--position N] [--threads N] [--kernels] [--draft]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/median.h"
#include "bench/reading.h"
#include "driver/arguments.h"
#include "driver/cost.h"
#include "driver/runner.h"
#include "driver/setup.h"
#include "runtime/memory.h"

enum { STEPS = 80, RUN = 10 /* of a turn */, SEQUENCES_MAX = 16 };

typedef struct Bench {
    Ir *ir;
    const Module *module;
    Runner *runner;
    int threads;
    Entry entry;
    int64_t rows, position;
    bool kernels;
} Bench;

// ---- Reading ----

typedef struct Reader {
    ThreadPool *pool;
    const char *data;
    int64_t bytes;
    uint64_t sums[64];
} Reader;

static void read_share(void *context, int thread) {
    Reader *reader = context;
    reader->sums[thread % 64] += reading_share(reader->data, reader->bytes, thread, thread_pool_count(reader->pool));
}

static double read_seconds(Reader *reader) {
    double start = clock_seconds();
    thread_pool_run(reader->pool, read_share, reader);
    return clock_seconds() - start;
}

// ---- Steps ----

static double step_seconds(const Bench *bench) {
    double start = clock_seconds();
    runner_set_integer(bench->runner, bench->entry, "position", bench->position);
    runner_set_integer(bench->runner, bench->entry, "length", bench->position + bench->rows);
    runner_run(bench->runner, bench->entry);
    return clock_seconds() - start;
}

static void measure(const Bench *bench, int64_t sequences) {
    const Program *program = bench->runner->compilation->programs[bench->entry];
    double steps[STEPS], reads[STEPS], bytes = cost_program_least_bytes(program);
    MemoryBlock block;
    if (!memory_allocate(bench->ir->diagnostics, (int64_t)bytes, "what is read", &block)) return;
    Reader reader = {.pool = bench->runner->pool, .data = block.data, .bytes = (int64_t)bytes};
    memset(block.data, 1, (size_t)bytes);
    for (int i = 0; i < STEPS; i += RUN) {  // in turns; the first of a turn finds the caches full of the other's
        read_seconds(&reader);
        for (int k = 0; k < RUN; k++) reads[i + k] = read_seconds(&reader);
        step_seconds(bench);
        for (int k = 0; k < RUN; k++) steps[i + k] = step_seconds(bench);
    }
    memory_release(&block);
    double seconds = median(steps, STEPS), read = median(reads, STEPS);
    printf("%9lld %10.3f ms %9.0f %10.1f MB %8.1f GB/s %8.1f GB/s %6.1f %%\n", (long long)sequences, 1e3 * seconds,
           (double)sequences / seconds, bytes / 1e6, bytes / seconds / 1e9, bytes / read / 1e9, 100 * read / seconds);
}

// Seconds by kernel, a barrier behind each launch.
static void measure_kernels(const Bench *bench) {
    const Program *program = bench->runner->compilation->programs[bench->entry];
    size_t launches = program->launches.count, kernels = program->kernels.count;
    double *seconds = ARENA_ARRAY(bench->ir->arena, double, launches + 1);
    step_seconds(bench);
    for (int i = 0; i < STEPS; i++) executor_run_timed(bench->runner->executors[bench->entry], seconds);
    for (size_t kernel = 0; kernel < kernels; kernel++) {
        double sum = 0, bytes = 0;
        int count = 0;
        for (size_t i = 0; i < launches; i++) {
            if (program->launches.items[i].kernel != kernel) continue;
            sum += seconds[i] / STEPS;
            bytes += cost_bytes(&program->kernels.items[kernel]);
            count++;
        }
        if (count)
            printf("%5d of %-32s %10.1f us %8.2f MB %8.1f GB/s\n", count, program->kernels.items[kernel].name,
                   1e6 * sum, bytes / 1e6, bytes / sum / 1e9);
    }
}

static bool bench_sequences(Bench *bench, int64_t sequences, CompileOptions options) {
    options.sequences = sequences;
    uint32_t entries = 1u << ENTRY_INITIALIZE | 1u << bench->entry | 1u << ENTRY_ROUND;
    bench->runner = runner_create(bench->ir, bench->module, entries, &options, bench->threads);
    if (!bench->runner) return false;
    runner_initialize(bench->runner, 1);
    if (bench->runner->executors[ENTRY_ROUND]) runner_run(bench->runner, ENTRY_ROUND);
    if (bench->kernels) measure_kernels(bench);
    measure(bench, sequences);
    runner_destroy(bench->runner);
    return true;
}

// How many tokens of a sequence a step reads; 0: the model has no heads to draft.
static int64_t step_rows(const Bench *bench) {
    if (bench->entry == ENTRY_DECODE) return 1;
    const Graph *draft = module_find_graph(bench->module, "draft");
    return draft ? (int64_t)draft->outputs.count : 0;
}

static int run(const Arguments *arguments, Ir *ir) {
    int64_t sequences = 0;
    Bench bench = {.ir = ir, .entry = ENTRY_DECODE, .position = 128, .kernels = arguments_flag(arguments, "--kernels")};
    CompileOptions options;
    bench.module = setup_load(arguments, ir, false);
    if (arguments_flag(arguments, "--draft")) bench.entry = ENTRY_DRAFT;
    bench.rows = bench.module ? step_rows(&bench) : 0;
    if (bench.module && !bench.rows)
        report_error(ir->diagnostics, NO_PLACE, "E0902", "model %s has no heads to draft", bench.module->name);
    bench.threads = setup_threads(arguments, ir);
    if (!bench.rows || !bench.threads || !setup_options(arguments, ir, &options) ||
        !arguments_integer(arguments, ir, "--sequences", 1, &sequences) ||
        !arguments_integer(arguments, ir, "--position", 0, &bench.position))
        return EXIT_USER_ERROR;
    options.context = bench.position + 128;
    printf("sequences        a step  tokens/s         moves                  in order     share\n");
    for (int64_t count = sequences ? sequences : 1; count <= (sequences ? sequences : SEQUENCES_MAX); count *= 2)
        if (!bench_sequences(&bench, count, options)) return EXIT_USER_ERROR;
    return EXIT_OK;
}

static const CommandOption options[] = {
    {"--sequences", "N", "that many alone (default: 1, 2, 4, 8, 16)"},
    {"--position", "N", "tokens that the caches hold (default 128)"},
    {"--draft", NULL, "a step of drafting: what the heads expect is read too, and what they say computed"},
    {"--kernels", NULL, "also seconds by kernel, a barrier behind each launch"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

static const Command command = {"bench_decode", "FILE", "a step of cached decoding, by number of sequences", options,
                                run};

int main(int count, char **texts) {
    Ir *ir = ir_create(arena_create());
    const Arguments *arguments = arguments_parse(&command, count - 1, texts + 1, ir);
    int status = EXIT_USAGE;
    if (arguments && arguments_flag(arguments, "--help")) command_print_help(&command);
    else if (arguments) status = command.run(arguments, ir);
    diagnostics_print(ir->diagnostics, 0, stderr);
    arena_destroy(ir->arena);
    return status;
}
