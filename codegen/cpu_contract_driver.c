// The loops around tiles, as two functions that all contractions of a module share: what differs between
// them comes in a constant plan, what differs between tasks in a task record. Compiling these loops once
// a module, and not once a kernel, is most of what keeps contractions cheap to compile.
//
//   cherry_contract(plan, task):
//     pack the block's rows of A, all of k             (unless a phase did, or the previous task had the same rows)
//     panel of B:  pack it                             (unless a phase did, or tiles read it as it lies)
//       block of k:                                    (its share of a panel of A stays in the first cache)
//         panel of A:  tile += A panel * B panel;  behind the last block of k: epilogue of the tile
#include "codegen/cpu_contract.h"
#include "codegen/cpu_place.h"

typedef struct Driver {
    CpuUnit *unit;
    LLVMValueRef plan, task;
} Driver;

LLVMValueRef cpu_slot(CpuUnit *unit, LLVMValueRef record, int slot) {
    return cpu_at(unit, record, ELEMENT_I64, cpu_i64(unit, slot));
}

LLVMValueRef cpu_slot_load(CpuUnit *unit, LLVMValueRef record, int slot, bool pointer) {
    return LLVMBuildLoad2(unit->builder, pointer ? unit->pointer : unit->i64, cpu_slot(unit, record, slot), "");
}

void cpu_slot_store(CpuUnit *unit, LLVMValueRef record, int slot, LLVMValueRef value) {
    LLVMBuildStore(unit->builder, value, cpu_slot(unit, record, slot));
}

static LLVMValueRef plan_number(const Driver *d, int slot) { return cpu_slot_load(d->unit, d->plan, slot, false); }
static LLVMValueRef plan_pointer(const Driver *d, int slot) { return cpu_slot_load(d->unit, d->plan, slot, true); }
static LLVMValueRef plan_says(const Driver *d, int slot) {
    return LLVMBuildICmp(d->unit->builder, LLVMIntNE, plan_number(d, slot), cpu_i64(d->unit, 0), "");
}
static LLVMValueRef task_number(const Driver *d, int slot) { return cpu_slot_load(d->unit, d->task, slot, false); }
static LLVMValueRef task_pointer(const Driver *d, int slot) { return cpu_slot_load(d->unit, d->task, slot, true); }

static void call_pointer(CpuUnit *unit, LLVMTypeRef type, LLVMValueRef function, LLVMValueRef *arguments, unsigned count) {
    LLVMBuildCall2(unit->builder, type, function, arguments, count, "");
}

// Packs panels that `valid` columns fill, segment by segment of k; `side` is PLAN_A or PLAN_B.
static void pack_panels(const Driver *d, int side, LLVMValueRef function, LLVMValueRef width, LLVMValueRef to,
                        LLVMValueRef from, LLVMValueRef valid) {
    CpuUnit *unit = d->unit;
    LLVMValueRef panel_size = multiply(unit, plan_number(d, PLAN_DEPTH), width), panels = cpu_blocks(unit, valid, width);
    LLVMValueRef depth = task_number(d, TASK_SEGMENT_DEPTH);
    LLVMValueRef offsets = task_pointer(d, side == PLAN_A ? TASK_OFFSETS_A : TASK_OFFSETS_B);
    LLVMValueRef panel_stride = plan_number(d, side + SIDE_PANEL_STRIDE), k_stride = plan_number(d, side + SIDE_K_STRIDE);
    LLVMValueRef segment_size = multiply(unit, depth, width);
    CpuLoop segments;
    cpu_loop_begin(unit, &segments, cpu_i64(unit, 0), task_number(d, TASK_SEGMENTS), 1, NULL, 0);
    LLVMValueRef offset = LLVMBuildLoad2(unit->builder, unit->i64, cpu_at(unit, offsets, ELEMENT_I64, segments.index), "");
    LLVMValueRef at = cpu_at(unit, to, ELEMENT_F32, multiply(unit, segments.index, segment_size));
    LLVMValueRef arguments[] = {at, cpu_at_bytes(unit, from, offset), valid, task_number(d, TASK_SEGMENT_K),
                                panel_stride, k_stride, width, panels, panel_size};
    call_pointer(unit, cpu_pack_type(unit), function, arguments, 9);
    cpu_loop_end(unit, &segments, NULL);
}

typedef struct Panel {
    LLVMValueRef wide, column0, columns, width;  // width in floats; columns that exist from column0 on
} Panel;

