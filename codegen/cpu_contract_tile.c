// Register tiles.
#include <string.h>

#include "codegen/cpu_contract.h"
#include "codegen/cpu_place.h"

enum {
    ROWS = 8, TALL_ROWS = 14,  // of a tile of 32 registers
    FEW_MORE_ROWS = 200,  // one in so many
    READING_VECTORS = 3,  // at most that products read A for, each by itself
    PAIRING_ROWS = 3,     // from so many on two vectors are paired at once
    ZEROS = 128, TILE_POINTERS = 4, TILE_VECTORS_MAX = 8, CACHE_LINE = 64,
    AHEAD_BYTES = 8 << 10, AHEAD_STEPS = 48  // that B is asked for before it is read, where it lies across k: at most
};

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of `most` rows, or a few less so that the last tile is not mostly empty.
static CpuTile tile_of_rows(const CpuTarget *target, int64_t rows, int64_t most) {
    if (rows > most) rows = divide_up(rows, divide_up(rows, most));
    // Sums, one row of B and a broadcast; or, of few rows, one vector of B and a broadcast for each row.
    int vectors = (target->registers - 1) / ((int)rows + 1), few = (target->registers - 2) / (int)rows - 1;
    if (few > vectors) vectors = few;
    return (CpuTile){.rows = (int)rows, .vectors = vectors < TILE_VECTORS_MAX ? vectors : TILE_VECTORS_MAX};
}

// A few more rows than eight make one tile: nothing of B is read for another. Products that read A themselves leave the
// registers for it.
//
// Six rows of two vectors and four of three fill 16 registers alike. Where few rows are computed for nothing, six: B is
// read or turned as it lies for more of them at a time, and fewer panels of A are packed.
CpuTile cpu_tile_shape(const CpuTarget *target, int64_t rows, bool tall) {
    if (target->avx512 && tall && rows > ROWS && rows <= TALL_ROWS) return (CpuTile){.rows = (int)rows, .vectors = 2};
    if (target->registers >= 32) return tile_of_rows(target, rows, ROWS);
    CpuTile six = tile_of_rows(target, rows, 6), four = tile_of_rows(target, rows, 4);
    int64_t more = divide_up(rows, six.rows) * six.rows - divide_up(rows, four.rows) * four.rows;
    return more * FEW_MORE_ROWS > rows ? four : six;
}

// ---- Tiles ----

// What a tile reads: pointers that walk along k, and what does not change.
typedef struct TileReads {
    int vectors;                           // of columns that are summed at once
    LLVMValueRef a, b, panel, k;           // at the first step of a round; k: its number
    LLVMValueRef row[16];                  // A along k: its rows at step 0
    LLVMValueRef a_stride, b_stride;
    LLVMValueRef b_start, steps;           // B at step 0, and how many there are
    LLVMValueRef ahead_stride;             // bytes
} TileReads;

static int64_t step_size(CpuTile tile) { return tile.panel == PANEL_PAIRS ? 2 : 1; }  // of k

// `at` with `steps` steps behind it, each `packed` floats in a panel or, of `element`, `stride` in memory.
static LLVMValueRef step_on(CpuUnit *unit, CpuTile tile, LLVMValueRef at, CpuTileSide side, int64_t packed, Element element,
                            LLVMValueRef stride, int64_t steps) {
    if (side == TILE_PANEL) return cpu_at(unit, at, ELEMENT_F32, cpu_i64(unit, steps * packed));
    if (side == TILE_ALONG_K) return cpu_at(unit, at, element, cpu_i64(unit, steps * step_size(tile)));
    return cpu_at(unit, at, element, LLVMBuildMul(unit->builder, stride, cpu_i64(unit, steps * step_size(tile)), ""));
}

static LLVMValueRef step_on_a(CpuUnit *unit, CpuTile tile, LLVMValueRef at, const TileReads *reads, int64_t steps) {
    return step_on(unit, tile, at, tile.a, tile.rows, ELEMENT_F32, reads->a_stride, steps);
}

