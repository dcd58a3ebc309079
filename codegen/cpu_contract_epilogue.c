// What follows the sums of a tile: two functions for each contraction, called by the loops around tiles. One runs
// the stages behind the sum, the other brings nearer what those will touch.
#include "codegen/cpu_contract.h"
#include "codegen/cpu_place.h"

enum {
    CACHE_LINE = CPU_CACHE_LINE,
    PREFETCH_DEPTH = 64  // steps of k that outlast bringing lines nearer
};

// Walks one tile, row by row: the place of each step is a frame.
typedef struct TileWalk {
    CpuLoop row, column;
    CpuFrame *frame;
    LLVMValueRef tile, width;  // of the tile in memory
} TileWalk;

// Starts function `number` of the kernel, a CpuFunction called with (operands, task, tile, row0, rows).
static CpuBody *tile_function_begin(CpuUnit *unit, const Kernel *kernel, int number) {
    CpuBody *body = cpu_body_begin(unit, kernel, number);
    LLVMSetLinkage(body->function, LLVMInternalLinkage);
    return body;
}

static LLVMValueRef tile_function_end(CpuBody *body) {
    cpu_body_end(body);
    return body->function;
}

// Whether no step of `lanes` columns reaches beyond the last one.
static bool steps_are_whole(const CpuContraction *plan, int lanes) {
    return plan->column < 0 ||
           (plan->columns % lanes == 0 && plan->nest->loops[plan->column].bound_operand == UINT32_MAX);
}

// At a step of `lanes` columns. `streamed`: see CpuFrame.
static void tile_walk_begin(CpuBody *body, const CpuContraction *plan, int lanes, uint32_t streamed, TileWalk *walk) {
    CpuUnit *unit = body->unit;
    LLVMValueRef task = body->workspaces, row0 = body->begin, rows = body->end;
    LLVMValueRef column0 = cpu_slot_load(unit, task, TASK_COLUMN0, false);
    LLVMValueRef columns = cpu_slot_load(unit, task, TASK_COLUMN_COUNT, false);
    walk->width = cpu_slot_load(unit, task, TASK_WIDTH, false);
    CpuFrame *frame = cpu_frame(body, plan->nest);
    frame->streamed = streamed;
    for (int i = 0; i < plan->outer_count; i++)
        frame->loop[plan->outer[i]] = cpu_slot_load(unit, task, TASK_OUTER + plan->outer[i], false);
    cpu_loop_begin(unit, &walk->row, cpu_i64(unit, 0), rows, 1, NULL, 0);
    CpuFrame *outside = cpu_frame_inside(frame);
    if (plan->row >= 0) outside->loop[plan->row] = add(unit, row0, walk->row.index);
    LLVMValueRef before = LLVMBuildMul(unit->builder, walk->row.index, walk->width, "");
    walk->tile = cpu_at(unit, body->scratch, ELEMENT_F32, before);
    cpu_loop_begin(unit, &walk->column, cpu_i64(unit, 0), columns, lanes, NULL, 0);
    walk->frame = cpu_frame_vector(outside, plan->column, lanes);
    if (plan->column >= 0) walk->frame->loop[plan->column] = add(unit, column0, walk->column.index);
    if (!steps_are_whole(plan, lanes))
        walk->frame->mask = cpu_mask(unit, lanes, LLVMBuildSub(unit->builder, columns, walk->column.index, ""));
}

static void tile_walk_end(CpuUnit *unit, TileWalk *walk) {
    cpu_loop_end(unit, &walk->column, NULL);
    cpu_loop_end(unit, &walk->row, NULL);
}

// Whether an access of the epilogue walks memory along the columns, so that a tile touches many lines of it.
static bool walks_lines(const CpuContraction *plan, uint32_t operand, const Index *index) {
    for (int d = 0; d < plan->nest->operands[operand].rank; d++)
        if (index[d].gathered != FORMULA_NONE) return false;
    return plan->column >= 0 && access_stride(index, plan->column) == 1;
}

// Whether each vector that a stage stores is a line of its own, where the operand starts on one. What is added to has
// been brought in anyway.
static bool stores_lines(const CpuContraction *plan, const CpuTarget *target, const Stage *stage) {
    const Affine *affine = &stage->index[0].affine;
    int64_t bytes = element_bytes(plan->nest->operands[stage->operand].element);
    if (stage->kind != STAGE_STORE || target->lanes * bytes != CACHE_LINE) return false;
    if (!steps_are_whole(plan, target->lanes)) return false;
    if (!walks_lines(plan, stage->operand, stage->index) || affine->offset * bytes % CACHE_LINE) return false;
    for (int loop = 0; loop < plan->nest->loop_count; loop++)
        if (loop != plan->column && affine->scale[loop] * bytes % CACHE_LINE) return false;
    return true;
}