static Panel locate_panel(const Driver *d, LLVMValueRef index) {
    CpuUnit *unit = d->unit;
    LLVMValueRef wide_panels = plan_number(d, PLAN_WIDE_PANELS), wide = plan_number(d, PLAN_WIDE);
    LLVMValueRef narrow = plan_number(d, PLAN_NARROW);
    LLVMValueRef before = cpu_min(unit, index, wide_panels);
    Panel panel = {.wide = compare(unit, LLVMIntSLT, index, wide_panels)};
    panel.column0 = add(unit, multiply(unit, before, wide), multiply(unit, subtract(unit, index, before), narrow));
    panel.columns = subtract(unit, task_number(d, TASK_COLUMNS), panel.column0);
    panel.width = LLVMBuildSelect(unit->builder, panel.wide, wide, narrow, "");
    return panel;
}

static void pack_panel_b(const Driver *d, const Panel *panel, LLVMValueRef to) {
    CpuUnit *unit = d->unit;
    LLVMValueRef at = multiply(unit, panel->column0, plan_number(d, PLAN_B + SIDE_PANEL_BYTES));
    LLVMValueRef function = LLVMBuildSelect(unit->builder, panel->wide, plan_pointer(d, PLAN_PACK_WIDE),
                                            plan_pointer(d, PLAN_PACK_NARROW), "");
    pack_panels(d, PLAN_B, function, panel->width, to, cpu_at_bytes(unit, task_pointer(d, TASK_B), at),
               cpu_min(unit, panel->width, panel->columns));
}

static LLVMValueRef shared_panel(const Driver *d, const Panel *panel) {
    LLVMValueRef at = multiply(d->unit, panel->column0, plan_number(d, PLAN_DEPTH));
    return cpu_at(d->unit, task_pointer(d, TASK_PANEL), ELEMENT_F32, at);
}

static bool start(CpuUnit *unit, const char *name, unsigned count, CpuHelper *helper, Driver *d) {
    LLVMTypeRef parameters[] = {unit->pointer, unit->pointer, unit->i64};
    *helper = cpu_helper_begin(unit, name, LLVMFunctionType(unit->void_type, parameters, count, false));
    *d = (Driver){unit, LLVMGetParam(helper->function, 0), LLVMGetParam(helper->function, 1)};
    return helper->fresh;
}

// Slab `slab` of k, of panels that `valid` columns fill: `to` and `from` are at step 0.
static void pack_slab(const Driver *d, int side, LLVMValueRef function, LLVMValueRef width, LLVMValueRef to,
                      LLVMValueRef from, LLVMValueRef valid, LLVMValueRef slab) {
    CpuUnit *unit = d->unit;
    LLVMValueRef steps = plan_number(d, side + SIDE_SLAB), step = multiply(unit, slab, steps);
    LLVMValueRef step_k = plan_number(d, PLAN_STEP_K);
    LLVMValueRef left = subtract(unit, task_number(d, TASK_SEGMENT_K), multiply(unit, step, step_k));
    LLVMValueRef k = cpu_min(unit, multiply(unit, steps, step_k), left), zero = cpu_i64(unit, 0);
    LLVMValueRef steps_left = compare(unit, LLVMIntSGT, k, zero), columns = compare(unit, LLVMIntSGT, valid, zero);
    CpuIf exists;
    cpu_if_begin(unit, &exists, LLVMBuildAnd(unit->builder, steps_left, columns, ""));
    LLVMValueRef arguments[] = {cpu_at(unit, to, ELEMENT_F32, multiply(unit, step, width)),
                                cpu_at_bytes(unit, from, multiply(unit, step, plan_number(d, side + SIDE_STEP_BYTES))),
                                valid, k, plan_number(d, side + SIDE_PANEL_STRIDE), plan_number(d, side + SIDE_K_STRIDE),
                                width, cpu_blocks(unit, valid, width), multiply(unit, plan_number(d, PLAN_DEPTH), width)};
    call_pointer(unit, cpu_pack_type(unit), function, arguments, 9);
    cpu_if_end(unit, &exists);
}

