// Generator of contractions: one phase that packs B for all tasks (where more than one block of rows uses
// it), one phase of tasks (block of rows x group of panels) that multiply tiles and run the epilogue.
//
//   task:  pack the block's rows of A, all of k      (kept while the next task has the same rows)
//     panel of B:  pack it, unless phase 0 did
//       block of k:                                  (512 steps: the panels' share of the first cache)
//         panel of A:  tile += A panel * B panel;  behind the last block of k: epilogue of the tile
#include <llvm-c/Core.h>

#include "codegen/cpu_contract.h"

typedef struct Emission {
    CpuUnit *unit;
    CpuBody *body;
    const CpuContraction *plan;
    CpuFrame *frame;                        // at the outer loops that tasks iterate
    LLVMValueRef rows, columns, depth;      // extents at run time
    LLVMValueRef segment_depth, segments;   // steps of loop k; iterations of the other reduced loops
    LLVMValueRef scratch_a, scratch_b, tiles;
    LLVMValueRef row0, row_count;           // of the task's block
    LLVMValueRef column0, column_count;     // of the panel: column_count may exceed its width
    LLVMValueRef vectors, width, panel;     // of the panel: its size and its packed data
} Emission;

static LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildAdd(unit->builder, a, b, ""); }
static LLVMValueRef subtract(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildSub(unit->builder, a, b, ""); }
static LLVMValueRef multiply(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildMul(unit->builder, a, b, ""); }
static LLVMValueRef scaled(CpuUnit *unit, LLVMValueRef a, int64_t by) { return multiply(unit, a, cpu_i64(unit, by)); }
static LLVMValueRef compare(CpuUnit *unit, LLVMIntPredicate predicate, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildICmp(unit->builder, predicate, a, b, "");
}

static int64_t stride_of(const CpuContraction *plan, uint32_t load, int loop) {
    return loop < 0 ? 0 : cpu_stride(cpu_contraction_index(plan, load), loop);
}

static int64_t b_bytes(const CpuContraction *plan, const CpuTarget *target) {
    return plan->vectors * target->lanes * plan->depth * 4;
}

// ---- Places in memory ----

// Where a load stands at the outer loops of the task, at row, column and k 0.
static LLVMValueRef load_base(const Emission *e, uint32_t load) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    const Formula *formula = &plan->nest->formulas.items[load];
    LLVMValueRef at = cpu_i64(unit, formula->index[0].affine.offset);
    for (int i = 0; i < plan->outer_count; i++) {
        int64_t stride = stride_of(plan, load, plan->outer[i]);
        LLVMValueRef index = e->frame->loop[plan->outer[i]];
        if (stride && index) at = add(unit, at, scaled(unit, index, stride));
    }
    Element element = plan->nest->operands[formula->operand].element;
    return cpu_at(unit, e->body->operand[formula->operand], element, at);
}

static void start_extents(Emission *e) {
    const CpuContraction *plan = e->plan;
    CpuUnit *unit = e->unit;
    LLVMValueRef one = cpu_i64(unit, 1);
    e->rows = plan->row < 0 ? one : cpu_extent(e->body, plan->nest, plan->row);
    e->columns = plan->column < 0 ? one : cpu_extent(e->body, plan->nest, plan->column);
    e->segment_depth = plan->k < 0 ? one : cpu_extent(e->body, plan->nest, plan->k);
    e->segments = one;
    for (int i = 0; i < plan->segment_count; i++)
        e->segments = multiply(unit, e->segments, cpu_extent(e->body, plan->nest, plan->segments[i]));
    e->depth = multiply(unit, e->segments, e->segment_depth);
}

// ---- Packing ----

