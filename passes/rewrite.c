// Rewriting a graph node by node: the frame of most passes.
#include "passes/rewrite.h"

#include <string.h>

#include "ir/op.h"

// Whatever is as long as a `compact` says needs that node, operand or not.
static void mark_bounds(const Graph *graph, uint32_t id, const uint32_t *compacts, uint32_t count,
                        bool *live) {
    const Node *node = graph_node(graph, id);
    for (uint32_t c = 0; c < count; c++) {
        const char *bound = graph_bound(graph->ir, graph_node(graph, compacts[c]));
        for (uint32_t r = 0; r < node->result_count; r++)
            for (int d = 0; d < node->types[r]->rank; d++)
                if (node->types[r]->dimensions[d].bound == bound) live[compacts[c]] = true;
    }
}

bool *graph_live_nodes(const Graph *graph) {
    bool *live = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    uint32_t *compacts = ARENA_ARRAY(graph->ir->arena, uint32_t, graph->nodes.count), count = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        if (graph_node(graph, id)->op == OP_compact) compacts[count++] = id;
    for (size_t i = 0; i < graph->outputs.count; i++) live[graph->outputs.items[i].value.node] = true;
    for (size_t id = graph->nodes.count; id-- > 0;) {
        if (!live[id]) continue;
        mark_bounds(graph, (uint32_t)id, compacts, count, live);
        const Node *node = graph_node(graph, (uint32_t)id);
        for (uint32_t i = 0; i < node->operand_count; i++) live[node->operands[i].node] = true;
    }
    return live;
}

bool node_is_move(const Node *node) {
    bool shape = strcmp(op_table[node->op]->family, "shape") == 0 && node->operand_count == 1;
    return shape || node->op == OP_stop_gradient;
}

uint32_t *graph_uses(const Graph *graph) {
    uint32_t *uses = ARENA_ARRAY(graph->ir->arena, uint32_t, graph->nodes.count);
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        for (uint32_t i = 0; i < graph_node(graph, id)->operand_count; i++)
            uses[graph_node(graph, id)->operands[i].node]++;
    for (size_t i = 0; i < graph->outputs.count; i++) uses[graph->outputs.items[i].value.node]++;
    return uses;
}

static void start(Rewrite *rewrite, const Graph *from) {
    Arena *arena = from->ir->arena;
    rewrite->from = from;
    rewrite->slots = ARENA_ARRAY(arena, uint32_t, from->nodes.count);
    uint32_t slot = 0;
    for (uint32_t id = 0; id < from->nodes.count; id++) {
        rewrite->slots[id] = slot;
        slot += graph_node(from, id)->result_count;
    }
    rewrite->map = ARENA_ARRAY(arena, Value, slot);
    for (uint32_t i = 0; i < slot; i++) rewrite->map[i] = VALUE_NONE;
}

Rewrite *rewrite_begin(PassContext *context, const Graph *from, const char *name, RewriteNode node,
                       void *data) {
    Rewrite *rewrite = ARENA_NEW(context->ir->arena, Rewrite);
    *rewrite = (Rewrite){.context = context, .node = node, .data = data};
    rewrite->to = graph_create(context->ir, name);
    graph_reserve(rewrite->to, from->nodes.count);
    start(rewrite, from);
    return rewrite;
}

Value rewrite_value(const Rewrite *rewrite, Value old) {
    return value_is_none(old) ? old : rewrite->map[rewrite->slots[old.node] + old.result];
}

void rewrite_set(Rewrite *rewrite, Value old, Value value) {
    if (value_is_none(value)) rewrite->failed = true;
    rewrite->map[rewrite->slots[old.node] + old.result] = value;
}

bool rewrite_fail(Rewrite *rewrite) {
    rewrite->failed = true;
    return true;
}

Value *rewrite_operands(const Rewrite *rewrite, const Node *node) {
    Value *operands = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++)
        operands[i] = rewrite_value(rewrite, node->operands[i]);
    return operands;
}

bool rewrite_copy(Rewrite *rewrite, uint32_t id, const Attribute *attribute) {
    const Node *node = graph_node(rewrite->from, id);
    Value value;
    if (node->op == OP_input) {
        value = graph_copy_input(rewrite->to, node, node->types[0]);
    } else {
        const Value *operands = rewrite_operands(rewrite, node);
        value = attribute ? graph_copy_node_with(rewrite->to, node, operands, *attribute)
                          : graph_copy_from(rewrite->to, rewrite->from, node, operands);
    }
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

bool rewrite_inputs(Rewrite *rewrite) {
    for (size_t i = 0; i < rewrite->from->inputs.count; i++) {
        uint32_t id = rewrite->from->inputs.items[i];
        if (value_is_none(rewrite_value(rewrite, (Value){id, 0}))) rewrite_copy(rewrite, id, NULL);
    }
    return !rewrite->failed;
}

bool rewrite_nodes(Rewrite *rewrite) {
    const bool *live = graph_live_nodes(rewrite->from);
    for (uint32_t id = 0; id < rewrite->from->nodes.count && !rewrite->failed; id++) {
        const Node *node = graph_node(rewrite->from, id);
        if (node->op == OP_input || !live[id]) continue;
        if (node->result_count && !value_is_none(rewrite_value(rewrite, (Value){id, 0}))) continue;
        if (!rewrite->node || !rewrite->node(rewrite, id)) rewrite_copy(rewrite, id, NULL);
    }
    return !rewrite->failed;
}

void rewrite_outputs(Rewrite *rewrite) {
    for (size_t i = 0; i < rewrite->from->outputs.count; i++) {
        const Output *output = &rewrite->from->outputs.items[i];
        graph_add_output(rewrite->to, output->name, rewrite_value(rewrite, output->value),
                         rewrite_value(rewrite, output->replaces));
    }
}

Graph *rewrite_graph(PassContext *context, const Graph *from, const char *name, RewriteNode node,
                     void *data) {
    Rewrite *rewrite = rewrite_begin(context, from, name, node, data);
    if (!rewrite_inputs(rewrite) || !rewrite_nodes(rewrite)) return NULL;
    rewrite_outputs(rewrite);
    return rewrite->to;
}

bool rewrite_splice(Rewrite *rewrite, const Graph *callee, const Value *arguments, Value *results) {
    Rewrite inner = *rewrite;
    start(&inner, callee);
    for (size_t i = 0; i < callee->inputs.count; i++)
        rewrite_set(&inner, (Value){callee->inputs.items[i], 0}, arguments[i]);
    if (inner.failed || !rewrite_nodes(&inner)) return !rewrite_fail(rewrite);
    for (size_t i = 0; i < callee->outputs.count; i++)
        results[i] = rewrite_value(&inner, callee->outputs.items[i].value);
    return true;
}
