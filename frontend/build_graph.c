// Work on whole graphs: bringing inputs into order, the seed.
#include <string.h>

#include "frontend/build.h"

// A copy with exactly `inputs`, in this order and in front, and the nodes that outputs need. Inputs are
// discovered while a graph is built; this brings them into the order of the signature.
Graph *graph_finish(const Graph *graph, const Value *inputs, uint32_t count) {
    Arena *arena = graph->ir->arena;
    uint32_t node_count = (uint32_t)graph->nodes.count;
    bool *live = ARENA_ARRAY(arena, bool, node_count + 1);
    uint32_t *map = ARENA_ARRAY(arena, uint32_t, node_count + 1);
    for (size_t i = 0; i < graph->outputs.count; i++) live[graph->outputs.items[i].value.node] = true;
    for (uint32_t id = node_count; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; live[id] && i < node->operand_count; i++) live[node->operands[i].node] = true;
    }
    Graph *copy = graph_create(graph->ir, graph->name);
    for (uint32_t i = 0; i < count; i++) {
        const Node *node = graph_node(graph, inputs[i].node);
        map[inputs[i].node] = graph_copy_input(copy, node, node->types[0]).node;
    }
    for (uint32_t id = 0; id < node_count; id++) {
        const Node *node = graph_node(graph, id);
        if (!live[id] || node->op == OP_input) continue;
        Value *operands = ARENA_ARRAY(arena, Value, node->operand_count + 1);
        for (uint32_t i = 0; i < node->operand_count; i++)
            operands[i] = (Value){map[node->operands[i].node], node->operands[i].result};
        map[id] = graph_copy_node(copy, node, operands).node;
        CHECK(map[id] != UINT32_MAX);
    }
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        graph_add_output(copy, output->name, (Value){map[output->value.node], output->value.result},
                         VALUE_NONE);
    }
    return copy;
}

// The seed of random numbers: a scalar of entry graphs; a body gets it from its stack as an invariant.
Value work_seed(Context *context, Place place) {
    Work *work = context->work;
    Ir *ir = context->builder->ir;
    const char *name = names_intern(ir->names, "seed");
    Role role = work->body ? ROLE_ARGUMENT : ROLE_SCALAR;
    if (work->body) work->body->needs_seed = true;
    Value seed = graph_find_input(work->graph, name, role);
    if (!value_is_none(seed)) return seed;
    return graph_add_input(work->graph, name, role, type_scalar(ir, ELEMENT_I64), place);
}
