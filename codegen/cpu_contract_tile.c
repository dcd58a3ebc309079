// Register tiles.
#include <string.h>

#include "codegen/cpu_contract.h"

enum { ZEROS = 128, TILE_UNROLL = 4, TILE_POINTERS = 3, TILE_VECTORS_MAX = 8, CACHE_LINE = 64, AHEAD_STEPS = 8 };

CpuTile cpu_tile_shape(const CpuTarget *target, int64_t rows) {
    int most = target->registers >= 32 ? 8 : 6;
    if (rows > most) rows = most;
    // Sums, one row of B and a broadcast.
    int vectors = (target->registers - 1) / ((int)rows + 1);
    return (CpuTile){.rows = (int)rows, .vectors = vectors < TILE_VECTORS_MAX ? vectors : TILE_VECTORS_MAX};
}

LLVMValueRef cpu_blocks(CpuUnit *unit, LLVMValueRef count, LLVMValueRef size) {
    LLVMValueRef up = LLVMBuildAdd(unit->builder, count, LLVMBuildSub(unit->builder, size, cpu_i64(unit, 1), ""), "");
    return LLVMBuildUDiv(unit->builder, up, size, "");
}

// ---- Tiles ----

// What a tile reads: pointers that walk along k, and what does not change.
typedef struct TileReads {
    LLVMValueRef a, b, k;                  // at the first step of a round; k: its number
    LLVMValueRef row[16];                  // A along k: its rows at step 0
    LLVMValueRef a_stride, b_stride;
} TileReads;

static int64_t step_size(CpuTile tile) { return tile.panel == PANEL_PAIRS ? 2 : 1; }  // of k

// `at` with `steps` steps behind it, each `packed` floats in a panel or, of `element`, `stride` in memory.
static LLVMValueRef step_on(CpuUnit *unit, CpuTile tile, LLVMValueRef at, CpuTileSide side, int64_t packed, Element element,
                            LLVMValueRef stride, int64_t steps) {
    if (side == TILE_PANEL) return cpu_at(unit, at, ELEMENT_F32, cpu_i64(unit, steps * packed));
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
    LLVMValueRef low = cpu_panel_load(unit, tile.element_b, tile.panel, at, lanes, NULL);
    if (tile.panel != PANEL_PAIRS) return low;
    at = cpu_at(unit, at, tile.element_b, reads->b_stride);
    return cpu_pair(unit, low, cpu_panel_load(unit, tile.element_b, tile.panel, at, lanes, NULL));
}

// Whether B comes from memory: there are no more rows than this tile has.
static bool reads_once(CpuTile tile) { return tile.b == TILE_ACROSS_K && tile.rows < 6; }

// One step: sums[row][v] += a[row] * b[v].
static void tile_step(CpuUnit *unit, CpuTile tile, const TileReads *reads, int64_t step, LLVMValueRef *sums) {
    int lanes = unit->target->lanes;
    LLVMValueRef columns[TILE_VECTORS_MAX], b = step_on_b(unit, tile, reads->b, reads, step);
    for (int v = 0; v < tile.vectors; v++)
        columns[v] = tile.b == TILE_PANEL
                         ? cpu_load(unit, ELEMENT_F32, cpu_at(unit, b, ELEMENT_F32, cpu_i64(unit, v * lanes)), lanes, NULL)
                         : vector_across(unit, tile, reads, b, v);
    if (reads_once(tile))  // rows lie far apart, where the machine does not look ahead by itself
        for (int v = 0; v < tile.vectors; v++) {
            LLVMValueRef ahead = step_on_b(unit, tile, reads->b, reads, step + AHEAD_STEPS);
            cpu_prefetch(unit, cpu_at(unit, ahead, tile.element_b, cpu_i64(unit, v * lanes)), false);
        }
    for (int row = 0; row < tile.rows; row++) {
        LLVMValueRef factor = cpu_splat(unit, element_of_a(unit, tile, reads, step, row), lanes);
        for (int v = 0; v < tile.vectors; v++) {
            LLVMValueRef *sum = &sums[row * tile.vectors + v];
            *sum = tile.panel == PANEL_PAIRS ? cpu_dot_pairs(unit, factor, columns[v], *sum)
                                             : cpu_fma(unit, factor, columns[v], *sum);
        }
    }
}

// Into the second cache: it is used a while later.
static void prefetch_far(CpuUnit *unit, LLVMValueRef pointer) {
    LLVMValueRef arguments[] = {pointer, cpu_i32(unit, 0), cpu_i32(unit, 2), cpu_i32(unit, 1)};
    cpu_intrinsic(unit, "llvm.prefetch", &unit->pointer, 1, arguments, 4);
}

