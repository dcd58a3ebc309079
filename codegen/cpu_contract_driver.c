// The loops around tiles, as two functions that all contractions of a module share: what differs between
// them comes in a constant plan, what differs between tasks in a task record. Compiling these loops once
// a module, and not once a kernel, is most of what keeps contractions cheap to compile.
//
//   cherry_contract(plan, task):
//     part of k:                                         (all of it, or one block)
//       pack these steps of the block's rows of A        (unless a phase did, or the previous task had the same rows)
//       panel of B:  pack it                             (unless a phase did, or tiles read it as it lies)
//         block of k:                                    (its share of a panel of A stays in the first cache)
//           panel of A:  tile += A panel * B panel;  behind the last block of k: epilogue of the tile
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
    LLVMValueRef panel_size = multiply(unit, plan_number(d, PLAN_PACKED_DEPTH), width), panels = cpu_blocks(unit, valid, width);
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
    LLVMValueRef at = multiply(d->unit, panel->column0, plan_number(d, PLAN_PACKED_DEPTH));
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
    LLVMValueRef place = multiply(unit, subtract(unit, step, task_number(d, TASK_STEP_BEGIN)), width);
    LLVMValueRef arguments[] = {cpu_at(unit, to, ELEMENT_F32, place),
                                cpu_at_bytes(unit, from, multiply(unit, step, plan_number(d, side + SIDE_STEP_BYTES))),
                                valid, k, plan_number(d, side + SIDE_PANEL_STRIDE), plan_number(d, side + SIDE_K_STRIDE),
                                width, cpu_blocks(unit, valid, width), multiply(unit, plan_number(d, PLAN_PACKED_DEPTH), width)};
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
              cpu_at(unit, to, ELEMENT_F32, multiply(unit, before, plan_number(d, PLAN_PACKED_DEPTH))),
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
    LLVMValueRef to = multiply(unit, local, plan_number(d, PLAN_PACKED_DEPTH));
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
    LLVMValueRef slab = plan_number(d, PLAN_A + SIDE_SLAB), some = plan_number(d, PLAN_PACK_ROWS);
    LLVMValueRef part = LLVMBuildSelect(unit->builder, slabs, slab, some, "");
    LLVMValueRef begin = LLVMBuildSelect(unit->builder, slabs, task_number(d, TASK_STEP_BEGIN), cpu_i64(unit, 0), "");
    LLVMValueRef end = LLVMBuildSelect(unit->builder, slabs, task_number(d, TASK_STEP_END), task_number(d, TASK_ROWS), "");
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, LLVMBuildUDiv(unit->builder, begin, part, ""), cpu_blocks(unit, end, part), 1, NULL, 0);
    pack_part_a(d, loop.index);
    cpu_loop_end(unit, &loop, NULL);
}

// ---- Tiles of a panel of B ----

// Lines that are used next: rows of the length of a row of B's panel, `stride` bytes apart, as they follow in memory.
typedef struct Ahead {
    LLVMValueRef at, stride, rows;
} Ahead;

// Steps [k0, k0 + k) of a panel: what all its tiles share, computed before them.
typedef struct Tiles {
    Panel panel;
    LLVMValueRef function, lying_function;
    LLVMValueRef packed, lying;              // B at step k0: in the panel, and as it lies,
    LLVMValueRef lying_rows;                 // for so many rows
    LLVMValueRef k0, k, first, done;         // i1: the sums start here, and are whole behind these steps
    LLVMValueRef rows, tile_rows, row0, sums;
    LLVMValueRef stores, adds;               // i1: whole tiles are stored in the result, or added to it in the end
    LLVMValueRef row_stride, a_stride, b_stride;
    LLVMValueRef follows;                    // i1: what tiles read of A is one piece
    LLVMValueRef panel_row, lying_tiles, rounds;
    LLVMValueRef index, in_parts, more;      // of the panel; i1: k comes in parts, and others follow
    Ahead ahead;
} Tiles;

// What moves from tile to tile: where A is, the result, and where sums wait for the epilogue.
enum { AT_A, AT_RESULT, AT_SUMS, AT_COUNT };

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

