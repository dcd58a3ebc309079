// recompute: forward values that are cheap to make again are not kept for the backward pass.
//
//   before: n = mul(x, g);  h = dot(n, w);  ...  dw = dot(n, dh)
//   after:  n = mul(x, g);  h = dot(n, w);  ...  n' = mul(x, g) {region=7};  dw = dot(n', dh)
//
// Requires: the result of `gradient` (outputs that replace nothing are forward, all else is backward).
// Leaves: the same values; clones carry a `region` of their own, which keeps them apart from the originals,
// and stand in front of their first use. What is cloned:
//   - elementwise values, views and random numbers whose own operands are kept anyway, so that nothing further
//     must be kept for their sake: a polynomial costs less than to write a value and read it again;
//     mode=cheap leaves transcendental functions out, mode=none all of this; factors=kept those that products of
//     both directions read: the forward one has them in memory anyway, and nothing but room is saved;
//   - whole layers: nodes that carry a `region` already, which `expand-stacks` gives to the entries that ask
//     for it. Values that leave the region (the layer's result) are kept. With `bytes` given, only as many
//     regions, from the first, as bring what is kept below it.
#include <string.h>

#include "ir/op.h"
#include "passes/rewrite.h"

typedef enum Fate {
    FATE_GONE,   // the backward pass never needs it
    FATE_FREE,   // an input, a constant, or a view of something kept
    FATE_KEPT,   // held for the backward pass
    FATE_CLONED  // made again
} Fate;

typedef struct Recompute {
    const Graph *graph;
    bool *forward;        // by node
    bool *used_backward;  // by node: a backward node has it as operand
    bool *fixed;          // by node: no input flows into it (tables of positions)
    bool *factor;         // by node: forward and backward dots have it as operand; NULL: all the same
    bool *leaves;         // by node with a region: something outside of the region uses it
    Fate *fates;          // by node
    bool cheap, expensive;
    int64_t last_region;  // highest in the graph
    int64_t honoured;     // regions 1 .. honoured are cloned
    Value *clones;        // by node: result 0 of the clone in the new graph
} Recompute;

static int64_t region_of(const Recompute *recompute, uint32_t id) {
    return attribute_integer(graph_node(recompute->graph, id), ATTRIBUTE_region, 0);
}

static bool is_cloned_region(const Recompute *recompute, uint32_t id) {
    int64_t region = region_of(recompute, id);
    return region > 0 && region <= recompute->honoured && !recompute->leaves[id];
}

// ---- What is forward, what the backward pass uses ----

static void mark(Recompute *recompute) {
    const Graph *graph = recompute->graph;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        recompute->fixed[id] = node->op != OP_input;
        for (uint32_t i = 0; i < node->operand_count; i++)
            recompute->fixed[id] &= recompute->fixed[node->operands[i].node];
    }
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (value_is_none(graph->outputs.items[i].replaces))
            recompute->forward[graph->outputs.items[i].value.node] = true;
    for (size_t id = graph->nodes.count; id-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)id);
        for (uint32_t i = 0; i < node->operand_count; i++) {
            uint32_t operand = node->operands[i].node;
            if (recompute->forward[id]) recompute->forward[operand] = true;
            else recompute->used_backward[operand] = true;
            if (recompute->forward[id] && region_of(recompute, operand) != region_of(recompute, (uint32_t)id))
                recompute->leaves[operand] = true;
        }
    }
    for (uint32_t id = 0; id < graph->nodes.count; id++)  // an extent has one name
        if (graph_node(graph, id)->op == OP_compact) recompute->leaves[id] = true;
    for (size_t i = 0; i < graph->outputs.count; i++)
        recompute->leaves[graph->outputs.items[i].value.node] = true;
}

// Whether the backward pass multiplies what the forward one does.
static void mark_factors(Recompute *recompute) {
    const Graph *graph = recompute->graph;
    bool *forward = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    recompute->factor = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; node->op == OP_dot && i < node->operand_count; i++) {
            uint32_t operand = node->operands[i].node;
            if (recompute->forward[id]) forward[operand] = true;
            else recompute->factor[operand] = forward[operand];
        }
    }
}

// ---- Deciding ----

static bool is_view(Op op) {
    switch (op) {
    case OP_rename:
    case OP_split:
    case OP_merge:
    case OP_transpose:
    case OP_broadcast:
    case OP_slice:
    case OP_pick:
    case OP_reverse: case OP_stop_gradient: return true;
    default: return false;
    }
}

static bool is_cheap(const Recompute *recompute, Op op) {
    if (!recompute->cheap) return false;
    if (is_view(op) || op == OP_random) return true;
    const OpDefinition *definition = op_table[op];
    if (strcmp(definition->family, "elementwise") != 0) return false;
    return recompute->expensive || !primitive_is_expensive(definition->primitive);
}

// What clones of whole layers read from outside of their region counts as used by the backward pass.
static bool *find_used(const Recompute *recompute) {
    const Graph *graph = recompute->graph;
    bool *used = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        used[id] |= recompute->used_backward[id];
        if (!recompute->forward[id] || !is_cloned_region(recompute, id)) continue;
        for (uint32_t i = 0; i < node->operand_count; i++)
            if (!is_cloned_region(recompute, node->operands[i].node) ||
                region_of(recompute, node->operands[i].node) != region_of(recompute, id))
                used[node->operands[i].node] = true;
    }
    return used;
}