// Packs one panel of `width` floats: `valid` elements of each of all steps of k.
static void pack_panel(const Emission *e, bool of_a, int width, LLVMValueRef to, LLVMValueRef from,
                       LLVMValueRef valid) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    uint32_t load = of_a ? plan->load_a : plan->load_b;
    Element element = of_a ? plan->element_a : plan->element_b;
    LLVMValueRef function = cpu_pack_function(unit, of_a ? plan->pack_a : plan->pack_b, element, width);
    LLVMValueRef panel_stride = cpu_i64(unit, stride_of(plan, load, of_a ? plan->row : plan->column));
    LLVMValueRef k_stride = cpu_i64(unit, stride_of(plan, load, plan->k));
    CpuLoop segments;
    if (plan->segment_count) {
        cpu_loop_begin(unit, &segments, cpu_i64(unit, 0), e->segments, 1, NULL, 0);
        LLVMValueRef rest = segments.index, at = cpu_i64(unit, 0), index;
        for (int i = plan->segment_count - 1; i >= 0; i--) {
            cpu_divide(unit, rest, cpu_extent(e->body, plan->nest, plan->segments[i]), &rest, &index);
            at = add(unit, at, scaled(unit, index, stride_of(plan, load, plan->segments[i])));
        }
        LLVMValueRef step = multiply(unit, segments.index, e->segment_depth);
        from = cpu_at(unit, from, element, at);
        to = cpu_at(unit, to, ELEMENT_F32, scaled(unit, step, width));
    }
    LLVMValueRef arguments[] = {to, from, valid, e->segment_depth, panel_stride, k_stride};
    cpu_helper_call(unit, function, arguments, 6);
    if (plan->segment_count) cpu_loop_end(unit, &segments, NULL);
}

// Panels of B have one width, or two: then the code for either stands behind a test.
static bool two_widths(const CpuContraction *plan) {
    return plan->wide_panels > 0 && plan->wide_panels < plan->panels;
}
static int only_width(const CpuContraction *plan) {
    return plan->wide_panels ? plan->tile.vectors : plan->narrow;
}

// Sets the place and size of panel number `index`, and where it is or will be packed.
static void locate_panel(Emission *e, LLVMValueRef index, LLVMValueRef packed) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef first = scaled(unit, index, only_width(plan));
    e->vectors = cpu_i64(unit, only_width(plan));
    if (two_widths(plan)) {
        LLVMValueRef wide = compare(unit, LLVMIntSLT, index, cpu_i64(unit, plan->wide_panels));
        LLVMValueRef later = add(unit, scaled(unit, index, plan->narrow), cpu_i64(unit, plan->wide_panels));
        first = LLVMBuildSelect(unit->builder, wide, first, later, "");
        e->vectors = LLVMBuildSelect(unit->builder, wide, e->vectors, cpu_i64(unit, plan->narrow), "");
    }
    e->width = scaled(unit, e->vectors, unit->target->lanes);
    e->column0 = scaled(unit, first, unit->target->lanes);
    e->column_count = subtract(unit, e->columns, e->column0);
    e->panel = packed;
}

// Packs the panel of B that locate_panel chose.
static void pack_panel_b(const Emission *e) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef at = scaled(unit, e->column0, stride_of(plan, plan->load_b, plan->column));
    LLVMValueRef from = cpu_at(unit, load_base(e, plan->load_b), plan->element_b, at);
    LLVMValueRef valid = cpu_minimum(unit, e->width, e->column_count);
    int lanes = unit->target->lanes;
    if (!two_widths(plan)) {
        pack_panel(e, false, only_width(plan) * lanes, e->panel, from, valid);
        return;
    }
    CpuIf wide;
    cpu_if_begin(unit, &wide, compare(unit, LLVMIntEQ, e->vectors, cpu_i64(unit, plan->tile.vectors)));
    pack_panel(e, false, plan->tile.vectors * lanes, e->panel, from, valid);
    cpu_if_else(unit, &wide);
    pack_panel(e, false, plan->narrow * lanes, e->panel, from, valid);
    cpu_if_end(unit, &wide);
}

