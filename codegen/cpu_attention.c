// Generator of the kernel `attention`: streams over blocks of keys with a running maximum and sum, so no
// score outlives its block.
//
//   task: (shared indices, share of the query blocks)
//     keys and values are copied as queries reach them   (kept while the next task has the same ones; where a block
//                                                         of queries is all there is, a block of keys at a time;
//                                                         few queries read them as they lie)
//     block of queries:  transpose it;  O = 0, maximum = -1e20, sum = 0
//       block of keys:   S = K Q^T;  maximum;  P = 2^(c S - maximum);  O = O 2^(old - new) + P^T V
//       o = O / sum,  lse = ln 2 maximum + log(sum)
//
// where c = log2(e) / sqrt(keys): the maximum is that of c S. Blocks of keys that no query of the block sees
// are not run. A masked score is -1e30: its weight is exactly 0, as far below every maximum.
#include "codegen/cpu_attention.h"
#include "codegen/cpu_place.h"

#include <math.h>

enum { Q, K, V, POSITIONS_OPERAND };
enum { UNROLL = 4 };

typedef struct Forward {
    AttentionTask task;
    int output;                         // operand o; lse follows
    LLVMValueRef keys, values;          // rows [past][key_room] and steps [past][columns]; where keys pass, of one block
    LLVMValueRef queries;               // steps [key][queries], of few rows [query][key_room]
    LLVMValueRef scores;                // [key of the block][queries], of few the other way round; weights as steps
    LLVMValueRef result;                // [query][columns]
    LLVMValueRef fading, inverse, lse;  // [query]
} Forward;

typedef struct Running {  // of a block of queries: largest scaled score and sum of weights so far
    LLVMValueRef maximum[ATTENTION_VECTORS], sum[ATTENTION_VECTORS];
} Running;

// Element [row][v * lanes] of a matrix with rows of `queries` floats.
static LLVMValueRef vector_at(const Forward *f, LLVMValueRef matrix, LLVMValueRef row, int v) {
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef at =
        add(f->task.unit, scaled(f->task.unit, row, plan->queries), cpu_i64(f->task.unit, v * plan->lanes));
    return cpu_at(f->task.unit, matrix, ELEMENT_F32, at);
}

static LLVMValueRef load_vector(const Forward *f, LLVMValueRef at) {
    return cpu_load(f->task.unit, ELEMENT_F32, at, (int)f->task.plan->lanes, NULL);
}

static void store_vector(const Forward *f, LLVMValueRef at, LLVMValueRef value) {
    cpu_store(f->task.unit, ELEMENT_F32, at, value, NULL);
}

static double score_scale(const CpuAttention *plan) { return plan->scale * M_LOG2E; }

static AttentionCopies copies_of(const Forward *f) {
    return (AttentionCopies){.key_rows = f->keys, .value_steps = f->values};
}

// Where key `key0` of a block stands in scratch.
static LLVMValueRef row_of(const Forward *f, LLVMValueRef key0) {
    return f->task.plan->passing ? cpu_i64(f->task.unit, 0) : key0;
}

// scores[0, rows) = keys [key0, key0 + rows) times the queries.
static void emit_scores(const Forward *f, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    AttentionProduct product = {.rows = plan->rows,
                                .lanes = (int)plan->lanes,
                                .a_row = plan->key_room,
                                .a_step = 1,
                                .b_step = plan->queries,
                                .c_row = plan->queries,
                                .steps = plan->keys,
                                .pairs = plan->pairs};
    AttentionMatrices matrices = {
        .a = cpu_at(unit, f->keys, ELEMENT_F32, scaled(unit, row_of(f, key0), plan->key_room)),
        .b = f->queries,
        .c = f->scores,
        .rows = rows,
        .columns = plan->queries,
        .key0 = key0,
        .skip = ATTENTION_SKIP_COLUMNS};
    cpu_attention_multiply(&f->task, &product, &matrices);
}