// All columns of B: wide panels, then narrow ones.
static void pack_slab_b(const Driver *d, LLVMValueRef slab) {
    CpuUnit *unit = d->unit;
    LLVMValueRef columns = task_number(d, TASK_COLUMNS), wide = plan_number(d, PLAN_WIDE);
    LLVMValueRef before = multiply(unit, plan_number(d, PLAN_WIDE_PANELS), wide), from = task_pointer(d, TASK_B);
    LLVMValueRef to = task_pointer(d, TASK_PANEL);
    pack_slab(d, PLAN_B, plan_pointer(d, PLAN_PACK_WIDE), wide, to, from, cpu_min(unit, columns, before), slab);
    pack_slab(d, PLAN_B, plan_pointer(d, PLAN_PACK_NARROW), plan_number(d, PLAN_NARROW),
              cpu_at(unit, to, ELEMENT_F32, multiply(unit, before, plan_number(d, PLAN_DEPTH))),
              cpu_at_bytes(unit, from, multiply(unit, before, plan_number(d, PLAN_B + SIDE_PANEL_BYTES))),
              subtract(unit, columns, before), slab);
}

// Part `part` of the rows of the block, or of its k.
static void pack_part_a(const Driver *d, LLVMValueRef part) {
    CpuUnit *unit = d->unit;
    CpuIf slabs;
    cpu_if_begin(unit, &slabs, plan_says(d, PLAN_A + SIDE_SLAB));
    LLVMValueRef first = multiply(unit, task_number(d, TASK_ROW0), plan_number(d, PLAN_A + SIDE_PANEL_BYTES));
    pack_slab(d, PLAN_A, plan_pointer(d, PLAN_PACK_A), plan_number(d, PLAN_TILE_ROWS), task_pointer(d, TASK_BLOCK_A),
              cpu_at_bytes(unit, task_pointer(d, TASK_A), first), task_number(d, TASK_ROWS), part);
    cpu_if_else(unit, &slabs);
    LLVMValueRef some = plan_number(d, PLAN_PACK_ROWS), local = multiply(unit, part, some);
    LLVMValueRef row = add(unit, task_number(d, TASK_ROW0), local), rows = task_number(d, TASK_ROWS);
    LLVMValueRef from = multiply(unit, row, plan_number(d, PLAN_A + SIDE_PANEL_BYTES));
    LLVMValueRef to = multiply(unit, local, plan_number(d, PLAN_DEPTH));
    CpuIf exists;
    cpu_if_begin(unit, &exists, compare(unit, LLVMIntSLT, local, rows));
    pack_panels(d, PLAN_A, plan_pointer(d, PLAN_PACK_A), plan_number(d, PLAN_TILE_ROWS),
                cpu_at(unit, task_pointer(d, TASK_BLOCK_A), ELEMENT_F32, to),
                cpu_at_bytes(unit, task_pointer(d, TASK_A), from), cpu_min(unit, some, subtract(unit, rows, local)));
    cpu_if_end(unit, &exists);
    cpu_if_end(unit, &slabs);
}

LLVMValueRef cpu_contract_pack_function(CpuUnit *unit, bool side_b) {
    CpuHelper helper;
    Driver driver, *d = &driver;
    const char *name = side_b ? "cherry_contract_pack_b" : "cherry_contract_pack_a";
    if (!start(unit, name, 3, &helper, d)) return helper.function;
    LLVMValueRef part = LLVMGetParam(helper.function, 2);
    if (side_b) {
        CpuIf slabs, exists;
        cpu_if_begin(unit, &slabs, plan_says(d, PLAN_B + SIDE_SLAB));
        pack_slab_b(d, part);
        cpu_if_else(unit, &slabs);
        Panel panel = locate_panel(d, part);
        cpu_if_begin(unit, &exists, compare(unit, LLVMIntSGT, panel.columns, cpu_i64(unit, 0)));
        pack_panel_b(d, &panel, shared_panel(d, &panel));
        cpu_if_end(unit, &exists);
        cpu_if_end(unit, &slabs);
    } else {
        pack_part_a(d, part);
    }
    cpu_helper_end(unit, &helper);
    return helper.function;
}

static void pack_block_a(const Driver *d) {
    CpuUnit *unit = d->unit;
    LLVMValueRef slabs = plan_says(d, PLAN_A + SIDE_SLAB);
    LLVMValueRef steps = task_number(d, TASK_SEGMENT_DEPTH), rows = task_number(d, TASK_ROWS);
    LLVMValueRef all = LLVMBuildSelect(unit->builder, slabs, steps, rows, "");
    LLVMValueRef slab = plan_number(d, PLAN_A + SIDE_SLAB), some = plan_number(d, PLAN_PACK_ROWS);
    LLVMValueRef parts = cpu_blocks(unit, all, LLVMBuildSelect(unit->builder, slabs, slab, some, ""));
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, cpu_i64(unit, 0), parts, 1, NULL, 0);
    pack_part_a(d, loop.index);
    cpu_loop_end(unit, &loop, NULL);
}

