// cherry explain: what each source line costs: FLOPs, bytes, predicted and measured time.
#include <stdlib.h>
#include <string.h>

#include "base/vector.h"
#include "driver/commands.h"
#include "driver/cost.h"
#include "driver/sample_inputs.h"
#include "driver/setup.h"

typedef struct Line {
    Place place;
    const Kernel *kernel;  // with --kernels: one line for each kernel instead of each source line
    double flops, bytes, floor, predicted, measured;
    int launches;
} Line;

typedef VECTOR(Line) Lines;

static bool same_line(Place a, Place b) {
    return a.line == b.line && (a.file == b.file || (a.file && b.file && strcmp(a.file, b.file) == 0));
}

static Line *find_line(Arena *arena, Lines *lines, Place place, const Kernel *kernel) {
    for (size_t i = 0; i < lines->count; i++) {
        const Line *line = &lines->items[i];
        if (kernel ? line->kernel == kernel : same_line(line->place, place)) return &lines->items[i];
    }
    vector_push(arena, lines, ((Line){.place = place, .kernel = kernel}));
    return &lines->items[lines->count - 1];
}

static void add_program(Arena *arena, Lines *lines, const Program *program, const Machine *machine,
                        const double *seconds, int repeats, bool by_kernel) {
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        Line *line = find_line(arena, lines, launch->place, by_kernel ? kernel : NULL);
        double compute = cost_flops(kernel) / machine->flops_per_second;
        double memory = cost_bytes(kernel) / machine->bytes_per_second;
        line->flops += cost_flops(kernel);
        line->bytes += cost_bytes(kernel);
        line->floor += compute > memory ? compute : memory;
        line->predicted += cost_predict_launch(kernel, machine);
        line->measured += seconds[i] / repeats;
        line->launches++;
    }
}

static int slower_first(const void *a, const void *b) {
    double x = ((const Line *)a)->measured, y = ((const Line *)b)->measured;
    return (x < y) - (x > y);
}

static void print_lines(const Lines *lines) {
    Line total = {0};
    printf("%-32s %9s %9s %11s %11s %7s %8s\n", "line", "GFLOP", "MB", "predicted", "measured", "share",
           "of floor");
    for (size_t i = 0; i < lines->count; i++) total.measured += lines->items[i].measured;
    for (size_t i = 0; i < lines->count; i++) {
        const Line *line = &lines->items[i];
        char name[256];
        if (line->kernel)
            snprintf(name, sizeof name, "%dx %s:%u", line->launches, line->kernel->name, line->place.line);
        else
            snprintf(name, sizeof name, "%s:%u", line->place.file ? line->place.file : "(none)",
                 line->place.line);
        size_t length = strlen(name);
        printf("%-32s %9.3f %9.2f %9.3f ms %9.3f ms %5.1f %% %6.1f %%\n",
               length > 32 ? name + length - 32 : name, line->flops / 1e9, line->bytes / 1e6,
               line->predicted * 1e3, line->measured * 1e3, 100 * line->measured / total.measured,
               line->measured > 0 ? 100 * line->floor / line->measured : 0);
        total.flops += line->flops;
        total.bytes += line->bytes;
        total.predicted += line->predicted;
        total.floor += line->floor;
    }
    printf("%-32s %9.3f %9.2f %9.3f ms %9.3f ms %5.1f %% %6.1f %%\n", "sum", total.flops / 1e9,
           total.bytes / 1e6, total.predicted * 1e3, total.measured * 1e3, 100.0,
           100 * total.floor / total.measured);
}

static bool explain(const Arguments *arguments, Ir *ir, const Module *module) {
    enum { REPEATS = 5 };
    CompileOptions options;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &options)) return false;
    if (!module->has_training)
        return report_error(ir->diagnostics, NO_PLACE, "E0907", "explain needs a train block");
    uint32_t entries = 1u << ENTRY_INITIALIZE | 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE;
    Runner *runner = runner_create(ir, module, entries, &options, threads);
    if (!runner) return false;
    runner_initialize(runner, module->training.seed);
    sample_inputs(runner, ENTRY_ACCUMULATE, "loss");
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    runner_set_integer(runner, ENTRY_UPDATE, "step", 1);
    Machine machine = machine_measure(ir, threads, module_precision(module), options.cpu.cpu);
    Lines lines = {0};
    static const Entry both[] = {ENTRY_ACCUMULATE, ENTRY_UPDATE};
    double *seconds[2];
    for (int repeat = -1; repeat < REPEATS; repeat++)  // the first round warms up
        for (int i = 0; i < 2; i++) {
            size_t count = runner->compilation->programs[both[i]]->launches.count;
            if (repeat <= 0) seconds[i] = ARENA_ARRAY(ir->arena, double, count + 1);
            executor_run_timed(runner->executors[both[i]], seconds[i]);
        }
    for (int i = 0; i < 2; i++)
        add_program(ir->arena, &lines, runner->compilation->programs[both[i]], &machine, seconds[i],
                    REPEATS, arguments_flag(arguments, "--kernels"));
    qsort(lines.items, lines.count, sizeof(Line), slower_first);
    printf("%d threads: %.1f GFLOP/s of multiply-adds in %s, %.1f GB/s of copying\n", threads,
           machine.flops_per_second / 1e9, element_name(module_precision(module)), machine.bytes_per_second / 1e9);
    print_lines(&lines);
    runner_destroy(runner);
    return true;
}

static int run(const Arguments *arguments, Ir *ir) {
    Module *module = setup_load(arguments, ir, false);
    return module && explain(arguments, ir, module) ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {{"--kernels", NULL, "a line for each kernel: launches, name, source line"},
                                        MODEL_OPTIONS, COMPILE_OPTIONS, {NULL, NULL, NULL}};

const Command command_explain = {"explain", "FILE", "what each source line of a training step costs", options,
                                 run};
