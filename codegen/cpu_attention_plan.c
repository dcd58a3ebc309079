// Reads the dimensions of an attention kernel by name: which are shared, grouped, summed.
#include <math.h>
#include <string.h>

#include "codegen/cpu_attention.h"

// The features: dimensions of v that the scores lack. They must walk memory as one in every operand.
static bool join_features(CpuUnit *unit, CpuAttention *plan, const char *over, const char *past) {
    const NamedKernel *named = plan->named;
    const Type *q = named->types[0], *v = named->types[2];
    const Dimension *features[RANK_MAX];
    int count = 0;
    plan->features = 1;
    for (int d = 0; d < v->rank; d++) {
        const char *name = v->dimensions[d].name;
        if (strcmp(name, past) == 0 || (named_kernel_dimension(q, name) >= 0 && strcmp(name, over) != 0)) continue;
        features[count++] = &v->dimensions[d];
        plan->features *= v->dimensions[d].extent;
    }
    for (int i = 0; i < named->operand_count; i++) {
        int64_t stride = count ? named_kernel_stride(named, i, features[count - 1]->name) : 0;
        plan->side[i].feature = stride;
        for (int f = count - 2; f >= 0; f--) {
            stride *= features[f + 1]->extent;
            if (named_kernel_dimension(named->types[i], features[f]->name) < 0) continue;
            if (named_kernel_stride(named, i, features[f]->name) != stride)
                return cpu_fail(unit, named->place, "attention: the features of v are not contiguous");
        }
    }
    return true;
}

static void add_dimension(const CpuAttention *plan, int regular, const Dimension *dimension, int64_t *extents,
                          uint32_t *bounds, int *count, int64_t *total) {
    extents[*count] = dimension->extent;
    bounds[*count] = named_kernel_extent(plan->named, regular, dimension->bound);
    *total *= dimension->extent;
    ++*count;
}

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// What products read: queries, keys, values and, for gradients, those of results.
static bool all_narrow(const CpuAttention *plan, bool forward) {
    enum { Q, K, V, D_O = 6 };
    bool narrow = plan->side[Q].element == ELEMENT_BF16 && plan->side[K].element == ELEMENT_BF16 &&
                  plan->side[V].element == ELEMENT_BF16;
    return narrow && (forward || plan->side[D_O].element == ELEMENT_BF16);
}

// A few queries, as in decoding, stand in vectors as short as they are, and make a tile of their own.
static void choose_sizes(const CpuTarget *target, bool forward, CpuAttention *plan) {
    enum { PAIR_ROWS = 6 };  // beside two vectors of features they fill 16 registers
    bool many = target->registers >= 32, few = forward && plan->time <= ATTENTION_FEW;
    plan->rows = many ? 8 : 4;
    plan->lanes = few ? ATTENTION_FEW : target->lanes;
    plan->vectors = plan->time <= plan->lanes ? 1 : many ? 2 : 3;
    plan->queries = plan->lanes * plan->vectors;
    plan->query_rows = few ? (int)plan->time : plan->queries % plan->rows ? (int)plan->queries : plan->rows;
    if (!many && plan->queries % PAIR_ROWS == 0) plan->query_rows = PAIR_ROWS;
    plan->query_lines = plan->time < plan->queries ? round_up(plan->time, plan->query_rows) : plan->queries;
    plan->key_block = 64;
    plan->padded_past = round_up(plan->past, plan->rows);
    plan->turning = few && cpu_attention_turns(target, plan);
    plan->passing = forward && !plan->turning && plan->time <= plan->queries && plan->group_total == 1;
    int64_t step = cpu_attention_step(plan);
    plan->key_columns = round_up(plan->keys, target->lanes);
    plan->feature_columns = round_up(plan->features, target->lanes);
    plan->key_room = round_up((plan->keys + step - 1) / step, target->lanes);
    plan->feature_room = round_up((plan->features + step - 1) / step, target->lanes);
}

bool cpu_attention_plan(CpuUnit *unit, const NamedKernel *named, int regular, CpuAttention *plan) {
    const Option *over = named_kernel_option(named, "over"), *along = named_kernel_option(named, "along");
    const Option *past = named_kernel_option(named, "past");
    const char *elements = regular == ATTENTION_INPUTS ? "xxxi:xs" : "xxxixsxs:xxx";
    const char *misfit = named_kernel_misfit(unit->arena, named, elements, regular);
    if (misfit) return cpu_fail(unit, named->place, "kernel %s %s", named->name, misfit);
    if (named->operand_count > ATTENTION_OPERANDS || !over || !along || !past || !over->text || !along->text || !past->text)
        return cpu_fail(unit, named->place, "kernel %s lacks options over, along and past", named->name);
    const Type *q = named->types[0], *k = named->types[1];
    int key_at = named_kernel_dimension(q, over->text), time_at = named_kernel_dimension(q, along->text);
    int past_at = named_kernel_dimension(k, past->text);
    if (key_at < 0 || time_at < 0 || past_at < 0)
        return cpu_fail(unit, named->place, "kernel %s lacks a dimension", named->name);
    *plan = (CpuAttention){.named = named,
                           .causal = named_kernel_number(named, "causal") != 0,
                           .window = (int64_t)named_kernel_number(named, "window"),
                           .units = 1,
                           .group_total = 1};
    plan->keys = q->dimensions[key_at].extent;
    plan->time = q->dimensions[time_at].extent;
    plan->past = k->dimensions[past_at].extent;
    plan->time_bound = named_kernel_extent(named, regular, q->dimensions[time_at].bound);
    plan->past_bound = named_kernel_extent(named, regular, k->dimensions[past_at].bound);
    plan->scale = 1 / sqrt((double)plan->keys);
    // Causal queries see no key beyond their position; others need to know where the keys end.
    if (k->dimensions[past_at].bound && plan->past_bound == UINT32_MAX && !plan->causal)
        return cpu_fail(unit, named->place, "attention that is not causal over %s, whose extent varies",
                        past->text);
    if (!join_features(unit, plan, over->text, past->text)) return false;
    for (int i = 0; i < named->operand_count; i++) {
        AttentionSide *side = &plan->side[i];
        side->element = named->types[i]->element;
        side->time = named_kernel_stride(named, i, along->text);
        side->past = named_kernel_stride(named, i, past->text);
        side->key = named_kernel_stride(named, i, over->text);
    }
    for (int d = 0; d < q->rank; d++) {
        if (d == key_at || d == time_at) continue;
        const Dimension *dimension = &q->dimensions[d];
        bool shared = named_kernel_dimension(k, dimension->name) >= 0;
        int at = shared ? plan->shared_count : plan->group_count;
        for (int i = 0; i < named->operand_count; i++)
            (shared ? plan->side[i].shared : plan->side[i].group)[at] =
                named_kernel_stride(named, i, dimension->name);
        if (shared)
            add_dimension(plan, regular, dimension, plan->shared, plan->shared_bound, &plan->shared_count,
                          &plan->units);
        else
            add_dimension(plan, regular, dimension, plan->group, plan->group_bound, &plan->group_count,
                          &plan->group_total);
    }
    plan->pairs = unit->target->bf16_dot && all_narrow(plan, regular == ATTENTION_INPUTS);
    choose_sizes(unit->target, regular == ATTENTION_INPUTS, plan);
    return true;
}

int64_t cpu_attention_shares(const CpuAttention *plan) {
    enum { TASKS_WANTED = 16 };
    int64_t blocks = (plan->time + plan->queries - 1) / plan->queries;
    int64_t shares = (TASKS_WANTED + plan->units - 1) / plan->units;
    return shares < blocks ? shares : blocks;
}