// What the loops over tiles keep from outside.
typedef struct Tiles {
    Panel panel;
    LLVMValueRef packed, lying_rows;  // the panel, and the rows for which B is read as it lies
    LLVMValueRef function, lying_function, depth, rows, tile_rows;
} Tiles;

// Row or column `at`, step k0, of an operand that is read as it lies.
static LLVMValueRef in_place(const Driver *d, int side, LLVMValueRef at, LLVMValueRef k0) {
    CpuUnit *unit = d->unit;
    LLVMValueRef from = task_pointer(d, side == PLAN_A ? TASK_A : TASK_B);
    LLVMValueRef across = multiply(unit, at, plan_number(d, side + SIDE_PANEL_BYTES));
    return cpu_at_bytes(unit, from, add(unit, across, multiply(unit, k0, plan_number(d, side + SIDE_STEP_BYTES))));
}

// One of the two strides is 1.
static LLVMValueRef stride_of(const Driver *d, int side) {
    return multiply(d->unit, plan_number(d, side + SIDE_PANEL_STRIDE), plan_number(d, side + SIDE_K_STRIDE));
}

// Lines of B that are used next: rows of a panel's length, `stride` bytes apart, as they follow in memory.
typedef struct Ahead {
    LLVMValueRef at, stride, rows;
} Ahead;

static Ahead select_ahead(CpuUnit *unit, LLVMValueRef condition, Ahead yes, Ahead no) {
    LLVMBuilderRef builder = unit->builder;
    return (Ahead){LLVMBuildSelect(builder, condition, yes.at, no.at, ""),
                   LLVMBuildSelect(builder, condition, yes.stride, no.stride, ""),
                   LLVMBuildSelect(builder, condition, yes.rows, no.rows, "")};
}

// What is behind steps [k0, k0 + k) of a packed panel. Where B lies in memory, these steps of the next panel, which are
// rows of their own, or, along k, a share of the one piece of memory that it is.
static Ahead find_ahead(const Driver *d, const Tiles *t, LLVMValueRef k0, LLVMValueRef k) {
    CpuUnit *unit = d->unit;
    LLVMValueRef row = multiply(unit, t->panel.width, cpu_i64(unit, 4)), step_k = plan_number(d, PLAN_STEP_K);
    LLVMValueRef step_bytes = plan_number(d, PLAN_B + SIDE_STEP_BYTES);
    LLVMValueRef beside = add(unit, t->panel.column0, t->panel.width);
    Ahead packed = {cpu_at_bytes(unit, t->packed, multiply(unit, add(unit, k0, k), row)), row, k};
    Ahead across = {in_place(d, PLAN_B, beside, k0), LLVMBuildUDiv(unit->builder, step_bytes, step_k, ""),
                    multiply(unit, k, step_k)};
    LLVMValueRef before = multiply(unit, multiply(unit, k0, t->panel.width), step_bytes);
    Ahead along = {cpu_at_bytes(unit, in_place(d, PLAN_B, beside, cpu_i64(unit, 0)), before), row,
                   multiply(unit, k, plan_number(d, PLAN_ALONG_ROWS))};
    LLVMValueRef lies_across = compare(unit, LLVMIntEQ, plan_number(d, PLAN_B + SIDE_PANEL_STRIDE), cpu_i64(unit, 1));
    return select_ahead(unit, plan_says(d, PLAN_SHARES_B), packed, select_ahead(unit, lies_across, across, along));
}

// The part of it that a tile, by its number in the block, brings nearer, or nothing new.
static Ahead share_ahead(const Driver *d, const Tiles *t, LLVMValueRef tile, LLVMValueRef k, const Ahead *ahead) {
    CpuUnit *unit = d->unit;
    LLVMValueRef rounds = cpu_i64(unit, TILE_UNROLL);
    LLVMValueRef lies = compare(unit, LLVMIntSGT, t->lying_rows, cpu_i64(unit, 0));
    LLVMValueRef lying = LLVMBuildZExt(unit->builder, lies, unit->i64, "");
    LLVMValueRef first = multiply(unit, subtract(unit, tile, lying), LLVMBuildUDiv(unit->builder, k, rounds, ""));
    LLVMValueRef some = compare(unit, LLVMIntSLT, first, ahead->rows), zero = cpu_i64(unit, 0);
    first = LLVMBuildSelect(unit->builder, some, first, zero, "");
    return (Ahead){cpu_at_bytes(unit, ahead->at, multiply(unit, first, ahead->stride)),
                   LLVMBuildSelect(unit->builder, some, ahead->stride, zero, ""), k};
}

