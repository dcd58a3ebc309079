// Few rows over a matrix that is read once, as a token's products are when a model generates: the time is that of
// bringing the matrix in, and memory gives most when it is read in long runs, in several streams.
//
//   call: chunk of columns, those of several tasks together:
//     k, some steps at a time:
//       group of rows:
//         these steps of A in registers
//         sums += these rows of B, side by side, a vector of columns at a time
//     epilogue of the chunk
//
// The sums of a chunk wait in the first cache. Each is the same chain in k as in a tile. Where columns are no whole
// vectors, the last ones reach back to columns that others sum as well: they have sums of their own, behind all others,
// which replace equal ones in the end. So nothing is read that is not there, and no load needs a mask.
#include "codegen/cpu_contract.h"

enum {
    SWEEP_ROWS = 2, SWEEP_ROWS_MAX = 4,  // of more, arithmetic decides: tiles do less of it beside the products
    SWEEP_ROWS_MOST = 32,       // unless they would read long rows in short runs
    TILE_RUN = 256,             // bytes of a row of B that a tile reads, from which on memory is not in its way
    SWEEP_TASK_BYTES = 512,     // of a row of B: one task's columns
    SWEEP_CHUNK = 2048,         // columns at most,
    SWEEP_SUMS = 4096,          // and sums of all rows: they and as many lines of B stay in the first cache
    PAGE = 4096, CACHE_LINE = 64,
    SUMS_BEFORE = 2 * CACHE_LINE,            // room for those that reach back
    SUM_ROWS_APART = PAGE / 4 + CACHE_LINE,  // and no multiple of a page: lines that are compete for a few places
    FIRST_LINES = 8,            // of a row
    SWEEP_FACTORS = 16,         // of A at most, kept in half of the registers
    SWEEP_STREAMS = 16, SWEEP_LONG_STREAMS = 8, SWEEP_LONG_BYTES = 4096  // rows of B at once: fewer where they are long
};

static bool rows_are_long(const CpuContraction *plan) {
    return plan->columns * element_bytes(plan->element_b) >= SWEEP_LONG_BYTES;
}

// Whether a vector of B costs no more than to load it.
static bool reads_plainly(const CpuContraction *plan) {
    return plan->panel_b == PANEL_F32 && plan->element_b == ELEMENT_F32;
}

// Rows of a group. Half of the registers hold A: of 16, four rows take so many for a step that storing sums is as long
// as adding to them.
static int rows_of_group(const CpuContraction *plan, const CpuTarget *target) {
    int64_t most = target->registers < 32 && reads_plainly(plan) ? SWEEP_ROWS : SWEEP_ROWS_MAX;
    return (int)(plan->rows < most ? plan->rows : most);
}

// More rows than two are swept where their arithmetic is fast, in pairs, or tiles read B in short runs. Those of long
// rows are many lines apart, and where that is a power of two they keep one another out of the first cache.
static int64_t rows_swept(const CpuContraction *plan, const CpuTarget *target) {
    int64_t run = (int64_t)cpu_tile_shape(target, SWEEP_ROWS_MAX, false).vectors * target->lanes * 4;
    if (plan->panel_b == PANEL_PAIRS) return SWEEP_ROWS_MAX;
    if (run >= TILE_RUN) return SWEEP_ROWS;
    return reads_plainly(plan) && rows_are_long(plan) ? SWEEP_ROWS_MOST : SWEEP_ROWS_MAX;
}

bool cpu_contract_sweeps(const CpuContraction *plan, const CpuTarget *target) {
    const Nest *nest = plan->nest;
    if (plan->rows > rows_swept(plan, target) || plan->outer_count || plan->segment_count) return false;
    if (plan->column < 0 || plan->k < 0) return false;
    int64_t stride = access_stride(cpu_contraction_index(plan, plan->load_b), plan->k);
    bool row_is_static = plan->row < 0 || nest->loops[plan->row].bound_operand == UINT32_MAX;
    bool k_is_static = nest->loops[plan->k].bound_operand == UINT32_MAX;
    bool whole_pairs = plan->panel_b != PANEL_PAIRS || nest->loops[plan->k].dimension.extent % 2 == 0;
    if (plan->columns < target->lanes || nest->loops[plan->column].bound_operand != UINT32_MAX) return false;
    return plan->pack_b == PACK_UNIT && stride >= plan->columns && row_is_static && k_is_static && whole_pairs;
}