// Largest of `rows` scores: a multiple of UNROLL, each with a maximum of its own.
static void emit_maximum(const Forward *f, LLVMValueRef rows, LLVMValueRef *maximum) {
    CpuUnit *unit = f->task.unit;
    int vectors = f->task.plan->vectors;
    LLVMValueRef state[UNROLL * ATTENTION_VECTORS];
    for (int i = 0; i < UNROLL * vectors; i++)
        state[i] = cpu_number(unit, ELEMENT_F32, ATTENTION_HIDDEN, (int)f->task.plan->lanes);
    CpuLoop keys;
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, UNROLL, state, UNROLL * vectors);
    for (int i = 0; i < UNROLL * vectors; i++) {
        LLVMValueRef row = add(unit, keys.index, cpu_i64(unit, i / vectors));
        state[i] = cpu_max(unit, load_vector(f, vector_at(f, f->scores, row, i % vectors)), keys.carried[i]);
    }
    cpu_loop_end(unit, &keys, state);
    for (int v = 0; v < vectors; v++) {
        maximum[v] = keys.carried[v];
        for (int i = 1; i < UNROLL; i++)
            maximum[v] = cpu_max(unit, maximum[v], keys.carried[i * vectors + v]);
    }
}

// UNROLL rows of weights from row `key` on, as steps: pairs take half of the rows, from the first on.
static void store_weights(const Forward *f, LLVMValueRef key, const LLVMValueRef *weights) {
    CpuUnit *unit = f->task.unit;
    int vectors = f->task.plan->vectors, step = (int)cpu_attention_step(f->task.plan);
    if (step == 2) key = LLVMBuildLShr(unit->builder, key, cpu_i64(unit, 1), "");
    for (int row = 0; row < UNROLL / step; row++)
        for (int v = 0; v < vectors; v++) {
            const LLVMValueRef *first = &weights[row * step * vectors + v];
            LLVMValueRef value = step == 2 ? cpu_round_pair(unit, first[0], first[vectors]) : first[0];
            store_vector(f, vector_at(f, f->scores, add(unit, key, cpu_i64(unit, row)), v), value);
        }
}

// Scores become weights relative to running->maximum; returns their sums: keys by their number modulo UNROLL.
static void emit_weights(const Forward *f, LLVMValueRef rows, const Running *running, LLVMValueRef *sums) {
    CpuUnit *unit = f->task.unit;
    LLVMBuilderRef b = unit->builder;
    int vectors = f->task.plan->vectors;
    LLVMValueRef state[UNROLL * ATTENTION_VECTORS], weights[UNROLL * ATTENTION_VECTORS], lowered[ATTENTION_VECTORS];
    for (int i = 0; i < UNROLL * vectors; i++) state[i] = cpu_number_like(running->sum[0], 0);
    for (int v = 0; v < vectors; v++) lowered[v] = LLVMBuildFNeg(b, running->maximum[v], "");
    CpuLoop keys;
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, UNROLL, state, UNROLL * vectors);
    for (int i = 0; i < UNROLL * vectors; i++) {
        LLVMValueRef at =
            vector_at(f, f->scores, add(unit, keys.index, cpu_i64(unit, i / vectors)), i % vectors);
        LLVMValueRef score = load_vector(f, at), scale = cpu_number_like(score, score_scale(f->task.plan));
        weights[i] = cpu_exp2(unit, cpu_fma(unit, score, scale, lowered[i % vectors]));
        state[i] = LLVMBuildFAdd(b, keys.carried[i], weights[i], "");
    }
    store_weights(f, keys.index, weights);
    cpu_loop_end(unit, &keys, state);
    for (int v = 0; v < vectors; v++) {
        LLVMValueRef even = LLVMBuildFAdd(b, keys.carried[v], keys.carried[2 * vectors + v], "");
        LLVMValueRef odd = LLVMBuildFAdd(b, keys.carried[vectors + v], keys.carried[3 * vectors + v], "");
        sums[v] = LLVMBuildFAdd(b, even, odd, "");
    }
}

