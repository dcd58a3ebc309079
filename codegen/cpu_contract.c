// Generator of contractions. A kernel has a phase that packs A for all tasks (where more than one group of panels
// uses a block of rows), one that packs B (where more than one block of rows uses it), and one of tasks: block of
// rows x group of panels of B. The loops around tiles are shared by the module (cpu_contract_driver.c); here stand
// what a task's number means; cpu_contract_epilogue.c has what follows the sums of a tile.
// Launches that pack one operand into one form share the packing phase: see passes/share_packed.c.
#include "base/hash.h"
#include "codegen/cpu_contract.h"
#include "codegen/cpu_place.h"

typedef struct Emission {
    CpuUnit *unit;
    CpuBody *body;
    const CpuContraction *plan;
    LLVMValueRef plan_record, task;
    LLVMValueRef rows, depth;              // extents at run time
    LLVMValueRef loop[LOOP_MAX];           // outer loops of the task
} Emission;

static int64_t stride_of(const CpuContraction *plan, uint32_t load, int loop) {
    return loop < 0 ? 0 : access_stride(cpu_contraction_index(plan, load), loop);
}

static int64_t extent_of(const CpuContraction *plan, int loop) { return plan->nest->loops[loop].dimension.extent; }

// Of one packed matrix.
static int64_t packed_bytes(const CpuContraction *plan, const CpuTarget *target, int side) {
    int64_t rows = (plan->rows + plan->tile.rows - 1) / plan->tile.rows * plan->tile.rows;
    return (side == PLAN_B ? plan->vectors * target->lanes : rows) * plan->depth * 4;
}

static uint32_t load_of(const CpuContraction *plan, int side) { return side == PLAN_B ? plan->load_b : plan->load_a; }
static int64_t slab_of(const CpuContraction *plan, int side) { return side == PLAN_B ? plan->slab_b : plan->slab_a; }
static bool is_private(const CpuContraction *plan, int side) { return side == PLAN_B ? plan->private_b : plan->private_a; }

// Whether a task may have to pack its rows.
static bool may_pack_a(const CpuContraction *plan) {
    return plan->tile.a == TILE_PANEL && (plan->private_a || plan->optional_a);
}

// The workspace that holds packed side A or B, and the phase that fills it.
static int packed_place(const CpuContraction *plan, int side) { return side == PLAN_B && !plan->private_a; }

static int64_t wide_width(const CpuContraction *plan, const CpuTarget *target) {
    return (int64_t)plan->tile.vectors * target->lanes;
}

// ---- Records ----

// Whether some tile reads a panel of B that a task made: packed, or kept by another tile.
static bool has_private_panels(const CpuContraction *plan) {
    return plan->private_b && (plan->tile.b == TILE_PANEL || plan->tile.keeps || !plan->whole_columns);
}

// The function for tiles that read B as it lies, or those that read panels; where there are none of a kind, the other.
static LLVMValueRef tile_of(CpuUnit *unit, const CpuContraction *plan, int vectors, bool lying) {
    CpuTile tile = plan->tile;
    tile.vectors = vectors;
    if (!lying && (!plan->private_b || has_private_panels(plan))) tile.b = TILE_PANEL;
    return cpu_tile_function(unit, tile);
}

// What packs panels, or NULL where nothing does.
static LLVMValueRef pack_of_a(CpuUnit *unit, const CpuContraction *plan) {
    if (plan->tile.a != TILE_PANEL) return LLVMConstNull(unit->pointer);
    return cpu_pack_function(unit, plan->pack_a, plan->element_a, plan->panel_a, plan->tile.rows);
}

static LLVMValueRef pack_of_b(CpuUnit *unit, const CpuContraction *plan, int width) {
    if (plan->tile.b != TILE_PANEL && plan->whole_columns) return LLVMConstNull(unit->pointer);
    return cpu_pack_function(unit, plan->pack_b, plan->element_b, plan->panel_b, width);
}