static int64_t columns_of_task(const CpuContraction *plan) { return SWEEP_TASK_BYTES / element_bytes(plan->element_b); }

int64_t cpu_contract_sweep_tasks(const CpuContraction *plan) {
    int64_t columns = columns_of_task(plan);
    return (plan->columns + columns - 1) / columns;
}

// ---- Sums of one chunk ----

// Of columns at a time: two are the even and the odd ones of bf16.
static int vectors_of(const CpuContraction *plan, const CpuTarget *target) {
    return plan->element_b == ELEMENT_BF16 && plan->columns >= 2 * target->lanes ? 2 : 1;
}

static bool reaches_back(const CpuContraction *plan, const CpuTarget *target) {
    return plan->columns % (vectors_of(plan, target) * target->lanes) != 0;
}

typedef struct Sweep {
    CpuUnit *unit;
    const CpuContraction *plan;
    int rows, steps;     // of a group, and of a round
    int lanes;
    int vectors;         // of columns at a time
    int step_k;          // rows of B in a step
    int64_t sum_stride;  // of rows of sums
    LLVMValueRef a, b;   // at the first step of a round
    LLVMValueRef a_row, a_k, b_stride;  // strides: of rows of A, and of k
    LLVMValueRef sums, columns;
} Sweep;

static LLVMValueRef sum_at(const Sweep *sweep, int row, LLVMValueRef column, int vector) {
    CpuUnit *unit = sweep->unit;
    LLVMValueRef at = cpu_at(unit, sweep->sums, ELEMENT_F32, column);
    return cpu_at(unit, at, ELEMENT_F32, cpu_i64(unit, row * sweep->sum_stride + vector * sweep->lanes));
}

static LLVMValueRef load_sum(const Sweep *sweep, int row, LLVMValueRef column, int vector) {
    return cpu_load(sweep->unit, ELEMENT_F32, sum_at(sweep, row, column, vector), sweep->lanes, NULL);
}

static void store_sum(const Sweep *sweep, int row, LLVMValueRef column, int vector, LLVMValueRef sum) {
    cpu_store(sweep->unit, ELEMENT_F32, sum_at(sweep, row, column, vector), sum, NULL);
}

static LLVMValueRef row_of_b(const Sweep *sweep, int64_t row) {
    CpuUnit *unit = sweep->unit;
    LLVMValueRef at = LLVMBuildMul(unit->builder, sweep->b_stride, cpu_i64(unit, row), "");
    return cpu_at(unit, sweep->b, sweep->plan->element_b, at);
}

// The columns of step `step` from `column` on.
static void load_step(const Sweep *sweep, int step, LLVMValueRef column, LLVMValueRef *vectors) {
    const CpuContraction *plan = sweep->plan;
    CpuUnit *unit = sweep->unit;
    LLVMValueRef at[2], halves[2][2];
    for (int i = 0; i < sweep->step_k; i++)
        at[i] = cpu_at(unit, row_of_b(sweep, step * sweep->step_k + i), plan->element_b, column);
    if (sweep->vectors == 1) {
        Element element = plan->element_b;
        vectors[0] = sweep->step_k == 2 ? cpu_panel_load_pair(unit, element, at[0], at[1], sweep->lanes, NULL)
                                        : cpu_panel_load(unit, element, plan->panel_b, at[0], sweep->lanes, NULL);
        return;
    }
    for (int i = 0; i < sweep->step_k; i++)
        cpu_unpair(unit, cpu_load(unit, ELEMENT_F32, at[i], sweep->lanes, NULL), halves[i]);
    for (int v = 0; v < sweep->vectors; v++)
        vectors[v] = sweep->step_k == 2 ? cpu_pair(unit, halves[0][v], halves[1][v]) : halves[0][v];
}

static int columns_at_once(const Sweep *sweep) { return sweep->vectors * sweep->lanes; }

// Over the places of sums.
static CpuLoop begin_columns(const Sweep *sweep) {
    CpuLoop loop;
    cpu_loop_begin(sweep->unit, &loop, cpu_i64(sweep->unit, 0), sweep->columns, columns_at_once(sweep), NULL, 0);
    return loop;
}