static LLVMValueRef step_on_b(CpuUnit *unit, CpuTile tile, LLVMValueRef at, const TileReads *reads, int64_t steps) {
    int64_t packed = (int64_t)tile.vectors * unit->target->lanes;
    return step_on(unit, tile, at, tile.b, packed, tile.element_b, reads->b_stride, steps);
}

// The element of A in `row`, `step` steps behind the first of the round. Along k pairs lie as in a panel.
static LLVMValueRef element_of_a(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step, int row) {
    LLVMValueRef at;
    if (tile.a == TILE_ALONG_K) {
        at = cpu_at(unit, cpu_at(unit, reads->row[row], ELEMENT_F32, reads->k), ELEMENT_F32, cpu_i64(unit, step));
    } else {
        at = step_on_a(unit, tile, reads->a, reads, step);
        at = cpu_at(unit, at, ELEMENT_F32, cpu_i64(unit, row));
    }
    return cpu_load(unit, ELEMENT_F32, at, 1, NULL);
}

// Vector v of row `at` of B, which lies in memory; of it and the row behind it where steps are pairs.
static LLVMValueRef vector_across(CpuUnit *unit, CpuTile tile, const TileReads *reads, LLVMValueRef at, int v) {
    int lanes = unit->target->lanes;
    at = cpu_at(unit, at, tile.element_b, cpu_i64(unit, v * lanes));
    if (tile.panel != PANEL_PAIRS) return cpu_panel_load(unit, tile.element_b, tile.panel, at, lanes, NULL);
    LLVMValueRef next = cpu_at(unit, at, tile.element_b, reads->b_stride);
    return cpu_panel_load_pair(unit, tile.element_b, at, next, lanes, NULL);
}

// As vector_across of v and v + 1, of bf16 numbers, in half as many instructions.
static void two_across(CpuUnit *unit, const TileReads *reads, LLVMValueRef at, int v, LLVMValueRef *pairs) {
    int lanes = unit->target->lanes;
    at = cpu_at(unit, at, ELEMENT_BF16, cpu_i64(unit, v * lanes));
    LLVMValueRef next = cpu_at(unit, at, ELEMENT_BF16, reads->b_stride);
    LLVMValueRef low = cpu_load(unit, ELEMENT_F32, at, lanes, NULL), high = cpu_load(unit, ELEMENT_F32, next, lanes, NULL);
    cpu_pair_two(unit, low, high, pairs);
}

static LLVMValueRef in_panel(CpuUnit *unit, CpuTile tile, LLVMValueRef panel, int64_t step, int v) {
    return cpu_at(unit, panel, ELEMENT_F32, cpu_i64(unit, (step * tile.vectors + v) * unit->target->lanes));
}

// Of a row of a panel of B.
static int64_t step_bytes(CpuUnit *unit, CpuTile tile) { return (int64_t)tile.vectors * unit->target->lanes * 4; }

// Leaves a vector of B in the panel of the tile, or nothing where it keeps none.
static void keep(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step, int v, LLVMValueRef column) {
    if (tile.keeps) cpu_store(unit, ELEMENT_F32, in_panel(unit, tile, reads->panel, step, v), column, NULL);
}

// sums[row][v] += a[row] * b[v] for `count` vectors from the first of `sums` on, b being `columns`.
static void add_products(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step,
                         const LLVMValueRef *columns, int count, LLVMValueRef *sums) {
    for (int row = 0; row < tile.rows; row++) {
        LLVMValueRef factor = cpu_splat(unit, element_of_a(unit, tile, reads, step, row), unit->target->lanes);
        for (int v = 0; v < count; v++) {
            LLVMValueRef *sum = &sums[row * reads->vectors + v];
            // The second operand of pairs may be read, in all lanes, by the instruction that multiplies them.
            *sum = tile.panel == PANEL_PAIRS ? cpu_dot_pairs(unit, columns[v], factor, *sum)
                                             : cpu_fma(unit, factor, columns[v], *sum);
        }
    }
}

