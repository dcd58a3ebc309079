// Products of attention: register tiles whose sizes and strides are constants, so that every address is a
// pointer and a displacement. `a` is broadcast element by element, from wherever it lies; `b` and `c` have
// their columns side by side. One element of c is one chain of multiply-adds in ascending steps.
#include <string.h>

#include "codegen/cpu_attention.h"

enum { UNROLL = 4, SUMS_MAX = 32, POINTERS = 2, VECTORS_MAX = 8 };

static LLVMValueRef floats_at(CpuUnit *unit, LLVMValueRef at, int64_t index) {
    return index ? cpu_at(unit, at, ELEMENT_F32, cpu_i64(unit, index)) : at;
}

static Element element_of_b(const AttentionProduct *p) { return p->narrow_b ? ELEMENT_BF16 : ELEMENT_F32; }

static LLVMValueRef b_at(CpuUnit *unit, const AttentionProduct *p, LLVMValueRef at, int64_t index) {
    return index ? cpu_at(unit, at, element_of_b(p), cpu_i64(unit, index)) : at;
}

// From step to step of b; pairs as they lie are two rows.
static int64_t stride_of_b(const AttentionProduct *p) { return p->pairs && p->narrow_b ? 2 * p->b_step : p->b_step; }

// A vector of b; `half`: of pairs as they lie there is the first row alone.
static LLVMValueRef load_columns(CpuUnit *unit, const AttentionProduct *p, LLVMValueRef at, bool half) {
    LLVMValueRef columns = cpu_load(unit, element_of_b(p), at, p->lanes, NULL);
    if (!p->pairs || !p->narrow_b) return columns;
    return cpu_pair(unit, columns, half ? NULL : cpu_load(unit, ELEMENT_BF16, b_at(unit, p, at, p->b_step), p->lanes, NULL));
}

static void emit_step(CpuUnit *unit, const AttentionProduct *p, int vectors, LLVMValueRef a, LLVMValueRef b,
                      bool half, LLVMValueRef *sums) {
    int lanes = p->lanes;
    LLVMValueRef columns[VECTORS_MAX];
    for (int v = 0; v < vectors; v++) columns[v] = load_columns(unit, p, b_at(unit, p, b, v * lanes), half);
    for (int row = 0; row < p->rows; row++) {
        LLVMValueRef factor = cpu_load(unit, ELEMENT_F32, floats_at(unit, a, row * p->a_row), 1, NULL);
        factor = cpu_splat(unit, factor, lanes);
        for (int v = 0; v < vectors; v++) {
            LLVMValueRef *sum = &sums[row * vectors + v];
            *sum = p->pairs ? cpu_dot_pairs(unit, factor, columns[v], *sum) : cpu_fma(unit, factor, columns[v], *sum);
        }
    }
}

// Steps [begin, end), `unroll` at a time; `state` is the sums, then the pointers into a and b.
static void emit_steps(CpuUnit *unit, const AttentionProduct *p, int vectors, LLVMValueRef begin,
                       LLVMValueRef end, int unroll, bool half, LLVMValueRef *state) {
    int sums = p->rows * vectors;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, unroll, state, sums + POINTERS);
    memcpy(state, loop.carried, sizeof *state * (size_t)(sums + POINTERS));
    for (int step = 0; step < unroll; step++)
        emit_step(unit, p, vectors, floats_at(unit, state[sums], step * p->a_step),
                  b_at(unit, p, state[sums + 1], step * stride_of_b(p)), half, state);
    state[sums] = floats_at(unit, state[sums], unroll * p->a_step);
    state[sums + 1] = b_at(unit, p, state[sums + 1], unroll * stride_of_b(p));
    cpu_loop_end(unit, &loop, state);
    memcpy(state, loop.carried, sizeof *state * (size_t)(sums + POINTERS));
}

static void emit_start(CpuUnit *unit, const AttentionProduct *p, int vectors, LLVMValueRef c,
                       LLVMValueRef factors, LLVMValueRef *sums) {
    int lanes = p->lanes;
    for (int row = 0; row < p->rows; row++) {
        LLVMValueRef factor = NULL;
        if (p->start == ATTENTION_FADE)
            factor =
                cpu_splat(unit, cpu_load(unit, ELEMENT_F32, floats_at(unit, factors, row), 1, NULL), lanes);
        for (int v = 0; v < vectors; v++) {
            LLVMValueRef *sum = &sums[row * vectors + v];
            *sum = cpu_number(unit, ELEMENT_F32, 0, lanes);
            if (p->start == ATTENTION_ZERO) continue;
            *sum = cpu_load(unit, ELEMENT_F32, floats_at(unit, c, row * p->c_row + v * lanes), lanes, NULL);
            if (factor) *sum = LLVMBuildFMul(unit->builder, *sum, factor, "");
        }
    }
}