// Rows of a panel's length that a step of all its columns takes where B lies along k in one piece, else 0.
static int64_t along_rows(const CpuContraction *plan) {
    int64_t step_bytes = element_bytes(plan->element_b) * (plan->panel_b == PANEL_PAIRS ? 2 : 1);
    int64_t column_bytes = stride_of(plan, plan->load_b, plan->column) * element_bytes(plan->element_b);
    return column_bytes == plan->depth * step_bytes ? (step_bytes + 3) / 4 : 0;
}

static LLVMValueRef plan_record(CpuUnit *unit, const CpuContraction *plan, LLVMValueRef epilogue,
                                LLVMValueRef prefetch) {
    int lanes = unit->target->lanes, narrow = plan->wide_panels < plan->panels ? plan->narrow : plan->tile.vectors;
    int wide = plan->wide_panels ? plan->tile.vectors : narrow;
    int step_k = plan->panel_b == PANEL_PAIRS ? 2 : 1;
    LLVMValueRef slots[PLAN_SLOTS];
    for (int side = 0; side < 2; side++) {
        uint32_t load = side ? plan->load_b : plan->load_a;
        int64_t stride = stride_of(plan, load, side ? plan->column : plan->row);
        LLVMValueRef *at = &slots[side ? PLAN_B : PLAN_A];
        at[SIDE_PANEL_STRIDE] = cpu_i64(unit, stride);
        int64_t k_stride = stride_of(plan, load, plan->k);
        int64_t bytes = element_bytes(side ? plan->element_b : plan->element_a);
        at[SIDE_K_STRIDE] = cpu_i64(unit, k_stride);
        at[SIDE_PANEL_BYTES] = cpu_i64(unit, stride * bytes);
        at[SIDE_STEP_BYTES] = cpu_i64(unit, k_stride * bytes * step_k);
        at[SIDE_SLAB] = cpu_i64(unit, slab_of(plan, side ? PLAN_B : PLAN_A));
    }
    int64_t result_stride = plan->row < 0 ? 0 : access_stride(plan->nest->stages[1].index, plan->row);
    int64_t tile_step = plan->depth > CONTRACTION_DEPTH_BLOCK ? wide_width(plan, unit->target) : 0;
    slots[PLAN_PACKED_DEPTH] = cpu_i64(unit, plan->packed_depth);
    slots[PLAN_TILE_ROWS] = cpu_i64(unit, plan->tile.rows);
    slots[PLAN_TILE_STEP] = cpu_i64(unit, tile_step);
    slots[PLAN_PANEL_SUMS] = cpu_i64(unit, cpu_contraction_in_parts(plan) ? tile_step * plan->row_block : 0);
    slots[PLAN_WIDE] = cpu_i64(unit, wide * lanes);
    slots[PLAN_NARROW] = cpu_i64(unit, narrow * lanes);
    slots[PLAN_WIDE_PANELS] = cpu_i64(unit, plan->wide_panels);
    slots[PLAN_PANELS_A] = cpu_i64(unit, plan->tile.a == TILE_PANEL);
    slots[PLAN_STEP_K] = cpu_i64(unit, step_k);
    slots[PLAN_PACK_ROWS] = cpu_i64(unit, plan->pack_rows);
    slots[PLAN_STRIPE_TILES] = cpu_i64(unit, TILE_UNROLL * step_k);
    slots[PLAN_TILES_B] = cpu_i64(unit, TILE_UNROLL * step_k * element_bytes(plan->element_b) / 4);
    slots[PLAN_LYING_ROWS] = cpu_i64(unit, plan->tile.b == TILE_PANEL ? 0 : plan->tile.keeps ? 1 : INT64_MAX);
    slots[PLAN_ALONG_ROWS] = cpu_i64(unit, along_rows(plan));
    slots[PLAN_SHARES_B] = cpu_i64(unit, !plan->private_b);
    slots[PLAN_ADDS] = cpu_i64(unit, plan->adds);
    slots[PLAN_RESULT_STRIDE] = cpu_i64(unit, result_stride);
    slots[PLAN_PACK_A] = pack_of_a(unit, plan);
    slots[PLAN_PACK_WIDE] = pack_of_b(unit, plan, wide * lanes);
    slots[PLAN_PACK_NARROW] = pack_of_b(unit, plan, narrow * lanes);
    slots[PLAN_TILE_WIDE] = tile_of(unit, plan, wide, false);
    slots[PLAN_TILE_NARROW] = tile_of(unit, plan, narrow, false);
    slots[PLAN_LYING_WIDE] = tile_of(unit, plan, wide, true);
    slots[PLAN_LYING_NARROW] = tile_of(unit, plan, narrow, true);
    slots[PLAN_EPILOGUE] = epilogue;
    slots[PLAN_PREFETCH] = prefetch;
    LLVMValueRef value = LLVMConstStructInContext(unit->context, slots, PLAN_SLOTS, false);
    LLVMValueRef record = LLVMAddGlobal(unit->module, LLVMTypeOf(value), "cherry_plan");
    LLVMSetInitializer(record, value);
    LLVMSetGlobalConstant(record, true);
    LLVMSetLinkage(record, LLVMInternalLinkage);
    LLVMSetAlignment(record, 8);
    return record;
}

