// Generator of the kernel `attention`: streams over blocks of keys with a running maximum and sum, so no
// score outlives its block.
//
//   task: (shared indices, share of the query blocks)
//     pack all keys and values that the queries see      (kept while the next task has the same ones)
//     block of queries:  pack and scale it;  O = 0, maximum = -1e30, sum = 0
//       block of keys:   S = K Q^T;  maximum;  P = exp(S - maximum);  O = O exp(old - new) + V^T P
//       o = O / sum,  lse = maximum + log(sum)
//
// Blocks of keys that no query of the block sees are not run. A masked score is -1e30: once a real key was
// seen its weight is exactly 0, and what came before the first real key is multiplied by exactly 0.
#include "codegen/cpu_attention.h"

enum { Q, K, V, POSITIONS_OPERAND, REGULAR };
enum { TASKS_WANTED = 16, VECTORS_MAX = 2 };

typedef struct Forward {
    AttentionTask task;
    int output;                       // operand o; lse follows
    LLVMValueRef packed_k, packed_v;  // [key panel][key][rows], [feature panel][key][rows]
    LLVMValueRef queries;             // [key][queries], scaled
    LLVMValueRef scores;              // [key of the block][queries]
    LLVMValueRef result;              // [feature][queries]
    LLVMValueRef turned;              // [queries][features], and the log-sums
} Forward;

typedef struct Running {  // of a block of queries: largest score and sum of weights so far
    LLVMValueRef maximum[VECTORS_MAX], sum[VECTORS_MAX];
} Running;

static LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildAdd(unit->builder, a, b, ""); }
static LLVMValueRef subtract(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildSub(unit->builder, a, b, ""); }
static LLVMValueRef scaled(CpuUnit *unit, LLVMValueRef a, int64_t by) {
    return by == 1 ? a : LLVMBuildMul(unit->builder, a, cpu_i64(unit, by), "");
}

// Element [row][v * lanes] of a matrix with rows of `queries` floats.
static LLVMValueRef vector_at(const Forward *f, LLVMValueRef matrix, LLVMValueRef row, int v) {
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef at = add(f->task.unit, scaled(f->task.unit, row, plan->queries), cpu_i64(f->task.unit, v * plan->lanes));
    return cpu_at(f->task.unit, matrix, ELEMENT_F32, at);
}

static LLVMValueRef load_vector(const Forward *f, LLVMValueRef at) {
    return cpu_load(f->task.unit, ELEMENT_F32, at, (int)f->task.plan->lanes, NULL);
}

static void store_vector(const Forward *f, LLVMValueRef at, LLVMValueRef value) {
    cpu_store(f->task.unit, ELEMENT_F32, at, value, NULL);
}

// Keys [first_key, last_key) and their values, at their absolute places in the panels.
static void pack_keys(const Forward *f) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *k = &plan->side[K], *v = &plan->side[V];
    LLVMValueRef first = f->task.first_key, count = subtract(unit, f->task.last_key, first);
    LLVMValueRef from = cpu_at(unit, cpu_attention_base(&f->task, K), k->element, scaled(unit, first, k->past));
    LLVMValueRef to = cpu_at(unit, f->packed_k, ELEMENT_F32, scaled(unit, first, plan->keys));
    cpu_attention_pack(unit, k->element, k->past, k->key, plan->rows, to, from, count, cpu_i64(unit, plan->keys),
                       cpu_i64(unit, plan->keys * plan->rows));
    from = cpu_at(unit, cpu_attention_base(&f->task, V), v->element, scaled(unit, first, v->past));
    to = cpu_at(unit, f->packed_v, ELEMENT_F32, scaled(unit, first, plan->rows));
    cpu_attention_pack(unit, v->element, v->feature, v->past, plan->rows, to, from, cpu_i64(unit, plan->features),
                       count, cpu_i64(unit, plan->padded_past * plan->rows));
}

static CpuTile tile_of(const CpuAttention *plan) { return (CpuTile){.rows = plan->rows, .vectors = plan->vectors}; }

