// cherry bench: tokens a second, share of the machine's peak, compile time, memory, and where the time goes,
// on made-up data.
#include <stdlib.h>

#include "base/median.h"
#include "driver/commands.h"
#include "driver/json.h"
#include "driver/process_memory.h"
#include "driver/sample_inputs.h"
#include "driver/setup.h"
#include "driver/trace.h"

enum { PROFILE_REPEATS = 3 };  // at most
// Steps before the first that is timed. A GPU's first goes launch by launch, its second makes a graph.
enum { WARM_STEPS = 1, DEVICE_WARM_STEPS = 3 };

typedef struct Bench {
    double tokens_per_second, step_seconds, flops_per_step, peak_flops_per_second, share_of_peak,
        compile_seconds;
    int64_t peak_bytes, threads;
    const char *precision;
    Profile profile;
} Bench;

// A GPU is asked for a step while the one before it runs, as in training: this returns when that one is done.
static void one_step(Runner *runner, const Training *training, int64_t step) {
    for (int64_t i = 0; i < training->accumulate; i++) runner_run(runner, ENTRY_ACCUMULATE);
    runner_set_integer(runner, ENTRY_UPDATE, "step", step);
    runner_run(runner, ENTRY_UPDATE);
    if (runner->device && step > 1) runner_scalar(runner, ENTRY_UPDATE, "gradient_norm", 1);
}

// Everything up to the first launch: code compiled, memory reserved, executors bound. `trace` may be NULL.
static Runner *prepare(const Arguments *arguments, Ir *ir, const Module *module, int threads,
                       const Trace *trace) {
    CompileOptions options;
    if (!threads || !setup_options(arguments, ir, &options)) return NULL;
    if (!module->has_training) {
        report_error(ir->diagnostics, NO_PLACE, "E0907", "bench needs a train block");
        return NULL;
    }
    if (trace) options.observer = &trace->observer;
    uint32_t entries = 1u << ENTRY_INITIALIZE | 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE;
    return runner_create(ir, module, entries, &options, threads);
}

static bool measure(const Arguments *arguments, Ir *ir, const Module *module, Trace *trace, Bench *bench) {
    int64_t steps = 10;
    if (!arguments_integer(arguments, ir, "--steps", 1, &steps)) return false;
    int threads = setup_threads(arguments, ir);
    Runner *runner = prepare(arguments, ir, module, threads, trace);
    if (!runner) return false;
    const Training *training = &module->training;
    runner_initialize(runner, training->seed);
    sample_inputs(runner, ENTRY_ACCUMULATE, "loss");
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1.0f / (float)training->accumulate);
    runner_set_float(runner, ENTRY_UPDATE, "rate", (float)training->rate);
    double *seconds = ARENA_ARRAY(ir->arena, double, steps), *peaks = ARENA_ARRAY(ir->arena, double, steps);
    int64_t warm = runner->device ? DEVICE_WARM_STEPS : WARM_STEPS;
    for (int64_t step = 0; step < warm; step++) one_step(runner, training, step + 1);
    for (int64_t step = 0; step < steps; step++) {  // the peak is measured between the steps
        double start = clock_seconds();
        one_step(runner, training, warm + step + 1);
        seconds[step] = clock_seconds() - start;
        peaks[step] = runner->device ? runner->machine.flops_per_second
                                     : cpu_measure_peak(ir, threads, training->precision, &runner->cpu);
    }
    int64_t peak_bytes = runner_peak_bytes(runner);  // before what measuring takes
    int repeats = steps < PROFILE_REPEATS ? (int)steps : PROFILE_REPEATS;
    Profile profile = profile_measure(runner, repeats, true, training->accumulate, true);
    double flops = cost_model_flops(module_find_graph(module, "loss")) * (double)training->accumulate;
    double step_seconds = median(seconds, (size_t)steps), peak = median(peaks, (size_t)steps);
    *bench = (Bench){
        .tokens_per_second = (double)(training->batch * training->time * training->accumulate) / step_seconds,
        .step_seconds = step_seconds,
        .flops_per_step = flops,
        .peak_flops_per_second = peak,
        .share_of_peak = peak > 0 ? flops / step_seconds / peak : 0,
        .compile_seconds = runner->compile_seconds,
        .peak_bytes = peak_bytes,
        .threads = threads,
        .precision = element_name(training->precision),
        .profile = profile,
    };
    const char *path = arguments_text(arguments, "--trace", NULL);
    bool ok = runner_works(runner) && (!path || trace_write(trace, runner, &profile, path));
    runner_destroy(runner);
    return ok;
}

static cJSON *row_json(Arena *arena, const ProfileRow *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "kernel", row->kernel->name);
    cJSON_AddStringToObject(json, "line", profile_row_name(arena, &(ProfileRow){.place = row->place}));
    cJSON_AddNumberToObject(json, "launches", (double)row->launches);
    cJSON_AddNumberToObject(json, "seconds", row->measured);
    cJSON_AddNumberToObject(json, "predicted_seconds", row->predicted);
    cJSON_AddNumberToObject(json, "flops", row->flops);
    cJSON_AddNumberToObject(json, "bytes", row->bytes);
    cJSON_AddNumberToObject(json, "floor_seconds", row->floor);
    cJSON_AddNumberToObject(json, "share_of_floor", row->measured > 0 ? row->floor / row->measured : 0);
    return json;
}