// The first column whose sum is at `place`: the last ones reach back.
static LLVMValueRef column_at(const Sweep *sweep, LLVMValueRef place) {
    CpuUnit *unit = sweep->unit;
    if (!reaches_back(sweep->plan, unit->target)) return place;
    LLVMValueRef last = LLVMBuildSub(unit->builder, sweep->columns, cpu_i64(unit, columns_at_once(sweep)), "");
    return cpu_min(unit, place, last);
}

static void clear_sums(const Sweep *sweep) {
    CpuLoop loop = begin_columns(sweep);
    for (int row = 0; row < sweep->rows; row++)
        for (int v = 0; v < sweep->vectors; v++)
            store_sum(sweep, row, loop.index, v, cpu_number(sweep->unit, ELEMENT_F32, 0, sweep->lanes));
    cpu_loop_end(sweep->unit, &loop, NULL);
}

// Where A lies along k, pairs of bf16 lie as they are.
static bool has_pairs(const CpuContraction *plan) {
    return plan->panel_a == PANEL_PAIRS && plan->element_a == ELEMENT_BF16 && plan->pack_a == PACK_TRANSPOSE;
}

static LLVMValueRef step_of_a(const Sweep *sweep, LLVMValueRef at, int64_t k) {
    CpuUnit *unit = sweep->unit;
    LLVMValueRef before = LLVMBuildMul(unit->builder, sweep->a_k, cpu_i64(unit, k), "");
    return cpu_at(unit, at, sweep->plan->element_a, before);
}

// Step `step` of a row of A in all lanes.
static LLVMValueRef load_factor(const Sweep *sweep, int step, int row) {
    const CpuContraction *plan = sweep->plan;
    CpuUnit *unit = sweep->unit;
    Element element = plan->element_a;
    LLVMValueRef before = LLVMBuildMul(unit->builder, sweep->a_row, cpu_i64(unit, row), ""), factor;
    LLVMValueRef at = step_of_a(sweep, cpu_at(unit, sweep->a, element, before), step * sweep->step_k);
    if (has_pairs(plan)) factor = cpu_load(unit, ELEMENT_F32, at, 1, NULL);
    else if (sweep->step_k == 2) factor = cpu_panel_load_pair(unit, element, at, step_of_a(sweep, at, 1), 1, NULL);
    else factor = cpu_panel_load(unit, element, plan->panel_a, at, 1, NULL);
    return cpu_splat(unit, factor, sweep->lanes);
}

// Rounding B, or several groups of rows, take longer than to read it.
static bool waits_for_memory(const Sweep *sweep) {
    bool rounds = sweep->plan->panel_b == PANEL_PAIRS && sweep->plan->element_b == ELEMENT_F32;
    return !rounds && sweep->rows == sweep->plan->rows;
}

// Brings `lines` lines of every `apart`th row of as many steps behind these, from `column` on, into the second cache.
static void bring_rows(const Sweep *sweep, int steps, LLVMValueRef column, int lines, int apart) {
    int rows = steps * sweep->step_k;
    for (int row = rows; row < 2 * rows; row += apart) {
        LLVMValueRef at = cpu_at(sweep->unit, row_of_b(sweep, row), sweep->plan->element_b, column);
        for (int line = 0; line < lines; line++)
            cpu_prefetch_far(sweep->unit, cpu_at_bytes(sweep->unit, at, cpu_i64(sweep->unit, line * CACHE_LINE)));
    }
}

// Rows lie far apart, where the machine does not look ahead by itself. Of one row, whose rounds are long, it does where
// it is asked for the first lines of each, and then half of the others: to ask for all takes longer than to read what a
// cache holds, to ask for no more longer where memory does.
static void look_ahead(const Sweep *sweep, int steps, LLVMValueRef column) {
    int64_t bytes = columns_at_once(sweep) * element_bytes(sweep->plan->element_b);
    bring_rows(sweep, steps, column, (int)((bytes + CACHE_LINE - 1) / CACHE_LINE), sweep->plan->rows == 1 ? 2 : 1);
}