// Asks for the lines of B that a later step reads. Rows lie far apart, where the machine does not look ahead by itself;
// in steps of many lines they fall into few places of the first cache, so they are brought into the second.
static void look_ahead(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step) {
    int64_t bytes = tile.vectors * unit->target->lanes * element_bytes(tile.element_b);
    int64_t steps = AHEAD_BYTES / (bytes * step_size(tile));
    LLVMValueRef row = step_on_b(unit, tile, reads->b, reads, step + (steps < AHEAD_STEPS ? steps : AHEAD_STEPS));
    for (int i = 0; i < step_size(tile); i++) {
        for (int64_t line = 0; line < bytes; line += CACHE_LINE)
            cpu_prefetch_far(unit, cpu_at_bytes(unit, row, cpu_i64(unit, line)));
        row = cpu_at(unit, row, tile.element_b, reads->b_stride);
    }
}

// The vectors of a step. Of one and two rows pairing two at once would be faster out of a cache, and slower, by 10 and 4 %
// of a step of decoding, out of memory.
static void load_columns(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step, LLVMValueRef *columns) {
    LLVMValueRef b = step_on_b(unit, tile, reads->b, reads, step);
    bool narrow_pairs = tile.panel == PANEL_PAIRS && tile.element_b == ELEMENT_BF16 && tile.rows >= PAIRING_ROWS;
    int v = 0, lanes = unit->target->lanes;
    for (; tile.b == TILE_PANEL && v < tile.vectors; v++)
        columns[v] = cpu_load(unit, ELEMENT_F32, in_panel(unit, tile, b, 0, v), lanes, NULL);
    for (; narrow_pairs && v + 1 < tile.vectors; v += 2) two_across(unit, reads, b, v, &columns[v]);
    for (; v < tile.vectors; v++) columns[v] = vector_across(unit, tile, reads, b, v);
}

// Where an instruction can read a number of A in all lanes as it multiplies, that costs nothing, while a load for all
// vectors of columns takes time of products, unless it serves many. LLVM would merge them: it sees one vector after the
// other, in that order. More loads of B are then on their way at once, which takes longer where their rows are pages
// apart.
static void tile_step(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step, LLVMValueRef *sums) {
    LLVMValueRef columns[TILE_VECTORS_MAX];
    load_columns(unit, tile, reads, step, columns);
    for (int v = 0; v < tile.vectors; v++) keep(unit, tile, reads, step, v, columns[v]);
    if (tile.once) look_ahead(unit, tile, reads, step);
    bool reads_a = unit->target->avx512 && !tile.pages_apart && tile.vectors <= READING_VECTORS;
    int together = reads_a ? 1 : tile.vectors;
    for (int v = 0; v < tile.vectors; v += together) {
        add_products(unit, tile, reads, step, &columns[v], together, &sums[v]);
        if (together < tile.vectors) cpu_keep_order(unit);
    }
}

// Whether LLVM's scheduler, left to itself, would begin so many parts of a turn at once that operands wait on the
// stack. Where the first cache does not hold the lines of the columns it had better read all of them at once, and
// where numbers are rounded to pairs, which is a long way to the first product, begin the next part early.
static bool parts_follow(const CpuTarget *target, CpuTile tile, int vectors) {
    bool full = vectors * (target->lanes + 2 * tile.rows) >= target->registers;
    return full && tile.panel != PANEL_PAIRS && vectors * target->lanes <= tile.near_columns;
}