static void pack_block_a(const Emission *e) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    CpuLoop panels;
    LLVMValueRef base = load_base(e, plan->load_a);
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), e->row_count, plan->tile.rows, NULL, 0);
    LLVMValueRef row = add(unit, e->row0, panels.index);
    LLVMValueRef valid = cpu_minimum(unit, cpu_i64(unit, plan->tile.rows), subtract(unit, e->row_count, panels.index));
    LLVMValueRef at = scaled(unit, row, stride_of(plan, plan->load_a, plan->row));
    LLVMValueRef to = cpu_at(unit, e->scratch_a, ELEMENT_F32, scaled(unit, panels.index, plan->depth));
    pack_panel(e, true, plan->tile.rows, to, cpu_at(unit, base, plan->element_a, at), valid);
    cpu_loop_end(unit, &panels, NULL);
}

// Sets the frame's outer loops [from, to) out of `number`; returns what is left of it.
static LLVMValueRef split_number(Emission *e, LLVMValueRef number, int from, int to) {
    const CpuContraction *plan = e->plan;
    for (int i = to - 1; i >= from; i--) {
        uint8_t loop = plan->outer[i];
        LLVMValueRef index, extent = cpu_i64(e->unit, plan->nest->loops[loop].dimension.extent);
        cpu_divide(e->unit, number, extent, &number, &index);
        e->frame->loop[loop] = index;
    }
    return number;
}

// Whether the frame's outer loops are within their run-time extents; NULL: always.
static LLVMValueRef within_bounds(const Emission *e) {
    LLVMValueRef all = NULL;
    for (int i = 0; i < e->plan->outer_count; i++) {
        uint8_t loop = e->plan->outer[i];
        if (e->plan->nest->loops[loop].bound_operand == UINT32_MAX || !e->frame->loop[loop]) continue;
        LLVMValueRef extent = cpu_extent(e->body, e->plan->nest, loop);
        LLVMValueRef inside = compare(e->unit, LLVMIntSLT, e->frame->loop[loop], extent);
        all = all ? LLVMBuildAnd(e->unit->builder, all, inside, "") : inside;
    }
    return all;
}

static LLVMValueRef both(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return a ? LLVMBuildAnd(unit->builder, a, b, "") : b;
}

// Number of this matrix B among all that the outer loops select.
static LLVMValueRef b_number(const Emission *e) {
    const CpuContraction *plan = e->plan;
    LLVMValueRef number = cpu_i64(e->unit, 0);
    for (int i = 0; i < plan->outer_count; i++) {
        uint8_t loop = plan->outer[i];
        if (!stride_of(plan, plan->load_b, loop)) continue;
        number = scaled(e->unit, number, plan->nest->loops[loop].dimension.extent);
        number = add(e->unit, number, e->frame->loop[loop]);
    }
    return number;
}

static LLVMValueRef shared_panel(const Emission *e, LLVMValueRef number) {
    CpuUnit *unit = e->unit;
    LLVMValueRef matrix = cpu_at_bytes(unit, e->body->workspace, scaled(unit, number, b_bytes(e->plan, unit->target)));
    return cpu_at(unit, matrix, ELEMENT_F32, scaled(unit, e->column0, e->plan->depth));
}

static void emit_pack_phase(Emission *e) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    CpuLoop tasks;
    cpu_loop_begin(unit, &tasks, e->body->begin, e->body->end, 1, NULL, 0);
    LLVMValueRef number, panel;
    cpu_divide(unit, tasks.index, cpu_i64(unit, plan->panels), &number, &panel);
    LLVMValueRef rest = number;
    for (int i = plan->outer_count - 1; i >= 0; i--)
        if (stride_of(plan, plan->load_b, plan->outer[i])) rest = split_number(e, rest, i, i + 1);
    locate_panel(e, panel, NULL);
    e->panel = shared_panel(e, number);
    CpuIf used;
    LLVMValueRef some = compare(unit, LLVMIntSGT, e->column_count, cpu_i64(unit, 0));
    cpu_if_begin(unit, &used, both(unit, within_bounds(e), some));
    pack_panel_b(e);
    cpu_if_end(unit, &used);
    cpu_loop_end(unit, &tasks, NULL);
}

// ---- Tiles and epilogue ----