// Scores become weights relative to the new maximum; `fading` brings down to it what was summed before.
static void emit_softmax(const Forward *f, LLVMValueRef rows, Running *running) {
    CpuUnit *unit = f->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef maximum[ATTENTION_VECTORS], sums[ATTENTION_VECTORS], fading[ATTENTION_VECTORS];
    if (plan->turning) {
        maximum[0] = cpu_attention_few_maximum(&f->task, f->scores, rows);
    } else {
        cpu_attention_fill(&f->task, f->scores, rows, ATTENTION_HIDDEN);
        rows = scaled(unit, cpu_blocks(unit, rows, cpu_i64(unit, UNROLL)), UNROLL);
        emit_maximum(f, rows, maximum);
    }
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef scale = cpu_number_like(maximum[v], score_scale(plan));
        maximum[v] = cpu_max(unit, LLVMBuildFMul(b, maximum[v], scale, ""), running->maximum[v]);
        fading[v] = cpu_exp2(unit, LLVMBuildFSub(b, running->maximum[v], maximum[v], ""));
        running->maximum[v] = maximum[v];
        store_vector(f, vector_at(f, f->fading, cpu_i64(unit, 0), v), fading[v]);
    }
    if (plan->turning)
        sums[0] = cpu_attention_few_weights(&f->task, f->scores, rows, score_scale(plan), running->maximum[0]);
    else emit_weights(f, rows, running, sums);
    for (int v = 0; v < plan->vectors; v++)
        running->sum[v] = cpu_fma(unit, running->sum[v], fading[v], sums[v]);
}

// result = result fading + weights of keys [key0, key0 + rows) times their values.
static void emit_values(const Forward *f, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    AttentionProduct product = {.rows = plan->query_rows,
                                .lanes = unit->target->lanes,
                                .a_row = 1,
                                .a_step = plan->queries,
                                .b_step = plan->feature_columns,
                                .c_row = plan->feature_columns,
                                .start = ATTENTION_FADE,
                                .pairs = plan->pairs};
    int64_t row = plan->feature_columns / cpu_attention_step(plan);
    AttentionMatrices matrices = {
        .a = f->scores,
        .b = cpu_at(unit, f->values, ELEMENT_F32, scaled(unit, row_of(f, key0), row)),
        .c = f->result,
        .factors = f->fading,
        .rows = cpu_i64(unit, plan->query_lines),
        .columns = plan->feature_columns,
        .steps = rows,
        .key0 = key0,
        .skip = ATTENTION_SKIP_LAST};
    if (plan->turning) {
        const AttentionSide *v = &plan->side[V];
        product.a_row = cpu_attention_few_stride(unit, plan);
        product.a_step = 1;
        product.b_step = v->past;
        product.narrow_b = v->element == ELEMENT_BF16;
        matrices.a = cpu_attention_few_place(&f->task, f->scores, 0, cpu_i64(unit, 0));
        matrices.b = cpu_at(unit, cpu_attention_base(&f->task, V), v->element, scaled(unit, key0, v->past));
    }
    cpu_attention_multiply(&f->task, &product, &matrices);
}

// o and lse of queries [query0, query0 + valid).
static void emit_results(const Forward *f, LLVMValueRef query0, LLVMValueRef valid, const Running *running) {
    CpuUnit *unit = f->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *o = &plan->side[f->output], *lse = &plan->side[f->output + 1];
    LLVMValueRef one = cpu_number(unit, ELEMENT_F32, 1, 1), zero = cpu_i64(unit, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef sum = running->sum[v];
        store_vector(f, vector_at(f, f->inverse, zero, v),
                     LLVMBuildFDiv(b, cpu_number_like(sum, 1), sum, ""));
        LLVMValueRef log_sum =
            cpu_fma(unit, running->maximum[v], cpu_number_like(sum, M_LN2), cpu_log(unit, sum));
        store_vector(f, vector_at(f, f->lse, zero, v), log_sum);
    }
    cpu_store(unit, ELEMENT_F32, f->fading, one, NULL);
    AttentionWrite write = {
        .element = lse->element, .row_stride = lse->time, .column_stride = 1, .from_stride = 1, .columns = 1};
    LLVMValueRef to = cpu_attention_base(&f->task, f->output + 1);
    cpu_attention_write(unit, write, cpu_at(unit, to, lse->element, scaled(unit, query0, lse->time)), f->lse,
                        valid, f->fading);
    write = (AttentionWrite){.element = o->element,
                             .row_stride = o->time,
                             .column_stride = o->feature,
                             .factor_stride = 1,
                             .from_stride = plan->feature_columns,
                             .columns = plan->features};
    to = cpu_attention_base(&f->task, f->output);
    cpu_attention_write(unit, write, cpu_at(unit, to, o->element, scaled(unit, query0, o->time)), f->result,
                        valid, f->inverse);
}

