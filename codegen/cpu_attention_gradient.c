// Generator of the kernel `attention_gradient`: weights are computed again from lse, block by block.
//
//   task: (shared indices): packs keys and values; d_k, d_v = 0
//     group of queries, span of up to 256 queries:  packs q and d_o;  delta = sum(d_o o) - d_lse;  d_q = 0
//       block of keys:
//         block of queries that sees it:  S = K Q^T,  P = exp(S - lse),  dS = P (V dO^T - delta)
//                                         d_q += dS^T K;  turns P and dS into panels for the next two
//         d_v += P^T dO,  d_k += dS^T Q   over all queries of the span that see the block
//       writes d_q
//     writes d_k, d_v
//
// Every sum runs over its own index in ascending order (groups, queries; keys) inside one task.
#include "codegen/cpu_attention.h"

enum { Q, K, V, POSITIONS_OPERAND, O, LSE, D_O, D_LSE, REGULAR };
enum { SPAN_QUERIES = 256, VECTORS_MAX = 2 };
static const double NO_QUERY = 1e30;  // lse of a lane without a query: all its weights are 0

typedef struct Backward {
    AttentionTask task;
    int d_q, d_k, d_v;                       // operands
    int64_t span, key_columns, feature_columns;  // queries of a span; widths of d_k and d_v in scratch
    int column_vectors;                      // of a panel of columns
    LLVMValueRef keys_by_key, keys_by_query; // [key panel][d][rows], [d panel][key][rows]
    LLVMValueRef values;                     // [key panel][feature][rows]
    LLVMValueRef queries, query_rows;        // [block][d][queries] scaled, [d panel][query][columns]
    LLVMValueRef results, result_rows;       // the same of d_o
    LLVMValueRef lse, delta;                 // [query]
    LLVMValueRef scores, d_scores;           // [key of the block][queries]
    LLVMValueRef weights_by_query, d_scores_by_query;  // [key panel][query of the span][rows]
    LLVMValueRef d_queries;                  // [block][d][queries]
    LLVMValueRef d_keys, d_values;           // [key][columns]
    LLVMValueRef turned, span0, span_count;  // scratch; first query and number of queries of the span
    LLVMValueRef first_seen, end_seen;       // slots: queries of the span that see the block of keys
} Backward;

static LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildAdd(unit->builder, a, b, ""); }
static LLVMValueRef subtract(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildSub(unit->builder, a, b, ""); }
static LLVMValueRef scaled(CpuUnit *unit, LLVMValueRef a, int64_t by) {
    return by == 1 ? a : LLVMBuildMul(unit->builder, a, cpu_i64(unit, by), "");
}
static LLVMValueRef floats_at(CpuUnit *unit, LLVMValueRef at, LLVMValueRef index) {
    return cpu_at(unit, at, ELEMENT_F32, index);
}

// Operand `operand` from index `first` of the dimension with stride `stride` on.
static LLVMValueRef operand_at(const Backward *g, int operand, LLVMValueRef first, int64_t stride) {
    CpuUnit *unit = g->task.unit;
    return cpu_at(unit, cpu_attention_base(&g->task, operand), g->task.plan->side[operand].element,
                  scaled(unit, first, stride));
}

// ---- Packing ----

// Keys or values [first_key, last_key) as panels of keys: [panel][column][rows].
static void pack_by_key(const Backward *g, int operand, int64_t column_stride, int64_t columns, LLVMValueRef to) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *side = &plan->side[operand];
    LLVMValueRef first = g->task.first_key, count = subtract(unit, g->task.last_key, first);
    cpu_attention_pack(unit, side->element, side->past, column_stride, plan->rows,
                       floats_at(unit, to, scaled(unit, first, columns)), operand_at(g, operand, first, side->past), count,
                       cpu_i64(unit, columns), cpu_i64(unit, columns * plan->rows));
}

