#include "driver/profile.h"

#include <stdlib.h>
#include <string.h>

#include "base/median.h"
#include "driver/expected.h"
#include "driver/predict.h"

static const Entry step_entries[] = {ENTRY_ACCUMULATE, ENTRY_UPDATE};
enum { STEP_ENTRIES = 2 };

static bool same_line(Place a, Place b) {
    return a.line == b.line && (a.file == b.file || (a.file && b.file && strcmp(a.file, b.file) == 0));
}

static ProfileRow *find_row(Arena *arena, Profile *profile, const Kernel *kernel, Place place) {
    for (size_t i = 0; i < profile->rows.count; i++) {
        ProfileRow *row = &profile->rows.items[i];
        if (row->kernel == kernel && same_line(row->place, place)) return row;
    }
    vector_push(arena, &profile->rows, ((ProfileRow){.kernel = kernel, .place = place}));
    return &profile->rows.items[profile->rows.count - 1];
}

static void add_cost(ProfileRow *row, const ProfileRow *more) {
    row->flops += more->flops;
    row->bytes += more->bytes;
    row->floor += more->floor;
    row->predicted += more->predicted;
    row->measured += more->measured;
    row->launches += more->launches;
}

// `times`: how often the program runs in a step; `seconds` are those of one run, by launch.
static void add_program(Arena *arena, Profile *profile, const Program *program, const double *seconds,
                        int64_t times, bool by_kernel) {
    double *predicted = ARENA_ARRAY(arena, double, program->launches.count + 1);
    predict_launches(program, &profile->machine, predicted);
    const Program *costs = expected_program(program);
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        const Kernel *costing = &costs->kernels.items[costs->launches.items[i].kernel];
        double n = (double)times;
        ProfileRow cost = {.flops = n * cost_flops(costing),
                           .bytes = n * cost_bytes(costing),
                           .floor = n * predict_floor(costing, &profile->machine),
                           .predicted = n * predicted[i],
                           .measured = n * seconds[i],
                           .launches = times};
        add_cost(find_row(arena, profile, by_kernel ? kernel : NULL, launch->place), &cost);
        add_cost(&profile->sum, &cost);
    }
    profile->least_bytes += (double)times * cost_program_least_bytes(costs);
}

static int slower_first(const void *a, const void *b) {
    double x = ((const ProfileRow *)a)->measured, y = ((const ProfileRow *)b)->measured;
    return (x < y) - (x > y);
}

// Seconds by launch: medians over the repeats, and those of the last one for the time line.
static double *measure_program(Runner *runner, Profile *profile, Entry entry, double **samples, int repeats) {
    Arena *arena = runner->ir->arena;
    size_t count = runner->compilation->programs[entry]->launches.count;
    double *middle = ARENA_ARRAY(arena, double, count + 1), *sorted = ARENA_ARRAY(arena, double, repeats);
    for (size_t i = 0; i < count; i++) {
        for (int repeat = 0; repeat < repeats; repeat++) sorted[repeat] = samples[repeat][i];
        middle[i] = median(sorted, (size_t)repeats);
    }
    profile->seconds[entry] = samples[repeats - 1];
    return middle;
}

Profile profile_measure(Runner *runner, int repeats, bool warm, int64_t accumulate,
                        bool by_kernel) {
    Arena *arena = runner->ir->arena;
    Profile profile = {.machine = runner_machine(runner)};
    double **samples[STEP_ENTRIES];
    for (int i = 0; i < STEP_ENTRIES; i++) samples[i] = ARENA_ARRAY(arena, double *, repeats);
    for (int repeat = warm ? 0 : -1; repeat < repeats; repeat++)
        for (int i = 0; i < STEP_ENTRIES; i++) {
            Entry entry = step_entries[i];
            size_t count = runner->compilation->programs[entry]->launches.count;
            double *seconds = ARENA_ARRAY(arena, double, count + 1);
            if (repeat >= 0) samples[i][repeat] = seconds;
            profile.began[entry] = clock_seconds();
            executor_run_timed(runner->executors[entry], seconds);
        }
    for (int i = 0; i < STEP_ENTRIES; i++) {
        const double *seconds = measure_program(runner, &profile, step_entries[i], samples[i], repeats);
        add_program(arena, &profile, runner->compilation->programs[step_entries[i]], seconds,
                    step_entries[i] == ENTRY_ACCUMULATE ? accumulate : 1, by_kernel);
    }
    qsort(profile.rows.items, profile.rows.count, sizeof(ProfileRow), slower_first);
    return profile;
}

const char *profile_row_name(Arena *arena, const ProfileRow *row) {
    const char *owner = row->kernel ? row->kernel->name : row->place.file ? row->place.file : "(none)";
    return arena_format(arena, "%s:%u", owner, row->place.line);
}

static void print_row(const char *name, const ProfileRow *row, double all) {
    size_t length = strlen(name);
    printf("%-32s %9.3f %9.2f %9.3f ms %9.3f ms %9.3f ms %5.1f %% %6.1f %%\n",
           length > 32 ? name + length - 32 : name, row->flops / 1e9, row->bytes / 1e6, row->floor * 1e3,
           row->predicted * 1e3, row->measured * 1e3, 100 * row->measured / all,
           row->measured > 0 ? 100 * row->floor / row->measured : 0);
}

void profile_print(Arena *arena, const Profile *profile) {
    const Machine *machine = &profile->machine;
    if (machine->name) printf("%s: ", machine->name);
    else printf("%d threads: ", machine->threads);
    printf("%.1f GFLOP/s of multiply-adds, %.1f GB/s of memory", machine->flops_per_second / 1e9,
           machine->bytes_per_second / 1e9);
    if (machine->far_bytes_per_second > 0) printf(", %.1f of it read", machine->far_bytes_per_second / 1e9);
    printf("\n");
    printf("%-32s %9s %9s %12s %12s %12s %7s %8s\n", "line", "GFLOP", "MB", "floor", "predicted", "measured",
           "share", "of floor");
    for (size_t i = 0; i < profile->rows.count; i++) {
        const ProfileRow *row = &profile->rows.items[i];
        const char *name = profile_row_name(arena, row);
        if (row->kernel) name = arena_format(arena, "%lldx %s", (long long)row->launches, name);
        print_row(name, row, profile->sum.measured);
    }
    print_row("sum", &profile->sum, profile->sum.measured);
    printf("moves %.1f MB a step, %.2f times the %.1f MB of every buffer written once and read once\n",
           profile->sum.bytes / 1e6, profile->sum.bytes / profile->least_bytes, profile->least_bytes / 1e6);
}
