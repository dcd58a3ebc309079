// Scores and weights of few queries, as in decoding: as lanes they would leave most of a vector empty, so keys stand in
// the lanes, [query][key of the block]. Keys are turned in registers, from where they lie, and values are read there:
// each is wanted once. Every sum is the one that queries in lanes have: over the elements of a key as they come, over
// weights by the number of their key modulo four.
#include "codegen/cpu_attention.h"
#include "codegen/cpu_place.h"

enum { K = 1, V, PARTS = 4 };

static int64_t step_size(const AttentionSide *side) { return side->element == ELEMENT_BF16 ? 2 : 1; }

bool cpu_attention_turns(const CpuTarget *target, const CpuAttention *plan) {
    const AttentionSide *k = &plan->side[K], *v = &plan->side[V];
    bool side_by_side = k->key == 1 && v->feature == 1 && plan->past >= target->lanes;
    return side_by_side && plan->keys % (cpu_panel_part(target) * step_size(k)) == 0 &&
           plan->features % target->lanes == 0;
}

int64_t cpu_attention_few_stride(const CpuUnit *unit, const CpuAttention *plan) {
    return plan->key_block + unit->target->lanes;
}

// Behind room for scores of keys before the block.
LLVMValueRef cpu_attention_few_place(const AttentionTask *task, LLVMValueRef scores, int64_t query, LLVMValueRef key) {
    CpuUnit *unit = task->unit;
    int64_t before = query * cpu_attention_few_stride(unit, task->plan) + unit->target->lanes;
    return cpu_at(unit, cpu_at(unit, scores, ELEMENT_F32, cpu_i64(unit, before)), ELEMENT_F32, key);
}

// sums[query] += element `at` of each of some keys times that of the query; pairs of them where there are pairs.
static void add_element(const AttentionTask *task, LLVMValueRef queries, LLVMValueRef at, LLVMValueRef keys,
                        LLVMValueRef *sums) {
    CpuUnit *unit = task->unit;
    for (int64_t query = 0; query < task->plan->time; query++) {
        LLVMValueRef place = cpu_at(unit, queries, ELEMENT_F32, cpu_i64(unit, query * task->plan->key_room));
        LLVMValueRef factor = cpu_load(unit, ELEMENT_F32, cpu_at(unit, place, ELEMENT_F32, at), 1, NULL);
        factor = cpu_splat(unit, factor, unit->target->lanes);
        sums[query] = task->plan->pairs ? cpu_dot_pairs(unit, factor, keys, sums[query])
                                        : cpu_fma(unit, factor, keys, sums[query]);
    }
}

// Sums of as many keys as a vector has lanes, from `key` on.
static void turn_keys(const AttentionTask *task, LLVMValueRef queries, LLVMValueRef key, LLVMValueRef *sums) {
    CpuUnit *unit = task->unit;
    const AttentionSide *k = &task->plan->side[K];
    int lanes = unit->target->lanes, count = cpu_panel_part(unit->target), size = (int)step_size(k);
    int queried = (int)task->plan->time;
    LLVMValueRef columns[16], steps[16], halves[2];
    LLVMValueRef from = cpu_at(unit, cpu_attention_base(task, K), k->element, scaled(unit, key, k->past));
    for (int i = 0; i < queried; i++) sums[i] = cpu_number(unit, ELEMENT_F32, 0, lanes);
    CpuLoop parts;
    cpu_loop_begin(unit, &parts, cpu_i64(unit, 0), cpu_i64(unit, task->plan->keys), count * size, sums, queried);
    for (int i = 0; i < queried; i++) sums[i] = parts.carried[i];
    for (int i = 0; i < lanes; i++)
        columns[i] = cpu_at(unit, cpu_at(unit, from, k->element, parts.index), k->element, cpu_i64(unit, i * k->past));
    cpu_panel_load_along(unit, k->element, size == 2 ? PANEL_PAIRS : PANEL_F32, columns, 0, steps);
    int taken = size / (int)cpu_attention_step(task->plan);  // of a step, one by one
    LLVMValueRef first = taken == size ? parts.index : LLVMBuildLShr(unit->builder, parts.index, cpu_i64(unit, 1), "");
    for (int i = 0; i < count; i++) {
        halves[0] = steps[i];
        if (taken == 2) cpu_unpair(unit, steps[i], halves);
        for (int half = 0; half < taken; half++)
            add_element(task, queries, add(unit, first, cpu_i64(unit, i * taken + half)), halves[half], sums);
    }
    cpu_loop_end(unit, &parts, sums);
    for (int i = 0; i < queried; i++) sums[i] = parts.carried[i];
}