static void pack_task(const Backward *g) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *k = &plan->side[K];
    LLVMValueRef first = g->task.first_key, count = subtract(unit, g->task.last_key, first);
    pack_by_key(g, K, k->key, plan->keys, g->keys_by_key);
    pack_by_key(g, V, plan->side[V].feature, plan->features, g->values);
    cpu_attention_pack(unit, k->element, k->key, k->past, plan->rows,
                       floats_at(unit, g->keys_by_query, scaled(unit, first, plan->rows)),
                       operand_at(g, K, first, k->past), cpu_i64(unit, plan->keys), count,
                       cpu_i64(unit, plan->padded_past * plan->rows));
    cpu_attention_clear(unit, g->d_keys, plan->padded_past * g->key_columns);
    cpu_attention_clear(unit, g->d_values, plan->padded_past * g->feature_columns);
}

// An operand of the span as blocks of queries in lanes, and as rows.
static void pack_span(const Backward *g, int operand, int64_t column_stride, int64_t columns, LLVMValueRef blocks,
                      LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *side = &plan->side[operand];
    LLVMValueRef from = operand_at(g, operand, g->span0, side->time);
    int64_t width = (int64_t)g->column_vectors * plan->lanes;
    cpu_attention_pack(unit, side->element, side->time, column_stride, plan->queries, blocks, from, g->span_count,
                       cpu_i64(unit, columns), cpu_i64(unit, columns * plan->queries));
    cpu_attention_pack(unit, side->element, column_stride, side->time, width, rows, from, cpu_i64(unit, columns),
                       g->span_count, cpu_i64(unit, g->span * width));
}

// delta[query] = sum over features of d_o o, less d_lse; and lse, of the span.
static void emit_delta(const Backward *g) {
    CpuUnit *unit = g->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *o = &plan->side[O], *d_o = &plan->side[D_O];
    int lanes = o->feature == 1 && d_o->feature == 1 ? (int)plan->lanes : 1;
    CpuLoop queries, features;
    cpu_loop_begin(unit, &queries, cpu_i64(unit, 0), g->span_count, 1, NULL, 0);
    LLVMValueRef query = add(unit, g->span0, queries.index), zero = cpu_number(unit, ELEMENT_F32, 0, lanes);
    LLVMValueRef o_row = operand_at(g, O, query, o->time), d_row = operand_at(g, D_O, query, d_o->time);
    cpu_loop_begin(unit, &features, cpu_i64(unit, 0), cpu_i64(unit, plan->features), lanes, &zero, 1);
    LLVMValueRef mask = NULL;
    if (plan->features % lanes)
        mask = cpu_mask(unit, lanes, subtract(unit, cpu_i64(unit, plan->features), features.index));
    LLVMValueRef x = cpu_at(unit, o_row, o->element, scaled(unit, features.index, o->feature));
    LLVMValueRef y = cpu_at(unit, d_row, d_o->element, scaled(unit, features.index, d_o->feature));
    LLVMValueRef sum = cpu_fma(unit, cpu_load(unit, o->element, x, lanes, mask),
                               cpu_load(unit, d_o->element, y, lanes, mask), features.carried[0]);
    cpu_loop_end(unit, &features, &sum);
    LLVMValueRef total = cpu_horizontal_sum(unit, features.carried[0]);
    LLVMValueRef d_lse = operand_at(g, D_LSE, query, plan->side[D_LSE].time);
    LLVMValueRef lse = operand_at(g, LSE, query, plan->side[LSE].time);
    total = LLVMBuildFSub(b, total, cpu_load(unit, plan->side[D_LSE].element, d_lse, 1, NULL), "");
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->delta, queries.index), total, NULL);
    lse = cpu_load(unit, plan->side[LSE].element, lse, 1, NULL);
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->lse, queries.index), lse, NULL);
    cpu_loop_end(unit, &queries, NULL);
    // Lanes without a query.
    cpu_loop_begin(unit, &queries, g->span_count, cpu_i64(unit, g->span), 1, NULL, 0);
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->delta, queries.index), cpu_number(unit, ELEMENT_F32, 0, 1), NULL);
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->lse, queries.index), cpu_number(unit, ELEMENT_F32, NO_QUERY, 1), NULL);
    cpu_loop_end(unit, &queries, NULL);
}

// ---- A block of keys and a block of queries ----

