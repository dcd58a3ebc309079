// average-layers: fewer stored layers, each the mean of a group of neighbours.
//
//   before: x1 = stack(x, trunk.wq[layer=48, ...]) {entries=(0..47)}
//   after:  x1 = stack(x, trunk.wq[layer=6, ...]) {entries=(0..5)}
//   transfer: trunk.wq'[j] = mean of trunk.wq[8j .. 8j+7], in f64, rounded once
//
// Options: stack (the only one); to = how many layers stay, 0: all; groups = sizes of the groups, 1|4|1,
// where they are unequal; method = mean, weighted (with weights 1|2|1, one for each layer of a group),
// stepwise (the first of each group), select (first, last, and evenly spaced between).
// Requires: each stored layer runs once, in order. Leaves: the same; nothing but the number of layers and
// the weights changes.
#include <math.h>
#include <string.h>

#include "passes/module_pass.h"

typedef enum Method { METHOD_MEAN, METHOD_WEIGHTED, METHOD_STEPWISE, METHOD_SELECT } Method;

typedef struct Average {
    PassContext *context;
    const char *stack;
    Method method;
    int64_t before, after;
    LayerGroup *groups;     // one for each new layer
    const double *weights;  // of the layers of a group; NULL: equal
    int64_t weight_count;
} Average;

static bool refuse(const Average *average, const char *text) {
    return report_error(average->context->ir->diagnostics, average->context->place, "E0541",
                        "average-layers: %s has %lld layers: %s", average->stack, (long long)average->before,
                        text);
}

static bool is_given(const char *text) { return strcmp(text, "none") != 0; }

static bool make_equal_groups(Average *average) {
    Arena *arena = average->context->ir->arena;
    if (average->before % average->after)
        return refuse(average, arena_format(arena, "they make no %lld equal groups; give groups = sizes",
                                            (long long)average->after));
    for (int64_t i = 0; i < average->after; i++) {
        int32_t size = (int32_t)(average->before / average->after);
        average->groups[i] = (LayerGroup){average->stack, (int32_t)i, (int32_t)i * size, size};
    }
    return true;
}

// First, last, and evenly spaced between, each alone.
static void make_selection(Average *average) {
    for (int64_t i = 0; i < average->after; i++) {
        double step = average->after > 1 ? (double)(average->before - 1) / (double)(average->after - 1) : 0;
        average->groups[i] = (LayerGroup){average->stack, (int32_t)i, (int32_t)lround((double)i * step), 1};
    }
}

static bool make_given_groups(Average *average, const char *text) {
    double *sizes;
    Arena *arena = average->context->ir->arena;
    int64_t count = module_pass_numbers(arena, text, &sizes), sum = 0;
    if (count < 0) return refuse(average, arena_format(arena, "groups are sizes, 1|4|1, not %s", text));
    if (average->after && average->after != count)
        return refuse(average, arena_format(arena, "%lld groups for %lld layers", (long long)count,
                                            (long long)average->after));
    average->after = count;
    average->groups = ARENA_ARRAY(arena, LayerGroup, count);
    for (int64_t i = 0; i < count; i++) {
        if (!(sizes[i] >= 1 && sizes[i] <= (double)average->before) || sizes[i] != floor(sizes[i]))
            return refuse(average, arena_format(arena, "a group of %g layers", sizes[i]));
        average->groups[i] = (LayerGroup){average->stack, (int32_t)i, (int32_t)sum, (int32_t)sizes[i]};
        sum += (int64_t)sizes[i];
    }
    return sum == average->before ||
           refuse(average, arena_format(arena, "the groups hold %lld", (long long)sum));
}

static bool make_weights(Average *average, const char *text) {
    double *weights, sum = 0;
    Arena *arena = average->context->ir->arena;
    average->weight_count = module_pass_numbers(arena, text, &weights);
    for (int64_t i = 0; i < average->weight_count; i++) sum += weights[i];
    if (average->weight_count < 0 || !(sum > 0))
        return refuse(average, arena_format(arena, "weights are numbers with a positive sum, not %s", text));
    for (int64_t i = 0; i < average->after; i++)
        if (average->groups[i].count != average->weight_count)
            return refuse(average, arena_format(arena, "%lld weights for a group of %d layers",
                                                (long long)average->weight_count, average->groups[i].count));
    for (int64_t i = 0; i < average->weight_count; i++) weights[i] /= sum;
    average->weights = weights;
    return true;
}

