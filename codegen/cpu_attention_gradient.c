// Generator of the kernel `attention_gradient`: weights are computed again from lse, once for each pair of
// blocks, and serve all three gradients.
//
//   task: (shared indices): d_k, d_v = 0; keys and values are copied as queries reach them
//     group of queries, block of queries:  q and d_o as they are and transposed;  delta = sum(d_o o) - d_lse;
//     d_q = 0
//       block of keys that it sees:
//         S = K Q^T,  P = 2^(c S - log2(e) lse),  dS = P (V dO^T - delta)
//         d_v += P dO,  d_k += dS Q,  d_q += dS^T K
//       writes d_q
//     writes d_k, d_v
//
// where c = log2(e) / sqrt(keys). P and dS stand as [key][query] and are read as they lie, along and across; of pairs of
// bf16 P, dS, K, Q and dO stand once for each direction that they are summed along.
// Every sum runs over its own index in ascending order (groups, queries; keys) inside one task.
#include <math.h>

#include "codegen/cpu_attention.h"
#include "codegen/cpu_place.h"

enum { Q, K, V, POSITIONS_OPERAND, O, LSE, D_O, D_LSE };

typedef struct Backward {
    AttentionTask task;
    int d_q, d_k, d_v;                  // operands
    LLVMValueRef keys, values;          // rows: [past][room]
    LLVMValueRef key_steps;             // [past][columns]: the keys again, as steps
    LLVMValueRef d_keys, d_values;      // [past][columns]
    LLVMValueRef queries, query_rows;   // steps of the block: [key][queries], [query][columns]
    LLVMValueRef results, result_rows;  // the same of d_o
    LLVMValueRef d_queries;             // [query][columns]
    LLVMValueRef lse, delta;            // [query]; lse in units of ln 2
    LLVMValueRef scores, d_scores;      // [key of the block][queries]; then weights and gradients, queries as steps
    LLVMValueRef d_score_steps;         // d_scores again, keys as steps
    LLVMValueRef one, scale;            // factors in scratch
    LLVMValueRef query0;                // of the block
} Backward;

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

// An operand of the block with queries in lanes, and as steps.
static void pack_block(const Backward *g, int operand, int64_t column_stride, int64_t existing,
                       int64_t columns, LLVMValueRef turned, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const AttentionSide *side = &g->task.plan->side[operand];
    AttentionMatrix matrix = {.element = side->element, .from = operand_at(g, operand, g->query0, side->time),
                              .rows = g->task.valid, .columns = cpu_i64(unit, existing),
                              .row_stride = side->time, .column_stride = column_stride};
    cpu_attention_pack_steps(&g->task, cpu_attention_turned(matrix), g->task.plan->queries, turned);
    cpu_attention_pack_steps(&g->task, matrix, columns, rows);
}

// delta[query] = sum over features of d_o o, less d_lse; and lse, of the block.
static void emit_delta(const Backward *g) {
    CpuUnit *unit = g->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *o = &plan->side[O], *d_o = &plan->side[D_O];
    int lanes = o->feature == 1 && d_o->feature == 1 ? (int)plan->lanes : 1;
    CpuLoop queries, features;
    cpu_loop_begin(unit, &queries, cpu_i64(unit, 0), g->task.valid, 1, NULL, 0);
    LLVMValueRef query = add(unit, g->query0, queries.index), zero = cpu_number(unit, ELEMENT_F32, 0, lanes);
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
    lse = LLVMBuildFMul(b, lse, cpu_number_like(lse, M_LOG2E), "");
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->lse, queries.index), lse, NULL);
    cpu_loop_end(unit, &queries, NULL);
    cpu_loop_begin(unit, &queries, g->task.valid, cpu_i64(unit, plan->queries), 1, NULL, 0);
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->delta, queries.index),
              cpu_number(unit, ELEMENT_F32, 0, 1), NULL);
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->lse, queries.index),
              cpu_number(unit, ELEMENT_F32, ATTENTION_ABSENT, 1), NULL);
    cpu_loop_end(unit, &queries, NULL);
}

// ---- A block of queries and a block of keys ----

