// Register tiles and packed panels: the helper functions that all contractions of a module share.
#include <string.h>

#include "codegen/cpu_contract.h"

enum { TILE_UNROLL = 4 };

CpuTile cpu_tile_shape(const CpuTarget *target) {
    // 32 registers: 24 sums, 3 of B, a broadcast. 16 registers: 12 sums, 2 of B, 2 broadcasts.
    if (target->registers >= 32) return (CpuTile){.rows = 8, .vectors = 3};
    return (CpuTile){.rows = 6, .vectors = 2};
}

// ---- Helper functions ----

CpuHelper cpu_helper_begin(CpuUnit *unit, const char *name, LLVMTypeRef type) {
    CpuHelper helper = {.function = LLVMGetNamedFunction(unit->module, name)};
    if (helper.function) return helper;
    helper.function = LLVMAddFunction(unit->module, name, type);
    LLVMSetLinkage(helper.function, LLVMInternalLinkage);
    cpu_function_attributes(unit, helper.function);
    helper.before = LLVMGetInsertBlock(unit->builder);
    helper.fresh = true;
    LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(unit->context, helper.function, "entry");
    LLVMSetCurrentDebugLocation2(unit->builder, NULL);
    LLVMPositionBuilderAtEnd(unit->builder, entry);
    return helper;
}

void cpu_helper_end(CpuUnit *unit, CpuHelper *helper) {
    LLVMBuildRetVoid(unit->builder);
    if (helper->before) LLVMPositionBuilderAtEnd(unit->builder, helper->before);
}

void cpu_helper_call(CpuUnit *unit, LLVMValueRef function, LLVMValueRef *arguments, unsigned count) {
    LLVMBuildCall2(unit->builder, LLVMGlobalGetValueType(function), function, arguments, count, "");
}

LLVMValueRef cpu_blocks(CpuUnit *unit, LLVMValueRef count, LLVMValueRef size) {
    LLVMValueRef up = LLVMBuildAdd(unit->builder, count, LLVMBuildSub(unit->builder, size, cpu_i64(unit, 1), ""), "");
    return LLVMBuildUDiv(unit->builder, up, size, "");
}

// ---- Tiles ----

// One step of k: sums[row][v] += a[row] * b[v].
static void tile_step(CpuUnit *unit, CpuTile tile, LLVMValueRef a, LLVMValueRef b, int64_t step,
                      LLVMValueRef *sums) {
    int lanes = unit->target->lanes;
    LLVMValueRef columns[8];
    for (int v = 0; v < tile.vectors; v++) {
        LLVMValueRef at = cpu_i64(unit, (step * tile.vectors + v) * lanes);
        columns[v] = cpu_load(unit, ELEMENT_F32, cpu_at(unit, b, ELEMENT_F32, at), lanes, NULL);
    }
    for (int row = 0; row < tile.rows; row++) {
        LLVMValueRef at = cpu_i64(unit, step * tile.rows + row);
        LLVMValueRef factor = cpu_load(unit, ELEMENT_F32, cpu_at(unit, a, ELEMENT_F32, at), 1, NULL);
        factor = cpu_splat(unit, factor, lanes);
        for (int v = 0; v < tile.vectors; v++) {
            LLVMValueRef *sum = &sums[row * tile.vectors + v];
            *sum = cpu_fma(unit, factor, columns[v], *sum);
        }
    }
}

// Runs steps [begin, end) of k, `unroll` at a time; `state` is the sums, then the pointers into A and B.
static void tile_loop(CpuUnit *unit, CpuTile tile, LLVMValueRef begin, LLVMValueRef end, int unroll,
                      LLVMValueRef *state) {
    int sums = tile.rows * tile.vectors, lanes = unit->target->lanes;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, unroll, state, sums + 2);
    memcpy(state, loop.carried, sizeof(*state) * (size_t)(sums + 2));
    for (int step = 0; step < unroll; step++) tile_step(unit, tile, state[sums], state[sums + 1], step, state);
    LLVMValueRef a_step = cpu_i64(unit, unroll * tile.rows);
    LLVMValueRef b_step = cpu_i64(unit, (int64_t)unroll * tile.vectors * lanes);
    state[sums] = cpu_at(unit, state[sums], ELEMENT_F32, a_step);
    state[sums + 1] = cpu_at(unit, state[sums + 1], ELEMENT_F32, b_step);
    cpu_loop_end(unit, &loop, state);
    memcpy(state, loop.carried, sizeof(*state) * (size_t)(sums + 2));
}