// scores[0, rows) = keys [key0, key0 + rows) times the queries.
static void emit_scores(const Forward *f, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    CpuLoop panels;
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), rows, plan->rows, NULL, 0);
    LLVMValueRef at = scaled(unit, add(unit, key0, panels.index), plan->keys);
    cpu_tile_call(unit, tile_of(plan), cpu_at(unit, f->packed_k, ELEMENT_F32, at), f->queries,
                  cpu_i64(unit, plan->keys), vector_at(f, f->scores, panels.index, 0), cpu_i64(unit, plan->queries),
                  cpu_i64(unit, 1));
    cpu_loop_end(unit, &panels, NULL);
}

// Scores become weights relative to the new maximum; what was summed before is brought down to it.
static void emit_softmax(const Forward *f, LLVMValueRef rows, Running *running) {
    CpuUnit *unit = f->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = f->task.plan;
    CpuLoop keys, features;
    LLVMValueRef fading[VECTORS_MAX], next[VECTORS_MAX];
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, 1, running->maximum, plan->vectors);
    for (int v = 0; v < plan->vectors; v++)
        next[v] = cpu_max(unit, load_vector(f, vector_at(f, f->scores, keys.index, v)), keys.carried[v]);
    cpu_loop_end(unit, &keys, next);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef larger = keys.carried[v];
        fading[v] = cpu_exp(unit, LLVMBuildFSub(b, running->maximum[v], larger, ""));
        running->sum[v] = LLVMBuildFMul(b, running->sum[v], fading[v], "");
        running->maximum[v] = larger;
    }
    cpu_loop_begin(unit, &keys, cpu_i64(unit, 0), rows, 1, running->sum, plan->vectors);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = vector_at(f, f->scores, keys.index, v);
        LLVMValueRef weight = cpu_exp(unit, LLVMBuildFSub(b, load_vector(f, at), running->maximum[v], ""));
        store_vector(f, at, weight);
        next[v] = LLVMBuildFAdd(b, keys.carried[v], weight, "");
    }
    cpu_loop_end(unit, &keys, next);
    for (int v = 0; v < plan->vectors; v++) running->sum[v] = keys.carried[v];
    cpu_loop_begin(unit, &features, cpu_i64(unit, 0), cpu_i64(unit, plan->padded_features), 1, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at = vector_at(f, f->result, features.index, v);
        store_vector(f, at, LLVMBuildFMul(b, load_vector(f, at), fading[v], ""));
    }
    cpu_loop_end(unit, &features, NULL);
}

// result += values of keys [key0, key0 + rows) times their weights.
static void emit_values(const Forward *f, LLVMValueRef key0, LLVMValueRef rows) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    CpuLoop panels;
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), cpu_i64(unit, plan->padded_features), plan->rows, NULL, 0);
    LLVMValueRef at = add(unit, scaled(unit, panels.index, plan->padded_past), scaled(unit, key0, plan->rows));
    cpu_tile_call(unit, tile_of(plan), cpu_at(unit, f->packed_v, ELEMENT_F32, at), f->scores, rows,
                  vector_at(f, f->result, panels.index, 0), cpu_i64(unit, plan->queries), cpu_i64(unit, 0));
    cpu_loop_end(unit, &panels, NULL);
}