static LLVMValueRef both(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildAnd(unit->builder, a, b, "");
}

static Ahead select_ahead(CpuUnit *unit, LLVMValueRef condition, Ahead yes, Ahead no) {
    LLVMBuilderRef builder = unit->builder;
    return (Ahead){LLVMBuildSelect(builder, condition, yes.at, no.at, ""),
                   LLVMBuildSelect(builder, condition, yes.stride, no.stride, ""),
                   LLVMBuildSelect(builder, condition, yes.rows, no.rows, "")};
}

// What is behind these steps of a packed panel. Where B lies in memory, the same steps of the next panel, which are
// rows of their own, or, along k, a share of the one piece of memory that it is.
static Ahead find_ahead(const Driver *d, const Tiles *t) {
    CpuUnit *unit = d->unit;
    LLVMValueRef step_k = plan_number(d, PLAN_STEP_K), step_bytes = plan_number(d, PLAN_B + SIDE_STEP_BYTES);
    LLVMValueRef beside = add(unit, t->panel.column0, t->panel.width);
    Ahead packed = {cpu_at_bytes(unit, t->packed, multiply(unit, t->k, t->panel_row)), t->panel_row, t->k};
    Ahead across = {in_place(d, PLAN_B, beside, t->k0), LLVMBuildUDiv(unit->builder, step_bytes, step_k, ""),
                    multiply(unit, t->k, step_k)};
    LLVMValueRef before = multiply(unit, multiply(unit, t->k0, t->panel.width), step_bytes);
    Ahead along = {cpu_at_bytes(unit, in_place(d, PLAN_B, beside, cpu_i64(unit, 0)), before), t->panel_row,
                   multiply(unit, t->k, plan_number(d, PLAN_ALONG_ROWS))};
    LLVMValueRef lies_across = compare(unit, LLVMIntEQ, plan_number(d, PLAN_B + SIDE_PANEL_STRIDE), cpu_i64(unit, 1));
    return select_ahead(unit, plan_says(d, PLAN_SHARES_B), packed, select_ahead(unit, lies_across, across, along));
}

// The part of it that a tile, by its number in the block, brings nearer. Tiles behind those ask for what the next one
// reads of A, if rows follow one another: they are short, and the machine does not look ahead far enough by itself.
// Else for nothing new.
static Ahead share_ahead(CpuUnit *unit, const Tiles *t, LLVMValueRef tile, LLVMValueRef next_a) {
    LLVMValueRef row = multiply(unit, subtract(unit, tile, t->lying_tiles), t->rounds);
    LLVMValueRef some = compare(unit, LLVMIntSLT, row, t->ahead.rows);
    Ahead of_b = {cpu_at_bytes(unit, t->ahead.at, multiply(unit, row, t->ahead.stride)), t->ahead.stride, t->k};
    Ahead of_a = {next_a, t->panel_row, t->k}, nothing = {t->ahead.at, cpu_i64(unit, 0), t->k};
    return select_ahead(unit, some, of_b, select_ahead(unit, t->follows, of_a, nothing));
}

// Share `share` of stripe `stripe`, as wide as a panel of B, of the rows or columns of an operand from `at` on, for as many
// steps from k0 on as this part has.
static Ahead stripe_ahead(const Driver *d, const Tiles *t, int side, LLVMValueRef at, LLVMValueRef k0,
                          LLVMValueRef stripe, LLVMValueRef share) {
    CpuUnit *unit = d->unit;
    LLVMValueRef width = multiply(unit, plan_number(d, PLAN_WIDE), cpu_i64(unit, 4));
    LLVMValueRef step_bytes = plan_number(d, side + SIDE_STEP_BYTES);
    LLVMValueRef stride = LLVMBuildUDiv(unit->builder, step_bytes, plan_number(d, PLAN_STEP_K), "");
    LLVMValueRef before = multiply(unit, multiply(unit, share, t->rounds), stride);
    before = add(unit, before, multiply(unit, stripe, width));
    return (Ahead){cpu_at_bytes(unit, in_place(d, side, at, k0), before), stride, t->k};
}