// void (a, b, i64 steps, c, factors): one tile.
static LLVMValueRef tile_function(CpuUnit *unit, const AttentionProduct *p, int vectors) {
    typedef long long L;
    LLVMTypeRef pointer = unit->pointer, parameters[] = {pointer, pointer, unit->i64, pointer, pointer};
    const char *name =
        arena_format(unit->arena, "cherry_attention_%dx%dx%d_%lld_%lld_%lld_%lld_%lld_%d%s%s", p->rows, vectors, p->lanes,
                     (L)p->a_row, (L)p->a_step, (L)p->b_step, (L)p->c_row, (L)p->steps, (int)p->start,
                     p->narrow_b ? "_narrow" : "", p->pairs ? "_pairs" : "");
    CpuHelper helper = cpu_helper_begin(unit, name, LLVMFunctionType(unit->void_type, parameters, 5, false));
    if (!helper.fresh) return helper.function;
    LLVMValueRef f = helper.function, c = LLVMGetParam(f, 3), zero = cpu_i64(unit, 0);
    LLVMValueRef state[SUMS_MAX + POINTERS];
    int lanes = p->lanes, sums = p->rows * vectors;
    emit_start(unit, p, vectors, c, LLVMGetParam(f, 4), state);
    state[sums] = LLVMGetParam(f, 0);
    state[sums + 1] = LLVMGetParam(f, 1);
    LLVMValueRef steps = p->steps ? cpu_i64(unit, p->steps) : LLVMGetParam(f, 2), count = steps;
    bool halves = p->pairs && p->narrow_b;
    if (p->pairs) count = cpu_blocks(unit, steps, cpu_i64(unit, 2));
    LLVMValueRef last = halves ? LLVMBuildLShr(unit->builder, steps, cpu_i64(unit, 1), "") : count;
    LLVMValueRef whole = LLVMBuildAnd(unit->builder, last, cpu_i64(unit, -UNROLL), "");
    emit_steps(unit, p, vectors, zero, whole, UNROLL, false, state);
    emit_steps(unit, p, vectors, whole, last, 1, false, state);
    if (halves) emit_steps(unit, p, vectors, last, count, 1, true, state);
    for (int i = 0; i < sums; i++)
        cpu_store(unit, ELEMENT_F32, floats_at(unit, c, i / vectors * p->c_row + i % vectors * lanes),
                  state[i], NULL);
    cpu_helper_end(unit, &helper);
    return f;
}

// Vectors of columns that the registers hold sums for, with a row of b and a broadcast.
static int64_t most_vectors(CpuUnit *unit, const AttentionProduct *p) {
    int vectors = (unit->target->registers - 1) / (p->rows + 1);
    return vectors < VECTORS_MAX ? vectors : VECTORS_MAX;
}

// A row of tiles, of vectors [first, count) of columns: as even as they come. `skipped`: steps at the start that are
// left out, or NULL.
static void emit_columns(CpuUnit *unit, const AttentionProduct *p, const AttentionMatrices *m,
                         LLVMValueRef row, LLVMValueRef skipped, LLVMValueRef steps, int64_t first) {
    int64_t left = m->columns / p->lanes - first, most = most_vectors(unit, p), tiles = (left + most - 1) / most;
    LLVMBuilderRef builder = unit->builder;
    LLVMValueRef a = cpu_at(unit, m->a, ELEMENT_F32, LLVMBuildMul(builder, row, cpu_i64(unit, p->a_row), "")),
                 b = m->b;
    LLVMValueRef c = cpu_at(unit, m->c, ELEMENT_F32, LLVMBuildMul(builder, row, cpu_i64(unit, p->c_row), ""));
    LLVMValueRef factors = m->factors ? cpu_at(unit, m->factors, ELEMENT_F32, row) : c;
    if (skipped) {
        steps = LLVMBuildSub(builder, steps, skipped, "");
        if (p->pairs) skipped = LLVMBuildLShr(builder, skipped, cpu_i64(unit, 1), "");
        a = cpu_at(unit, a, ELEMENT_F32, LLVMBuildMul(builder, skipped, cpu_i64(unit, p->a_step), ""));
        b = cpu_at(unit, b, element_of_b(p), LLVMBuildMul(builder, skipped, cpu_i64(unit, stride_of_b(p)), ""));
    }
    for (; tiles; tiles--) {
        int64_t count = (left + tiles - 1) / tiles, column = first * p->lanes;
        LLVMValueRef arguments[] = {a, b_at(unit, p, b, column), steps, floats_at(unit, c, column),
                                    factors};
        cpu_helper_call(unit, tile_function(unit, p, (int)count), arguments, 5);
        first += count;
        left -= count;
    }
}