// The epilogue of one tile: `rows` of it and all existing columns, read from `tile`.
static void emit_epilogue(const Emission *e, LLVMValueRef tile, LLVMValueRef row0, LLVMValueRef rows) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    int lanes = plan->column < 0 ? 1 : unit->target->lanes;
    bool whole = plan->column < 0 || (plan->columns % lanes == 0 &&
                                      plan->nest->loops[plan->column].bound_operand == UINT32_MAX);
    LLVMValueRef columns = plan->column < 0 ? cpu_i64(unit, 1) : cpu_minimum(unit, e->width, e->column_count);
    CpuLoop row, column;
    cpu_loop_begin(unit, &row, cpu_i64(unit, 0), rows, 1, NULL, 0);
    CpuFrame *outside = cpu_frame_inside(e->frame);
    if (plan->row >= 0) outside->loop[plan->row] = add(unit, row0, row.index);
    LLVMValueRef from = cpu_at(unit, tile, ELEMENT_F32, multiply(unit, row.index, e->width));
    cpu_loop_begin(unit, &column, cpu_i64(unit, 0), columns, lanes, NULL, 0);
    CpuFrame *frame;
    if (plan->column >= 0) {
        frame = cpu_frame_vector(outside, plan->column, lanes);
        frame->loop[plan->column] = add(unit, e->column0, column.index);
        frame->mask = whole ? NULL : cpu_mask(unit, lanes, subtract(unit, columns, column.index));
    } else {
        frame = cpu_frame_inside(outside);
    }
    frame->stage[0] = cpu_load(unit, ELEMENT_F32, cpu_at(unit, from, ELEMENT_F32, column.index), lanes, NULL);
    cpu_emit_stages(frame, 1);
    cpu_loop_end(unit, &column, NULL);
    cpu_loop_end(unit, &row, NULL);
}

// Where a direct result has row `row0` of the panel.
static LLVMValueRef result_at(const Emission *e, LLVMValueRef row0) {
    const CpuContraction *plan = e->plan;
    const Stage *store = &plan->nest->stages[1];
    CpuFrame *frame = cpu_frame_inside(e->frame);
    if (plan->row >= 0) frame->loop[plan->row] = row0;
    frame->loop[plan->column] = e->column0;
    return cpu_address(frame, store->operand, store->index);
}

static void emit_tile_call(const Emission *e, LLVMValueRef a, LLVMValueRef b, LLVMValueRef k, LLVMValueRef c,
                           LLVMValueRef stride, LLVMValueRef first) {
    const CpuContraction *plan = e->plan;
    CpuTile wide = {plan->tile.rows, only_width(plan)}, narrow = {plan->tile.rows, plan->narrow};
    CpuIf branch;
    if (two_widths(plan))
        cpu_if_begin(e->unit, &branch, compare(e->unit, LLVMIntEQ, e->vectors, cpu_i64(e->unit, wide.vectors)));
    cpu_tile_call(e->unit, wide, a, b, k, c, stride, first);
    if (!two_widths(plan)) return;
    cpu_if_else(e->unit, &branch);
    cpu_tile_call(e->unit, narrow, a, b, k, c, stride, first);
    cpu_if_end(e->unit, &branch);
}