// Where tasks take k in parts, tiles bring the rows of A and B nearer that are read next, of which little is in one
// place. The first tile of a panel reads B as it lies, and asks for that itself. The next ones share what follows of B, its
// first stripe behind all others, as that is of the next part; the rest the next part of A.
static Ahead part_ahead(const Driver *d, const Tiles *t, LLVMValueRef tile) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef one = cpu_i64(unit, 1), zero = cpu_i64(unit, 0), begin = task_number(d, TASK_PANEL_BEGIN);
    LLVMValueRef panels = subtract(unit, task_number(d, TASK_PANEL_END), begin), panel = subtract(unit, t->index, begin);
    LLVMValueRef tiles_b = plan_number(d, PLAN_TILES_B), together = plan_number(d, PLAN_STRIPE_TILES);
    LLVMValueRef tiles_a = subtract(unit, cpu_blocks(unit, t->rows, t->tile_rows), add(unit, tiles_b, one));
    LLVMValueRef of_b = compare(unit, LLVMIntSLE, tile, tiles_b), end = add(unit, t->k0, t->k), stripe, share;
    LLVMValueRef number_b = add(unit, multiply(unit, panel, tiles_b), subtract(unit, tile, one));
    LLVMValueRef number_a = add(unit, multiply(unit, panel, tiles_a), subtract(unit, tile, add(unit, tiles_b, one)));
    cpu_divide(unit, LLVMBuildSelect(builder, of_b, number_b, number_a, ""), together, &stripe, &share);
    LLVMValueRef next = add(unit, stripe, one), stripes = cpu_blocks(unit, multiply(unit, panels, tiles_b), together);
    LLVMValueRef within = compare(unit, LLVMIntSLT, next, stripes);
    Ahead ahead_b = stripe_ahead(d, t, PLAN_B, locate_panel(d, begin).column0,
                                 LLVMBuildSelect(builder, within, t->k0, end, ""),
                                 LLVMBuildSelect(builder, within, next, zero, ""), share);
    Ahead ahead_a = stripe_ahead(d, t, PLAN_A, t->row0, end, stripe, share), nothing = {t->packed, zero, t->k};
    LLVMValueRef run = multiply(unit, t->rows, plan_number(d, PLAN_A + SIDE_PANEL_BYTES));
    LLVMValueRef width = multiply(unit, plan_number(d, PLAN_WIDE), cpu_i64(unit, 4));
    LLVMValueRef some_a = both(unit, t->more, compare(unit, LLVMIntSLT, multiply(unit, stripe, width), run));
    LLVMValueRef some_b = LLVMBuildOr(builder, within, t->more, "");
    return select_ahead(unit, of_b, select_ahead(unit, some_b, ahead_b, nothing),
                        select_ahead(unit, some_a, ahead_a, nothing));
}

// What tile `tile` of the block brings nearer.
static Ahead find_tile_ahead(const Driver *d, const Tiles *t, LLVMValueRef tile, LLVMValueRef next_a) {
    CpuUnit *unit = d->unit;
    CpuIf parts;
    LLVMBasicBlockRef from[2];
    cpu_if_begin(unit, &parts, t->in_parts);
    Ahead of_parts = part_ahead(d, t, tile);
    from[0] = LLVMGetInsertBlock(unit->builder);
    cpu_if_else(unit, &parts);
    Ahead of_all = share_ahead(unit, t, tile, next_a);
    from[1] = LLVMGetInsertBlock(unit->builder);
    cpu_if_end(unit, &parts);
    Ahead ahead = {LLVMBuildPhi(unit->builder, unit->pointer, ""), LLVMBuildPhi(unit->builder, unit->i64, ""), t->k};
    LLVMAddIncoming(ahead.at, (LLVMValueRef[]){of_parts.at, of_all.at}, from, 2);
    LLVMAddIncoming(ahead.stride, (LLVMValueRef[]){of_parts.stride, of_all.stride}, from, 2);
    return ahead;
}

