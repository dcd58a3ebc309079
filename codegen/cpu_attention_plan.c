// Reads the dimensions of an attention kernel by name: which are shared, grouped, summed.
#include <math.h>
#include <string.h>

#include "codegen/cpu_attention.h"

static const Option *find_option(const NamedKernel *named, const char *name) {
    for (uint32_t i = 0; i < named->option_count; i++)
        if (strcmp(named->options[i].name, name) == 0) return &named->options[i];
    return NULL;
}

static double option_number(const NamedKernel *named, const char *name) {
    const Option *option = find_option(named, name);
    return option && !option->text ? option->number : 0;
}

static int find_dimension(const Type *type, const char *name) {
    for (int d = 0; d < type->rank; d++)
        if (name && strcmp(type->dimensions[d].name, name) == 0) return d;
    return -1;
}

static int64_t stride_by_name(const NamedKernel *named, int operand, const char *name) {
    int d = find_dimension(named->types[operand], name);
    return d < 0 ? 0 : named->strides[operand][d];
}

// Extents of bounded dimensions follow the regular inputs, in the order of first appearance.
static uint32_t bound_operand(const NamedKernel *named, int regular, const Dimension *dimension) {
    const char *seen[NEST_OPERAND_MAX * RANK_MAX];
    int count = 0;
    if (!dimension->bound) return UINT32_MAX;
    for (int i = 0; i < regular; i++)
        for (int d = 0; d < named->types[i]->rank; d++) {
            const char *bound = named->types[i]->dimensions[d].bound;
            bool known = !bound;
            for (int s = 0; s < count && !known; s++) known = strcmp(seen[s], bound) == 0;
            if (!known) seen[count++] = bound;
        }
    for (int s = 0; s < count; s++)
        if (strcmp(seen[s], dimension->bound) == 0 && regular + s < named->output_start)
            return (uint32_t)(regular + s);
    return UINT32_MAX;
}

// The features: dimensions of v that the scores lack. They must walk memory as one in every operand.
static bool join_features(CpuUnit *unit, CpuAttention *plan, const char *over, const char *past) {
    const NamedKernel *named = plan->named;
    const Type *q = named->types[0], *v = named->types[2];
    const Dimension *features[RANK_MAX];
    int count = 0;
    plan->features = 1;
    for (int d = 0; d < v->rank; d++) {
        const char *name = v->dimensions[d].name;
        if (strcmp(name, past) == 0 || (find_dimension(q, name) >= 0 && strcmp(name, over) != 0)) continue;
        features[count++] = &v->dimensions[d];
        plan->features *= v->dimensions[d].extent;
    }
    for (int i = 0; i < named->operand_count; i++) {
        int64_t stride = count ? stride_by_name(named, i, features[count - 1]->name) : 0;
        plan->side[i].feature = stride;
        for (int f = count - 2; f >= 0; f--) {
            stride *= features[f + 1]->extent;
            if (find_dimension(named->types[i], features[f]->name) < 0) continue;
            if (stride_by_name(named, i, features[f]->name) != stride)
                return cpu_fail(unit, named->place, "attention: the features of v are not contiguous");
        }
    }
    return true;
}

static void add_dimension(const CpuAttention *plan, int regular, const Dimension *dimension, int64_t *extents,
                          uint32_t *bounds, int *count, int64_t *total) {
    extents[*count] = dimension->extent;
    bounds[*count] = bound_operand(plan->named, regular, dimension);
    *total *= dimension->extent;
    ++*count;
}

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

static void choose_sizes(const CpuTarget *target, CpuAttention *plan) {
    bool many = target->registers >= 32;
    plan->rows = many ? 8 : 4;
    plan->lanes = target->lanes;
    plan->vectors = plan->time <= target->lanes ? 1 : many ? 2 : 3;
    plan->queries = plan->lanes * plan->vectors;
    plan->query_rows = plan->queries % plan->rows ? (int)plan->queries : plan->rows;
    plan->key_block = 64;
    plan->padded_past = round_up(plan->past, plan->rows);
    plan->key_columns = round_up(plan->keys, plan->lanes);
    plan->feature_columns = round_up(plan->features, plan->lanes);
}

bool cpu_attention_plan(CpuUnit *unit, const NamedKernel *named, int regular, CpuAttention *plan) {
    const Option *over = find_option(named, "over"), *along = find_option(named, "along");
    const Option *past = find_option(named, "past");
    if (named->operand_count > ATTENTION_OPERANDS || named->output_start < regular || !over || !along ||
        !past || !over->text || !along->text || !past->text)
        return cpu_fail(unit, named->place, "kernel %s lacks operands or options", named->name);
    const Type *q = named->types[0], *k = named->types[1];
    int key_at = find_dimension(q, over->text), time_at = find_dimension(q, along->text);
    int past_at = find_dimension(k, past->text);
    if (key_at < 0 || time_at < 0 || past_at < 0)
        return cpu_fail(unit, named->place, "kernel %s lacks a dimension", named->name);
    *plan = (CpuAttention){.named = named,
                           .causal = option_number(named, "causal") != 0,
                           .window = (int64_t)option_number(named, "window"),
                           .units = 1,
                           .group_total = 1};
    plan->keys = q->dimensions[key_at].extent;
    plan->time = q->dimensions[time_at].extent;
    plan->past = k->dimensions[past_at].extent;
    plan->time_bound = bound_operand(named, regular, &q->dimensions[time_at]);
    plan->past_bound = bound_operand(named, regular, &k->dimensions[past_at]);
    plan->scale = 1 / sqrt((double)plan->keys);
    // Causal queries see no key beyond their position; others need to know where the keys end.
    if (k->dimensions[past_at].bound && plan->past_bound == UINT32_MAX && !plan->causal)
        return cpu_fail(unit, named->place, "attention that is not causal over %s, whose extent varies",
                        past->text);
    if (!join_features(unit, plan, over->text, past->text)) return false;
    for (int i = 0; i < named->operand_count; i++) {
        AttentionSide *side = &plan->side[i];
        side->element = named->types[i]->element;
        side->time = stride_by_name(named, i, along->text);
        side->past = stride_by_name(named, i, past->text);
        side->key = stride_by_name(named, i, over->text);
    }
    for (int d = 0; d < q->rank; d++) {
        if (d == key_at || d == time_at) continue;
        const Dimension *dimension = &q->dimensions[d];
        bool shared = find_dimension(k, dimension->name) >= 0;
        int at = shared ? plan->shared_count : plan->group_count;
        for (int i = 0; i < named->operand_count; i++)
            (shared ? plan->side[i].shared : plan->side[i].group)[at] =
                stride_by_name(named, i, dimension->name);
        if (shared)
            add_dimension(plan, regular, dimension, plan->shared, plan->shared_bound, &plan->shared_count,
                          &plan->units);
        else
            add_dimension(plan, regular, dimension, plan->group, plan->group_bound, &plan->group_count,
                          &plan->group_total);
    }
    choose_sizes(unit->target, plan);
    return true;
}
