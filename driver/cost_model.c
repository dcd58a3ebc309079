// Closed-form FLOPs of a model, from its graph.
#include <string.h>

#include "driver/cost.h"
#include "ir/density.h"

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

// A graph within those that call it: a dimension may be bounded by what a caller counts.
typedef struct Scope Scope;
struct Scope {
    const Graph *graph;
    const bool *needs;  // by node
    const Scope *caller;
};

// As long as a dimension is expected to be: rows that chose an expert are k of the experts' share of all rows.
static double expected_extent(const Scope *scope, Dimension dimension) {
    for (; scope && dimension.bound; scope = scope->caller) {
        Value bound = graph_find_bound(scope->graph, dimension.bound);
        if (value_is_none(bound)) continue;
        int64_t expected = graph_expected_count(scope->graph, graph_node(scope->graph, bound.node));
        return (double)(expected ? expected : dimension.extent);
    }
    return (double)dimension.extent;
}

static double expected_elements(const Scope *scope, const Type *type) {
    double elements = 1;
    for (int i = 0; i < type->rank; i++) elements *= expected_extent(scope, type->dimensions[i]);
    return elements;
}

static double dot_flops(const Scope *scope, const Node *node) {
    const Type *a = graph_type(scope->graph, node->operands[0]);
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    double flops = 2 * expected_elements(scope, node->types[0]);
    for (uint32_t i = 0; over && i < over->count; i++)
        flops *= expected_extent(scope, a->dimensions[type_find(a, over->names[i])]);
    return flops * (1 + scope->needs[node->operands[0].node] + scope->needs[node->operands[1].node]);
}

// Two products of q x k pairs forward, four backward; half of the pairs where it is causal.
static double attention_flops(const Scope *scope, const Node *node) {
    const Type *q = graph_type(scope->graph, node->operands[0]);
    const Type *k = graph_type(scope->graph, node->operands[1]);
    const Attribute *options = attribute_find(node, ATTRIBUTE_options);
    double flops = 4 * expected_elements(scope, q);
    for (int i = 0; i < k->rank; i++)
        if (type_find(q, k->dimensions[i].name) < 0) flops *= expected_extent(scope, k->dimensions[i]);
    for (uint32_t i = 0; options && i < options->count; i++)
        if (strcmp(options->options[i].name, "causal") == 0 && options->options[i].number != 0) flops /= 2;
    bool any = false;
    for (int i = 0; i < 3; i++) any |= scope->needs[node->operands[i].node];
    return flops * (any ? 3 : 1);
}

static double graph_flops(const Graph *graph, const bool *inputs, const Scope *caller);

static double callee_flops(const Scope *scope, const Node *node, const Graph *callee) {
    bool *inputs = ARENA_ARRAY(callee->ir->arena, bool, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++) inputs[i] = scope->needs[node->operands[i].node];
    return graph_flops(callee, inputs, scope);
}

// The graph of a stack that `key` names, for one entry: with gradients, or (`frozen`) forward alone.
static double part_flops(const Scope *scope, const Node *node, AttributeKey key, bool frozen) {
    const Graph *part = attribute_graph(node, key);
    size_t before = key == ATTRIBUTE_leave ? 2 * node->result_count : node->result_count;
    size_t behind =
        key == ATTRIBUTE_body ? node->result_count : attribute_graph(node, ATTRIBUTE_body)->inputs.count;
    bool *inputs = ARENA_ARRAY(part->ir->arena, bool, part->inputs.count + 1), any = false;
    for (uint32_t i = 0; i < node->operand_count; i++) any |= scope->needs[node->operands[i].node];
    // What a stack carries has passed through parameters from the second entry on.
    for (size_t i = 0; i < part->inputs.count && !frozen; i++)
        inputs[i] = i < before ? any : scope->needs[node->operands[behind + i - before].node];
    return graph_flops(part, inputs, scope);
}

// Nothing flows back past the last entry that stops the gradient.
static double stack_flops(const Scope *scope, const Node *node) {
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    static const AttributeKey keys[] = {ATTRIBUTE_body, ATTRIBUTE_enter, ATTRIBUTE_leave};
    double flops = 0, costs[2][3] = {{0}};
    uint32_t first = 0;
    for (int i = 0; i < 3; i++)
        for (int frozen = 0; frozen < 2 && attribute_graph(node, keys[i]); frozen++)
            costs[frozen][i] = part_flops(scope, node, keys[i], frozen);
    for (uint32_t i = 0; i < entries->count; i++)
        if (entries->entries[i].stop_gradient) first = i;
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        const double *cost = costs[i < first];
        flops += cost[0] + (entry->enter ? cost[1] : 0) + (entry->leave ? cost[2] : 0);
    }
    return flops;
}

static double node_flops(const Scope *scope, const Node *node) {
    if (node->op == OP_dot) return dot_flops(scope, node);
    if (node->op == OP_stack) return stack_flops(scope, node);
    if (node->op != OP_call) return 0;
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    if (kernel && strcmp(kernel, "attention") == 0) return attention_flops(scope, node);
    return callee_flops(scope, node, attribute_graph(node, ATTRIBUTE_function));
}

static double graph_flops(const Graph *graph, const bool *inputs, const Scope *caller) {
    bool *needs = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count + 1);
    Scope scope = {.graph = graph, .needs = needs, .caller = caller};
    double flops = 0;
    mark_needs(graph, inputs, needs);
    for (uint32_t id = 0; id < graph->nodes.count; id++) flops += node_flops(&scope, graph_node(graph, id));
    return flops;
}

double cost_model_flops(const Graph *graph) {
    bool *inputs = ARENA_ARRAY(graph->ir->arena, bool, graph->inputs.count + 1);
    for (size_t i = 0; i < graph->inputs.count; i++)
        inputs[i] =
            attribute_integer(graph_node(graph, graph->inputs.items[i]), ATTRIBUTE_role, 0) == ROLE_PARAMETER;
    return graph_flops(graph, inputs, NULL);
}