// Panel `number` of the block of A against the panel of B.
static void run_tile(const Driver *d, const Tiles *t, LLVMValueRef number, const LLVMValueRef *at,
                     LLVMValueRef next_a) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef local = multiply(unit, number, t->tile_rows);
    LLVMValueRef valid = cpu_min(unit, t->tile_rows, subtract(unit, t->rows, local));
    LLVMValueRef lies = compare(unit, LLVMIntSLT, local, t->lying_rows);
    LLVMValueRef b = LLVMBuildSelect(builder, lies, t->lying, t->packed, "");
    LLVMValueRef function = LLVMBuildSelect(builder, lies, t->lying_function, t->function, "");
    LLVMValueRef whole = compare(unit, LLVMIntEQ, valid, t->tile_rows);
    LLVMValueRef stores = both(unit, whole, t->stores), adds = both(unit, whole, t->adds);
    LLVMValueRef c = LLVMBuildSelect(builder, stores, at[AT_RESULT], at[AT_SUMS], "");
    LLVMValueRef stride = LLVMBuildSelect(builder, stores, t->row_stride, t->panel.width, "");
    LLVMValueRef sum = LLVMBuildSelect(builder, adds, at[AT_RESULT], LLVMConstNull(unit->pointer), "");
    LLVMValueRef last_row = subtract(unit, valid, cpu_i64(unit, 1));
    Ahead ahead = find_tile_ahead(d, t, number, next_a);
    LLVMValueRef arguments[] = {at[AT_A], b, t->k, c, stride, t->first, ahead.at, ahead.stride, t->a_stride,
                                t->b_stride, last_row, t->packed, sum, t->row_stride};
    LLVMValueRef row0 = add(unit, t->row0, local);
    LLVMValueRef around[] = {task_pointer(d, TASK_OPERANDS), d->task, at[AT_SUMS], row0, valid};
    LLVMValueRef prefetch = plan_pointer(d, PLAN_PREFETCH);
    CpuIf last, far;
    cpu_if_begin(unit, &far, both(unit, LLVMBuildIsNotNull(builder, prefetch, ""), t->done));
    call_pointer(unit, unit->function_type, prefetch, around, 5);
    cpu_if_end(unit, &far);
    call_pointer(unit, cpu_tile_type(unit), function, arguments, sizeof arguments / sizeof *arguments);
    LLVMValueRef waits = LLVMBuildNot(builder, LLVMBuildOr(builder, stores, adds, ""), "");
    cpu_if_begin(unit, &last, both(unit, t->done, waits));
    call_pointer(unit, unit->function_type, plan_pointer(d, PLAN_EPILOGUE), around, 5);
    cpu_if_end(unit, &last);
}

// The tiles of all rows of the block.
static void run_tiles(const Driver *d, const Tiles *t) {
    CpuUnit *unit = d->unit;
    LLVMValueRef packs_a = plan_says(d, PLAN_PANELS_A), depth = plan_number(d, PLAN_PACKED_DEPTH);
    LLVMValueRef before = multiply(unit, subtract(unit, t->k0, task_number(d, TASK_STEP_BEGIN)), t->tile_rows);
    LLVMValueRef packed = cpu_at(unit, task_pointer(d, TASK_BLOCK_A), ELEMENT_F32, before);
    LLVMValueRef row_bytes = LLVMBuildSelect(unit->builder, packs_a, multiply(unit, depth, cpu_i64(unit, 4)),
                                             plan_number(d, PLAN_A + SIDE_PANEL_BYTES), "");
    LLVMValueRef place = add(unit, multiply(unit, t->row0, t->row_stride), t->panel.column0);
    LLVMValueRef state[AT_COUNT] = {
        LLVMBuildSelect(unit->builder, packs_a, packed, in_place(d, PLAN_A, t->row0, t->k0), ""),
        cpu_at(unit, task_pointer(d, TASK_RESULT), ELEMENT_F32, place), t->sums};
    LLVMValueRef a_bytes = multiply(unit, t->tile_rows, row_bytes);
    LLVMValueRef result_step = multiply(unit, t->tile_rows, t->row_stride);
    LLVMValueRef sums_step = multiply(unit, t->tile_rows, plan_number(d, PLAN_TILE_STEP));
    CpuLoop tiles;
    cpu_loop_begin(unit, &tiles, cpu_i64(unit, 0), cpu_blocks(unit, t->rows, t->tile_rows), 1, state, AT_COUNT);
    const LLVMValueRef *at = tiles.carried;
    LLVMValueRef next[AT_COUNT] = {cpu_at_bytes(unit, at[AT_A], a_bytes),
                                   cpu_at(unit, at[AT_RESULT], ELEMENT_F32, result_step),
                                   cpu_at(unit, at[AT_SUMS], ELEMENT_F32, sums_step)};
    run_tile(d, t, tiles.index, at, next[AT_A]);
    cpu_loop_end(unit, &tiles, next);
}

