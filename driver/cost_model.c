// Closed-form FLOPs of a model, from its graph.
#include <string.h>

#include "driver/cost.h"

// Which values a parameter flows into: needs[id] for a node of the graph, given which inputs are needed.
static void mark_needs(const Graph *graph, const bool *inputs, bool *needs) {
    for (uint32_t i = 0; i < graph->inputs.count; i++) needs[graph->inputs.items[i]] = inputs[i];
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op == OP_stop_gradient) continue;
        for (uint32_t i = 0; i < node->operand_count; i++)
            needs[id] |= needs[node->operands[i].node] &&
                         element_is_float(graph_type(graph, node->operands[i])->element);
    }
}

static double dot_flops(const Graph *graph, const Node *node, const bool *needs) {
    const Type *a = graph_type(graph, node->operands[0]);
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    double flops = 2 * (double)type_count(node->types[0]);
    for (uint32_t i = 0; over && i < over->count; i++)
        flops *= (double)a->dimensions[type_find(a, over->names[i])].extent;
    return flops * (1 + needs[node->operands[0].node] + needs[node->operands[1].node]);
}

// Two products of q x k pairs forward, four backward; half of the pairs where it is causal.
static double attention_flops(const Graph *graph, const Node *node, const bool *needs) {
    const Type *q = graph_type(graph, node->operands[0]), *k = graph_type(graph, node->operands[1]);
    const Attribute *options = attribute_find(node, ATTRIBUTE_options);
    double flops = 4 * (double)type_count(q);
    for (int i = 0; i < k->rank; i++)
        if (type_find(q, k->dimensions[i].name) < 0) flops *= (double)k->dimensions[i].extent;
    for (uint32_t i = 0; options && i < options->count; i++)
        if (strcmp(options->options[i].name, "causal") == 0 && options->options[i].number != 0) flops /= 2;
    bool any =
        needs[node->operands[0].node] || needs[node->operands[1].node] || needs[node->operands[2].node];
    return flops * (any ? 3 : 1);
}

static double graph_flops(const Graph *graph, const bool *inputs);

static double callee_flops(const Graph *graph, const Node *node, const Graph *callee, const bool *needs) {
    bool *inputs = ARENA_ARRAY(graph->ir->arena, bool, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++) inputs[i] = needs[node->operands[i].node];
    return graph_flops(callee, inputs);
}

// The graph of a stack that `key` names, for one entry: with gradients, or (`frozen`) forward alone.
static double part_flops(const Graph *graph, const Node *node, AttributeKey key, const bool *needs,
                         bool frozen) {
    const Graph *part = attribute_graph(node, key);
    size_t before = key == ATTRIBUTE_leave ? 2 * node->result_count : node->result_count;
    size_t behind =
        key == ATTRIBUTE_body ? node->result_count : attribute_graph(node, ATTRIBUTE_body)->inputs.count;
    bool *inputs = ARENA_ARRAY(graph->ir->arena, bool, part->inputs.count + 1), any = false;
    for (uint32_t i = 0; i < node->operand_count; i++) any |= needs[node->operands[i].node];
    // What a stack carries has passed through parameters from the second entry on.
    for (size_t i = 0; i < part->inputs.count && !frozen; i++)
        inputs[i] = i < before ? any : needs[node->operands[behind + i - before].node];
    return graph_flops(part, inputs);
}

// Nothing flows back past the last entry that stops the gradient.
static double stack_flops(const Graph *graph, const Node *node, const bool *needs) {
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    static const AttributeKey keys[] = {ATTRIBUTE_body, ATTRIBUTE_enter, ATTRIBUTE_leave};
    double flops = 0, costs[2][3] = {{0}};
    uint32_t first = 0;
    for (int i = 0; i < 3; i++)
        for (int frozen = 0; frozen < 2 && attribute_graph(node, keys[i]); frozen++)
            costs[frozen][i] = part_flops(graph, node, keys[i], needs, frozen);
    for (uint32_t i = 0; i < entries->count; i++)
        if (entries->entries[i].stop_gradient) first = i;
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        const double *cost = costs[i < first];
        flops += cost[0] + (entry->enter ? cost[1] : 0) + (entry->leave ? cost[2] : 0);
    }
    return flops;
}

static double node_flops(const Graph *graph, const Node *node, const bool *needs) {
    if (node->op == OP_dot) return dot_flops(graph, node, needs);
    if (node->op == OP_stack) return stack_flops(graph, node, needs);
    if (node->op != OP_call) return 0;
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    if (kernel && strcmp(kernel, "attention") == 0) return attention_flops(graph, node, needs);
    return callee_flops(graph, node, attribute_graph(node, ATTRIBUTE_function), needs);
}

static double graph_flops(const Graph *graph, const bool *inputs) {
    bool *needs = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count + 1);
    double flops = 0;
    mark_needs(graph, inputs, needs);
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        flops += node_flops(graph, graph_node(graph, id), needs);
    return flops;
}

double cost_model_flops(const Graph *graph) {
    bool *inputs = ARENA_ARRAY(graph->ir->arena, bool, graph->inputs.count + 1);
    for (size_t i = 0; i < graph->inputs.count; i++)
        inputs[i] =
            attribute_integer(graph_node(graph, graph->inputs.items[i]), ATTRIBUTE_role, 0) == ROLE_PARAMETER;
    return graph_flops(graph, inputs);
}