// Vectors of queries that see nothing of a row of tiles, from the first on, are left out of it.
static void emit_seen_columns(const AttentionTask *task, const AttentionProduct *p,
                              const AttentionMatrices *m, LLVMValueRef row, LLVMValueRef steps) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    LLVMValueRef key = LLVMBuildAdd(unit->builder, m->key0, row, "");
    CpuIf seen[ATTENTION_VECTORS];
    for (int v = 0; v < plan->vectors; v++) {
        if (v + 1 < plan->vectors) {
            LLVMValueRef last =
                cpu_attention_last_position(task, cpu_i64(unit, v * plan->lanes), plan->lanes);
            cpu_if_begin(unit, &seen[v], LLVMBuildICmp(unit->builder, LLVMIntSLE, key, last, ""));
        }
        emit_columns(unit, p, m, row, NULL, steps, v);
        if (v + 1 < plan->vectors) cpu_if_else(unit, &seen[v]);
    }
    for (int v = plan->vectors - 2; v >= 0; v--) cpu_if_end(unit, &seen[v]);
}

// Queries of the block that see none of the keys from `key` on: whole rows of tiles, from the first on.
static LLVMValueRef unseeing_queries(const AttentionTask *task, LLVMValueRef key) {
    CpuUnit *unit = task->unit;
    LLVMValueRef sum = cpu_i64(unit, 0);
    for (int64_t query = 0; query < task->plan->queries; query += task->plan->query_rows) {
        LLVMValueRef last = cpu_attention_last_position(task, cpu_i64(unit, query), task->plan->query_rows);
        LLVMValueRef before = LLVMBuildICmp(unit->builder, LLVMIntSLT, last, key, "");
        LLVMValueRef rows = cpu_select(unit, before, cpu_i64(unit, task->plan->query_rows), cpu_i64(unit, 0));
        sum = LLVMBuildAdd(unit->builder, sum, rows, "");
    }
    return sum;
}

static void emit_row(const AttentionTask *task, const AttentionProduct *p, const AttentionMatrices *m,
                     LLVMValueRef row) {
    CpuUnit *unit = task->unit;
    LLVMBuilderRef b = unit->builder;
    LLVMValueRef steps = m->steps ? m->steps : cpu_i64(unit, p->steps), skipped = NULL;
    AttentionSkip skip = task->plan->causal ? m->skip : ATTENTION_SKIP_NONE;
    if (skip == ATTENTION_SKIP_COLUMNS) {
        emit_seen_columns(task, p, m, row, steps);
        return;
    }
    if (skip == ATTENTION_SKIP_LAST) {
        LLVMValueRef last = cpu_attention_last_position(task, row, p->rows);
        LLVMValueRef seen = LLVMBuildAdd(b, LLVMBuildSub(b, last, m->key0, ""), cpu_i64(unit, 1), "");
        seen = cpu_select(unit, LLVMBuildICmp(b, LLVMIntSLT, seen, cpu_i64(unit, 0), ""), cpu_i64(unit, 0),
                          seen);
        steps = cpu_min(unit, steps, seen);
    }
    if (skip == ATTENTION_SKIP_FIRST) skipped = unseeing_queries(task, LLVMBuildAdd(b, m->key0, row, ""));
    emit_columns(unit, p, m, row, skipped, steps, 0);
}

void cpu_attention_multiply(const AttentionTask *task, const AttentionProduct *product,
                            const AttentionMatrices *matrices) {
    CpuLoop rows;
    cpu_loop_begin(task->unit, &rows, cpu_i64(task->unit, 0), matrices->rows, product->rows, NULL, 0);
    cpu_attention_bring(task);
    emit_row(task, product, matrices, rows.index);
    cpu_loop_end(task->unit, &rows, NULL);
}