// One panel of A against one panel of B for steps [k0, k0 + k) of k.
static void emit_tile(const Emission *e, LLVMValueRef local_row, LLVMValueRef k0, LLVMValueRef k) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef tile_rows = cpu_i64(unit, plan->tile.rows);
    LLVMValueRef valid = cpu_minimum(unit, tile_rows, subtract(unit, e->row_count, local_row));
    LLVMValueRef a = cpu_at(unit, e->scratch_a, ELEMENT_F32,
                            add(unit, scaled(unit, local_row, plan->depth), scaled(unit, k0, plan->tile.rows)));
    LLVMValueRef b = cpu_at(unit, e->panel, ELEMENT_F32, multiply(unit, k0, e->width));
    LLVMValueRef row0 = add(unit, e->row0, local_row), tile = e->tiles, stride = e->width, c, full = NULL;
    if (plan->depth > CONTRACTION_DEPTH_BLOCK)
        tile = cpu_at(unit, tile, ELEMENT_F32, scaled(unit, local_row, (int64_t)plan->tile.vectors * unit->target->lanes));
    c = tile;
    if (plan->direct) {
        int64_t row_stride = plan->row < 0 ? 0 : cpu_stride(plan->nest->stages[1].index, plan->row);
        full = LLVMBuildAnd(builder, compare(unit, LLVMIntEQ, valid, tile_rows),
                            compare(unit, LLVMIntSGE, e->column_count, e->width), "");
        c = LLVMBuildSelect(builder, full, result_at(e, row0), tile, "");
        stride = LLVMBuildSelect(builder, full, cpu_i64(unit, row_stride), e->width, "");
    }
    LLVMValueRef first = LLVMBuildZExt(builder, compare(unit, LLVMIntEQ, k0, cpu_i64(unit, 0)), unit->i64, "");
    emit_tile_call(e, a, b, k, c, stride, first);
    CpuIf done;
    LLVMValueRef last = compare(unit, LLVMIntSGE, add(unit, k0, k), e->depth);
    cpu_if_begin(unit, &done, full ? LLVMBuildAnd(builder, last, LLVMBuildNot(builder, full, ""), "") : last);
    emit_epilogue(e, tile, row0, valid);
    cpu_if_end(unit, &done);
}

static void emit_panel(Emission *e) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef zero = cpu_i64(unit, 0), one = cpu_i64(unit, 1);
    if (plan->private_b) pack_panel_b(e);
    // A depth of 0, possible at run time only, still writes its zeros.
    LLVMValueRef none = compare(unit, LLVMIntSLT, e->depth, one);
    CpuLoop blocks, panels;
    cpu_loop_begin(unit, &blocks, zero, LLVMBuildSelect(unit->builder, none, one, e->depth, ""),
                   CONTRACTION_DEPTH_BLOCK, NULL, 0);
    LLVMValueRef k = cpu_minimum(unit, cpu_i64(unit, CONTRACTION_DEPTH_BLOCK), subtract(unit, e->depth, blocks.index));
    cpu_loop_begin(unit, &panels, zero, e->row_count, plan->tile.rows, NULL, 0);
    emit_tile(e, panels.index, blocks.index, k);
    cpu_loop_end(unit, &panels, NULL);
    cpu_loop_end(unit, &blocks, NULL);
}

// A task's number: loops that move A, block of rows, loops that move only B, group of panels.
static void emit_task(Emission *e, LLVMValueRef task, LLVMValueRef packed_rows) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef rest = task, group, block, key;
    cpu_divide(unit, rest, cpu_i64(unit, plan->panel_groups), &rest, &group);
    rest = split_number(e, rest, plan->outer_a_count, plan->outer_count);
    key = rest;
    cpu_divide(unit, rest, cpu_i64(unit, plan->row_blocks), &rest, &block);
    split_number(e, rest, 0, plan->outer_a_count);
    e->row0 = scaled(unit, block, plan->row_block);
    e->row_count = cpu_minimum(unit, cpu_i64(unit, plan->row_block), subtract(unit, e->rows, e->row0));
    CpuIf used, other_rows;
    LLVMValueRef some = compare(unit, LLVMIntSGT, e->row_count, cpu_i64(unit, 0));
    cpu_if_begin(unit, &used, both(unit, within_bounds(e), some));
    LLVMValueRef packed = LLVMBuildLoad2(unit->builder, unit->i64, packed_rows, "");
    cpu_if_begin(unit, &other_rows, compare(unit, LLVMIntNE, packed, key));
    pack_block_a(e);
    LLVMBuildStore(unit->builder, key, packed_rows);
    cpu_if_end(unit, &other_rows);

    CpuLoop panels;
    LLVMValueRef begin = scaled(unit, group, plan->panel_group);
    LLVMValueRef end = cpu_minimum(unit, add(unit, begin, cpu_i64(unit, plan->panel_group)), cpu_i64(unit, plan->panels));
    LLVMValueRef number = plan->private_b ? NULL : b_number(e);
    cpu_loop_begin(unit, &panels, begin, end, 1, NULL, 0);
    locate_panel(e, panels.index, e->scratch_b);
    if (!plan->private_b) e->panel = shared_panel(e, number);
    CpuIf exists;
    cpu_if_begin(unit, &exists, compare(unit, LLVMIntSGT, e->column_count, cpu_i64(unit, 0)));
    emit_panel(e);
    cpu_if_end(unit, &exists);
    cpu_loop_end(unit, &panels, NULL);
    cpu_if_end(unit, &used);
}