static void add_profile(Arena *arena, cJSON *json, const Profile *profile) {
    cJSON_AddNumberToObject(json, "peak_bytes_per_second", profile->machine.bytes_per_second);
    cJSON_AddNumberToObject(json, "kernel_seconds", profile->sum.measured);
    cJSON_AddNumberToObject(json, "predicted_seconds", profile->sum.predicted);
    cJSON_AddNumberToObject(json, "floor_seconds", profile->sum.floor);
    cJSON_AddNumberToObject(json, "bytes_moved", profile->sum.bytes);
    cJSON_AddNumberToObject(json, "bytes_least", profile->least_bytes);
    cJSON *kernels = cJSON_AddArrayToObject(json, "kernels");
    for (size_t i = 0; i < profile->rows.count; i++)
        cJSON_AddItemToArray(kernels, row_json(arena, &profile->rows.items[i]));
}

static void print_json(Arena *arena, const Bench *bench) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "tokens_per_second", bench->tokens_per_second);
    cJSON_AddNumberToObject(json, "step_seconds", bench->step_seconds);
    cJSON_AddNumberToObject(json, "flops_per_step", bench->flops_per_step);
    cJSON_AddNumberToObject(json, "peak_flops_per_second", bench->peak_flops_per_second);
    cJSON_AddNumberToObject(json, "share_of_peak", bench->share_of_peak);
    cJSON_AddNumberToObject(json, "compile_seconds", bench->compile_seconds);
    cJSON_AddNumberToObject(json, "peak_bytes", (double)bench->peak_bytes);
    cJSON_AddNumberToObject(json, "threads", (double)bench->threads);
    cJSON_AddStringToObject(json, "precision", bench->precision);
    add_profile(arena, json, &bench->profile);
    json_print(json);
}

static void print_text(Arena *arena, const Bench *bench) {
    printf("step            %.4f s, %.0f tokens/s\n", bench->step_seconds, bench->tokens_per_second);
    printf("work            %.2f GFLOP a step, %.1f GFLOP/s, %.1f %% of the peak of %.1f GFLOP/s\n",
           bench->flops_per_step / 1e9, bench->flops_per_step / bench->step_seconds / 1e9,
           100 * bench->share_of_peak, bench->peak_flops_per_second / 1e9);
    printf("compile         %.3f s\n", bench->compile_seconds);
    printf("peak memory     %.2f GiB\n", (double)bench->peak_bytes / (1 << 30));
    if (bench->profile.machine.name) printf("device          %s, %s\n", bench->profile.machine.name, bench->precision);
    else printf("threads         %lld, %s\n", (long long)bench->threads, bench->precision);
    profile_print(arena, &bench->profile);
}

// The command is timed from its first line, so `seconds` is what stands before the first launch.
static int run_compile_only(const Arguments *arguments, Ir *ir) {
    double start = clock_seconds();
    Module *module = setup_load(arguments, ir, false);
    Runner *runner = module ? prepare(arguments, ir, module, setup_threads(arguments, ir), NULL) : NULL;
    if (!runner) return EXIT_USER_ERROR;
    const Compilation *compilation = runner->compilation;
    double seconds = clock_seconds() - start;
    if (arguments_flag(arguments, "--json")) {
        cJSON *json = cJSON_CreateObject();
        cJSON_AddNumberToObject(json, "seconds", seconds);
        cJSON_AddNumberToObject(json, "pass_seconds", compilation->pass_seconds);
        cJSON_AddNumberToObject(json, "code_seconds", compilation->code_seconds);
        cJSON_AddNumberToObject(json, "kernels", (double)compilation->kernels);
        cJSON_AddNumberToObject(json, "cached_kernels", (double)compilation->cached);
        cJSON_AddNumberToObject(json, "peak_bytes", (double)runner_peak_bytes(runner));
        json_print(json);
    } else {
        printf(
            "before the first launch %.3f s: passes %.3f s, code %.3f s for %zu kernels (%zu from the "
            "cache)\n",
            seconds, compilation->pass_seconds, compilation->code_seconds, compilation->kernels, compilation->cached);
    }
    runner_destroy(runner);
    return EXIT_OK;
}

static int run(const Arguments *arguments, Ir *ir) {
    static const char *const of_steps[] = {"--steps", "--trace"};
    for (size_t i = 0; i < sizeof of_steps / sizeof *of_steps; i++)
        if (!arguments_apart(arguments, ir, "--compile-only", of_steps[i], "no step is run")) return EXIT_USER_ERROR;
    if (arguments_flag(arguments, "--compile-only")) return run_compile_only(arguments, ir);
    Trace *trace = trace_create(ir->arena, clock_seconds());
    Module *module = setup_load(arguments, ir, false);
    trace_stage(trace, "read, check, build");
    Bench bench = {0};
    if (!module || !measure(arguments, ir, module, trace, &bench)) return EXIT_USER_ERROR;
    if (arguments_flag(arguments, "--json"))
        print_json(ir->arena, &bench);
    else
        print_text(ir->arena, &bench);
    return EXIT_OK;
}

static const CommandOption options[] = {
    {"--steps", "N", "steps to time (default 10)"},
    {"--json", NULL, "one JSON object"},
    {"--trace", "FILE", "also a time line of compilation and one step, for Perfetto"},
    {"--compile-only", NULL, "stop before the first launch: compile time only"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_bench = {"bench", "FILE",
                               "tokens a second, share of peak, compile time, memory, what each kernel costs",
                               options, run};