// The columns behind those that are summed at once follow in memory, from their steps on that this tile takes. As many
// steps on as have been taken of these, each column whole before the next: the place of vector v of a round.
static LLVMValueRef place_in_order(CpuUnit *unit, CpuTile tile, const TileReads *reads, int v) {
    int lanes = unit->target->lanes, columns = reads->vectors * lanes;
    LLVMValueRef taken = multiply(unit, reads->k, cpu_i64(unit, columns)), column, step;
    cpu_divide(unit, taken, reads->steps, &column, &step);
    LLVMValueRef across = multiply(unit, reads->b_stride, add(unit, column, cpu_i64(unit, columns)));
    step = add(unit, step, cpu_i64(unit, v * lanes * lanes));
    LLVMValueRef behind = cpu_at(unit, reads->b_start, tile.element_b, across);
    return cpu_at(unit, behind, tile.element_b, multiply(unit, step, cpu_i64(unit, step_size(tile))));
}

// Asks for as much of the columns behind those that are summed at once as a round takes of `column`, column i of a
// vector. They are far away where k is long, and where it is short the machine has not seen yet that it is walked. From
// the same steps on, unless lines there keep one another out of the first cache: then from `place` on, in the order of
// memory. Half a line would be asked for twice.
static void look_beside(CpuUnit *unit, CpuTile tile, const TileReads *reads, LLVMValueRef column, LLVMValueRef place,
                        int i) {
    int lanes = unit->target->lanes;
    int64_t bytes = lanes * step_size(tile) * element_bytes(tile.element_b);
    if (bytes < CACHE_LINE) return;
    LLVMValueRef across = LLVMBuildMul(unit->builder, reads->b_stride, cpu_i64(unit, reads->vectors * lanes), "");
    LLVMValueRef beside = place ? cpu_at_bytes(unit, place, cpu_i64(unit, i * bytes))
                                : cpu_at(unit, column, tile.element_b, across);
    for (int64_t line = 0; line < bytes; line += CACHE_LINE)
        cpu_prefetch_far(unit, cpu_at_bytes(unit, beside, cpu_i64(unit, line)));
}

// As many steps of B along k as there are lanes, for vector v of columns. All that is kept of a part is stored before
// any of it is used: numbers of A would be loaded before each store, and wait on the stack.
static void tile_turn(CpuUnit *unit, CpuTile tile, const TileReads *reads, int v, LLVMValueRef *sums) {
    int lanes = unit->target->lanes, count = cpu_panel_part(unit->target);
    bool in_order = tile.once && tile.near_columns < CPU_NEAR_COLUMNS;
    LLVMValueRef columns[16], steps[16], place = in_order ? place_in_order(unit, tile, reads, v) : NULL;
    for (int i = 0; i < lanes; i++) {
        LLVMValueRef before = LLVMBuildMul(unit->builder, reads->b_stride, cpu_i64(unit, v * lanes + i), "");
        columns[i] = cpu_at(unit, reads->b, tile.element_b, before);
        if (tile.once) look_beside(unit, tile, reads, columns[i], place, i);
    }
    for (int first = 0; first < lanes; first += count) {
        cpu_panel_load_along(unit, tile.element_b, tile.panel, columns, first / count, steps);
        for (int i = 0; i < count; i++) keep(unit, tile, reads, first + i, v, steps[i]);
        for (int i = 0; i < count; i++) add_products(unit, tile, reads, first + i, &steps[i], 1, &sums[v]);
        if (parts_follow(unit->target, tile, reads->vectors)) cpu_keep_order(unit);
    }
}