// to[key][query] = rows of keys [key0, key0 + rows), each in `room`, times the block's columns.
static void emit_products(const Backward *g, LLVMValueRef from, LLVMValueRef turned, int64_t steps,
                          int64_t room, LLVMValueRef to, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    AttentionProduct product = {.rows = plan->rows,
                                .lanes = (int)plan->lanes,
                                .a_row = room,
                                .a_step = 1,
                                .b_step = plan->queries,
                                .c_row = plan->queries,
                                .steps = steps,
                                .pairs = plan->pairs};
    AttentionMatrices matrices = {.a = floats_at(unit, from, scaled(unit, key0, room)),
                                  .b = turned,
                                  .c = to,
                                  .rows = rows,
                                  .columns = plan->queries,
                                  .key0 = key0,
                                  .skip = ATTENTION_SKIP_COLUMNS};
    cpu_attention_multiply(&g->task, &product, &matrices);
}

// The weight and the gradient of a score at `at`, which is in its place as the product d_o times v.
static void emit_weight(const Backward *g, LLVMValueRef at, LLVMValueRef lowered, LLVMValueRef delta, LLVMValueRef *weight,
                        LLVMValueRef *d_score) {
    CpuUnit *unit = g->task.unit;
    int lanes = cpu_lanes(lowered);
    LLVMValueRef x = cpu_load(unit, ELEMENT_F32, floats_at(unit, g->scores, at), lanes, NULL);
    LLVMValueRef y = cpu_load(unit, ELEMENT_F32, floats_at(unit, g->d_scores, at), lanes, NULL);
    *weight = cpu_exp2(unit, cpu_fma(unit, x, cpu_number_like(x, g->task.plan->scale * M_LOG2E), lowered));
    *d_score = LLVMBuildFMul(unit->builder, *weight, LLVMBuildFSub(unit->builder, y, delta, ""), "");
}

// Pairs of queries take the first half of their row, pairs of keys stand in rows of their own.
static void store_pairs(const Backward *g, LLVMValueRef key, int v, const LLVMValueRef *weights,
                        const LLVMValueRef *d_scores) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    for (int i = 0; i < 2; i++) {
        LLVMValueRef row = scaled(unit, add(unit, key, cpu_i64(unit, i)), plan->queries);
        LLVMValueRef at = add(unit, row, cpu_i64(unit, v * plan->lanes / 2));
        cpu_store(unit, ELEMENT_F32, floats_at(unit, g->scores, at), cpu_narrow_pairs(unit, weights[i]), NULL);
        cpu_store(unit, ELEMENT_F32, floats_at(unit, g->d_scores, at), cpu_narrow_pairs(unit, d_scores[i]), NULL);
    }
    LLVMValueRef at = add(unit, scaled(unit, key, plan->queries / 2), cpu_i64(unit, v * plan->lanes));
    cpu_store(unit, ELEMENT_F32, floats_at(unit, g->d_score_steps, at), cpu_round_pair(unit, d_scores[0], d_scores[1]), NULL);
}

// scores become weights, d_scores (so far: d_o times v) become gradients of scores; those of keys behind the last are 0.
static void emit_weights(const Backward *g, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = g->task.plan;
    int lanes = (int)plan->lanes, step = (int)cpu_attention_step(plan);
    LLVMValueRef lowered[ATTENTION_VECTORS], delta[ATTENTION_VECTORS];
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = cpu_i64(unit, v * lanes);
        lowered[v] =
            LLVMBuildFNeg(b, cpu_load(unit, ELEMENT_F32, floats_at(unit, g->lse, at), lanes, NULL), "");
        delta[v] = cpu_load(unit, ELEMENT_F32, floats_at(unit, g->delta, at), lanes, NULL);
    }
    cpu_attention_fill(&g->task, g->scores, rows, ATTENTION_HIDDEN);
    cpu_attention_fill(&g->task, g->d_scores, rows, 0);
    CpuLoop keys;
    LLVMValueRef up = scaled(unit, cpu_blocks(unit, rows, cpu_i64(unit, plan->rows)), plan->rows);
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), up, step, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = add(unit, scaled(unit, keys.index, plan->queries), cpu_i64(unit, v * lanes)), weight[2], d_score[2];
        for (int i = 0; i < step; i++)
            emit_weight(g, add(unit, at, cpu_i64(unit, i * plan->queries)), lowered[v], delta[v], &weight[i], &d_score[i]);
        if (plan->pairs) {
            store_pairs(g, keys.index, v, weight, d_score);
        } else {
            cpu_store(unit, ELEMENT_F32, floats_at(unit, g->scores, at), weight[0], NULL);
            cpu_store(unit, ELEMENT_F32, floats_at(unit, g->d_scores, at), d_score[0], NULL);
        }
    }
    cpu_loop_end(unit, &keys, NULL);
}