// Stands for the tile where there is nothing to add to.
LLVMValueRef cpu_zeros(CpuUnit *unit) {
    const char *name = "cherry_zeros";
    LLVMValueRef zeros = LLVMGetNamedGlobal(unit->module, name);
    if (zeros) return zeros;
    LLVMTypeRef type = LLVMArrayType2(unit->f32, 64);
    zeros = LLVMAddGlobal(unit->module, type, name);
    LLVMSetInitializer(zeros, LLVMConstNull(type));
    LLVMSetGlobalConstant(zeros, true);
    LLVMSetLinkage(zeros, LLVMInternalLinkage);
    LLVMSetAlignment(zeros, 64);
    return zeros;
}

LLVMTypeRef cpu_tile_type(CpuUnit *unit) {
    LLVMTypeRef parameters[] = {unit->pointer, unit->pointer, unit->i64, unit->pointer, unit->i64, unit->i64};
    return LLVMFunctionType(unit->void_type, parameters, 6, false);
}

LLVMValueRef cpu_tile_function(CpuUnit *unit, CpuTile tile) {
    const char *name = arena_format(unit->arena, "cherry_tile_%dx%d", tile.rows, tile.vectors);
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
    LLVMValueRef whole = LLVMBuildAnd(builder, k, cpu_i64(unit, -TILE_UNROLL), "");
    tile_loop(unit, tile, cpu_i64(unit, 0), whole, TILE_UNROLL, state);
    tile_loop(unit, tile, whole, k, 1, state);

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
    LLVMValueRef arguments[] = {a, b, k, c, stride, first};
    cpu_helper_call(unit, cpu_tile_function(unit, tile), arguments, 6);
}

// ---- Packing ----

CpuPack cpu_pack_kind(int64_t panel_stride, int64_t k_stride) {
    if (panel_stride == 1) return PACK_UNIT;
    return k_stride == 1 ? PACK_TRANSPOSE : PACK_STRIDED;
}

// Lanes at step `step` within every block of four lanes, taken from a (0..3) and b (4..7).
static LLVMValueRef shuffle_blocks(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, int lanes, const int *pattern) {
    int from[16];
    for (int i = 0; i < lanes; i++) {
        int lane = pattern[i % 4];
        from[i] = i / 4 * 4 + lane % 4 + (lane >= 4 ? lanes : 0);
    }
    return cpu_shuffle(unit, a, b, from, lanes);
}

// Blocks of four lanes: result block i is block pattern[i] of the concatenation of a and b.
static LLVMValueRef join_blocks(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, int lanes, const int *pattern) {
    int from[16];
    for (int i = 0; i < lanes; i++) from[i] = pattern[i / 4] * 4 + i % 4;
    return cpu_shuffle(unit, a, b, from, lanes);
}

void cpu_transpose(CpuUnit *unit, LLVMValueRef *rows, int count) {
    static const int low[] = {0, 4, 1, 5}, high[] = {2, 6, 3, 7}, pair[] = {0, 1, 4, 5}, rest[] = {2, 3, 6, 7};
    static const int even4[] = {0, 2, 4, 6}, odd4[] = {1, 3, 5, 7}, even2[] = {0, 2}, odd2[] = {1, 3};
    // 4 x 4 transposes inside blocks: part[group * 4 + c] holds column 4 * block + c of rows 4 * group ..
    LLVMValueRef part[16], half[4];
    for (int g = 0; g < count; g += 4) {
        half[0] = shuffle_blocks(unit, rows[g], rows[g + 1], count, low);
        half[1] = shuffle_blocks(unit, rows[g + 2], rows[g + 3], count, low);
        half[2] = shuffle_blocks(unit, rows[g], rows[g + 1], count, high);
        half[3] = shuffle_blocks(unit, rows[g + 2], rows[g + 3], count, high);
        for (int c = 0; c < 4; c++) {
            int from = c / 2 * 2;
            part[g + c] = shuffle_blocks(unit, half[from], half[from + 1], count, c % 2 ? rest : pair);
        }
    }
    // Then the blocks: column 4 * block + c joins block `block` of every group.
    for (int c = 0; c < 4; c++) {
        if (count == 4) rows[c] = part[c];
        if (count == 8) {
            rows[c] = join_blocks(unit, part[c], part[4 + c], 8, even2);
            rows[4 + c] = join_blocks(unit, part[c], part[4 + c], 8, odd2);
        }
        if (count != 16) continue;
        half[0] = join_blocks(unit, part[c], part[4 + c], 16, even4);
        half[1] = join_blocks(unit, part[c], part[4 + c], 16, odd4);
        half[2] = join_blocks(unit, part[8 + c], part[12 + c], 16, even4);
        half[3] = join_blocks(unit, part[8 + c], part[12 + c], 16, odd4);
        for (int block = 0; block < 4; block++)
            rows[4 * block + c] =
                join_blocks(unit, half[block % 2], half[2 + block % 2], 16, block / 2 ? odd4 : even4);
    }
}