// Whole lines of results so large that none stays near until it is read.
uint32_t cpu_contract_streamed(const CpuContraction *plan, const CpuTarget *target) {
    uint32_t streamed = 0, others = 0;
    int64_t bytes = 0, elements = plan->rows * plan->columns;
    for (int i = 0; i < plan->outer_count; i++) elements *= plan->nest->loops[plan->outer[i]].dimension.extent;
    for (int i = 1; i < plan->nest->stage_count; i++) {
        const Stage *stage = &plan->nest->stages[i];
        *(stores_lines(plan, target, stage) ? &streamed : &others) |= 1u << stage->operand;
        bytes += elements * element_bytes(plan->nest->operands[stage->operand].element);
    }
    return plan->direct || bytes < CPU_STREAM_BYTES ? 0 : streamed & ~others;
}

static void epilogue_walk(CpuBody *body, const CpuContraction *plan, uint32_t streamed) {
    CpuUnit *unit = body->unit;
    TileWalk walk;
    int lanes = plan->column < 0 ? 1 : unit->target->lanes;
    tile_walk_begin(body, plan, lanes, streamed, &walk);
    LLVMValueRef at = cpu_at(unit, walk.tile, ELEMENT_F32, walk.column.index);
    walk.frame->stage[0] = cpu_load(unit, ELEMENT_F32, at, lanes, NULL);
    cpu_emit_stages(walk.frame, 1);
    tile_walk_end(unit, &walk);
}

// In two versions where results are streamed: the launch decides whether its operands start on lines.
LLVMValueRef cpu_contract_epilogue(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan) {
    CpuBody *body = tile_function_begin(unit, kernel, PHASE_MAX);
    uint32_t streamed = cpu_contract_streamed(plan, unit->target);
    if (!streamed) {
        epilogue_walk(body, plan, 0);
        return tile_function_end(body);
    }
    CpuIf lines;
    cpu_if_begin(unit, &lines, cpu_starts_on_lines(body, streamed));
    epilogue_walk(body, plan, streamed);
    cpu_if_else(unit, &lines);
    epilogue_walk(body, plan, 0);
    cpu_if_end(unit, &lines);
    return tile_function_end(body);
}

static int smallest_element(const Nest *nest) {
    int least = 4;
    for (int i = 0; i < nest->operand_count; i++) {
        int bytes = (int)element_bytes(nest->operands[i].element);
        if (bytes < least) least = bytes;
    }
    return least;
}

// Brings nearer the lines of an access under the `columns` of a step.
static void prefetch_lines(const TileWalk *walk, uint32_t operand, const Index *index, int columns) {
    const NestOperand *what = &walk->frame->nest->operands[operand];
    CpuUnit *unit = walk->frame->body->unit;
    LLVMValueRef pointer = cpu_address(walk->frame, operand, index);
    for (int64_t line = 0; line < columns * element_bytes(what->element); line += CACHE_LINE)
        cpu_prefetch(unit, cpu_at_bytes(unit, pointer, cpu_i64(unit, line)), what->writes);
}

// Whether a stage stores to lines that must be there first: it adds to them, or a vector fills a part of one.
static bool needs_lines(const CpuContraction *plan, const CpuTarget *target, const Stage *stage) {
    const NestOperand *operand = &plan->nest->operands[stage->operand];
    bool parts = !operand->reads && target->lanes * element_bytes(operand->element) < CACHE_LINE;
    return walks_lines(plan, stage->operand, stage->index) && (stage->kind == STAGE_ADD || parts);
}

LLVMValueRef cpu_contract_prefetch(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan) {
    const Nest *nest = plan->nest;
    TileWalk walk;
    bool touches = plan->column >= 0 && !plan->direct;
    if (plan->depth < PREFETCH_DEPTH || !touches) return LLVMConstNull(unit->pointer);
    int columns = CACHE_LINE / smallest_element(nest);
    CpuBody *body = tile_function_begin(unit, kernel, PHASE_MAX + 1);
    tile_walk_begin(body, plan, columns, 0, &walk);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (load->kind != FORMULA_LOAD || i == plan->load_a || i == plan->load_b) continue;
        if (!walks_lines(plan, load->operand, load->index)) continue;
        prefetch_lines(&walk, load->operand, load->index, columns);
    }
    for (int i = 1; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (needs_lines(plan, unit->target, stage)) prefetch_lines(&walk, stage->operand, stage->index, columns);
    }
    tile_walk_end(unit, &walk);
    return tile_function_end(body);
}
