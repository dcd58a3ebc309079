#include "driver/cost.h"

#include <stdlib.h>
#include <string.h>

#include "codegen/cpu.h"

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
    return 4 * pairs * causal * (strncmp(named->name, "attention_gradient", 18) == 0 ? 2 : 1);
}

double cost_flops(const Kernel *kernel) {
    if (kernel->nest) return nest_flops(kernel->nest);
    return strncmp(kernel->named->name, "attention", 9) == 0 ? attention_flops(kernel->named) : 0;
}

void cost_operand_bytes(const Kernel *kernel, double *read, double *written) {
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

static int operand_count(const Kernel *kernel) {
    return kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
}

double cost_bytes(const Kernel *kernel) {
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], bytes = 0;
    cost_operand_bytes(kernel, read, written);
    for (int i = 0; i < operand_count(kernel); i++) bytes += read[i] + written[i];
    return bytes;
}

double cost_brought_bytes(const Kernel *kernel) {
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], bytes = 0, results = 0;
    cost_operand_bytes(kernel, read, written);
    for (int i = 0; i < operand_count(kernel); i++) results += written[i];
    for (int i = 0; i < operand_count(kernel); i++)
        bytes += results < CPU_STREAM_BYTES && written[i] > read[i] ? written[i] : read[i];
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
        cost_operand_bytes(&program->kernels.items[launch->kernel], read, written);
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