// `over`: the block is the last of the task; else `following` is the first query of the next one.
static void look_ahead(Forward *f, const AttentionTask *next_task, LLVMValueRef over, LLVMValueRef following,
                       LLVMValueRef end) {
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *q = &plan->side[Q], *k = &plan->side[K], *v = &plan->side[V],
                        *o = &plan->side[f->output];
    AttentionNext next = {.task = next_task, .over = over};
    cpu_attention_next(&f->task);
    cpu_attention_stream(&f->task, next, Q, q->time, q->key, plan->keys, following, false);
    cpu_attention_stream(&f->task, next, K, k->past, k->key, plan->keys, end, false);
    cpu_attention_stream(&f->task, next, V, v->past, v->feature, plan->features, end, false);
    cpu_attention_stream(&f->task, next, f->output, o->time, o->feature, plan->features, following, true);
}

// Block [key0, key0 + rows) is copied, if it is; what will be asked for is the block behind it, or the first one of the
// next task.
static void pass_keys(Forward *f, const AttentionTask *next_task, LLVMValueRef key0, LLVMValueRef rows,
                      LLVMValueRef end) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *k = &plan->side[K], *v = &plan->side[V];
    LLVMValueRef behind = add(unit, key0, rows);
    if (plan->passing) cpu_attention_copy_keys(&f->task, key0, behind, row_of(f, key0), copies_of(f));
    AttentionNext next = {.task = next_task, .over = LLVMBuildICmp(unit->builder, LLVMIntSGE, behind, end, "")};
    cpu_attention_next(&f->task);
    cpu_attention_stream(&f->task, next, K, k->past, k->key, plan->keys, behind, false);
    cpu_attention_stream(&f->task, next, V, v->past, v->feature, plan->features, behind, false);
}

static void pack_queries(const Forward *f, LLVMValueRef query0, LLVMValueRef valid) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *q = &plan->side[Q];
    AttentionMatrix matrix = {.element = q->element,
                              .from = cpu_at(unit, cpu_attention_base(&f->task, Q), q->element, scaled(unit, query0, q->time)),
                              .rows = valid, .columns = cpu_i64(unit, plan->keys),
                              .row_stride = q->time, .column_stride = q->key};
    if (plan->turning) cpu_attention_pack_rows(&f->task, matrix, plan->key_room, f->queries);
    else cpu_attention_pack_steps(&f->task, cpu_attention_turned(matrix), plan->queries, f->queries);
}

// Scores of keys [key0, end), hidden where no query may see them.
static void emit_seen_scores(const Forward *f, LLVMValueRef first, LLVMValueRef last, LLVMValueRef key0,
                             LLVMValueRef end) {
    const AttentionTask *task = &f->task;
    if (task->plan->turning) {
        cpu_attention_few_scores(task, f->queries, f->scores, key0, end);
        return;
    }
    LLVMValueRef rows = subtract(task->unit, end, key0);
    emit_scores(f, key0, rows);
    cpu_attention_mask(task, f->scores, key0, rows, cpu_attention_partly(task, first, last, key0, end));
}