// to[key][query] = panels of keys from key0 on times a block of queries, `depth` deep.
static void emit_products(const Backward *g, LLVMValueRef panels, LLVMValueRef block, int64_t depth, LLVMValueRef to,
                          LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, cpu_i64(unit, 0), rows, plan->rows, NULL, 0);
    LLVMValueRef at = scaled(unit, add(unit, key0, loop.index), depth);
    cpu_tile_call(unit, (CpuTile){.rows = plan->rows, .vectors = plan->vectors}, floats_at(unit, panels, at), block, cpu_i64(unit, depth),
                  floats_at(unit, to, scaled(unit, loop.index, plan->queries)), cpu_i64(unit, plan->queries),
                  cpu_i64(unit, 1));
    cpu_loop_end(unit, &loop, NULL);
}

// scores become weights, d_scores (so far: d_o times v) become gradients of scores.
static void emit_weights(const Backward *g, LLVMValueRef query0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = g->task.plan;
    int lanes = (int)plan->lanes;
    LLVMValueRef lse[VECTORS_MAX], delta[VECTORS_MAX];
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = add(unit, query0, cpu_i64(unit, v * lanes));
        lse[v] = cpu_load(unit, ELEMENT_F32, floats_at(unit, g->lse, at), lanes, NULL);
        delta[v] = cpu_load(unit, ELEMENT_F32, floats_at(unit, g->delta, at), lanes, NULL);
    }
    CpuLoop keys;
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, 1, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = add(unit, scaled(unit, keys.index, plan->queries), cpu_i64(unit, v * lanes));
        LLVMValueRef score = floats_at(unit, g->scores, at), d_score = floats_at(unit, g->d_scores, at);
        LLVMValueRef x = LLVMBuildFSub(b, cpu_load(unit, ELEMENT_F32, score, lanes, NULL), lse[v], "");
        LLVMValueRef weight = cpu_exp(unit, x);
        cpu_store(unit, ELEMENT_F32, score, weight, NULL);
        x = LLVMBuildFSub(b, cpu_load(unit, ELEMENT_F32, d_score, lanes, NULL), delta[v], "");
        cpu_store(unit, ELEMENT_F32, d_score, LLVMBuildFMul(b, weight, x, ""), NULL);
    }
    cpu_loop_end(unit, &keys, NULL);
}

// [key][query] of a block of queries becomes panels of keys, [key panel][query of the span][rows].
static void turn(const Backward *g, LLVMValueRef from, LLVMValueRef to, LLVMValueRef query0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    cpu_attention_pack(unit, ELEMENT_F32, plan->queries, 1, plan->rows, floats_at(unit, to, scaled(unit, query0, plan->rows)),
                       from, rows, cpu_i64(unit, plan->queries), cpu_i64(unit, g->span * plan->rows));
}

// Queries [query0, query0 + queries) of the span against keys [key0, key0 + rows).
static void emit_pair(const Backward *g, LLVMValueRef query0, LLVMValueRef key0, LLVMValueRef rows, LLVMValueRef partly) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    LLVMValueRef queries = floats_at(unit, g->queries, scaled(unit, query0, plan->keys));
    LLVMValueRef results = floats_at(unit, g->results, scaled(unit, query0, plan->features));
    emit_products(g, g->keys_by_key, queries, plan->keys, g->scores, key0, rows);
    emit_products(g, g->values, results, plan->features, g->d_scores, key0, rows);
    cpu_attention_mask(&g->task, g->scores, key0, rows, partly);
    emit_weights(g, query0, rows);
    turn(g, g->scores, g->weights_by_query, query0, rows);
    turn(g, g->d_scores, g->d_scores_by_query, query0, rows);
    CpuLoop panels;
    LLVMValueRef d_queries = floats_at(unit, g->d_queries, scaled(unit, query0, plan->padded_keys));
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), cpu_i64(unit, plan->padded_keys), plan->rows, NULL, 0);
    LLVMValueRef at = add(unit, scaled(unit, panels.index, plan->padded_past), scaled(unit, key0, plan->rows));
    cpu_tile_call(unit, (CpuTile){.rows = plan->rows, .vectors = plan->vectors}, floats_at(unit, g->keys_by_query, at), g->d_scores, rows,
                  floats_at(unit, d_queries, scaled(unit, panels.index, plan->queries)), cpu_i64(unit, plan->queries),
                  cpu_i64(unit, 0));
    cpu_loop_end(unit, &panels, NULL);
}

