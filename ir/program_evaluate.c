// Runs a program on doubles: the reference for fused, ordered and planned programs.
#include <math.h>

#include "ir/evaluate.h"
#include "ir/program.h"

typedef struct Run {
    const Program *program;
    Arena *arena;
    double **storage;  // per buffer
} Run;

// Unwritten memory reads as NaN, so that a launch out of order shows.
static double *unwritten(Arena *arena, int64_t count) {
    double *data = ARENA_ARRAY(arena, double, count + 1);
    for (int64_t i = 0; i < count; i++) data[i] = NAN;
    return data;
}

// Temporaries: planned ones as views of one arena, in which the bytes that an element takes become as
// many doubles, so that whatever overlaps in the plan overlaps here; others each their own.
static void allocate_temporaries(Run *run, double *const *given) {
    const Program *program = run->program;
    double *planned = NULL;
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        run->storage[i] = given[i];
        if (given[i]) continue;
        if (buffer->offset < 0) {
            run->storage[i] = unwritten(run->arena, type_count(buffer->type));
        } else {
            if (!planned) planned = unwritten(run->arena, program->arena_bytes);
            run->storage[i] = planned + buffer->offset;
        }
    }
}

// The type with the extents of this run in place of its bounded dimensions' capacities.
static const Type *actual_type(const Run *run, const Type *type) {
    Dimension dimensions[RANK_MAX];
    for (int d = 0; d < type->rank; d++) {
        dimensions[d] = type->dimensions[d];
        if (!dimensions[d].bound) continue;
        uint32_t buffer = program_find_buffer(run->program, dimensions[d].bound, ROLE_SCALAR);
        if (buffer != UINT32_MAX) dimensions[d].extent = (int64_t)run->storage[buffer][0];
    }
    return type_make(run->program->ir, type->element, type->rank, dimensions);
}

// Moves a tensor between a strided operand and row-major data.
static void transfer(const Type *type, const int64_t *strides, double *operand, double *data, bool load) {
    if (type_count(type) == 0) return;
    Odometer odometer;
    odometer_start(&odometer, type);
    do {
        int64_t offset = 0;
        for (int d = 0; d < type->rank; d++) offset += odometer.at[d] * strides[d];
        if (load)
            data[odometer.position] = operand[offset];
        else
            operand[offset] = data[odometer.position];
    } while (odometer_next(&odometer));
}

static void run_named(Run *run, const NamedKernel *named, const Launch *launch) {
    if (!named->meaning) INTERNAL_ERROR("kernel %s has no meaning to evaluate", named->name);
    Tensor inputs[NEST_OPERAND_MAX], outputs[NEST_OPERAND_MAX];
    for (int i = 0; i < named->output_start; i++) {
        inputs[i] = tensor_create(run->arena, actual_type(run, named->types[i]));
        transfer(inputs[i].type, named->strides[i], run->storage[launch->buffers[i]] + launch->offsets[i],
                 inputs[i].data, true);
    }
    if (!evaluate_graph(run->arena, named->meaning, inputs, outputs))
        INTERNAL_ERROR("the meaning of kernel %s cannot be evaluated", named->name);
    for (int i = named->output_start; i < named->operand_count; i++) {
        const Tensor *output = &outputs[i - named->output_start];
        transfer(output->type, named->strides[i], run->storage[launch->buffers[i]] + launch->offsets[i],
                 output->data, false);
    }
}

void program_evaluate(const Program *program, double *const *storage) {
    Run run = {.program = program, .arena = arena_create()};
    run.storage = ARENA_ARRAY(run.arena, double *, program->buffers.count + 1);
    allocate_temporaries(&run, storage);
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        double *operands[NEST_OPERAND_MAX];
        for (int o = 0; o < launch->operand_count; o++)
            operands[o] = run.storage[launch->buffers[o]] + launch->offsets[o];
        if (kernel->nest)
            nest_evaluate(kernel->nest, operands);
        else
            run_named(&run, kernel->named, launch);
    }
    arena_destroy(run.arena);
}