static void emit_query_block(Forward *f, LLVMValueRef query0, const AttentionTask *next, LLVMValueRef over,
                             LLVMValueRef following) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef valid =
        cpu_min(unit, cpu_i64(unit, plan->queries), subtract(unit, f->task.time, query0));
    pack_queries(f, query0, valid);
    cpu_attention_positions(&f->task, query0, valid);
    LLVMValueRef zero_vector = cpu_number(unit, ELEMENT_F32, 0, (int)plan->lanes), begin, end;
    CpuLoop blocks;
    cpu_attention_clear(unit, f->result, plan->feature_columns * plan->queries);
    LLVMValueRef first = cpu_attention_position(&f->task, query0);
    LLVMValueRef last =
        cpu_attention_position(&f->task, add(unit, query0, subtract(unit, valid, cpu_i64(unit, 1))));
    cpu_attention_range(&f->task, first, last, &begin, &end);
    bool passes = plan->passing || plan->turning;
    if (!passes) {
        cpu_attention_copy(&f->task, end, copies_of(f));
        look_ahead(f, next, over, following, end);
    }
    LLVMValueRef state[2 * ATTENTION_VECTORS];
    for (int v = 0; v < plan->vectors; v++) {
        state[v] = cpu_number(unit, ELEMENT_F32, ATTENTION_LEAST, (int)plan->lanes);
        state[plan->vectors + v] = zero_vector;
    }
    cpu_loop_begin(unit, &blocks, begin, end, plan->key_block, state, 2 * plan->vectors);
    Running running;
    for (int v = 0; v < plan->vectors; v++) {
        running.maximum[v] = blocks.carried[v];
        running.sum[v] = blocks.carried[plan->vectors + v];
    }
    LLVMValueRef rows = cpu_min(unit, cpu_i64(unit, plan->key_block), subtract(unit, end, blocks.index));
    if (passes) pass_keys(f, next, blocks.index, rows, end);
    emit_seen_scores(f, first, last, blocks.index, add(unit, blocks.index, rows));
    emit_softmax(f, rows, &running);
    emit_values(f, blocks.index, rows);
    for (int v = 0; v < plan->vectors; v++) {
        state[v] = running.maximum[v];
        state[plan->vectors + v] = running.sum[v];
    }
    cpu_loop_end(unit, &blocks, state);
    for (int v = 0; v < plan->vectors; v++) {
        running.maximum[v] = blocks.carried[v];
        running.sum[v] = blocks.carried[plan->vectors + v];
    }
    emit_results(f, query0, valid, &running);
}

// There and back, so that the shares of a causal triangle are even.
static LLVMValueRef block_of_round(CpuUnit *unit, LLVMValueRef round, LLVMValueRef share, int64_t shares) {
    LLVMValueRef back = LLVMBuildTrunc(unit->builder, round, unit->i1, "");
    LLVMValueRef place = cpu_select(unit, back, subtract(unit, cpu_i64(unit, shares - 1), share), share);
    return add(unit, scaled(unit, round, shares), place);
}

// Task number: shared indices, then the share of the query blocks.
static void emit_task(Forward *f, LLVMValueRef number, int64_t shares, LLVMValueRef packed) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef unit_number, share, one = cpu_i64(unit, 1);
    int64_t blocks = (plan->time + plan->queries - 1) / plan->queries;
    cpu_divide(unit, number, cpu_i64(unit, shares), &unit_number, &share);
    LLVMValueRef inside = cpu_attention_split(&f->task, unit_number, plan->shared, plan->shared_bound,
                                              plan->shared_count, f->task.shared);
    inside = LLVMBuildAnd(unit->builder, inside,
                          LLVMBuildICmp(unit->builder, LLVMIntSGT, f->task.time, cpu_i64(unit, 0), ""), "");
    AttentionTask next = f->task;
    LLVMValueRef next_unit = LLVMBuildUDiv(unit->builder, add(unit, number, one), cpu_i64(unit, shares), "");
    cpu_attention_split(&next, next_unit, plan->shared, plan->shared_bound, plan->shared_count, next.shared);
    CpuIf exists, fresh;
    cpu_if_begin(unit, &exists, inside);
    for (int i = 0; i < plan->group_count; i++) f->task.group[i] = next.group[i] = cpu_i64(unit, 0);
    LLVMValueRef last_query = subtract(unit, f->task.time, one);
    cpu_attention_range(&f->task, cpu_attention_position(&f->task, cpu_i64(unit, 0)),
                        cpu_attention_position(&f->task, last_query), &f->task.first_key, &f->task.last_key);
    LLVMValueRef before = LLVMBuildLoad2(unit->builder, unit->i64, packed, "");
    cpu_if_begin(unit, &fresh, LLVMBuildICmp(unit->builder, LLVMIntNE, before, unit_number, ""));
    LLVMBuildStore(unit->builder, f->task.first_key, f->task.copied);
    LLVMBuildStore(unit->builder, unit_number, packed);
    cpu_if_end(unit, &fresh);
    CpuLoop groups, rounds;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, plan->group_total), 1, NULL, 0);
    inside = cpu_attention_split(&f->task, groups.index, plan->group, plan->group_bound, plan->group_count,
                                 f->task.group);
    CpuIf group, block;
    cpu_if_begin(unit, &group, inside);
    cpu_loop_begin(unit, &rounds, cpu_i64(unit, 0), cpu_i64(unit, (blocks + shares - 1) / shares), 1, NULL,
                   0);
    LLVMValueRef query0 = scaled(unit, block_of_round(unit, rounds.index, share, shares), plan->queries);
    LLVMValueRef following =
        scaled(unit, block_of_round(unit, add(unit, rounds.index, one), share, shares), plan->queries);
    cpu_if_begin(unit, &block, LLVMBuildICmp(unit->builder, LLVMIntSLT, query0, f->task.time, ""));
    emit_query_block(f, query0, &next, LLVMBuildICmp(unit->builder, LLVMIntSGE, following, f->task.time, ""),
                     following);
    cpu_if_end(unit, &block);
    cpu_loop_end(unit, &rounds, NULL);
    cpu_if_end(unit, &group);
    cpu_loop_end(unit, &groups, NULL);
    cpu_if_end(unit, &exists);
}