// Runs steps [begin, end), `unroll` at a time; `state` is the sums, then the pointers into A and B, what to bring
// nearer meanwhile: as many lines with each round as a step of B has, and the panel that B is kept in.
static void tile_loop(CpuUnit *unit, CpuTile tile, TileReads *reads, LLVMValueRef begin, LLVMValueRef end, int unroll,
                      LLVMValueRef *state) {
    int sums = tile.rows * reads->vectors;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, unroll, state, sums + TILE_POINTERS);
    memcpy(state, loop.carried, sizeof(*state) * (size_t)(sums + TILE_POINTERS));
    int64_t lines = unroll > 1 && tile.b == TILE_PANEL ? step_bytes(unit, tile) : 0;
    for (int64_t at = 0; at < lines; at += CACHE_LINE)
        cpu_prefetch_far(unit, cpu_at_bytes(unit, state[sums + 2], cpu_i64(unit, at)));
    reads->a = state[sums];
    reads->b = state[sums + 1];
    reads->panel = state[sums + 3];
    reads->k = loop.index;
    for (int v = 0; v < reads->vectors && tile.b == TILE_ALONG_K; v++) tile_turn(unit, tile, reads, v, state);
    for (int step = 0; step < unroll && tile.b != TILE_ALONG_K; step++) tile_step(unit, tile, reads, step, state);
    state[sums] = step_on_a(unit, tile, state[sums], reads, unroll);
    state[sums + 1] = step_on_b(unit, tile, state[sums + 1], reads, unroll);
    state[sums + 2] = cpu_at_bytes(unit, state[sums + 2], reads->ahead_stride);
    state[sums + 3] = in_panel(unit, tile, state[sums + 3], unroll, 0);
    cpu_loop_end(unit, &loop, state);
    memcpy(state, loop.carried, sizeof(*state) * (size_t)(sums + TILE_POINTERS));
}

// Stands for the tile where there is nothing to add to.
LLVMValueRef cpu_zeros(CpuUnit *unit) {
    const char *name = "cherry_zeros";
    LLVMValueRef zeros = LLVMGetNamedGlobal(unit->module, name);
    if (zeros) return zeros;
    LLVMTypeRef type = LLVMArrayType2(unit->f32, ZEROS);
    zeros = LLVMAddGlobal(unit->module, type, name);
    LLVMSetInitializer(zeros, LLVMConstNull(type));
    LLVMSetGlobalConstant(zeros, true);
    LLVMSetLinkage(zeros, LLVMInternalLinkage);
    LLVMSetAlignment(zeros, 64);
    return zeros;
}

LLVMTypeRef cpu_tile_type(CpuUnit *unit) {
    LLVMTypeRef pointer = unit->pointer, i64 = unit->i64;
    LLVMTypeRef parameters[] = {pointer, pointer, i64, pointer, i64, i64, pointer, i64, i64, i64, i64, pointer, pointer,
                                i64};
    return LLVMFunctionType(unit->void_type, parameters, sizeof parameters / sizeof *parameters, false);
}

// Parameters of a tile's function.
enum {
    ARGUMENT_A, ARGUMENT_B, ARGUMENT_STEPS, ARGUMENT_C, ARGUMENT_STRIDE, ARGUMENT_FIRST, ARGUMENT_AHEAD,
    ARGUMENT_AHEAD_STRIDE, ARGUMENT_A_STRIDE, ARGUMENT_B_STRIDE, ARGUMENT_LAST, ARGUMENT_PANEL, ARGUMENT_SUM,
    ARGUMENT_SUM_STRIDE
};

// What the sums start from: c or zeros.
static void load_sums(CpuUnit *unit, CpuTile tile, LLVMValueRef f, int vectors, LLVMValueRef c, LLVMValueRef *sums) {
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef zero = cpu_i64(unit, 0);
    LLVMValueRef first = LLVMBuildICmp(builder, LLVMIntNE, LLVMGetParam(f, ARGUMENT_FIRST), zero, "");
    LLVMValueRef from = LLVMBuildSelect(builder, first, cpu_zeros(unit), c, "");
    LLVMValueRef stride = LLVMBuildSelect(builder, first, zero, LLVMGetParam(f, ARGUMENT_STRIDE), "");
    for (int i = 0; i < tile.rows * vectors; i++) {
        if (i && i % vectors == 0) from = cpu_at(unit, from, ELEMENT_F32, stride);
        LLVMValueRef at = cpu_at(unit, from, ELEMENT_F32, cpu_i64(unit, i % vectors * unit->target->lanes));
        sums[i] = cpu_load(unit, ELEMENT_F32, at, unit->target->lanes, NULL);
    }
}