// to[key][column] += panels of keys times rows of queries, over the queries of the span that see the keys.
static void emit_sums(const Backward *g, LLVMValueRef panels, LLVMValueRef query_rows, int64_t columns, LLVMValueRef to,
                      LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    int64_t width = (int64_t)g->column_vectors * plan->lanes;
    LLVMValueRef first = LLVMBuildLoad2(unit->builder, unit->i64, g->first_seen, "");
    LLVMValueRef end = LLVMBuildLoad2(unit->builder, unit->i64, g->end_seen, "");
    LLVMValueRef count = subtract(unit, cpu_minimum(unit, end, g->span_count), first);
    CpuLoop keys, column;
    cpu_loop_begin(unit, &column, cpu_i64(unit, 0), cpu_i64(unit, columns), width, NULL, 0);
    LLVMValueRef b_at = add(unit, scaled(unit, column.index, g->span), scaled(unit, first, width));
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, plan->rows, NULL, 0);
    LLVMValueRef a_at = add(unit, scaled(unit, keys.index, g->span), scaled(unit, first, plan->rows));
    LLVMValueRef c_at = add(unit, scaled(unit, add(unit, key0, keys.index), columns), column.index);
    cpu_tile_call(unit, (CpuTile){.rows = plan->rows, .vectors = g->column_vectors}, floats_at(unit, panels, a_at),
                  floats_at(unit, query_rows, b_at), count, floats_at(unit, to, c_at), cpu_i64(unit, columns),
                  cpu_i64(unit, 0));
    cpu_loop_end(unit, &keys, NULL);
    cpu_loop_end(unit, &column, NULL);
}

static void block_positions(const Backward *g, LLVMValueRef query0, LLVMValueRef *first, LLVMValueRef *last,
                            LLVMValueRef *valid) {
    CpuUnit *unit = g->task.unit;
    *valid = cpu_minimum(unit, cpu_i64(unit, g->task.plan->queries), subtract(unit, g->span_count, query0));
    LLVMValueRef at = add(unit, g->span0, query0);
    *first = cpu_attention_position(&g->task, at);
    *last = cpu_attention_position(&g->task, add(unit, at, subtract(unit, *valid, cpu_i64(unit, 1))));
}

static void emit_key_block(Backward *g, LLVMValueRef key0, LLVMValueRef end) {
    CpuUnit *unit = g->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = g->task.plan;
    LLVMBuildStore(b, cpu_i64(unit, 0), g->first_seen);
    LLVMBuildStore(b, cpu_i64(unit, -1), g->end_seen);
    LLVMValueRef block_end = cpu_minimum(unit, end, add(unit, key0, cpu_i64(unit, plan->key_block)));
    LLVMValueRef rows = subtract(unit, block_end, key0);
    CpuLoop blocks;
    CpuIf sees, some;
    cpu_loop_begin(unit, &blocks, cpu_i64(unit, 0), g->span_count, plan->queries, NULL, 0);
    LLVMValueRef query0 = blocks.index, first, last, valid, from, to;
    block_positions(g, query0, &first, &last, &valid);
    cpu_attention_range(&g->task, first, last, &from, &to);
    LLVMValueRef seen = LLVMBuildAnd(b, LLVMBuildICmp(b, LLVMIntSLT, key0, to, ""),
                                     LLVMBuildICmp(b, LLVMIntSGE, key0, from, ""), "");
    cpu_if_begin(unit, &sees, seen);
    cpu_attention_positions(&g->task, add(unit, g->span0, query0), valid);
    LLVMValueRef none = LLVMBuildICmp(b, LLVMIntSLT, LLVMBuildLoad2(b, unit->i64, g->end_seen, ""), cpu_i64(unit, 0), "");
    LLVMValueRef kept = LLVMBuildLoad2(b, unit->i64, g->first_seen, "");
    LLVMBuildStore(b, LLVMBuildSelect(b, none, query0, kept, ""), g->first_seen);
    LLVMBuildStore(b, add(unit, query0, cpu_i64(unit, plan->queries)), g->end_seen);
    emit_pair(g, query0, key0, rows, cpu_attention_partly(&g->task, first, last, key0, block_end));
    cpu_if_end(unit, &sees);
    cpu_loop_end(unit, &blocks, NULL);
    LLVMValueRef any = LLVMBuildICmp(b, LLVMIntSGE, LLVMBuildLoad2(b, unit->i64, g->end_seen, ""), cpu_i64(unit, 0), "");
    cpu_if_begin(unit, &some, any);
    emit_sums(g, g->weights_by_query, g->result_rows, g->feature_columns, g->d_values, key0, rows);
    emit_sums(g, g->d_scores_by_query, g->query_rows, g->key_columns, g->d_keys, key0, rows);
    cpu_if_end(unit, &some);
}