// o and lse of queries [query0, query0 + valid).
static void emit_results(const Forward *f, LLVMValueRef query0, LLVMValueRef valid, const Running *running) {
    CpuUnit *unit = f->task.unit;
    LLVMBuilderRef b = unit->builder;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *o = &plan->side[f->output], *lse = &plan->side[f->output + 1];
    LLVMValueRef inverse[VECTORS_MAX];
    for (int v = 0; v < plan->vectors; v++) {
        inverse[v] = LLVMBuildFDiv(b, cpu_number_like(running->sum[v], 1), running->sum[v], "");
        LLVMValueRef log_sum = LLVMBuildFAdd(b, running->maximum[v], cpu_log(unit, running->sum[v]), "");
        store_vector(f, cpu_at(unit, f->turned, ELEMENT_F32, cpu_i64(unit, v * plan->lanes)), log_sum);
    }
    CpuLoop features, queries;
    cpu_loop_begin(unit, &queries, cpu_i64(unit, 0), valid, 1, NULL, 0);
    LLVMValueRef at = scaled(unit, add(unit, query0, queries.index), lse->time);
    LLVMValueRef value = cpu_load(unit, ELEMENT_F32, cpu_at(unit, f->turned, ELEMENT_F32, queries.index), 1, NULL);
    if (lse->element == ELEMENT_BF16) value = cpu_round_bf16(unit, value);
    cpu_store(unit, lse->element, cpu_at(unit, cpu_attention_base(&f->task, f->output + 1), lse->element, at), value, NULL);
    cpu_loop_end(unit, &queries, NULL);
    cpu_loop_begin(unit, &features, cpu_i64(unit, 0), cpu_i64(unit, plan->features), 1, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef place = vector_at(f, f->result, features.index, v);
        store_vector(f, place, LLVMBuildFMul(b, load_vector(f, place), inverse[v], ""));
    }
    cpu_loop_end(unit, &features, NULL);
    LLVMValueRef to = cpu_at(unit, cpu_attention_base(&f->task, f->output), o->element, scaled(unit, query0, o->time));
    cpu_attention_write(unit, o->element, to, o->time, o->feature, f->result, plan->queries, valid, plan->features,
                        f->turned);
}

static void emit_query_block(Forward *f, LLVMValueRef query0) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    const AttentionSide *q = &plan->side[Q];
    LLVMValueRef valid = cpu_minimum(unit, cpu_i64(unit, plan->queries), subtract(unit, f->task.time, query0));
    LLVMValueRef from = cpu_at(unit, cpu_attention_base(&f->task, Q), q->element, scaled(unit, query0, q->time));
    cpu_attention_pack(unit, q->element, q->time, q->key, plan->queries, f->queries, from, valid,
                       cpu_i64(unit, plan->keys), cpu_i64(unit, 0));
    cpu_attention_scale(unit, f->queries, plan->keys * plan->queries, plan->scale);
    cpu_attention_positions(&f->task, query0, valid);
    LLVMValueRef zero_vector = cpu_number(unit, ELEMENT_F32, 0, (int)plan->lanes), begin, end;
    CpuLoop blocks;
    cpu_attention_clear(unit, f->result, plan->padded_features * plan->queries);
    LLVMValueRef first = cpu_attention_position(&f->task, query0);
    LLVMValueRef last = cpu_attention_position(&f->task, add(unit, query0, subtract(unit, valid, cpu_i64(unit, 1))));
    cpu_attention_range(&f->task, first, last, &begin, &end);
    LLVMValueRef state[2 * VECTORS_MAX];
    for (int v = 0; v < plan->vectors; v++) {
        state[v] = cpu_number(unit, ELEMENT_F32, ATTENTION_HIDDEN, (int)plan->lanes);
        state[plan->vectors + v] = zero_vector;
    }
    cpu_loop_begin(unit, &blocks, begin, end, plan->key_block, state, 2 * plan->vectors);
    Running running;
    for (int v = 0; v < plan->vectors; v++) {
        running.maximum[v] = blocks.carried[v];
        running.sum[v] = blocks.carried[plan->vectors + v];
    }
    LLVMValueRef rows = cpu_minimum(unit, cpu_i64(unit, plan->key_block), subtract(unit, end, blocks.index));
    emit_scores(f, blocks.index, rows);
    cpu_attention_mask(&f->task, f->scores, blocks.index, rows,
                       cpu_attention_partly(&f->task, first, last, blocks.index, add(unit, blocks.index, rows)));
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