// to[key][column] += weights[key][query] from[query][column].
static void emit_key_sums(const Backward *g, LLVMValueRef weights, LLVMValueRef from, int64_t columns,
                          LLVMValueRef to, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    AttentionProduct product = {.rows = plan->rows,
                                .lanes = unit->target->lanes,
                                .a_row = plan->queries,
                                .a_step = 1,
                                .b_step = columns,
                                .c_row = columns,
                                .start = ATTENTION_ADD,
                                .pairs = plan->pairs};
    AttentionMatrices matrices = {.a = weights,
                                  .b = from,
                                  .c = floats_at(unit, to, scaled(unit, key0, columns)),
                                  .rows = rows,
                                  .columns = columns,
                                  .steps = g->task.valid,
                                  .key0 = key0,
                                  .skip = ATTENTION_SKIP_FIRST};
    cpu_attention_multiply(&g->task, &product, &matrices);
}

// d_queries[query][column] += d_scores[key][query] keys[key][column].
static void emit_query_sums(const Backward *g, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    AttentionProduct product = {.rows = plan->query_rows,
                                .lanes = unit->target->lanes,
                                .a_row = 1,
                                .a_step = plan->queries,
                                .b_step = plan->key_columns,
                                .c_row = plan->key_columns,
                                .start = ATTENTION_ADD,
                                .pairs = plan->pairs};
    int64_t row = plan->key_columns / cpu_attention_step(plan);
    AttentionMatrices matrices = {.a = g->d_score_steps,
                                  .b = floats_at(unit, g->key_steps, scaled(unit, key0, row)),
                                  .c = g->d_queries,
                                  .rows = cpu_i64(unit, plan->queries),
                                  .columns = plan->key_columns,
                                  .steps = rows,
                                  .key0 = key0,
                                  .skip = ATTENTION_SKIP_LAST};
    cpu_attention_multiply(&g->task, &product, &matrices);
}

static void emit_pair(const Backward *g, LLVMValueRef key0, LLVMValueRef rows, LLVMValueRef partly) {
    const CpuAttention *plan = g->task.plan;
    emit_products(g, g->keys, g->queries, plan->keys, plan->key_room, g->scores, key0, rows);
    emit_products(g, g->values, g->results, plan->features, plan->feature_room, g->d_scores, key0, rows);
    cpu_attention_mask(&g->task, g->scores, key0, rows, partly);
    cpu_attention_mask(&g->task, g->d_scores, key0, rows,
                       partly);  // what was skipped is anything: now finite
    emit_weights(g, rows);
    emit_key_sums(g, g->scores, g->result_rows, plan->feature_columns, g->d_values, key0, rows);
    emit_key_sums(g, g->d_scores, g->query_rows, plan->key_columns, g->d_keys, key0, rows);
    emit_query_sums(g, key0, rows);
}

// ---- Blocks and tasks ----

static void look_ahead(Backward *g, const AttentionTask *next_task, LLVMValueRef end) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *q = &plan->side[Q], *k = &plan->side[K], *v = &plan->side[V];
    LLVMValueRef following = add(unit, g->query0, cpu_i64(unit, plan->queries));
    AttentionNext next = {.task = next_task,
                          .over = LLVMBuildICmp(unit->builder, LLVMIntSGE, following, g->task.time, "")};
    cpu_attention_next(&g->task);
    cpu_attention_stream(&g->task, next, Q, q->time, q->key, plan->keys, following, false);
    cpu_attention_stream(&g->task, next, K, k->past, k->key, plan->keys, end, false);
    cpu_attention_stream(&g->task, next, V, v->past, v->feature, plan->features, end, false);
    static const int of_features[] = {O, D_O};
    for (int i = 0; i < 2; i++) {
        const AttentionSide *side = &plan->side[of_features[i]];
        cpu_attention_stream(&g->task, next, of_features[i], side->time, side->feature, plan->features,
                             following, false);
    }
    q = &plan->side[g->d_q], k = &plan->side[g->d_k], v = &plan->side[g->d_v];
    cpu_attention_stream(&g->task, next, g->d_q, q->time, q->key, plan->keys, following, true);
    next = (AttentionNext){.task = next_task,
                           .over = LLVMConstInt(unit->i1, 0, false)};  // written behind the last block
    cpu_attention_stream(&g->task, next, g->d_k, k->past, k->key, plan->keys, g->query0, true);
    cpu_attention_stream(&g->task, next, g->d_v, v->past, v->feature, plan->features, g->query0, true);
}