static void set(const Emission *e, int slot, LLVMValueRef value) { cpu_slot_store(e->unit, e->task, slot, value); }

// Where each iteration of the reduced loops but the last starts, in bytes, for A and B.
static void fill_offsets(const Emission *e, LLVMValueRef segments, LLVMValueRef table_a, LLVMValueRef table_b) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    int64_t a_bytes = element_bytes(plan->element_a), b_element = element_bytes(plan->element_b);
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, cpu_i64(unit, 0), segments, 1, NULL, 0);
    LLVMValueRef rest = loop.index, a = cpu_i64(unit, 0), b = a, index;
    for (int i = plan->segment_count - 1; i >= 0; i--) {
        cpu_divide(unit, rest, cpu_extent(e->body, plan->nest, plan->segments[i]), &rest, &index);
        a = add(unit, a, scaled(unit, index, stride_of(plan, plan->load_a, plan->segments[i]) * a_bytes));
        b = add(unit, b, scaled(unit, index, stride_of(plan, plan->load_b, plan->segments[i]) * b_element));
    }
    LLVMBuildStore(unit->builder, a, cpu_at(unit, table_a, ELEMENT_I64, loop.index));
    LLVMBuildStore(unit->builder, b, cpu_at(unit, table_b, ELEMENT_I64, loop.index));
    cpu_loop_end(unit, &loop, NULL);
}

static int64_t aligned(int64_t bytes) { return (bytes + 127) & ~(int64_t)63; }

// Fills what all tasks of a call share. Scratch: rows of A, a panel of B (private only), tiles, offsets;
// each followed by room for one vector.
static void start_task_record(Emission *e, CpuKernel *out) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef one = cpu_i64(unit, 1), segments = one;
    e->task = cpu_stack_slot(e->body, LLVMArrayType2(unit->i64, TASK_SLOTS));
    e->rows = plan->row < 0 ? one : cpu_extent(e->body, plan->nest, plan->row);
    LLVMValueRef depth = plan->k < 0 ? one : cpu_extent(e->body, plan->nest, plan->k);
    set(e, TASK_SEGMENT_K, depth);
    if (plan->panel_b == PANEL_PAIRS) depth = cpu_blocks(unit, depth, cpu_i64(unit, 2));
    int64_t segment_capacity = plan->depth / plan->segment_depth;
    for (int i = 0; i < plan->segment_count; i++)
        segments = LLVMBuildMul(unit->builder, segments, cpu_extent(e->body, plan->nest, plan->segments[i]), "");
    set(e, TASK_OPERANDS, LLVMGetParam(e->body->function, 0));
    set(e, TASK_COLUMNS, plan->column < 0 ? one : cpu_extent(e->body, plan->nest, plan->column));
    set(e, TASK_SEGMENTS, segments);
    set(e, TASK_SEGMENT_DEPTH, depth);
    set(e, TASK_STEP_BEGIN, cpu_i64(unit, 0));
    e->depth = LLVMBuildMul(unit->builder, segments, depth, "");
    set(e, TASK_DEPTH, e->depth);

    bool blocks = plan->depth > CONTRACTION_DEPTH_BLOCK;
    int64_t width = wide_width(plan, unit->target), panels = cpu_contraction_in_parts(plan) ? plan->panel_group : 1;
    int64_t sizes[] = {may_pack_a(plan) ? aligned(plan->row_block * plan->packed_depth * 4) : 0,
                       has_private_panels(plan) ? aligned(width * plan->packed_depth * 4) : 0,
                       aligned((blocks ? plan->row_block : plan->tile.rows) * panels * width * 4),
                       plan->segment_count ? aligned(segment_capacity * 16) : 0};
    LLVMValueRef parts[4] = {e->body->scratch};
    for (int i = 1; i < 4; i++) parts[i] = cpu_at_bytes(unit, parts[i - 1], cpu_i64(unit, sizes[i - 1]));
    set(e, TASK_BLOCK_A, parts[0]);
    set(e, TASK_PANEL, parts[1]);
    set(e, TASK_TILES, parts[2]);
    LLVMValueRef table_a = cpu_zeros(unit), table_b = table_a;
    if (plan->segment_count) {
        table_a = parts[3];
        table_b = cpu_at(unit, table_a, ELEMENT_I64, cpu_i64(unit, segment_capacity));
        fill_offsets(e, segments, table_a, table_b);
    }
    set(e, TASK_OFFSETS_A, table_a);
    set(e, TASK_OFFSETS_B, table_b);
    int64_t bytes = sizes[0] + sizes[1] + sizes[2] + sizes[3];
    if (bytes > out->scratch_bytes) out->scratch_bytes = bytes;
}

