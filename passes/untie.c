// untie-layers: every run of a stored layer becomes a stored layer of its own.
//
//   before: x1 = stack(x, trunk.wq[layer=6, ...], trunk.core.gate) {entries=(0 (1..4[row])*8 5)}
//   after:  x1 = stack(x, trunk.wq[layer=34, ...], trunk.core.gate) {entries=(0..33), rows and marks as
//   before} transfer: trunk.wq'[i] = trunk.wq[layer of entry i]
//
// What each run of a shared layer contributes to its gradient is then a gradient of its own: the sums over
// the runs of a layer are the gradient before. What entries have by row stays shared. Options: stack (the
// only one). Requires: a stack. Leaves: each stored layer runs once, in order; random numbers are drawn anew.
#include "passes/module_pass.h"

typedef struct Untie {
    const char *stack;
    const StackEntry *before;
    uint32_t count;
} Untie;

static bool straighten(Rewrite *rewrite, uint32_t id) {
    const Untie *untie = rewrite->data;
    if (!stack_has_name(graph_node(rewrite->from, id), untie->stack)) return false;
    StackEntry *entries = ARENA_ARRAY(rewrite->to->ir->arena, StackEntry, untie->count);
    for (uint32_t i = 0; i < untie->count; i++) {
        entries[i] = untie->before[i];
        entries[i].layer = (int32_t)i;
        entries[i].iteration = 0;
    }
    Attribute attribute = {.key = ATTRIBUTE_entries, .entries = entries, .count = untie->count};
    return rewrite_copy(rewrite, id, &attribute);
}

static Value untied_value(const Untie *untie, Transfer *transfer, Value old) {
    Graph *graph = transfer->graph;
    Value *layers = ARENA_ARRAY(graph->ir->arena, Value, untie->count);
    for (uint32_t i = 0; i < untie->count; i++)
        layers[i] = build_pick(graph, old, "layer", untie->before[i].layer, transfer->context->place);
    return transfer_stack(transfer, layers, untie->count);
}

Module *untie_layers(PassContext *context, const Module *module) {
    const Graph *graph;
    const Node *stack;
    Untie untie = {.stack = module_pass_stack(context, module, &graph, &stack)};
    if (!untie.stack) return NULL;
    const Attribute *entries = attribute_find(stack, ATTRIBUTE_entries);
    untie.before = entries->entries;
    untie.count = entries->count;
    Module *result = module_copy(module);
    Transfer transfer = transfer_begin(context);
    for (size_t i = 0; i < result->parameters.count; i++) {
        Parameter *parameter = &result->parameters.items[i];
        if (!stack_stores(graph, stack, parameter->path)) continue;
        if (!module_pass_set_layers(context->ir, parameter, untie.count)) return NULL;
        if (parameter->file) continue;
        Value old = transfer_source(&transfer, module, -1, parameter->path);
        transfer_result(&transfer, parameter->path, untied_value(&untie, &transfer, old));
    }
    result->groups.count = 0;
    if (!module_pass_rewrite(context, module, result, straighten, &untie) ||
        !transfer_end(&transfer, result, &module, 1))
        return NULL;
    return result;
}