// Runs steps [begin, end), `unroll` at a time; `state` is the sums, then the pointers into A and B, and
// what to bring nearer meanwhile: one line of the cache with each round.
static void tile_loop(CpuUnit *unit, CpuTile tile, TileReads *reads, LLVMValueRef begin, LLVMValueRef end, int unroll,
                      LLVMValueRef *state) {
    int sums = tile.rows * tile.vectors;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, unroll, state, sums + TILE_POINTERS);
    memcpy(state, loop.carried, sizeof(*state) * (size_t)(sums + TILE_POINTERS));
    if (unroll > 1) prefetch_far(unit, state[sums + 2]);
    reads->a = state[sums];
    reads->b = state[sums + 1];
    reads->k = loop.index;
    for (int step = 0; step < unroll; step++) tile_step(unit, tile, reads, step, state);
    state[sums] = step_on_a(unit, tile, state[sums], reads, unroll);
    state[sums + 1] = step_on_b(unit, tile, state[sums + 1], reads, unroll);
    state[sums + 2] = cpu_at_bytes(unit, state[sums + 2], cpu_i64(unit, CACHE_LINE));
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
    LLVMTypeRef parameters[] = {pointer, pointer, i64, pointer, i64, i64, pointer, i64, i64, i64};
    return LLVMFunctionType(unit->void_type, parameters, 10, false);
}

LLVMValueRef cpu_tile_function(CpuUnit *unit, CpuTile tile) {
    static const char *const sides[] = {[TILE_PANEL] = "panel", [TILE_ALONG_K] = "along", [TILE_ACROSS_K] = "across"};
    static const char *const panels[] = {[PANEL_F32] = "", [PANEL_ROUNDED] = "_rounded", [PANEL_PAIRS] = "_pairs"};
    bool lies = tile.b == TILE_ACROSS_K;
    if (tile.panel == PANEL_ROUNDED && !lies) tile.panel = PANEL_F32;  // packing has rounded it
    const char *name = arena_format(unit->arena, "cherry_tile_%dx%d_%s_%s%s%s", tile.rows, tile.vectors, sides[tile.a],
                                    sides[tile.b], lies ? element_name(tile.element_b) : "", panels[tile.panel]);
    CpuHelper helper = cpu_helper_begin(unit, name, cpu_tile_type(unit));
    if (!helper.fresh) return helper.function;
    LLVMBuilderRef builder = unit->builder;
    int lanes = unit->target->lanes, sums = tile.rows * tile.vectors;
    LLVMValueRef k = LLVMGetParam(helper.function, 2), c = LLVMGetParam(helper.function, 3);
    LLVMValueRef stride = LLVMGetParam(helper.function, 4);
    LLVMValueRef first = LLVMBuildICmp(builder, LLVMIntNE, LLVMGetParam(helper.function, 5), cpu_i64(unit, 0), "");
    LLVMValueRef from = LLVMBuildSelect(builder, first, cpu_zeros(unit), c, "");
    LLVMValueRef from_stride = LLVMBuildSelect(builder, first, cpu_i64(unit, 0), stride, "");

    LLVMValueRef state[CPU_CARRY_MAX], rows[16];
    for (int i = 0; i < sums; i++) {
        if (i) from = i % tile.vectors ? from : cpu_at(unit, from, ELEMENT_F32, from_stride);
        LLVMValueRef at = cpu_at(unit, from, ELEMENT_F32, cpu_i64(unit, i % tile.vectors * lanes));
        state[i] = cpu_load(unit, ELEMENT_F32, at, lanes, NULL);
    }
    state[sums] = LLVMGetParam(helper.function, 0);
    state[sums + 1] = LLVMGetParam(helper.function, 1);
    state[sums + 2] = LLVMGetParam(helper.function, 6);
    TileReads reads = {.a_stride = LLVMGetParam(helper.function, 7), .b_stride = LLVMGetParam(helper.function, 8)};
    for (int row = 0; row < tile.rows && tile.a == TILE_ALONG_K; row++) {
        LLVMValueRef existing = cpu_minimum(unit, cpu_i64(unit, row), LLVMGetParam(helper.function, 9));
        LLVMValueRef at = LLVMBuildMul(builder, existing, reads.a_stride, "");
        reads.row[row] = cpu_at(unit, state[sums], tile.panel == PANEL_PAIRS ? ELEMENT_BF16 : ELEMENT_F32, at);
    }
    LLVMValueRef whole = LLVMBuildAnd(builder, k, cpu_i64(unit, -TILE_UNROLL), "");
    tile_loop(unit, tile, &reads, cpu_i64(unit, 0), whole, TILE_UNROLL, state);
    tile_loop(unit, tile, &reads, whole, k, 1, state);

    rows[0] = c;
    for (int row = 1; row < tile.rows; row++) rows[row] = cpu_at(unit, rows[row - 1], ELEMENT_F32, stride);
    for (int i = 0; i < sums; i++) {
        LLVMValueRef at = cpu_i64(unit, i % tile.vectors * lanes);
        cpu_store(unit, ELEMENT_F32, cpu_at(unit, rows[i / tile.vectors], ELEMENT_F32, at), state[i], NULL);
    }
    cpu_helper_end(unit, &helper);
    return helper.function;
}

void cpu_tile_call(CpuUnit *unit, CpuTile tile, LLVMValueRef a, LLVMValueRef b, LLVMValueRef k, LLVMValueRef c,
                   LLVMValueRef stride, LLVMValueRef first) {
    LLVMValueRef none = cpu_i64(unit, 0), arguments[] = {a, b, k, c, stride, first, b, none, none, none};
    cpu_helper_call(unit, cpu_tile_function(unit, tile), arguments, 10);
}