// ---- What a task's number means ----

// An access at the outer loops of the task, at 0 of all others.
static LLVMValueRef base_of(const Emission *e, uint32_t operand, const Index *index) {
    CpuUnit *unit = e->unit;
    LLVMValueRef at = cpu_i64(unit, index[0].affine.offset);
    for (int i = 0; i < e->plan->outer_count; i++) {
        int64_t stride = access_stride(index, e->plan->outer[i]);
        LLVMValueRef value = e->loop[e->plan->outer[i]];
        if (stride && value) at = add(unit, at, scaled(unit, value, stride));
    }
    return cpu_at(unit, e->body->operand[operand], e->plan->nest->operands[operand].element, at);
}

static LLVMValueRef load_base(const Emission *e, uint32_t load) {
    return base_of(e, e->plan->nest->formulas.items[load].operand, cpu_contraction_index(e->plan, load));
}

// Takes loop `loop` out of `number` and returns the rest.
static LLVMValueRef split_number(Emission *e, LLVMValueRef number, int loop) {
    LLVMValueRef rest;
    cpu_divide(e->unit, number, cpu_i64(e->unit, extent_of(e->plan, loop)), &rest, &e->loop[loop]);
    return rest;
}

// `condition`, and the outer loops within their run-time extents.
static LLVMValueRef within_bounds(const Emission *e, LLVMValueRef condition) {
    for (int i = 0; i < e->plan->outer_count; i++) {
        uint8_t loop = e->plan->outer[i];
        if (e->plan->nest->loops[loop].bound_operand == UINT32_MAX || !e->loop[loop]) continue;
        LLVMValueRef extent = cpu_extent(e->body, e->plan->nest, loop);
        LLVMValueRef inside = compare(e->unit, LLVMIntSLT, e->loop[loop], extent);
        condition = LLVMBuildAnd(e->unit->builder, condition, inside, "");
    }
    return condition;
}

// Whether a sum over nothing changes nothing: it is added to what is there, as it is or with its sign turned.
static bool only_adds(const CpuContraction *plan) {
    const Nest *nest = plan->nest;
    if (nest->stage_count != 2 || nest->stages[1].kind != STAGE_ADD) return false;
    const Formula *formula = &nest->formulas.items[nest->stages[1].formula];
    while (formula->kind == FORMULA_PRIMITIVE &&
           (formula->primitive == PRIMITIVE_neg || formula->primitive == PRIMITIVE_cast))
        formula = &nest->formulas.items[formula->arguments[0]];
    return formula->kind == FORMULA_STAGE;
}

