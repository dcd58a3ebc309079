// pad-rows: rows of temporaries that a GPU's library multiplies begin at multiples of 16 bytes.
//
//   temporary f32[rows=4096, vocab=50257]  ->  temporary f32[rows=4096, vocab=50260], its last columns never touched
//
// Tensor cores want aligned rows: others cost a library several times the time. (Odd extents of aligned rows are
// codegen/cuda_product_cut.c's.) Requires: a fused program without places. Leaves: the same launches over the same values. A buffer is padded where a contraction
// touches it, its rows are long, so that padding is little, and every access walks it by whole rows.
#include "passes/program_passes.h"

enum { LONG_ROW = 512, ALIGNED_BYTES = 16 };

static int64_t row_of(const Type *type) { return type->dimensions[type->rank - 1].extent; }

static int64_t padded_row(const Type *type) {
    int64_t step = ALIGNED_BYTES / element_bytes(type->element);
    return (row_of(type) + step - 1) / step * step;
}

static bool may_be_padded(const Buffer *buffer) {
    const Type *type = buffer->type;
    return buffer->kind == BUFFER_TEMPORARY && type->rank > 1 && !type->dimensions[type->rank - 1].bound &&
           row_of(type) >= LONG_ROW && padded_row(type) != row_of(type);
}

// Whether an access moves by rows, and otherwise stays within one.
static bool walks_rows(const NestOperand *operand, int64_t offset, int64_t row) {
    int64_t last = offset % row;
    for (int d = 0; d < operand->rank; d++) {
        if (operand->extent[d] == 1 || operand->stride[d] % row == 0) continue;
        if (operand->stride[d] < 0) return false;
        last += operand->stride[d] * (operand->extent[d] - 1);
    }
    return last < row;
}

// Marks the buffers to be padded.
static void find_padded(const Program *program, bool *padded) {
    bool *multiplied = ARENA_ARRAY(program->ir->arena, bool, program->buffers.count + 1);
    for (size_t b = 0; b < program->buffers.count; b++) padded[b] = may_be_padded(&program->buffers.items[b]);
    for (size_t l = 0; l < program->launches.count; l++) {
        const Launch *launch = &program->launches.items[l];
        const Nest *nest = program->kernels.items[launch->kernel].nest;
        Contraction found;
        bool multiplies = nest && nest_contraction(nest, &found);
        for (int o = 0; o < launch->operand_count; o++) {
            uint32_t buffer = launch->buffers[o];
            multiplied[buffer] |= multiplies;
            if (!padded[buffer]) continue;
            int64_t row = row_of(program->buffers.items[buffer].type);
            padded[buffer] = nest && walks_rows(&nest->operands[o], launch->offsets[o], row);
        }
    }
    for (size_t b = 0; b < program->buffers.count; b++) padded[b] &= multiplied[b];
}

static void pad_launch(Program *program, Launch *launch, const bool *padded) {
    Nest *nest = NULL;
    for (int o = 0; o < launch->operand_count; o++) {
        if (!padded[launch->buffers[o]]) continue;
        const Type *type = program->buffers.items[launch->buffers[o]].type;
        int64_t row = row_of(type), wide = padded_row(type);
        if (!nest) nest = nest_copy(program->ir, program->kernels.items[launch->kernel].nest);
        NestOperand *operand = &nest->operands[o];
        for (int d = 0; d < operand->rank; d++)
            if (operand->stride[d] % row == 0) operand->stride[d] = operand->stride[d] / row * wide;
        launch->offsets[o] = launch->offsets[o] / row * wide + launch->offsets[o] % row;
    }
    if (nest) launch->kernel = program_add_nest(program, nest);
}

bool pad_rows(Program *program) {
    bool *padded = ARENA_ARRAY(program->ir->arena, bool, program->buffers.count + 1);
    find_padded(program, padded);
    for (size_t l = 0; l < program->launches.count; l++) pad_launch(program, &program->launches.items[l], padded);
    for (size_t b = 0; b < program->buffers.count; b++) {
        Buffer *buffer = &program->buffers.items[b];
        if (!padded[b]) continue;
        Dimension dimensions[RANK_MAX];
        for (int d = 0; d < buffer->type->rank; d++) dimensions[d] = buffer->type->dimensions[d];
        dimensions[buffer->type->rank - 1].extent = padded_row(buffer->type);
        buffer->type = type_make(program->ir, buffer->type->element, buffer->type->rank, dimensions);
        buffer->bytes = type_bytes(buffer->type);
    }
    program_drop_unused_kernels(program);
    return true;
}