// Fills what differs between the steps from k0 on and others.
static void find_steps(const Driver *d, Tiles *t, LLVMValueRef k0) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef depth = task_number(d, TASK_DEPTH), zero = cpu_i64(unit, 0);
    t->k0 = k0;
    t->k = cpu_min(unit, cpu_i64(unit, CONTRACTION_DEPTH_BLOCK), subtract(unit, task_number(d, TASK_STEP_END), k0));
    t->first = LLVMBuildZExt(builder, compare(unit, LLVMIntEQ, k0, zero), unit->i64, "");
    t->done = compare(unit, LLVMIntSGE, add(unit, k0, t->k), depth);
    LLVMValueRef held = subtract(unit, k0, task_number(d, TASK_STEP_BEGIN));
    t->packed = cpu_at(unit, t->packed, ELEMENT_F32, multiply(unit, held, t->panel.width));
    t->lying = in_place(d, PLAN_B, t->panel.column0, k0);
    t->rounds = LLVMBuildUDiv(builder, t->k, cpu_i64(unit, TILE_UNROLL), "");
    LLVMValueRef row = multiply(unit, t->k, plan_number(d, PLAN_A + SIDE_STEP_BYTES));
    LLVMValueRef next_row = compare(unit, LLVMIntEQ, row, plan_number(d, PLAN_A + SIDE_PANEL_BYTES));
    t->follows = both(unit, next_row, LLVMBuildNot(builder, plan_says(d, PLAN_PANELS_A), ""));
    t->more = compare(unit, LLVMIntSLT, task_number(d, TASK_STEP_END), depth);
    t->ahead = find_ahead(d, t);
    LLVMValueRef straight = both(unit, compare(unit, LLVMIntSGE, t->panel.columns, t->panel.width),
                                 LLVMBuildIsNotNull(builder, task_pointer(d, TASK_RESULT), ""));
    LLVMValueRef adds = plan_says(d, PLAN_ADDS);
    t->stores = both(unit, straight, LLVMBuildNot(builder, adds, ""));
    t->adds = both(unit, both(unit, straight, adds), t->done);
}