// Rows there are none of need no packed B; nor do sums over nothing need to be added.
static LLVMValueRef has_work(const Emission *e, LLVMValueRef rows) {
    LLVMValueRef zero = cpu_i64(e->unit, 0), some = compare(e->unit, LLVMIntSGT, rows, zero);
    if (LLVMIsConstant(e->depth) || !only_adds(e->plan)) return some;
    return LLVMBuildAnd(e->unit->builder, some, compare(e->unit, LLVMIntSGT, e->depth, zero), "");
}

static LLVMValueRef workspace(const Emission *e, int side) {
    LLVMValueRef place = cpu_i64(e->unit, packed_place(e->plan, side));
    LLVMValueRef slot = LLVMBuildGEP2(e->unit->builder, e->unit->pointer, e->body->workspaces, &place, 1, "");
    return LLVMBuildLoad2(e->unit->builder, e->unit->pointer, slot, "");
}

// Packed matrix `number` of a side, in its workspace.
static LLVMValueRef shared_matrix(const Emission *e, int side, LLVMValueRef number) {
    LLVMValueRef before = scaled(e->unit, number, packed_bytes(e->plan, e->unit->target, side));
    return cpu_at_bytes(e->unit, workspace(e, side), before);
}

// The number of the matrix of a side that the outer loops of the task are at.
static LLVMValueRef matrix_number(const Emission *e, int side) {
    LLVMValueRef number = cpu_i64(e->unit, 0);
    for (int i = 0; i < e->plan->outer_count; i++) {
        uint8_t loop = e->plan->outer[i];
        if (!stride_of(e->plan, load_of(e->plan, side), loop)) continue;
        number = add(e->unit, scaled(e->unit, number, extent_of(e->plan, loop)), e->loop[loop]);
    }
    return number;
}

// Parts that packing a matrix is split into: panels of B, some rows of A.
static int64_t pack_parts(const CpuContraction *plan, int side) {
    int64_t slab = slab_of(plan, side);
    if (slab) return (plan->depth + slab - 1) / slab;
    return side == PLAN_B ? plan->panels : (plan->rows + plan->pack_rows - 1) / plan->pack_rows;
}

// Packing: a task is the number of a matrix, then of its part.
static void emit_pack_task(Emission *e, int side, LLVMValueRef task) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef number, part;
    cpu_divide(unit, task, cpu_i64(unit, pack_parts(plan, side)), &number, &part);
    LLVMValueRef rest = number;
    for (int i = plan->outer_count - 1; i >= 0; i--)
        if (stride_of(plan, load_of(plan, side), plan->outer[i])) rest = split_number(e, rest, plan->outer[i]);
    CpuIf used;
    cpu_if_begin(unit, &used, within_bounds(e, has_work(e, e->rows)));
    set(e, side == PLAN_B ? TASK_PANEL : TASK_BLOCK_A, shared_matrix(e, side, number));
    set(e, side == PLAN_B ? TASK_B : TASK_A, load_base(e, load_of(plan, side)));
    set(e, TASK_ROW0, cpu_i64(unit, 0));
    set(e, TASK_ROWS, e->rows);
    LLVMValueRef arguments[] = {e->plan_record, e->task, part};
    cpu_helper_call(unit, cpu_contract_pack_function(unit, side == PLAN_B), arguments, 3);
    cpu_if_end(unit, &used);
}

static void set_panels(const Emission *e, LLVMValueRef group) {
    CpuUnit *unit = e->unit;
    LLVMValueRef begin = scaled(unit, group, e->plan->panel_group);
    LLVMValueRef end = add(unit, begin, cpu_i64(unit, e->plan->panel_group));
    set(e, TASK_PANEL_BEGIN, begin);
    set(e, TASK_PANEL_END, cpu_min(unit, end, cpu_i64(unit, e->plan->panels)));
}

// Where block `block` of rows begins: of rows whose number is known at run time only, those that there are, shared by
// all blocks alike, in whole tiles.
static LLVMValueRef first_row(const Emission *e, LLVMValueRef block) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    if (LLVMIsConstant(e->rows)) return scaled(unit, block, plan->row_block);
    LLVMValueRef tile_rows = cpu_i64(unit, plan->tile.rows), tiles = cpu_blocks(unit, e->rows, tile_rows);
    LLVMValueRef before = LLVMBuildMul(unit->builder, tiles, block, "");
    before = LLVMBuildUDiv(unit->builder, before, cpu_i64(unit, plan->row_blocks), "");
    return LLVMBuildMul(unit->builder, before, tile_rows, "");
}