static void add_steps(const Sweep *sweep) {
    CpuUnit *unit = sweep->unit;
    int steps = sweep->steps;
    LLVMValueRef factors[SWEEP_FACTORS], sums[SWEEP_ROWS_MAX][2], columns[2];
    for (int i = 0; i < steps * sweep->rows; i++)
        factors[i] = load_factor(sweep, i / sweep->rows, i % sweep->rows);
    bool waits = steps > 1 && waits_for_memory(sweep);
    if (waits && sweep->plan->rows == 1) bring_rows(sweep, steps, cpu_i64(unit, 0), FIRST_LINES, 1);
    CpuLoop loop = begin_columns(sweep);
    LLVMValueRef column = column_at(sweep, loop.index);
    for (int row = 0; row < sweep->rows; row++)
        for (int v = 0; v < sweep->vectors; v++) sums[row][v] = load_sum(sweep, row, loop.index, v);
    if (waits) look_ahead(sweep, steps, column);
    for (int step = 0; step < steps; step++) {
        load_step(sweep, step, column, columns);
        for (int row = 0; row < sweep->rows; row++)
            for (int v = 0; v < sweep->vectors; v++) {
                LLVMValueRef factor = factors[step * sweep->rows + row], *sum = &sums[row][v];
                *sum = sweep->step_k == 2 ? cpu_dot_pairs(unit, factor, columns[v], *sum)
                                          : cpu_fma(unit, factor, columns[v], *sum);
            }
    }
    for (int row = 0; row < sweep->rows; row++)
        for (int v = 0; v < sweep->vectors; v++) store_sum(sweep, row, loop.index, v, sums[row][v]);
    cpu_loop_end(unit, &loop, NULL);
}

// Sums as their columns stand: those of even and of odd ones are mixed, and those that reach back take their place.
static void order_sums(const Sweep *sweep) {
    int lanes = sweep->lanes, from[2][64];
    for (int i = 0; i < lanes; i++)
        for (int v = 0; v < 2; v++) from[v][i] = (v * lanes + i) / 2 + (i % 2) * lanes;
    CpuLoop loop = begin_columns(sweep);
    LLVMValueRef column = column_at(sweep, loop.index), sums[2];
    for (int row = 0; row < sweep->rows; row++) {
        for (int v = 0; v < sweep->vectors; v++) sums[v] = load_sum(sweep, row, loop.index, v);
        for (int v = 0; v < sweep->vectors; v++) {
            LLVMValueRef sum = sums[v];
            if (sweep->vectors == 2) sum = cpu_shuffle(sweep->unit, sums[0], sums[1], from[v], lanes);
            store_sum(sweep, row, column, v, sum);
        }
    }
    cpu_loop_end(sweep->unit, &loop, NULL);
}

typedef void (*EmitGroup)(const Sweep *group);

static void emit_group(const Sweep *sweep, LLVMValueRef first, int rows, EmitGroup emit) {
    CpuUnit *unit = sweep->unit;
    Sweep group = *sweep;
    LLVMValueRef a_before = LLVMBuildMul(unit->builder, first, sweep->a_row, "");
    LLVMValueRef sums_before = LLVMBuildMul(unit->builder, first, cpu_i64(unit, sweep->sum_stride), "");
    group.rows = rows;
    group.a = cpu_at(unit, sweep->a, sweep->plan->element_a, a_before);
    group.sums = cpu_at(unit, sweep->sums, ELEMENT_F32, sums_before);
    emit(&group);
}

// Group after group of rows: what the first reads of B lies near for the others.
static void each_group(const Sweep *sweep, EmitGroup emit) {
    CpuUnit *unit = sweep->unit;
    int64_t rest = sweep->plan->rows % sweep->rows, whole = sweep->plan->rows - rest;
    CpuLoop groups;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, whole), sweep->rows, NULL, 0);
    emit_group(sweep, groups.index, sweep->rows, emit);
    cpu_loop_end(unit, &groups, NULL);
    if (rest) emit_group(sweep, cpu_i64(unit, whole), (int)rest, emit);
}

// Steps [begin, end), `steps` at a time; `state`: where A and B are at `begin`, then at `end`.
static void add_rounds(const Sweep *sweep, LLVMValueRef begin, LLVMValueRef end, int steps, LLVMValueRef *state) {
    CpuUnit *unit = sweep->unit;
    Sweep round = *sweep;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, steps, state, 2);
    round.steps = steps;
    round.a = loop.carried[0];
    round.b = loop.carried[1];
    each_group(&round, add_steps);
    LLVMValueRef next[] = {step_of_a(&round, round.a, steps * round.step_k), row_of_b(&round, steps * round.step_k)};
    cpu_loop_end(unit, &loop, next);
    state[0] = loop.carried[0];
    state[1] = loop.carried[1];
}