typedef struct PackArguments {
    LLVMValueRef to, from, valid, k, panel_stride, k_stride;
    Element element;
    int width;
} PackArguments;

static LLVMValueRef multiply(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildMul(unit->builder, a, b, "");
}

// Element by element, steps [begin, k), with zeros behind the valid ones: whatever the strides.
static void pack_strided(CpuUnit *unit, const PackArguments *p, LLVMValueRef begin) {
    CpuLoop steps, elements;
    LLVMValueRef zero = cpu_number(unit, ELEMENT_F32, 0, 1);
    cpu_loop_begin(unit, &steps, begin, p->k, 1, NULL, 0);
    LLVMValueRef to = cpu_at(unit, p->to, ELEMENT_F32, multiply(unit, steps.index, cpu_i64(unit, p->width)));
    LLVMValueRef from = cpu_at(unit, p->from, p->element, multiply(unit, steps.index, p->k_stride));
    cpu_loop_begin(unit, &elements, cpu_i64(unit, 0), p->valid, 1, NULL, 0);
    LLVMValueRef at = cpu_at(unit, from, p->element, multiply(unit, elements.index, p->panel_stride));
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, to, ELEMENT_F32, elements.index),
              cpu_load(unit, p->element, at, 1, NULL), NULL);
    cpu_loop_end(unit, &elements, NULL);
    cpu_loop_begin(unit, &elements, p->valid, cpu_i64(unit, p->width), 1, NULL, 0);
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, to, ELEMENT_F32, elements.index), zero, NULL);
    cpu_loop_end(unit, &elements, NULL);
    cpu_loop_end(unit, &steps, NULL);
}

// Rows of k copied as vectors; `masked`: only the valid columns are read.
static void pack_unit(CpuUnit *unit, const PackArguments *p, bool masked) {
    int lanes = p->width % unit->target->lanes ? p->width : unit->target->lanes, count = p->width / lanes;
    LLVMValueRef masks[8] = {NULL};
    for (int v = 0; v < count && masked; v++) {
        LLVMValueRef left = LLVMBuildSub(unit->builder, p->valid, cpu_i64(unit, v * lanes), "");
        masks[v] = cpu_mask(unit, lanes, left);
    }
    CpuLoop steps;
    cpu_loop_begin(unit, &steps, cpu_i64(unit, 0), p->k, 1, NULL, 0);
    LLVMValueRef to = cpu_at(unit, p->to, ELEMENT_F32, multiply(unit, steps.index, cpu_i64(unit, p->width)));
    LLVMValueRef from = cpu_at(unit, p->from, p->element, multiply(unit, steps.index, p->k_stride));
    for (int v = 0; v < count; v++) {
        LLVMValueRef at = cpu_i64(unit, v * lanes);
        LLVMValueRef row = cpu_load(unit, p->element, cpu_at(unit, from, p->element, at), lanes, masks[v]);
        cpu_store(unit, ELEMENT_F32, cpu_at(unit, to, ELEMENT_F32, at), row, NULL);
    }
    cpu_loop_end(unit, &steps, NULL);
}