// Computing: the loops that move A, block of rows, the loops that move only B, group of panels.
static void emit_compute_task(Emission *e, LLVMValueRef task, LLVMValueRef packed_rows) {
    CpuUnit *unit = e->unit;
    const CpuContraction *plan = e->plan;
    LLVMValueRef rest = task, group, block, key;
    cpu_divide(unit, rest, cpu_i64(unit, plan->panel_groups), &rest, &group);
    for (int i = plan->outer_count - 1; i >= plan->outer_a_count; i--) rest = split_number(e, rest, plan->outer[i]);
    key = rest;  // equal keys: equal rows of A
    cpu_divide(unit, rest, cpu_i64(unit, plan->row_blocks), &rest, &block);
    for (int i = plan->outer_a_count - 1; i >= 0; i--) rest = split_number(e, rest, plan->outer[i]);
    LLVMValueRef row0 = first_row(e, block), end = first_row(e, add(unit, block, cpu_i64(unit, 1)));
    LLVMValueRef rows = subtract(unit, cpu_min(unit, end, e->rows), row0);
    CpuIf used;
    cpu_if_begin(unit, &used, within_bounds(e, has_work(e, rows)));
    LLVMValueRef packed = LLVMBuildLoad2(unit->builder, unit->i64, packed_rows, "");
    LLVMValueRef fresh = LLVMBuildZExt(unit->builder, compare(unit, LLVMIntNE, packed, key), unit->i64, "");
    if (cpu_contraction_in_parts(plan)) fresh = cpu_i64(unit, 1);
    set(e, TASK_PACK_A, may_pack_a(plan) ? fresh : cpu_i64(unit, 0));
    if (!plan->private_a) {
        CpuIf given;
        if (plan->optional_a) cpu_if_begin(unit, &given, LLVMBuildIsNotNull(unit->builder, workspace(e, PLAN_A), ""));
        LLVMValueRef before = scaled(unit, row0, plan->depth * 4);
        set(e, TASK_BLOCK_A, cpu_at_bytes(unit, shared_matrix(e, PLAN_A, matrix_number(e, PLAN_A)), before));
        set(e, TASK_PACK_A, cpu_i64(unit, 0));
        if (plan->optional_a) cpu_if_end(unit, &given);
    }
    LLVMBuildStore(unit->builder, key, packed_rows);
    set(e, TASK_ROW0, row0);
    set(e, TASK_ROWS, rows);
    set(e, TASK_A, load_base(e, plan->load_a));
    set(e, TASK_B, load_base(e, plan->load_b));
    const Stage *store = &plan->nest->stages[1];
    set(e, TASK_RESULT, plan->direct ? base_of(e, store->operand, store->index) : LLVMConstNull(unit->pointer));
    set_panels(e, group);
    for (int i = 0; i < plan->outer_count; i++) set(e, TASK_OUTER + plan->outer[i], e->loop[plan->outer[i]]);
    if (!plan->private_b) set(e, TASK_PANEL, shared_matrix(e, PLAN_B, matrix_number(e, PLAN_B)));
    LLVMValueRef arguments[] = {e->plan_record, e->task};
    cpu_helper_call(unit, cpu_contract_task_function(unit), arguments, 2);
    cpu_if_end(unit, &used);
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

enum { COMPUTE = -1 };  // else a phase packs: PLAN_A, PLAN_B

static void emit_phase(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan, LLVMValueRef record, int side,
                       CpuKernel *out) {
    Emission e = {.unit = unit, .plan = plan, .plan_record = record};
    e.body = cpu_body_begin(unit, kernel, out->phase_count);
    start_task_record(&e, out);
    int64_t matrices = 1, tasks = plan->row_blocks * plan->panel_groups;
    for (int i = 0; i < plan->outer_count; i++) {
        tasks *= extent_of(plan, plan->outer[i]);
        if (side == COMPUTE || !stride_of(plan, load_of(plan, side), plan->outer[i])) continue;
        matrices *= extent_of(plan, plan->outer[i]);
    }
    if (side != COMPUTE) {
        tasks = matrices * pack_parts(plan, side);
        out->workspace_bytes[packed_place(plan, side)] = matrices * packed_bytes(plan, unit->target, side) + 64;
    }
    out->tasks[out->phase_count++] = tasks;
    LLVMValueRef packed_rows = cpu_note(e.body);
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, e.body->begin, e.body->end, 1, NULL, 0);
    if (side != COMPUTE) emit_pack_task(&e, side, loop.index);
    else emit_compute_task(&e, loop.index, packed_rows);
    cpu_loop_end(unit, &loop, NULL);
    if (side == COMPUTE && cpu_contract_streamed(plan, unit->target)) cpu_fence(unit);
    cpu_body_end(e.body);
}