// Task number: shared indices, then the share of the query blocks.
static void emit_task(Forward *f, LLVMValueRef number, int64_t shares, LLVMValueRef packed) {
    CpuUnit *unit = f->task.unit;
    const CpuAttention *plan = f->task.plan;
    LLVMValueRef unit_number, share, one = cpu_i64(unit, 1);
    int64_t blocks = (plan->time + plan->queries - 1) / plan->queries;
    cpu_divide(unit, number, cpu_i64(unit, shares), &unit_number, &share);
    LLVMValueRef inside = cpu_attention_split(&f->task, unit_number, plan->shared, plan->shared_bound, plan->shared_count,
                                              f->task.shared);
    inside = LLVMBuildAnd(unit->builder, inside, LLVMBuildICmp(unit->builder, LLVMIntSGT, f->task.time, cpu_i64(unit, 0), ""), "");
    CpuIf exists, fresh;
    cpu_if_begin(unit, &exists, inside);
    for (int i = 0; i < plan->group_count; i++) f->task.group[i] = cpu_i64(unit, 0);
    LLVMValueRef last_query = subtract(unit, f->task.time, one);
    cpu_attention_range(&f->task, cpu_attention_position(&f->task, cpu_i64(unit, 0)),
                        cpu_attention_position(&f->task, last_query), &f->task.first_key, &f->task.last_key);
    LLVMValueRef before = LLVMBuildLoad2(unit->builder, unit->i64, packed, "");
    cpu_if_begin(unit, &fresh, LLVMBuildICmp(unit->builder, LLVMIntNE, before, unit_number, ""));
    pack_keys(f);
    LLVMBuildStore(unit->builder, unit_number, packed);
    cpu_if_end(unit, &fresh);
    CpuLoop groups, queries;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, plan->group_total), 1, NULL, 0);
    inside = cpu_attention_split(&f->task, groups.index, plan->group, plan->group_bound, plan->group_count, f->task.group);
    CpuIf group;
    cpu_if_begin(unit, &group, inside);
    LLVMValueRef begin = LLVMBuildUDiv(unit->builder, scaled(unit, share, blocks), cpu_i64(unit, shares), "");
    LLVMValueRef end = LLVMBuildUDiv(unit->builder, scaled(unit, add(unit, share, one), blocks), cpu_i64(unit, shares), "");
    end = cpu_minimum(unit, scaled(unit, end, plan->queries), f->task.time);
    cpu_loop_begin(unit, &queries, scaled(unit, begin, plan->queries), end, plan->queries, NULL, 0);
    emit_query_block(f, queries.index);
    cpu_loop_end(unit, &queries, NULL);
    cpu_if_end(unit, &group);
    cpu_loop_end(unit, &groups, NULL);
    cpu_if_end(unit, &exists);
}

bool cpu_attention_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    CpuAttention plan;
    if (!cpu_attention_plan(unit, kernel->named, REGULAR, &plan)) return false;
    int64_t blocks = (plan.time + plan.queries - 1) / plan.queries;
    int64_t shares = (TASKS_WANTED + plan.units - 1) / plan.units;
    if (shares > blocks) shares = blocks;
    Forward f = {.output = kernel->named->output_start};
    CpuBody *body = cpu_body_begin(unit, kernel, 0);
    f.task = (AttentionTask){.unit = unit, .body = body, .plan = &plan};
    int64_t used = 0, wide_features = plan.padded_features + 8;
    f.packed_k = cpu_attention_take(unit, body->scratch, &used, plan.padded_past * plan.keys);
    f.packed_v = cpu_attention_take(unit, body->scratch, &used, plan.padded_past * plan.padded_features);
    f.queries = cpu_attention_take(unit, body->scratch, &used, plan.keys * plan.queries);
    f.scores = cpu_attention_take(unit, body->scratch, &used, plan.key_block * plan.queries);
    f.result = cpu_attention_take(unit, body->scratch, &used, wide_features * plan.queries);
    f.turned = cpu_attention_take(unit, body->scratch, &used, wide_features * plan.queries);
    f.task.positions = cpu_attention_take(unit, body->scratch, &used, plan.queries);
    f.task.time = cpu_attention_extent(&f.task, plan.time, plan.time_bound);
    f.task.past = cpu_attention_extent(&f.task, plan.past, plan.past_bound);
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