// ---- Spans and tasks ----

static void emit_span(Backward *g) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *d_q = &plan->side[g->d_q];
    pack_span(g, Q, plan->side[Q].key, plan->keys, g->queries, g->query_rows);
    pack_span(g, D_O, plan->side[D_O].feature, plan->features, g->results, g->result_rows);
    cpu_attention_scale(unit, g->queries, g->span * plan->keys, plan->scale);
    emit_delta(g);
    cpu_attention_clear(unit, g->d_queries, g->span * plan->padded_keys);
    LLVMValueRef last_query = subtract(unit, add(unit, g->span0, g->span_count), cpu_i64(unit, 1)), begin, end;
    cpu_attention_range(&g->task, cpu_attention_position(&g->task, g->span0),
                        cpu_attention_position(&g->task, last_query), &begin, &end);
    CpuLoop keys, blocks;
    cpu_loop_begin(unit, &keys, begin, end, plan->key_block, NULL, 0);
    emit_key_block(g, keys.index, end);
    cpu_loop_end(unit, &keys, NULL);
    cpu_attention_scale(unit, g->d_queries, g->span * plan->padded_keys, plan->scale);
    cpu_loop_begin(unit, &blocks, cpu_i64(unit, 0), g->span_count, plan->queries, NULL, 0);
    LLVMValueRef valid = cpu_minimum(unit, cpu_i64(unit, plan->queries), subtract(unit, g->span_count, blocks.index));
    LLVMValueRef from = floats_at(unit, g->d_queries, scaled(unit, blocks.index, plan->padded_keys));
    cpu_attention_write(unit, d_q->element, operand_at(g, g->d_q, add(unit, g->span0, blocks.index), d_q->time),
                        d_q->time, d_q->key, from, plan->queries, valid, plan->keys, g->turned);
    cpu_loop_end(unit, &blocks, NULL);
}

static void emit_groups(Backward *g) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    CpuLoop groups, spans;
    CpuIf inside;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, plan->group_total), 1, NULL, 0);
    cpu_if_begin(unit, &inside, cpu_attention_split(&g->task, groups.index, plan->group, plan->group_bound,
                                                    plan->group_count, g->task.group));
    cpu_loop_begin(unit, &spans, cpu_i64(unit, 0), g->task.time, g->span, NULL, 0);
    g->span0 = spans.index;
    g->span_count = cpu_minimum(unit, cpu_i64(unit, g->span), subtract(unit, g->task.time, spans.index));
    emit_span(g);
    cpu_loop_end(unit, &spans, NULL);
    cpu_if_end(unit, &inside);
    cpu_loop_end(unit, &groups, NULL);
}