// Panel `number` of the block of A against one panel of B for steps [k0, k0 + k).
static void run_tile(const Driver *d, const Tiles *t, LLVMValueRef number, LLVMValueRef k0, LLVMValueRef k,
                     const Ahead *next) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef local = multiply(unit, number, t->tile_rows);
    LLVMValueRef width = t->panel.width, row0 = add(unit, task_number(d, TASK_ROW0), local);
    LLVMValueRef valid = cpu_min(unit, t->tile_rows, subtract(unit, t->rows, local));
    LLVMValueRef a_at = add(unit, multiply(unit, local, plan_number(d, PLAN_DEPTH)), multiply(unit, k0, t->tile_rows));
    LLVMValueRef packed = cpu_at(unit, task_pointer(d, TASK_BLOCK_A), ELEMENT_F32, a_at);
    LLVMValueRef a = LLVMBuildSelect(builder, plan_says(d, PLAN_PANELS_A), packed, in_place(d, PLAN_A, row0, k0), "");
    LLVMValueRef lies = compare(unit, LLVMIntSLT, local, t->lying_rows);
    LLVMValueRef panel = cpu_at(unit, t->packed, ELEMENT_F32, multiply(unit, k0, width));
    LLVMValueRef b = LLVMBuildSelect(builder, lies, in_place(d, PLAN_B, t->panel.column0, k0), panel, "");
    LLVMValueRef function = LLVMBuildSelect(builder, lies, t->lying_function, t->function, "");
    LLVMValueRef tile = cpu_at(unit, task_pointer(d, TASK_TILES), ELEMENT_F32,
                               multiply(unit, local, plan_number(d, PLAN_TILE_STEP)));
    // Whole tiles go straight to the result, where that is the sums as they are; those that are added, in the end.
    LLVMValueRef result = task_pointer(d, TASK_RESULT), nowhere = LLVMConstNull(unit->pointer);
    LLVMValueRef adds = plan_says(d, PLAN_ADDS), done = compare(unit, LLVMIntSGE, add(unit, k0, k), t->depth);
    LLVMValueRef full = LLVMBuildAnd(builder, compare(unit, LLVMIntEQ, valid, t->tile_rows),
                                     compare(unit, LLVMIntSGE, t->panel.columns, width), "");
    full = LLVMBuildAnd(builder, full, LLVMBuildIsNotNull(builder, result, ""), "");
    LLVMValueRef row_stride = plan_number(d, PLAN_RESULT_STRIDE);
    LLVMValueRef place = cpu_at(unit, result, ELEMENT_F32, add(unit, multiply(unit, row0, row_stride), t->panel.column0));
    LLVMValueRef stores = LLVMBuildAnd(builder, full, LLVMBuildNot(builder, adds, ""), "");
    LLVMValueRef c = LLVMBuildSelect(builder, stores, place, tile, "");
    LLVMValueRef stride = LLVMBuildSelect(builder, stores, row_stride, width, "");
    adds = LLVMBuildAnd(builder, LLVMBuildAnd(builder, full, adds, ""), done, "");
    LLVMValueRef sum = LLVMBuildSelect(builder, adds, place, nowhere, "");
    LLVMValueRef starts = compare(unit, LLVMIntEQ, k0, cpu_i64(unit, 0));
    LLVMValueRef first = LLVMBuildZExt(builder, starts, unit->i64, "");
    Ahead ahead = share_ahead(d, t, number, k, next);
    LLVMValueRef last_row = subtract(unit, valid, cpu_i64(unit, 1));
    LLVMValueRef arguments[] = {a, b, k, c, stride, first, ahead.at, ahead.stride, stride_of(d, PLAN_A),
                                stride_of(d, PLAN_B), last_row, panel, sum, row_stride};
    LLVMValueRef around[] = {task_pointer(d, TASK_OPERANDS), d->task, tile, row0, valid};
    LLVMValueRef prefetch = plan_pointer(d, PLAN_PREFETCH);
    CpuIf last, far;
    cpu_if_begin(unit, &far, LLVMBuildAnd(builder, LLVMBuildIsNotNull(builder, prefetch, ""), done, ""));
    call_pointer(unit, unit->function_type, prefetch, around, 5);
    cpu_if_end(unit, &far);
    call_pointer(unit, cpu_tile_type(unit), function, arguments, sizeof arguments / sizeof *arguments);
    cpu_if_begin(unit, &last, LLVMBuildAnd(builder, done, LLVMBuildNot(builder, full, ""), ""));
    call_pointer(unit, unit->function_type, plan_pointer(d, PLAN_EPILOGUE), around, 5);
    cpu_if_end(unit, &last);
}

