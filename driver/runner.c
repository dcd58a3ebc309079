#include "driver/runner.h"

#include <math.h>
#include <string.h>

#include "driver/process_memory.h"
#include "runtime/memory.h"

static bool bind(Runner *runner) {
    Program *programs[ENTRY_COUNT];
    size_t count = 0;
    for (int entry = 0; entry < ENTRY_COUNT; entry++)
        if (runner->compilation->programs[entry]) programs[count++] = runner->compilation->programs[entry];
    runner->state = state_create_on(runner->device, runner->ir->diagnostics, programs, count);
    if (!runner->state) return false;
    for (int entry = 0; entry < ENTRY_COUNT; entry++) {
        if (!runner->compilation->programs[entry]) continue;
        runner->executors[entry] = executor_create(
            runner->ir->diagnostics, runner->compilation->programs[entry], runner->state, runner->pool);
        if (!runner->executors[entry]) return false;
    }
    return true;
}

// What the parameters alone take, with gradients and moments where they are trained: told before a large
// model is compiled for nothing.
static bool check_memory(Ir *ir, const Module *module, uint32_t entries) {
    double copies = 1, bytes = 0;
    if (entries & (1u << ENTRY_UPDATE)) copies = module->training.optimizer == OPTIMIZER_ADAMW ? 4 : 2;
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Type *type = module->parameters.items[i].type;
        double size = (double)type_count(type) * element_bytes(type->element);
        bytes += module->parameters.items[i].file ? size : copies * size;
    }
    return memory_check(ir->diagnostics, bytes < 0x1p62 ? (int64_t)bytes : INT64_MAX, "this model");
}

static bool has_product(void *device, const CudaProduct *product, int64_t alignment) {
    return device_has_product(device, product, alignment);
}

static bool open_device(Runner *runner, CompileOptions *options) {
    runner->device = device_open(runner->ir->diagnostics);
    if (!runner->device) return false;
    if (options->architecture && !device_runs(runner->device, options->architecture))
        return report_error(runner->ir->diagnostics, NO_PLACE, "E0903", "code for %s does not run on %s, which is %s",
                            options->architecture, device_name(runner->device), device_architecture(runner->device));
    if (!options->architecture) options->architecture = device_architecture(runner->device);
    options->driver = device_driver(runner->device);
    options->has_product = has_product;
    options->library = runner->device;
    const char *name = device_name(runner->device);  // bench prints it behind the end of the device
    runner->machine = (Machine){.name = arena_copy(runner->ir->arena, name, strlen(name)),
                                .threads = 1,
                                .flops_per_second = device_measure_flops(runner->device),
                                .bytes_per_second = device_measure_bandwidth(runner->device)};
    device_set_careful(runner->device, options->verify);
    return device_works(runner->device);
}

Runner *runner_create(Ir *ir, const Module *module, uint32_t entries, const CompileOptions *options,
                      int threads) {
    if (!options->cuda && !check_memory(ir, module, entries)) return NULL;
    double start = clock_seconds();
    Runner *runner = ARENA_NEW(ir->arena, Runner);
    *runner = (Runner){.ir = ir, .module = module, .cpu = options->cpu};
    CompileOptions chosen = *options;
    if (options->cuda && entries & 1u << ENTRY_UPDATE) entries |= 1u << ENTRY_ROUND;
    if (options->cuda && !open_device(runner, &chosen)) {
        runner_destroy(runner);
        return NULL;
    }
    runner->compilation = compile_programs(ir, module, entries, &chosen);
    if (!runner->compilation || !compile_code(runner->compilation, &chosen)) {
        runner_destroy(runner);
        return NULL;
    }
    runner->compile_seconds = clock_seconds() - start;
    runner->pool = thread_pool_create(threads);
    if (!bind(runner)) {
        runner_destroy(runner);
        return NULL;
    }
    return runner;
}

void runner_destroy(Runner *runner) {
    if (!runner) return;
    for (int entry = 0; entry < ENTRY_COUNT; entry++)
        if (runner->executors[entry]) executor_destroy(runner->executors[entry]);
    if (runner->state) state_destroy(runner->state);
    device_close(runner->device);
    if (runner->pool) thread_pool_destroy(runner->pool);
    compilation_destroy(runner->compilation);
}

void runner_initialize(Runner *runner, int64_t seed) {
    runner_set_integer(runner, ENTRY_INITIALIZE, "seed", seed);
    runner_run(runner, ENTRY_INITIALIZE);
    runner_round(runner);
}

void runner_round(Runner *runner) {
    if (runner->executors[ENTRY_ROUND]) runner_run(runner, ENTRY_ROUND);
}

void runner_set_float(Runner *runner, Entry entry, const char *name, float value) {
    void *input = executor_input(runner->executors[entry], name);
    if (input) memcpy(input, &value, sizeof value);
}

void runner_set_integer(Runner *runner, Entry entry, const char *name, int64_t value) {
    void *input = executor_input(runner->executors[entry], name);
    if (input) memcpy(input, &value, sizeof value);
}

float runner_output(const Runner *runner, Entry entry, const char *name) {
    const void *output = executor_output(runner->executors[entry], name);
    float value = NAN;
    if (output) memcpy(&value, output, sizeof value);
    return value;
}

float runner_scalar(const Runner *runner, Entry entry, const char *name, int runs_ago) {
    const void *output = executor_scalar(runner->executors[entry], name, runs_ago);
    float value = NAN;
    if (output) memcpy(&value, output, sizeof value);
    return value;
}

void runner_run(Runner *runner, Entry entry) { executor_run(runner->executors[entry]); }

bool runner_works(const Runner *runner) { return !runner->device || device_works(runner->device); }

Machine runner_machine(const Runner *runner) {
    if (runner->device) return runner->machine;
    return machine_measure(runner->ir, thread_pool_count(runner->pool), module_precision(runner->module), &runner->cpu);
}

int64_t runner_peak_bytes(const Runner *runner) {
    return runner->device ? device_peak_bytes(runner->device) : process_peak_bytes();
}