// Names the form that a side is packed into: all that it depends on but the operand itself. 0 where it
// depends on run-time extents; without rows nothing is packed.
static uint64_t packed_key(const CpuContraction *plan, const CpuTarget *target, int side) {
    bool is_b = side == PLAN_B;
    uint32_t load = load_of(plan, side);
    const Index *index = cpu_contraction_index(plan, load);
    int64_t form[] = {is_b ? plan->element_b : plan->element_a, is_b ? plan->panel_b : plan->panel_a,
                      index[0].affine.offset, target->lanes, is_b ? plan->columns : plan->rows, plan->depth,
                      is_b ? plan->tile.vectors : -plan->tile.rows, is_b ? plan->narrow : 0,
                      is_b ? plan->wide_panels : 0};
    uint64_t hash = hash_bytes(HASH_START, form, sizeof form);
    int loops[LOOP_MAX], count = 0;
    if (plan->row >= 0 && plan->nest->loops[plan->row].bound_operand != UINT32_MAX) return 0;
    loops[count++] = is_b ? plan->column : plan->row;
    loops[count++] = plan->k;
    for (int i = 0; i < plan->segment_count; i++) loops[count++] = plan->segments[i];
    hash = hash_word(hash, (uint64_t)count);
    for (int i = 0; i < plan->outer_count; i++)
        if (stride_of(plan, load, plan->outer[i])) loops[count++] = plan->outer[i];
    for (int i = 0; i < count; i++) {
        if (loops[i] >= 0 && plan->nest->loops[loops[i]].bound_operand != UINT32_MAX) return 0;
        hash = hash_word(hash, (uint64_t)(loops[i] < 0 ? 1 : extent_of(plan, loops[i])));
        hash = hash_word(hash, (uint64_t)stride_of(plan, load, loops[i]));
    }
    return hash;
}

bool cpu_contract_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    Contraction contraction;
    CHECK(nest_contraction(kernel->nest, &contraction));
    const Nest *nest = normalise_nest(unit->arena, kernel->nest);
    CpuContraction plan = cpu_contraction_plan(unit->target, nest, contraction.load_a, contraction.load_b);
    if (cpu_contract_sweeps(&plan, unit->target)) {
        cpu_contract_sweep_emit(unit, kernel, &plan, out);
        return !unit->failure;
    }
    LLVMValueRef epilogue = cpu_contract_epilogue(unit, kernel, &plan);
    LLVMValueRef record = plan_record(unit, &plan, epilogue, cpu_contract_prefetch(unit, kernel, &plan));
    static const int sides[] = {PLAN_A, PLAN_B};
    for (int i = 0; i < 2; i++) {
        if (is_private(&plan, sides[i])) continue;
        emit_phase(unit, kernel, &plan, record, sides[i], out);
        out->pack_optional[out->pack_count] = sides[i] == PLAN_A && plan.optional_a;
        out->packed_key[out->pack_count] = packed_key(&plan, unit->target, sides[i]);
        out->packed_operand[out->pack_count++] = (int32_t)nest->formulas.items[load_of(&plan, sides[i])].operand;
    }
    emit_phase(unit, kernel, &plan, record, COMPUTE, out);
    return !unit->failure;
}
