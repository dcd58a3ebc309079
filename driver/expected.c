// A loop that ends where a scalar says is as long as that scalar is expected to be (`Buffer.expected`): rows that chose
// an expert are k of the experts' share of all rows, where memory and plans are for all of them.
//
//   before   outer chosen<=1024:@3     @3 is the count of a `compact`, 512 expected
//   after    outer chosen=512
#include "driver/expected.h"

// `nest` where all bounds are unknown.
static const Nest *expected_nest(const Program *program, const Launch *launch, const Nest *nest) {
    Nest *result = NULL;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        uint32_t bound = nest->loops[loop].bound_operand;
        if (bound == UINT32_MAX) continue;
        int64_t extent = program->buffers.items[launch->buffers[bound]].expected;
        if (!extent) continue;
        if (!result) result = nest_copy(program->ir, nest);
        result->loops[loop].dimension.extent = extent;
        result->loops[loop].dimension.bound = NULL;
        result->loops[loop].bound_operand = UINT32_MAX;
    }
    return result ? result : nest;
}

const Program *expected_program(const Program *program) {
    Arena *arena = program->ir->arena;
    Program *result = program_create(program->ir, program->name);
    result->arena_bytes = program->arena_bytes;
    for (size_t i = 0; i < program->buffers.count; i++) program_add_buffer(result, program->buffers.items[i]);
    for (size_t i = 0; i < program->kernels.count; i++)
        vector_push(arena, &result->kernels, program->kernels.items[i]);
    for (size_t i = 0; i < program->launches.count; i++) {
        Launch launch = program->launches.items[i];
        const Nest *nest = program->kernels.items[launch.kernel].nest;
        const Nest *expected = nest ? expected_nest(program, &launch, nest) : NULL;
        if (expected != nest) launch.kernel = program_add_nest(result, expected);
        vector_push(arena, &result->launches, launch);
    }
    program_drop_unused_kernels(result);
    return result;
}