static void store_sums(CpuUnit *unit, CpuTile tile, int vectors, LLVMValueRef to, LLVMValueRef stride,
                       const LLVMValueRef *sums, bool add) {
    int lanes = unit->target->lanes;
    for (int i = 0; i < tile.rows * vectors; i++) {
        if (i && i % vectors == 0) to = cpu_at(unit, to, ELEMENT_F32, stride);
        LLVMValueRef value = sums[i], at = cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, i % vectors * lanes));
        if (add) value = LLVMBuildFAdd(unit->builder, cpu_load(unit, ELEMENT_F32, at, lanes, NULL), value, "");
        cpu_store(unit, ELEMENT_F32, at, value, NULL);
    }
}

// Brings nearer what the sums will be added to: rows lie far apart, where the machine does not look ahead by itself.
static void ask_for_result(CpuUnit *unit, CpuTile tile, int vectors, LLVMValueRef to, LLVMValueRef stride) {
    for (int row = 0; row < tile.rows; row++) {
        for (int v = 0; v < vectors; v++)
            cpu_prefetch(unit, cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, v * unit->target->lanes)), true);
        to = cpu_at(unit, to, ELEMENT_F32, stride);
    }
}

static void find_rows(CpuUnit *unit, CpuTile tile, LLVMValueRef f, TileReads *reads) {
    for (int row = 0; row < tile.rows && tile.a == TILE_ALONG_K; row++) {
        LLVMValueRef existing = cpu_min(unit, cpu_i64(unit, row), LLVMGetParam(f, ARGUMENT_LAST));
        LLVMValueRef at = LLVMBuildMul(unit->builder, existing, reads->a_stride, "");
        Element element = tile.panel == PANEL_PAIRS ? ELEMENT_BF16 : ELEMENT_F32;
        reads->row[row] = cpu_at(unit, LLVMGetParam(f, ARGUMENT_A), element, at);
    }
}

// Steps of a round. Where a panel of B is kept, its stores are in the way of LLVM's scheduler, which would leave
// operands of several steps on the stack.
static int steps_of_round(const CpuTarget *target, CpuTile tile) {
    if (tile.b == TILE_ALONG_K) return target->lanes;
    return tile.keeps ? 1 : TILE_UNROLL;
}

// The sums of `vectors` vectors of columns, from vector `begin` on.
static void emit_sums(CpuUnit *unit, CpuTile tile, LLVMValueRef f, int vectors, LLVMValueRef begin) {
    bool turns = tile.b == TILE_ALONG_K;
    int lanes = unit->target->lanes, sums = tile.rows * vectors, unroll = steps_of_round(unit->target, tile);
    LLVMValueRef state[CPU_CARRY_MAX], k = LLVMGetParam(f, ARGUMENT_STEPS);
    LLVMValueRef column = LLVMBuildMul(unit->builder, begin, cpu_i64(unit, lanes), "");
    LLVMValueRef c = cpu_at(unit, LLVMGetParam(f, ARGUMENT_C), ELEMENT_F32, column);
    TileReads reads = {.vectors = vectors, .steps = k, .a_stride = LLVMGetParam(f, ARGUMENT_A_STRIDE),
                       .b_stride = LLVMGetParam(f, ARGUMENT_B_STRIDE),
                       .ahead_stride = LLVMGetParam(f, ARGUMENT_AHEAD_STRIDE)};
    LLVMValueRef before = turns ? LLVMBuildMul(unit->builder, column, reads.b_stride, "") : column;
    LLVMValueRef sum = LLVMGetParam(f, ARGUMENT_SUM), sum_stride = LLVMGetParam(f, ARGUMENT_SUM_STRIDE);
    LLVMValueRef result = cpu_at(unit, sum, ELEMENT_F32, column), is_added = LLVMBuildIsNotNull(unit->builder, sum, "");
    CpuIf adds;
    cpu_if_begin(unit, &adds, is_added);
    ask_for_result(unit, tile, vectors, result, sum_stride);
    cpu_if_end(unit, &adds);
    load_sums(unit, tile, f, vectors, c, state);
    state[sums] = LLVMGetParam(f, ARGUMENT_A);
    state[sums + 1] = reads.b_start = cpu_at(unit, LLVMGetParam(f, ARGUMENT_B), tile.element_b, before);
    state[sums + 2] = LLVMGetParam(f, ARGUMENT_AHEAD);
    state[sums + 3] = cpu_at(unit, LLVMGetParam(f, ARGUMENT_PANEL), ELEMENT_F32, column);
    find_rows(unit, tile, f, &reads);
    LLVMValueRef whole = LLVMBuildAnd(unit->builder, k, cpu_i64(unit, -unroll), "");
    tile_loop(unit, tile, &reads, cpu_i64(unit, 0), whole, unroll, state);
    if (!turns && unroll > 1) tile_loop(unit, tile, &reads, whole, k, 1, state);
    cpu_if_begin(unit, &adds, is_added);
    store_sums(unit, tile, vectors, result, sum_stride, state, true);
    cpu_if_else(unit, &adds);
    store_sums(unit, tile, vectors, c, LLVMGetParam(f, ARGUMENT_STRIDE), state, false);
    cpu_if_end(unit, &adds);
}