static void emit_task(Backward *g, LLVMValueRef number) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *d_k = &plan->side[g->d_k], *d_v = &plan->side[g->d_v];
    CpuIf exists, queries;
    cpu_if_begin(unit, &exists, cpu_attention_split(&g->task, number, plan->shared, plan->shared_bound,
                                                    plan->shared_count, g->task.shared));
    for (int i = 0; i < plan->group_count; i++) g->task.group[i] = cpu_i64(unit, 0);
    LLVMValueRef some = LLVMBuildICmp(unit->builder, LLVMIntSGT, g->task.time, cpu_i64(unit, 0), "");
    cpu_if_begin(unit, &queries, some);
    LLVMValueRef last_query = subtract(unit, g->task.time, cpu_i64(unit, 1));
    cpu_attention_range(&g->task, cpu_attention_position(&g->task, cpu_i64(unit, 0)),
                        cpu_attention_position(&g->task, last_query), &g->task.first_key, &g->task.last_key);
    pack_task(g);
    emit_groups(g);
    cpu_if_end(unit, &queries);
    for (int i = 0; i < plan->group_count; i++) g->task.group[i] = cpu_i64(unit, 0);
    cpu_attention_scale(unit, g->d_keys, plan->padded_past * g->key_columns, plan->scale);
    cpu_attention_write_rows(unit, d_k->element, cpu_attention_base(&g->task, g->d_k), d_k->past, d_k->key, g->d_keys,
                             g->key_columns, g->task.past, plan->keys);
    cpu_attention_write_rows(unit, d_v->element, cpu_attention_base(&g->task, g->d_v), d_v->past, d_v->feature,
                             g->d_values, g->feature_columns, g->task.past, plan->features);
    cpu_if_end(unit, &exists);
}

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

static int64_t divide_scratch(Backward *g) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    LLVMValueRef scratch = g->task.body->scratch;
    int64_t used = 0, span = g->span, wide = plan->padded_keys + 8;
    g->keys_by_key = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->keys);
    g->keys_by_query = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->padded_keys);
    g->values = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->features);
    g->queries = cpu_attention_take(unit, scratch, &used, span * plan->keys);
    g->query_rows = cpu_attention_take(unit, scratch, &used, span * g->key_columns);
    g->results = cpu_attention_take(unit, scratch, &used, span * plan->features);
    g->result_rows = cpu_attention_take(unit, scratch, &used, span * g->feature_columns);
    g->lse = cpu_attention_take(unit, scratch, &used, span);
    g->delta = cpu_attention_take(unit, scratch, &used, span);
    g->scores = cpu_attention_take(unit, scratch, &used, plan->key_block * plan->queries);
    g->d_scores = cpu_attention_take(unit, scratch, &used, plan->key_block * plan->queries);
    g->weights_by_query = cpu_attention_take(unit, scratch, &used, plan->key_block * span);
    g->d_scores_by_query = cpu_attention_take(unit, scratch, &used, plan->key_block * span);
    g->d_queries = cpu_attention_take(unit, scratch, &used, span * plan->padded_keys + 8 * plan->queries);
    g->d_keys = cpu_attention_take(unit, scratch, &used, plan->padded_past * g->key_columns);
    g->d_values = cpu_attention_take(unit, scratch, &used, plan->padded_past * g->feature_columns);
    g->turned = cpu_attention_take(unit, scratch, &used, wide * plan->queries);
    g->task.positions = cpu_attention_take(unit, scratch, &used, plan->queries);
    return used;
}

bool cpu_attention_gradient_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    CpuAttention plan;
    if (!cpu_attention_plan(unit, kernel->named, REGULAR, &plan)) return false;
    int first = kernel->named->output_start;
    Backward g = {.d_q = first, .d_k = first + 1, .d_v = first + 2};
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    g.task = (AttentionTask){.unit = unit, .body = body, .plan = &plan};
    g.span = round_up(plan.time < SPAN_QUERIES ? plan.time : SPAN_QUERIES, plan.queries);
    g.column_vectors = plan.keys > plan.lanes || plan.features > plan.lanes ? 2 : 1;
    g.key_columns = round_up(plan.keys, g.column_vectors * plan.lanes);
    g.feature_columns = round_up(plan.features, g.column_vectors * plan.lanes);
    int64_t used = divide_scratch(&g);
    g.first_seen = cpu_stack_slot(body, unit->i64);
    g.end_seen = cpu_stack_slot(body, unit->i64);
    g.task.time = cpu_attention_extent(&g.task, plan.time, plan.time_bound);
    g.task.past = cpu_attention_extent(&g.task, plan.past, plan.past_bound);
    CpuLoop tasks;
    cpu_loop_begin(unit, &tasks, body->begin, body->end, 1, NULL, 0);
    emit_task(&g, tasks.index);
    cpu_loop_end(unit, &tasks, NULL);
    cpu_body_end(body);
    *out = (CpuKernel){.phase_count = 1, .tasks = {plan.units}, .scratch_bytes = used};
    return !unit->failure;
}