static LLVMValueRef hidden(const AttentionTask *task) {
    return cpu_number(task->unit, ELEMENT_F32, ATTENTION_HIDDEN, task->unit->target->lanes);
}

// Scores of keys from `key` on, but of those that the query sees: none from `end` on.
static LLVMValueRef hide(const AttentionTask *task, int64_t query, LLVMValueRef key, LLVMValueRef end,
                         LLVMValueRef scores) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    int lanes = unit->target->lanes;
    LLVMValueRef at = cpu_at(unit, task->positions, ELEMENT_I32, cpu_i64(unit, query));
    LLVMValueRef position = cpu_load(unit, ELEMENT_I32, at, 1, NULL);
    LLVMValueRef first = LLVMBuildTrunc(unit->builder, key, unit->i32, "");
    LLVMValueRef limit = LLVMBuildTrunc(unit->builder, end, unit->i32, "");
    LLVMValueRef keys = add(unit, cpu_splat(unit, first, lanes), cpu_iota(unit, unit->i32, lanes, 1));
    if (plan->causal) limit = cpu_min(unit, limit, add(unit, position, cpu_i32(unit, 1)));
    LLVMValueRef visible = compare(unit, LLVMIntSLT, keys, cpu_splat(unit, limit, lanes));
    if (plan->window > 0) {
        LLVMValueRef oldest = subtract(unit, position, cpu_i32(unit, plan->window));
        LLVMValueRef near = compare(unit, LLVMIntSGT, keys, cpu_splat(unit, oldest, lanes));
        visible = LLVMBuildAnd(unit->builder, visible, near, "");
    }
    return cpu_select(unit, visible, scores, hidden(task));
}

void cpu_attention_few_scores(const AttentionTask *task, LLVMValueRef queries, LLVMValueRef scores, LLVMValueRef key0,
                              LLVMValueRef end) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    int lanes = unit->target->lanes;
    bool back = plan->past % lanes != 0;  // the last vector that there is room for reaches back to keys before it
    LLVMValueRef sums[ATTENTION_FEW], rows = subtract(unit, end, key0);
    CpuLoop groups;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), rows, lanes, NULL, 0);
    cpu_attention_bring(task);
    LLVMValueRef key = add(unit, key0, groups.index);
    if (back) key = cpu_min(unit, key, cpu_i64(unit, plan->past - lanes));
    turn_keys(task, queries, key, sums);
    for (int64_t query = 0; query < plan->time; query++) {
        LLVMValueRef place = cpu_attention_few_place(task, scores, query, groups.index);
        if (back) cpu_store(unit, ELEMENT_F32, place, hidden(task), NULL);
        place = cpu_attention_few_place(task, scores, query, subtract(unit, key, key0));
        cpu_store(unit, ELEMENT_F32, place, hide(task, query, key, end, sums[query]), NULL);
    }
    cpu_loop_end(unit, &groups, NULL);
    cpu_attention_bring_rest(task);
}

// `count` numbers as lanes; what is behind them is zero.
static LLVMValueRef gather(CpuUnit *unit, const LLVMValueRef *numbers, int64_t count) {
    LLVMValueRef vector = cpu_number(unit, ELEMENT_F32, 0, ATTENTION_FEW);
    for (int64_t i = 0; i < count; i++)
        vector = LLVMBuildInsertElement(unit->builder, vector, numbers[i], cpu_i32(unit, i), "");
    return vector;
}