static void run_panel(const Driver *d, const Panel *panel) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef zero = cpu_i64(unit, 0), one = cpu_i64(unit, 1);
    cpu_slot_store(unit, d->task, TASK_COLUMN0, panel->column0);
    cpu_slot_store(unit, d->task, TASK_COLUMN_COUNT, cpu_min(unit, panel->columns, panel->width));
    cpu_slot_store(unit, d->task, TASK_WIDTH, panel->width);
    LLVMValueRef whole = compare(unit, LLVMIntSGE, panel->columns, panel->width), shares = plan_says(d, PLAN_SHARES_B);
    LLVMValueRef lying_rows = LLVMBuildSelect(builder, whole, plan_number(d, PLAN_LYING_ROWS), zero, "");
    CpuIf pack;
    cpu_if_begin(unit, &pack, LLVMBuildAnd(builder, compare(unit, LLVMIntEQ, lying_rows, zero),
                                           LLVMBuildNot(builder, shares, ""), ""));
    pack_panel_b(d, panel, task_pointer(d, TASK_PANEL));
    cpu_if_end(unit, &pack);
    Tiles tiles = {.panel = *panel, .depth = task_number(d, TASK_DEPTH), .rows = task_number(d, TASK_ROWS),
                   .tile_rows = plan_number(d, PLAN_TILE_ROWS), .lying_rows = lying_rows};
    tiles.packed = LLVMBuildSelect(builder, shares, shared_panel(d, panel), task_pointer(d, TASK_PANEL), "");
    tiles.function = LLVMBuildSelect(builder, panel->wide, plan_pointer(d, PLAN_TILE_WIDE),
                                     plan_pointer(d, PLAN_TILE_NARROW), "");
    tiles.lying_function = LLVMBuildSelect(builder, panel->wide, plan_pointer(d, PLAN_LYING_WIDE),
                                           plan_pointer(d, PLAN_LYING_NARROW), "");
    // A depth of 0, possible at run time only, still writes its zeros.
    LLVMValueRef none = compare(unit, LLVMIntSLT, tiles.depth, one), block = cpu_i64(unit, CONTRACTION_DEPTH_BLOCK);
    LLVMValueRef end = LLVMBuildSelect(builder, none, one, tiles.depth, "");
    LLVMValueRef count = cpu_blocks(unit, tiles.rows, tiles.tile_rows);
    CpuLoop blocks, panels;
    cpu_loop_begin(unit, &blocks, zero, end, CONTRACTION_DEPTH_BLOCK, NULL, 0);
    LLVMValueRef k = cpu_min(unit, block, subtract(unit, tiles.depth, blocks.index));
    Ahead ahead = find_ahead(d, &tiles, blocks.index, k);
    cpu_loop_begin(unit, &panels, zero, count, 1, NULL, 0);
    run_tile(d, &tiles, panels.index, blocks.index, k, &ahead);
    cpu_loop_end(unit, &panels, NULL);
    cpu_loop_end(unit, &blocks, NULL);
}

LLVMValueRef cpu_contract_task_function(CpuUnit *unit) {
    CpuHelper helper;
    Driver driver, *d = &driver;
    if (!start(unit, "cherry_contract", 2, &helper, d)) return helper.function;
    CpuIf fresh, exists;
    cpu_if_begin(unit, &fresh, compare(unit, LLVMIntNE, task_number(d, TASK_PACK_A), cpu_i64(unit, 0)));
    pack_block_a(d);
    cpu_if_end(unit, &fresh);
    CpuLoop panels;
    cpu_loop_begin(unit, &panels, task_number(d, TASK_PANEL_BEGIN), task_number(d, TASK_PANEL_END), 1, NULL, 0);
    Panel panel = locate_panel(d, panels.index);
    cpu_if_begin(unit, &exists, compare(unit, LLVMIntSGT, panel.columns, cpu_i64(unit, 0)));
    run_panel(d, &panel);
    cpu_if_end(unit, &exists);
    cpu_loop_end(unit, &panels, NULL);
    cpu_helper_end(unit, &helper);
    return helper.function;
}