static int steps_of_round(const CpuContraction *plan, const CpuTarget *target) {
    int step_k = plan->panel_b == PANEL_PAIRS ? 2 : 1, factors = target->registers / 2;
    int steps = (rows_are_long(plan) ? SWEEP_LONG_STREAMS : SWEEP_STREAMS) / step_k;
    int most = (factors < SWEEP_FACTORS ? factors : SWEEP_FACTORS) / rows_of_group(plan, target);
    return steps < most ? steps : most;
}

// Columns of a chunk.
static int64_t chunk_of(const CpuContraction *plan) {
    int64_t columns = SWEEP_CHUNK;
    while (columns * plan->rows > SWEEP_SUMS) columns /= 2;
    return columns;
}

static int64_t sum_stride_of(const CpuContraction *plan) { return chunk_of(plan) + SUM_ROWS_APART / 4; }

// void (a, b, i64 steps, sums, i64 columns, i64 a_row, i64 a_k, i64 b_stride): sums[row * sum_stride_of + column] of
// `columns` columns; B lies across k.
enum { ARGUMENT_A, ARGUMENT_B, ARGUMENT_STEPS, ARGUMENT_SUMS, ARGUMENT_COLUMNS, ARGUMENT_A_ROW, ARGUMENT_A_K,
       ARGUMENT_B_STRIDE, ARGUMENTS };

static LLVMTypeRef sweep_type(const CpuUnit *unit) {
    LLVMTypeRef pointer = unit->pointer, i64 = unit->i64;
    LLVMTypeRef parameters[ARGUMENTS] = {pointer, pointer, i64, pointer, i64, i64, i64, i64};
    return LLVMFunctionType(unit->void_type, parameters, ARGUMENTS, false);
}

static LLVMValueRef sweep_function(CpuUnit *unit, const CpuContraction *plan) {
    int steps = steps_of_round(plan, unit->target);
    int vectors = vectors_of(plan, unit->target);
    bool back = reaches_back(plan, unit->target);
    const char *name = arena_format(unit->arena, "cherry_sweep_%dx%d_%dx%s_%d_%s_%d%s%s", (int)plan->rows, steps,
                                    vectors, element_name(plan->element_b), (int)plan->panel_b,
                                    element_name(plan->element_a), (int)plan->panel_a,
                                    has_pairs(plan) ? "_lying" : "", back ? "_back" : "");
    CpuHelper helper = cpu_helper_begin(unit, name, sweep_type(unit));
    LLVMValueRef f = helper.function;
    if (!helper.fresh) return f;
    LLVMValueRef k = LLVMGetParam(f, ARGUMENT_STEPS), rounds;
    Sweep sweep = {.unit = unit, .plan = plan, .rows = rows_of_group(plan, unit->target), .lanes = unit->target->lanes,
                   .vectors = vectors, .step_k = plan->panel_b == PANEL_PAIRS ? 2 : 1,
                   .sum_stride = sum_stride_of(plan), .a = LLVMGetParam(f, ARGUMENT_A),
                   .sums = LLVMGetParam(f, ARGUMENT_SUMS), .columns = LLVMGetParam(f, ARGUMENT_COLUMNS),
                   .a_row = LLVMGetParam(f, ARGUMENT_A_ROW), .a_k = LLVMGetParam(f, ARGUMENT_A_K),
                   .b_stride = LLVMGetParam(f, ARGUMENT_B_STRIDE)};
    LLVMValueRef state[] = {LLVMGetParam(f, ARGUMENT_A), LLVMGetParam(f, ARGUMENT_B)};
    each_group(&sweep, clear_sums);
    rounds = LLVMBuildSub(unit->builder, k, LLVMBuildURem(unit->builder, k, cpu_i64(unit, steps), ""), "");
    add_rounds(&sweep, cpu_i64(unit, 0), rounds, steps, state);
    add_rounds(&sweep, rounds, k, 1, state);
    if (vectors == 2 || back) each_group(&sweep, order_sums);
    cpu_helper_end(unit, &helper);
    return f;
}

// ---- The kernel ----

static LLVMValueRef start_of(const CpuBody *body, const CpuContraction *plan, uint32_t load) {
    const Index *index = cpu_contraction_index(plan, load);
    uint32_t operand = plan->nest->formulas.items[load].operand;
    Element element = plan->nest->operands[operand].element;
    return cpu_at(body->unit, body->operand[operand], element, cpu_i64(body->unit, index[0].affine.offset));
}