static bool read_options(Average *average) {
    PassContext *context = average->context;
    Arena *arena = context->ir->arena;
    int method = pass_choice(context, "method", "mean weighted stepwise select");
    const char *groups = pass_text(context, "groups"), *weights = pass_text(context, "weights");
    if (method < 0) return false;
    average->method = (Method)method;
    average->after = pass_integer(context, "to");
    if (average->after < 0 || average->after > average->before)
        return refuse(average, arena_format(arena, "%lld cannot stay", (long long)average->after));
    if (is_given(weights) != (average->method == METHOD_WEIGHTED))
        return refuse(average, "method weighted and weights go together");
    if (is_given(groups)) {
        if (average->method == METHOD_SELECT) return refuse(average, "method select makes its own groups");
        if (!make_given_groups(average, groups)) return false;
    } else {
        if (!average->after) average->after = average->before;
        average->groups = ARENA_ARRAY(arena, LayerGroup, average->after);
        if (average->method == METHOD_SELECT)
            make_selection(average);
        else if (!make_equal_groups(average))
            return false;
    }
    return average->method != METHOD_WEIGHTED || make_weights(average, weights);
}

// ---- The new module ----

static bool shorten(Rewrite *rewrite, uint32_t id) {
    const Average *average = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    if (!stack_has_name(node, average->stack)) return false;
    StackEntry *entries = ARENA_ARRAY(rewrite->to->ir->arena, StackEntry, average->after);
    for (int64_t i = 0; i < average->after; i++) entries[i] = (StackEntry){.layer = (int32_t)i, .row = -1};
    Attribute attribute = {.key = ATTRIBUTE_entries, .entries = entries, .count = (uint32_t)average->after};
    return rewrite_copy(rewrite, id, &attribute);
}

// ---- The transfer ----

static Value mean_of_group(const Average *average, Graph *graph, Value old, const LayerGroup *group) {
    Place place = average->context->place;
    bool alone = average->method == METHOD_STEPWISE || group->count == 1;
    Value sum = VALUE_NONE;
    for (int32_t i = 0; i < group->count && !alone; i++) {
        Value layer =
            build_cast(graph, build_pick(graph, old, "layer", group->first + i, place), ELEMENT_F64, place);
        if (average->weights)
            layer = build_binary(graph, OP_mul, layer,
                                 build_constant(graph, ELEMENT_F64, average->weights[i], place), place);
        sum = value_is_none(sum) ? layer : build_binary(graph, OP_add, sum, layer, place);
    }
    if (alone) return build_pick(graph, old, "layer", group->first, place);
    if (!average->weights)
        sum =
            build_binary(graph, OP_div, sum, build_constant(graph, ELEMENT_F64, group->count, place), place);
    return build_cast(graph, sum, graph_type(graph, old)->element, place);
}

static Value average_value(const Average *average, Transfer *transfer, Value old) {
    Value *layers = ARENA_ARRAY(transfer->graph->ir->arena, Value, average->after);
    for (int64_t i = 0; i < average->after; i++)
        layers[i] = mean_of_group(average, transfer->graph, old, &average->groups[i]);
    return transfer_stack(transfer, layers, (uint32_t)average->after);
}

Module *average_layers(PassContext *context, const Module *module) {
    const Graph *graph;
    const Node *stack;
    Average average = {.context = context, .stack = module_pass_stack(context, module, &graph, &stack)};
    if (!average.stack) return NULL;
    average.before = stack_layers(graph, stack);
    if (!stack_is_straight(graph, stack)) {
        refuse(&average, "they do not run once each, in order; average before unrolling");
        return NULL;
    }
    if (!read_options(&average)) return NULL;
    Module *result = module_copy(module);
    Transfer transfer = transfer_begin(context);
    for (size_t i = 0; i < result->parameters.count; i++) {
        Parameter *parameter = &result->parameters.items[i];
        if (!stack_stores(graph, stack, parameter->path)) continue;
        if (!module_pass_set_layers(context->ir, parameter, average.after)) return NULL;
        if (parameter->file) continue;
        Value old = transfer_source(&transfer, module, -1, parameter->path);
        transfer_result(&transfer, parameter->path, average_value(&average, &transfer, old));
    }
    result->groups.count = 0;
    for (int64_t i = 0; i < average.after; i++)
        vector_push(context->ir->arena, &result->groups, average.groups[i]);
    if (!module_pass_rewrite(context, module, result, shorten, &average) ||
        !transfer_end(&transfer, result, &module, 1))
        return NULL;
    return result;
}