// Panel `index` of the task, over the steps of k that are packed.
static void run_panel(const Driver *d, const Panel *panel, LLVMValueRef index) {
    CpuUnit *unit = d->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef zero = cpu_i64(unit, 0), one = cpu_i64(unit, 1);
    cpu_slot_store(unit, d->task, TASK_COLUMN0, panel->column0);
    cpu_slot_store(unit, d->task, TASK_COLUMN_COUNT, cpu_min(unit, panel->columns, panel->width));
    cpu_slot_store(unit, d->task, TASK_WIDTH, panel->width);
    LLVMValueRef whole = compare(unit, LLVMIntSGE, panel->columns, panel->width), shares = plan_says(d, PLAN_SHARES_B);
    LLVMValueRef lying_rows = LLVMBuildSelect(builder, whole, plan_number(d, PLAN_LYING_ROWS), zero, "");
    LLVMValueRef lies = compare(unit, LLVMIntSGT, lying_rows, zero);
    CpuIf pack;
    cpu_if_begin(unit, &pack, both(unit, LLVMBuildNot(builder, lies, ""), LLVMBuildNot(builder, shares, "")));
    pack_panel_b(d, panel, task_pointer(d, TASK_PANEL));
    cpu_if_end(unit, &pack);
    LLVMValueRef packed = LLVMBuildSelect(builder, shares, shared_panel(d, panel), task_pointer(d, TASK_PANEL), "");
    Tiles tiles = {.panel = *panel, .lying_rows = lying_rows, .panel_row = multiply(unit, panel->width, cpu_i64(unit, 4)),
                   .lying_tiles = LLVMBuildZExt(builder, lies, unit->i64, ""), .rows = task_number(d, TASK_ROWS),
                   .tile_rows = plan_number(d, PLAN_TILE_ROWS), .row0 = task_number(d, TASK_ROW0),
                   .row_stride = plan_number(d, PLAN_RESULT_STRIDE), .a_stride = stride_of(d, PLAN_A),
                   .b_stride = stride_of(d, PLAN_B), .index = index,
                   .in_parts = plan_says(d, PLAN_PANEL_SUMS)};
    tiles.function = LLVMBuildSelect(builder, panel->wide, plan_pointer(d, PLAN_TILE_WIDE),
                                     plan_pointer(d, PLAN_TILE_NARROW), "");
    tiles.lying_function = LLVMBuildSelect(builder, panel->wide, plan_pointer(d, PLAN_LYING_WIDE),
                                           plan_pointer(d, PLAN_LYING_NARROW), "");
    LLVMValueRef before = subtract(unit, index, task_number(d, TASK_PANEL_BEGIN));
    before = multiply(unit, before, plan_number(d, PLAN_PANEL_SUMS));
    tiles.sums = cpu_at(unit, task_pointer(d, TASK_TILES), ELEMENT_F32, before);
    // A depth of 0, possible at run time only, still writes its zeros.
    LLVMValueRef end = task_number(d, TASK_STEP_END), none = compare(unit, LLVMIntSLT, end, one);
    CpuLoop blocks;
    cpu_loop_begin(unit, &blocks, task_number(d, TASK_STEP_BEGIN), LLVMBuildSelect(builder, none, one, end, ""),
                   CONTRACTION_DEPTH_BLOCK, NULL, 0);
    Tiles block = tiles;
    block.packed = packed;
    find_steps(d, &block, blocks.index);
    run_tiles(d, &block);
    cpu_loop_end(unit, &blocks, NULL);
}

LLVMValueRef cpu_contract_task_function(CpuUnit *unit) {
    CpuHelper helper;
    Driver driver, *d = &driver;
    if (!start(unit, "cherry_contract", 2, &helper, d)) return helper.function;
    CpuIf fresh, exists;
    LLVMValueRef zero = cpu_i64(unit, 0), depth = task_number(d, TASK_DEPTH), held = plan_number(d, PLAN_PACKED_DEPTH);
    LLVMValueRef count = cpu_blocks(unit, depth, held), none = compare(unit, LLVMIntEQ, count, zero);
    CpuLoop parts, panels;
    cpu_loop_begin(unit, &parts, zero, LLVMBuildSelect(unit->builder, none, cpu_i64(unit, 1), count, ""), 1, NULL, 0);
    LLVMValueRef begin = multiply(unit, parts.index, held);
    cpu_slot_store(unit, d->task, TASK_STEP_BEGIN, begin);
    cpu_slot_store(unit, d->task, TASK_STEP_END, cpu_min(unit, add(unit, begin, held), depth));
    cpu_if_begin(unit, &fresh, compare(unit, LLVMIntNE, task_number(d, TASK_PACK_A), zero));
    pack_block_a(d);
    cpu_if_end(unit, &fresh);
    cpu_loop_begin(unit, &panels, task_number(d, TASK_PANEL_BEGIN), task_number(d, TASK_PANEL_END), 1, NULL, 0);
    Panel panel = locate_panel(d, panels.index);
    cpu_if_begin(unit, &exists, compare(unit, LLVMIntSGT, panel.columns, zero));
    run_panel(d, &panel, panels.index);
    cpu_if_end(unit, &exists);
    cpu_loop_end(unit, &panels, NULL);
    cpu_loop_end(unit, &parts, NULL);
    cpu_helper_end(unit, &helper);
    return helper.function;
}