static void emit_compute_phase(Emission *e) {
    CpuUnit *unit = e->unit;
    LLVMValueRef packed_rows = cpu_stack_slot(e->body, unit->i64);
    LLVMBuildStore(unit->builder, cpu_i64(unit, -1), packed_rows);
    CpuLoop tasks;
    cpu_loop_begin(unit, &tasks, e->body->begin, e->body->end, 1, NULL, 0);
    emit_task(e, tasks.index, packed_rows);
    cpu_loop_end(unit, &tasks, NULL);
}

// ---- The generator ----

bool cpu_contract_supports(const CpuTarget *target, const Nest *nest) {
    (void)target;
    Contraction contraction;
    if (!nest_contraction(nest, &contraction)) return false;
    if (nest->formulas.items[nest->stages[0].formula].element != ELEMENT_F32) return false;
    if (nest->stages[0].element != ELEMENT_F32) return false;
    uint32_t loads[] = {contraction.load_a, contraction.load_b};
    for (int i = 0; i < 2; i++) {
        const Formula *load = &nest->formulas.items[loads[i]];
        if (load->element != ELEMENT_F32 && load->element != ELEMENT_BF16) return false;
    }
    return true;
}

static int64_t aligned(int64_t bytes) { return (bytes + 127) & ~(int64_t)63; }

// Scratch: rows of A, a panel of B (private only), tiles; each followed by room for one vector.
static void divide_scratch(Emission *e, CpuKernel *out) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    int64_t width = (int64_t)plan->tile.vectors * unit->target->lanes;
    int64_t a_bytes = aligned(plan->row_block * plan->depth * 4);
    int64_t panel_bytes = plan->private_b ? aligned(width * plan->depth * 4) : 0;
    int64_t tile_rows = plan->depth > CONTRACTION_DEPTH_BLOCK ? plan->row_block : plan->tile.rows;
    e->scratch_a = e->body->scratch;
    e->scratch_b = cpu_at_bytes(unit, e->scratch_a, cpu_i64(unit, a_bytes));
    e->tiles = cpu_at_bytes(unit, e->scratch_b, cpu_i64(unit, panel_bytes));
    out->scratch_bytes = a_bytes + panel_bytes + aligned(tile_rows * width * 4);
}

static void emit_phase(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan, bool pack, CpuKernel *out) {
    Emission e = {.unit = unit, .plan = plan};
    e.body = cpu_body_begin(unit, kernel, out->phase_count);
    e.frame = cpu_frame(e.body, plan->nest);
    start_extents(&e);
    int64_t tasks = pack ? plan->panels : plan->row_blocks * plan->panel_groups;
    for (int i = 0; i < plan->outer_count; i++)
        if (!pack || stride_of(plan, plan->load_b, plan->outer[i]))
            tasks *= plan->nest->loops[plan->outer[i]].dimension.extent;
    out->tasks[out->phase_count++] = tasks;
    if (pack) {
        out->workspace_bytes = tasks / plan->panels * b_bytes(plan, unit->target) + 64;
        emit_pack_phase(&e);
    } else {
        divide_scratch(&e, out);
        emit_compute_phase(&e);
    }
    cpu_body_end(e.body);
}

bool cpu_contract_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    Contraction contraction;
    CHECK(nest_contraction(kernel->nest, &contraction));
    const Nest *nest = cpu_normalise(unit->arena, kernel->nest);
    CpuContraction plan = cpu_contraction_plan(unit->target, nest, contraction.load_a, contraction.load_b);
    if (!plan.private_b) emit_phase(unit, kernel, &plan, true, out);
    emit_phase(unit, kernel, &plan, false, out);
    return !unit->failure;
}