bool cpu_attention_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    CpuAttention plan;
    if (!cpu_attention_plan(unit, kernel->named, ATTENTION_INPUTS, &plan)) return false;
    int64_t shares = cpu_attention_shares(&plan);
    Forward f = {.output = kernel->named->output_start};
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    f.task = (AttentionTask){.unit = unit, .body = body, .plan = &plan, .bring_rows = 2, .bring_limit = plan.queries};
    if (plan.passing) f.task.bring_rows = plan.rows, f.task.bring_limit = plan.key_block;
    if (plan.turning) f.task.bring_rows = unit->target->lanes, f.task.bring_limit = plan.key_block;
    int64_t used = 0;
    int64_t rows = plan.turning ? 0 : plan.passing ? plan.key_block : plan.padded_past;
    int64_t scores = plan.turning ? cpu_attention_few_stride(unit, &plan) : plan.key_block;
    f.keys = cpu_attention_take(unit, body->scratch, &used, rows * plan.key_room);
    f.values = cpu_attention_take(unit, body->scratch, &used, rows * plan.feature_columns / cpu_attention_step(&plan));
    f.queries = cpu_attention_take(unit, body->scratch, &used, plan.queries * plan.key_room);
    f.scores = cpu_attention_take(unit, body->scratch, &used, scores * plan.queries);
    f.result = cpu_attention_take(unit, body->scratch, &used, plan.feature_columns * plan.queries);
    f.fading = cpu_attention_take(unit, body->scratch, &used, plan.queries);
    f.inverse = cpu_attention_take(unit, body->scratch, &used, plan.queries);
    f.lse = cpu_attention_take(unit, body->scratch, &used, plan.queries);
    f.task.positions = cpu_attention_take(unit, body->scratch, &used, plan.queries);
    f.task.time = cpu_attention_extent(&f.task, plan.time, plan.time_bound);
    f.task.past = cpu_attention_extent(&f.task, plan.past, plan.past_bound);
    f.task.copied = cpu_stack_slot(body, unit->i64);
    f.task.brought = cpu_stack_slot(body, unit->i64);
    LLVMValueRef packed = cpu_stack_slot(body, unit->i64);
    LLVMBuildStore(unit->builder, cpu_i64(unit, -1), packed);
    CpuLoop tasks;
    cpu_loop_begin(unit, &tasks, body->begin, body->end, 1, NULL, 0);
    emit_task(&f, tasks.index, shares, packed);
    cpu_loop_end(unit, &tasks, NULL);
    cpu_body_end(body);
    *out = (CpuKernel){.phase_count = 1, .tasks = {plan.units * shares}, .scratch_bytes = used};
    return !unit->failure;
}