// possible[id]: kept, or to be made again from what is kept.
static Fate fate_of(const Recompute *recompute, uint32_t id, bool used, bool *possible) {
    const Node *node = graph_node(recompute->graph, id);
    bool all = true, standing = true;
    for (uint32_t i = 0; i < node->operand_count; i++) {
        Fate fate = recompute->fates[node->operands[i].node];
        all &= possible[node->operands[i].node];
        standing &= fate == FATE_FREE || fate == FATE_KEPT;
    }
    int64_t region = region_of(recompute, id);
    possible[id] = true;
    if (recompute->fixed[id] || node->op == OP_input || (is_view(node->op) && standing)) return FATE_FREE;
    if (is_cloned_region(recompute, id)) return used ? FATE_CLONED : FATE_GONE;
    bool is_layer_result = region > 0 && region <= recompute->honoured;
    bool is_factor = recompute->factor && recompute->factor[id];
    if (!is_layer_result && !is_factor && all && is_cheap(recompute, node->op)) return used ? FATE_CLONED : FATE_GONE;
    possible[id] = used;
    return used ? FATE_KEPT : FATE_GONE;
}

// Operands first, so a value that must be kept stops the chains of the later ones: the residual stream is
// kept layer by layer, never summed up again from the start.
static void decide(Recompute *recompute) {
    size_t count = recompute->graph->nodes.count;
    bool *possible = ARENA_ARRAY(recompute->graph->ir->arena, bool, count);
    const bool *used = find_used(recompute);
    for (uint32_t id = 0; id < count; id++)
        if (recompute->forward[id]) recompute->fates[id] = fate_of(recompute, id, used[id], possible);
}

static int64_t kept_bytes(const Recompute *recompute) {
    int64_t bytes = 0;
    for (uint32_t id = 0; id < recompute->graph->nodes.count; id++) {
        const Node *node = graph_node(recompute->graph, id);
        for (uint32_t i = 0; recompute->fates[id] == FATE_KEPT && i < node->result_count; i++)
            bytes += type_bytes(node->types[i]);
    }
    return bytes;
}

static void choose_regions(Recompute *recompute, int64_t bytes) {
    if (bytes <= 0) {
        recompute->honoured = recompute->last_region;
        decide(recompute);
        return;
    }
    for (recompute->honoured = 0;; recompute->honoured++) {
        decide(recompute);
        if (kept_bytes(recompute) <= bytes || recompute->honoured == recompute->last_region) return;
    }
}

// ---- Rewriting ----

static Value clone(Rewrite *rewrite, Value old) {
    Recompute *recompute = rewrite->data;
    Value *made = &recompute->clones[old.node];
    const Node *node = graph_node(rewrite->from, old.node);
    bool in_region = is_cloned_region(recompute, old.node);
    // A cheap value that is not kept is made again wherever it stands in a chain.
    bool again = recompute->fates[old.node] == FATE_CLONED || recompute->fates[old.node] == FATE_GONE;
    if (!again) return rewrite_value(rewrite, old);
    if (value_is_none(*made)) {
        Value *operands = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->operand_count + 1);
        for (uint32_t i = 0; i < node->operand_count; i++) operands[i] = clone(rewrite, node->operands[i]);
        int64_t tag = recompute->last_region + 1 + (in_region ? region_of(recompute, old.node) : 0);
        *made = graph_copy_node_with(rewrite->to, node, operands,
                                     (Attribute){.key = ATTRIBUTE_region, .integer = tag});
        if (value_is_none(*made)) rewrite->failed = true;
    }
    return value_is_none(*made) ? *made : (Value){made->node, old.result};
}

static bool recompute_node(Rewrite *rewrite, uint32_t id) {
    const Recompute *recompute = rewrite->data;
    if (recompute->forward[id]) return false;
    const Node *node = graph_node(rewrite->from, id);
    Value *operands = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++)
        operands[i] = recompute->forward[node->operands[i].node] ? clone(rewrite, node->operands[i])
                                                                 : rewrite_value(rewrite, node->operands[i]);
    Value value = graph_copy_from(rewrite->to, rewrite->from, node, operands);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

Graph *recompute_values(PassContext *context, const Graph *graph) {
    int mode = pass_choice(context, "mode", "none cheap elementwise");
    int factors = pass_choice(context, "factors", "again kept");
    if (mode < 0 || factors < 0) return NULL;
    Arena *arena = context->ir->arena;
    size_t count = graph->nodes.count;
    Recompute recompute = {.graph = graph, .cheap = mode > 0, .expensive = mode > 1};
    recompute.forward = ARENA_ARRAY(arena, bool, count);
    recompute.used_backward = ARENA_ARRAY(arena, bool, count);
    recompute.fixed = ARENA_ARRAY(arena, bool, count);
    recompute.leaves = ARENA_ARRAY(arena, bool, count);
    recompute.fates = ARENA_ARRAY(arena, Fate, count);
    recompute.clones = ARENA_ARRAY(arena, Value, count);
    for (uint32_t id = 0; id < count; id++) {
        recompute.clones[id] = VALUE_NONE;
        if (region_of(&recompute, id) > recompute.last_region)
            recompute.last_region = region_of(&recompute, id);
    }
    mark(&recompute);
    if (factors) mark_factors(&recompute);
    choose_regions(&recompute, pass_integer(context, "bytes"));
    return rewrite_graph(context, graph, graph->name, recompute_node, &recompute);
}