// The side of the square blocks that transposing works in, for a panel `width` wide; 0: not worth it.
// A panel of 6 takes blocks of 8: every row of k writes two elements too many, and the next row of k,
// written later, puts them right.
static int transpose_side(const CpuTarget *target, int width) {
    for (int side = target->lanes; side >= 4; side /= 2)
        if (width % side == 0) return side;
    return width == 6 && target->lanes >= 8 ? 8 : 0;
}

// Columns of whole blocks of k, transposed in registers; returns how many steps of k that were.
static LLVMValueRef pack_transpose(CpuUnit *unit, const PackArguments *p, int side) {
    LLVMValueRef whole = LLVMBuildAnd(unit->builder, p->k, cpu_i64(unit, -side), ""), rows[16], at[16];
    CpuLoop groups, steps;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, p->width), side, NULL, 0);
    LLVMValueRef to = cpu_at(unit, p->to, ELEMENT_F32, groups.index);
    for (int i = 0; i < side; i++) {
        LLVMValueRef row = LLVMBuildAdd(unit->builder, groups.index, cpu_i64(unit, i < p->width ? i : 0), "");
        at[i] = cpu_at(unit, p->from, p->element, multiply(unit, row, p->panel_stride));
    }
    cpu_loop_begin(unit, &steps, cpu_i64(unit, 0), whole, side, NULL, 0);
    for (int i = 0; i < side; i++)
        rows[i] = cpu_load(unit, p->element, cpu_at(unit, at[i], p->element, steps.index), side, NULL);
    cpu_transpose(unit, rows, side);
    LLVMValueRef target = cpu_at(unit, to, ELEMENT_F32, multiply(unit, steps.index, cpu_i64(unit, p->width)));
    for (int i = 0; i < side; i++)
        cpu_store(unit, ELEMENT_F32, cpu_at(unit, target, ELEMENT_F32, cpu_i64(unit, (int64_t)i * p->width)),
                  rows[i], NULL);
    cpu_loop_end(unit, &steps, NULL);
    cpu_loop_end(unit, &groups, NULL);
    return whole;
}

LLVMTypeRef cpu_pack_type(CpuUnit *unit) {
    LLVMTypeRef parameters[] = {unit->pointer, unit->pointer, unit->i64, unit->i64, unit->i64, unit->i64};
    return LLVMFunctionType(unit->void_type, parameters, 6, false);
}

LLVMValueRef cpu_pack_function(CpuUnit *unit, CpuPack kind, Element element, int width) {
    static const char *const names[] = {"unit", "transpose", "strided"};
    int side = transpose_side(unit->target, width);
    if (kind == PACK_TRANSPOSE && !side) kind = PACK_STRIDED;
    const char *name =
        arena_format(unit->arena, "cherry_pack_%s_%s_%d", names[kind], element_name(element), width);
    CpuHelper helper = cpu_helper_begin(unit, name, cpu_pack_type(unit));
    if (!helper.fresh) return helper.function;
    LLVMValueRef f = helper.function;
    PackArguments p = {.to = LLVMGetParam(f, 0), .from = LLVMGetParam(f, 1), .valid = LLVMGetParam(f, 2),
                       .k = LLVMGetParam(f, 3), .panel_stride = LLVMGetParam(f, 4),
                       .k_stride = LLVMGetParam(f, 5), .element = element, .width = width};
    if (kind == PACK_STRIDED) {
        pack_strided(unit, &p, cpu_i64(unit, 0));
    } else {
        CpuIf full;
        LLVMValueRef all = LLVMBuildICmp(unit->builder, LLVMIntEQ, p.valid, cpu_i64(unit, width), "");
        cpu_if_begin(unit, &full, all);
        if (kind == PACK_UNIT) pack_unit(unit, &p, false);
        else pack_transpose(unit, &p, side);
        cpu_if_else(unit, &full);
        if (kind == PACK_UNIT) pack_unit(unit, &p, true);
        cpu_if_end(unit, &full);
        if (kind == PACK_TRANSPOSE) {
            // What blocks left over: the last steps of k, or all of a panel that is not full.
            LLVMValueRef whole = LLVMBuildAnd(unit->builder, p.k, cpu_i64(unit, -side), "");
            pack_strided(unit, &p, LLVMBuildSelect(unit->builder, all, whole, cpu_i64(unit, 0), ""));
        }
    }
    cpu_helper_end(unit, &helper);
    return helper.function;
}