LLVMValueRef cpu_attention_few_maximum(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows) {
    CpuUnit *unit = task->unit;
    int lanes = unit->target->lanes, queries = (int)task->plan->time;
    LLVMValueRef largest[ATTENTION_FEW];
    for (int i = 0; i < queries; i++) largest[i] = hidden(task);
    CpuLoop groups;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), rows, lanes, largest, queries);
    for (int i = 0; i < queries; i++) {
        LLVMValueRef place = cpu_attention_few_place(task, scores, i, groups.index);
        largest[i] = cpu_max(unit, cpu_load(unit, ELEMENT_F32, place, lanes, NULL), groups.carried[i]);
    }
    cpu_loop_end(unit, &groups, largest);
    for (int i = 0; i < queries; i++) largest[i] = cpu_horizontal_max(unit, groups.carried[i]);
    return gather(unit, largest, queries);
}

// sum + the lanes of `weights`, four at a time.
static LLVMValueRef add_parts(CpuUnit *unit, LLVMValueRef weights, LLVMValueRef sum) {
    static const int lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int first = 0; first < cpu_lanes(weights); first += PARTS) {
        LLVMValueRef part = cpu_shuffle(unit, weights, NULL, &lanes[first], PARTS);
        sum = LLVMBuildFAdd(unit->builder, sum, part, "");
    }
    return sum;
}

// (0 + 2) + (1 + 3)
static LLVMValueRef join_parts(CpuUnit *unit, LLVMValueRef sum) {
    LLVMValueRef parts[PARTS];
    for (int i = 0; i < PARTS; i++) parts[i] = LLVMBuildExtractElement(unit->builder, sum, cpu_i32(unit, i), "");
    LLVMValueRef even = LLVMBuildFAdd(unit->builder, parts[0], parts[2], "");
    return LLVMBuildFAdd(unit->builder, even, LLVMBuildFAdd(unit->builder, parts[1], parts[3], ""), "");
}

LLVMValueRef cpu_attention_few_weights(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows, double scale,
                                       LLVMValueRef maximum) {
    CpuUnit *unit = task->unit;
    int lanes = unit->target->lanes, queries = (int)task->plan->time;
    LLVMValueRef sums[ATTENTION_FEW], lowered[ATTENTION_FEW];
    for (int i = 0; i < queries; i++) {
        LLVMValueRef largest = LLVMBuildExtractElement(unit->builder, maximum, cpu_i32(unit, i), "");
        lowered[i] = cpu_splat(unit, LLVMBuildFNeg(unit->builder, largest, ""), lanes);
        sums[i] = cpu_number(unit, ELEMENT_F32, 0, PARTS);
    }
    CpuLoop groups;
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), rows, lanes, sums, queries);
    for (int i = 0; i < queries; i++) {
        LLVMValueRef place = cpu_attention_few_place(task, scores, i, groups.index);
        LLVMValueRef score = cpu_load(unit, ELEMENT_F32, place, lanes, NULL);
        LLVMValueRef weight = cpu_exp2(unit, cpu_fma(unit, score, cpu_number_like(score, scale), lowered[i]));
        if (task->plan->pairs) {
            LLVMValueRef half = LLVMBuildLShr(unit->builder, groups.index, cpu_i64(unit, 1), "");
            place = cpu_attention_few_place(task, scores, i, half);
        }
        cpu_store(unit, ELEMENT_F32, place, task->plan->pairs ? cpu_narrow_pairs(unit, weight) : weight, NULL);
        sums[i] = add_parts(unit, weight, groups.carried[i]);
    }
    cpu_loop_end(unit, &groups, sums);
    for (int i = 0; i < queries; i++) sums[i] = join_parts(unit, groups.carried[i]);
    return gather(unit, sums, queries);
}