// Of columns along k. A few sums wait for one another, unless there are two vectors of them.
static int vectors_turned(const CpuTarget *target, CpuTile tile) {
    bool fits = 4 * tile.rows + cpu_panel_part(target) < target->registers && 2 * target->lanes <= tile.near_columns;
    return fits && tile.vectors > 1 ? 2 : 1;
}

LLVMValueRef cpu_tile_function(CpuUnit *unit, CpuTile tile) {
    static const char *const sides[] = {[TILE_PANEL] = "panel", [TILE_ALONG_K] = "along", [TILE_ACROSS_K] = "across"};
    static const char *const panels[] = {[PANEL_F32] = "", [PANEL_ROUNDED] = "_rounded", [PANEL_PAIRS] = "_pairs"};
    bool lies = tile.b != TILE_PANEL;
    if (!lies) tile.once = tile.keeps = tile.pages_apart = false;
    if (tile.b != TILE_ALONG_K) tile.near_columns = 0;
    if (tile.panel == PANEL_ROUNDED && !lies) tile.panel = PANEL_F32;  // packing has rounded it
    const char *near = tile.near_columns ? arena_format(unit->arena, "_near%d", tile.near_columns) : "";
    const char *name = arena_format(unit->arena, "cherry_tile_%dx%d_%s_%s%s%s%s%s%s%s", tile.rows, tile.vectors,
                                    sides[tile.a], sides[tile.b], lies ? element_name(tile.element_b) : "",
                                    panels[tile.panel], tile.once ? "_once" : "", tile.keeps ? "_keeps" : "",
                                    tile.pages_apart ? "_apart" : "", near);
    CpuHelper helper = cpu_helper_begin(unit, name, cpu_tile_type(unit));
    if (!helper.fresh) return helper.function;
    LLVMValueRef zero = cpu_i64(unit, 0);
    if (tile.b == TILE_ALONG_K) {
        int together = vectors_turned(unit->target, tile);
        CpuLoop vectors;
        cpu_loop_begin(unit, &vectors, zero, cpu_i64(unit, tile.vectors / together * together), together, NULL, 0);
        emit_sums(unit, tile, helper.function, together, vectors.index);
        cpu_loop_end(unit, &vectors, NULL);
        if (tile.vectors % together)
            emit_sums(unit, tile, helper.function, 1, cpu_i64(unit, tile.vectors / together * together));
    } else {
        emit_sums(unit, tile, helper.function, tile.vectors, zero);
    }
    cpu_helper_end(unit, &helper);
    return helper.function;
}