static void emit_query_block(Backward *g, const AttentionTask *next, LLVMValueRef query0) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    const AttentionSide *d_q = &plan->side[g->d_q];
    g->query0 = query0;
    LLVMValueRef valid =
        cpu_min(unit, cpu_i64(unit, plan->queries), subtract(unit, g->task.time, query0));
    cpu_attention_positions(&g->task, query0, valid);
    pack_block(g, Q, plan->side[Q].key, plan->keys, plan->key_columns, g->queries, g->query_rows);
    pack_block(g, D_O, plan->side[D_O].feature, plan->features, plan->feature_columns, g->results,
               g->result_rows);
    emit_delta(g);
    cpu_attention_clear(unit, g->d_queries, plan->queries * plan->key_columns);
    LLVMValueRef last_query = add(unit, query0, subtract(unit, valid, cpu_i64(unit, 1))), begin, end;
    LLVMValueRef first = cpu_attention_position(&g->task, query0),
                 last = cpu_attention_position(&g->task, last_query);
    cpu_attention_range(&g->task, first, last, &begin, &end);
    AttentionCopies copies = {.key_rows = g->keys, .value_rows = g->values};
    if (plan->pairs) copies.key_steps = g->key_steps;
    cpu_attention_copy(&g->task, end, copies);
    look_ahead(g, next, end);
    CpuLoop keys;
    cpu_loop_begin(unit, &keys, begin, end, plan->key_block, NULL, 0);
    LLVMValueRef block_end = cpu_min(unit, end, add(unit, keys.index, cpu_i64(unit, plan->key_block)));
    emit_pair(g, keys.index, subtract(unit, block_end, keys.index),
              cpu_attention_partly(&g->task, first, last, keys.index, block_end));
    cpu_loop_end(unit, &keys, NULL);
    AttentionWrite write = {.element = d_q->element,
                            .row_stride = d_q->time,
                            .column_stride = d_q->key,
                            .from_stride = plan->key_columns,
                            .columns = plan->keys};
    cpu_attention_write(unit, write, operand_at(g, g->d_q, query0, d_q->time), g->d_queries, g->task.valid,
                        g->scale);
}

static void emit_groups(Backward *g, const AttentionTask *next) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    CpuLoop groups, blocks;
    CpuIf inside;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, plan->group_total), 1, NULL, 0);
    cpu_if_begin(unit, &inside,
                 cpu_attention_split(&g->task, groups.index, plan->group, plan->group_bound,
                                     plan->group_count, g->task.group));
    cpu_loop_begin(unit, &blocks, cpu_i64(unit, 0), g->task.time, plan->queries, NULL, 0);
    emit_query_block(g, next, blocks.index);
    cpu_loop_end(unit, &blocks, NULL);
    cpu_if_end(unit, &inside);
    cpu_loop_end(unit, &groups, NULL);
}

static void write_keys(const Backward *g, int operand, int64_t column_stride, int64_t existing,
                       int64_t columns, LLVMValueRef from, LLVMValueRef factor) {
    const AttentionSide *side = &g->task.plan->side[operand];
    AttentionWrite write = {.element = side->element,
                            .row_stride = side->past,
                            .column_stride = column_stride,
                            .from_stride = columns,
                            .columns = existing};
    cpu_attention_write(g->task.unit, write, cpu_attention_base(&g->task, operand), from, g->task.past,
                        factor);
}