// Room before them, then about half a page behind the place that the first column has in its page: a load waits for an
// earlier store to the same place of another page, and every sum is stored before columns near to its own are read.
static LLVMValueRef place_sums(const CpuBody *body, LLVMValueRef columns) {
    CpuUnit *unit = body->unit;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef from = LLVMBuildPtrToInt(builder, columns, unit->i64, "");
    LLVMValueRef to = LLVMBuildPtrToInt(builder, body->scratch, unit->i64, "");
    LLVMValueRef apart = LLVMBuildAdd(builder, LLVMBuildSub(builder, from, to, ""), cpu_i64(unit, PAGE / 2), "");
    LLVMValueRef first = cpu_at_bytes(unit, body->scratch, cpu_i64(unit, SUMS_BEFORE));
    return cpu_at_bytes(unit, first, LLVMBuildAnd(builder, apart, cpu_i64(unit, PAGE - CACHE_LINE), ""));
}

void cpu_contract_sweep_emit(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan, CpuKernel *out) {
    LLVMValueRef epilogue = cpu_contract_epilogue(unit, kernel, plan);
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    LLVMValueRef function = sweep_function(unit, plan), chunk = cpu_i64(unit, chunk_of(plan));
    LLVMValueRef task = cpu_stack_slot(body, LLVMArrayType2(unit->i64, TASK_SLOTS));
    LLVMValueRef width = cpu_i64(unit, columns_of_task(plan)), zero = cpu_i64(unit, 0);
    LLVMValueRef a = start_of(body, plan, plan->load_a), b = start_of(body, plan, plan->load_b);
    const Index *index_a = cpu_contraction_index(plan, plan->load_a);
    int64_t a_row = plan->row < 0 ? 0 : access_stride(index_a, plan->row), a_k = access_stride(index_a, plan->k);
    int64_t b_stride = access_stride(cpu_contraction_index(plan, plan->load_b), plan->k);
    LLVMValueRef begin = LLVMBuildMul(unit->builder, body->begin, width, "");
    LLVMValueRef end = LLVMBuildMul(unit->builder, body->end, width, "");
    end = cpu_min(unit, end, cpu_i64(unit, plan->columns));
    CpuLoop chunks;
    cpu_loop_begin(unit, &chunks, begin, end, (int)chunk_of(plan), NULL, 0);
    LLVMValueRef columns = cpu_min(unit, chunk, LLVMBuildSub(unit->builder, end, chunks.index, ""));
    LLVMValueRef from = cpu_at(unit, b, plan->element_b, chunks.index), sums = place_sums(body, from);
    LLVMValueRef arguments[ARGUMENTS] = {
        [ARGUMENT_A] = a, [ARGUMENT_B] = from,
        [ARGUMENT_STEPS] = cpu_i64(unit, plan->depth), [ARGUMENT_SUMS] = sums, [ARGUMENT_COLUMNS] = columns,
        [ARGUMENT_A_ROW] = cpu_i64(unit, a_row), [ARGUMENT_A_K] = cpu_i64(unit, a_k),
        [ARGUMENT_B_STRIDE] = cpu_i64(unit, b_stride)};
    LLVMBuildCall2(unit->builder, sweep_type(unit), function, arguments, ARGUMENTS, "");
    cpu_slot_store(unit, task, TASK_COLUMN0, chunks.index);
    cpu_slot_store(unit, task, TASK_COLUMN_COUNT, columns);
    cpu_slot_store(unit, task, TASK_WIDTH, cpu_i64(unit, sum_stride_of(plan)));
    LLVMValueRef around[] = {LLVMGetParam(body->function, 0), task, sums, zero, cpu_i64(unit, plan->rows)};
    LLVMBuildCall2(unit->builder, unit->function_type, epilogue, around, 5, "");
    cpu_loop_end(unit, &chunks, NULL);
    if (cpu_contract_streamed(plan, unit->target)) cpu_fence(unit);
    cpu_body_end(body);
    out->phase_count = 1;
    out->tasks[0] = cpu_contract_sweep_tasks(plan);
    int64_t bytes = SUMS_BEFORE + PAGE + plan->rows * sum_stride_of(plan) * 4 + 64;
    if (bytes > out->scratch_bytes) out->scratch_bytes = bytes;
}
