#include "driver/cost.h"

#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "codegen/cpu.h"

// What a launch takes: `compute` times its FLOPs at the peak of multiply-adds, `memory` times its bytes at the rate
// of copying, and `launch` seconds. Fitted to the kernels of ten models: docs/measurements.md.
typedef struct Rates {
    double compute, memory, launch;
} Rates;
static const Rates contraction_rates = {1.49, 1.35, 11e-6}, attention_rates = {1.70, 1.31, 44e-6},
                   gradient_rates = {2.35, 1.27, 86e-6}, other_rates = {0, 1.10, 1e-6};

static double option_number(const NamedKernel *named, const char *name, double otherwise) {
    for (uint32_t i = 0; i < named->option_count; i++)
        if (strcmp(named->options[i].name, name) == 0) return named->options[i].number;
    return otherwise;
}

// q is operand 0, k operand 1; k lacks `time` and has `past`, so the product of both pairs them up.
static double attention_flops(const NamedKernel *named) {
    const Type *q = named->types[0], *k = named->types[1];
    double pairs = (double)type_count(q);
    for (int i = 0; i < k->rank; i++)
        if (type_find(q, k->dimensions[i].name) < 0) pairs *= (double)k->dimensions[i].extent;
    double causal = option_number(named, "causal", 0) != 0 ? 0.5 : 1;
    return 4 * pairs * causal * (strcmp(named->name, "attention_gradient") == 0 ? 2 : 1);
}

double cost_flops(const Kernel *kernel) {
    if (kernel->nest) return nest_flops(kernel->nest);
    return strncmp(kernel->named->name, "attention", 9) == 0 ? attention_flops(kernel->named) : 0;
}

static void operand_bytes(const Kernel *kernel, double *read, double *written) {
    if (kernel->nest) {
        nest_operand_bytes(kernel->nest, read, written);
        return;
    }
    for (int i = 0; i < kernel->named->operand_count; i++) {
        double bytes = (double)type_bytes(kernel->named->types[i]);
        bool writes = i >= kernel->named->output_start;
        read[i] = writes ? 0 : bytes;
        written[i] = writes ? bytes : 0;
    }
}

double cost_bytes(const Kernel *kernel) {
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], bytes = 0;
    int count = kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
    operand_bytes(kernel, read, written);
    for (int i = 0; i < count; i++) bytes += read[i] + written[i];
    return bytes;
}

double cost_program_flops(const Program *program) {
    double flops = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        flops += cost_flops(&program->kernels.items[program->launches.items[i].kernel]);
    return flops;
}

double cost_program_bytes(const Program *program) {
    double bytes = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        bytes += cost_bytes(&program->kernels.items[program->launches.items[i].kernel]);
    return bytes;
}

double cost_program_least_bytes(const Program *program) {
    double *reads = calloc(2 * program->buffers.count + 1, sizeof *reads), least = 0;
    CHECK(reads);
    double *writes = reads + program->buffers.count;
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX];
        operand_bytes(&program->kernels.items[launch->kernel], read, written);
        for (int operand = 0; operand < launch->operand_count; operand++) {
            reads[launch->buffers[operand]] += read[operand];
            writes[launch->buffers[operand]] += written[operand];
        }
    }
    for (size_t i = 0; i < program->buffers.count; i++) {
        double bytes = (double)program->buffers.items[i].bytes;
        least += (reads[i] < bytes ? reads[i] : bytes) + (writes[i] < bytes ? writes[i] : bytes);
    }
    free(reads);
    return least;
}

static bool state_seen(const Program *const *programs, size_t count, const Buffer *buffer) {
    for (size_t i = 0; i < count; i++)
        if (program_find_buffer(programs[i], buffer->name, buffer->role) != UINT32_MAX) return true;
    return false;
}

int64_t cost_state_bytes(const Program *const *programs, size_t count) {
    int64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < programs[i]->buffers.count; j++) {
            const Buffer *buffer = &programs[i]->buffers.items[j];
            if (buffer->kind == BUFFER_STATE && !state_seen(programs, i, buffer)) bytes += buffer->bytes;
        }
    return bytes;
}

typedef struct Copy {
    char *from, *to;
    int64_t bytes;
    int threads;
} Copy;

static void copy_share(void *context, int thread) {
    Copy *copy = context;
    int64_t begin, end;
    thread_share(copy->bytes, thread, copy->threads, &begin, &end);
    memcpy(copy->to + begin, copy->from + begin, (size_t)(end - begin));
}

static double measure_bandwidth(int threads) {
    Copy copy = {.bytes = 64 << 20, .threads = threads};
    copy.from = calloc(1, (size_t)copy.bytes);
    copy.to = calloc(1, (size_t)copy.bytes);
    double best = 0;
    if (copy.from && copy.to) {
        ThreadPool *pool = thread_pool_create(threads);
        for (int repeat = 0; repeat < 8; repeat++) {
            double start = clock_seconds();
            thread_pool_run(pool, copy_share, &copy);
            double rate = 2.0 * (double)copy.bytes / (clock_seconds() - start);
            if (rate > best) best = rate;
        }
        thread_pool_destroy(pool);
    }
    free(copy.from);
    free(copy.to);
    return best;
}

Machine machine_measure(Ir *ir, int threads, Element precision, const char *cpu) {
    if (threads <= 0) threads = thread_available_processors();
    CpuOptions options = {.cpu = cpu, .threads = 1};
    return (Machine){.threads = threads,
                     .flops_per_second = cpu_measure_peak(ir, threads, precision, &options),
                     .bytes_per_second = measure_bandwidth(threads)};
}

static const Rates *rates_of(const Kernel *kernel) {
    if (kernel->nest) return nest_flops(kernel->nest) > 0 ? &contraction_rates : &other_rates;
    if (strcmp(kernel->named->name, "attention_gradient") == 0) return &gradient_rates;
    return strcmp(kernel->named->name, "attention") == 0 ? &attention_rates : &other_rates;
}

double cost_predict_launch(const Kernel *kernel, const Machine *machine) {
    const Rates *rates = rates_of(kernel);
    if (machine->name || machine->flops_per_second <= 0 || machine->bytes_per_second <= 0) return 0;  // not known
    return rates->compute * cost_flops(kernel) / machine->flops_per_second +
           rates->memory * cost_bytes(kernel) / machine->bytes_per_second + rates->launch;
}

double cost_predict_seconds(const Program *program, const Machine *machine) {
    double seconds = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        seconds += cost_predict_launch(&program->kernels.items[program->launches.items[i].kernel], machine);
    return seconds;
}