static void emit_task(Backward *g, LLVMValueRef number) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    CpuIf exists, queries;
    AttentionTask next = g->task;
    cpu_attention_split(&next, add(unit, number, cpu_i64(unit, 1)), plan->shared, plan->shared_bound,
                        plan->shared_count, next.shared);
    for (int i = 0; i < plan->group_count; i++) next.group[i] = cpu_i64(unit, 0);
    cpu_if_begin(unit, &exists,
                 cpu_attention_split(&g->task, number, plan->shared, plan->shared_bound, plan->shared_count,
                                     g->task.shared));
    for (int i = 0; i < plan->group_count; i++) g->task.group[i] = cpu_i64(unit, 0);
    LLVMValueRef some = LLVMBuildICmp(unit->builder, LLVMIntSGT, g->task.time, cpu_i64(unit, 0), "");
    cpu_if_begin(unit, &queries, some);
    LLVMValueRef last_query = subtract(unit, g->task.time, cpu_i64(unit, 1));
    cpu_attention_range(&g->task, cpu_attention_position(&g->task, cpu_i64(unit, 0)),
                        cpu_attention_position(&g->task, last_query), &g->task.first_key, &g->task.last_key);
    LLVMBuildStore(unit->builder, g->task.first_key, g->task.copied);
    cpu_attention_clear(unit, g->d_keys, plan->padded_past * plan->key_columns);
    cpu_attention_clear(unit, g->d_values, plan->padded_past * plan->feature_columns);
    emit_groups(g, &next);
    cpu_if_end(unit, &queries);
    for (int i = 0; i < plan->group_count; i++) g->task.group[i] = cpu_i64(unit, 0);
    write_keys(g, g->d_k, plan->side[g->d_k].key, plan->keys, plan->key_columns, g->d_keys, g->scale);
    write_keys(g, g->d_v, plan->side[g->d_v].feature, plan->features, plan->feature_columns, g->d_values,
               g->one);
    cpu_if_end(unit, &exists);
}

static int64_t divide_scratch(Backward *g) {
    CpuUnit *unit = g->task.unit;
    const CpuAttention *plan = g->task.plan;
    LLVMValueRef scratch = g->task.body->scratch;
    int64_t used = 0, step = cpu_attention_step(plan), key_rows = plan->padded_past * plan->key_columns;
    g->keys = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->key_room);
    g->key_steps = plan->pairs ? cpu_attention_take(unit, scratch, &used, key_rows / step) : g->keys;
    g->values = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->feature_room);
    g->d_keys = cpu_attention_take(unit, scratch, &used, key_rows);
    g->d_values = cpu_attention_take(unit, scratch, &used, plan->padded_past * plan->feature_columns);
    g->queries = cpu_attention_take(unit, scratch, &used, plan->queries * plan->key_room);
    g->query_rows = cpu_attention_take(unit, scratch, &used, plan->queries * plan->key_columns / step);
    g->results = cpu_attention_take(unit, scratch, &used, plan->queries * plan->feature_room);
    g->result_rows = cpu_attention_take(unit, scratch, &used, plan->queries * plan->feature_columns / step);
    g->d_queries = cpu_attention_take(unit, scratch, &used, plan->queries * plan->key_columns);
    g->lse = cpu_attention_take(unit, scratch, &used, plan->queries);
    g->delta = cpu_attention_take(unit, scratch, &used, plan->queries);
    g->scores = cpu_attention_take(unit, scratch, &used, plan->key_block * plan->queries);
    g->d_scores = cpu_attention_take(unit, scratch, &used, plan->key_block * plan->queries);
    g->d_score_steps = plan->pairs ? cpu_attention_take(unit, scratch, &used, plan->key_block * plan->queries / 2) : g->d_scores;
    g->one = cpu_attention_take(unit, scratch, &used, 1);
    g->scale = cpu_attention_take(unit, scratch, &used, 1);
    g->task.positions = cpu_attention_take(unit, scratch, &used, plan->queries);
    cpu_store(unit, ELEMENT_F32, g->one, cpu_number(unit, ELEMENT_F32, 1, 1), NULL);
    cpu_store(unit, ELEMENT_F32, g->scale, cpu_number(unit, ELEMENT_F32, plan->scale, 1), NULL);
    return used;
}

bool cpu_attention_gradient_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    CpuAttention plan;
    if (!cpu_attention_plan(unit, kernel->named, ATTENTION_GRADIENT_INPUTS, &plan)) return false;
    int first = kernel->named->output_start;
    Backward g = {.d_q = first, .d_k = first + 1, .d_v = first + 2};
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    g.task = (AttentionTask){.unit = unit, .body = body, .plan = &plan, .bring_rows = 1, .bring_limit = plan.queries};
    int64_t used = divide_scratch(&g);
    g.task.copied = cpu_stack_slot(body, unit->i64);
    g.task.brought = cpu_stack_slot(body, unit->i64);
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
