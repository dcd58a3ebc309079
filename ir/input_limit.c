#include "ir/input_limit.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t gather_limit(const Graph *graph, const Node *node) {
    const Type *table = graph_type(graph, node->operands[0]);
    int along = type_find(table, attribute_text(node, ATTRIBUTE_along));
    return along < 0 ? INT64_MAX : table->dimensions[along].extent;
}

bool op_moves(Op op) {
    return op == OP_rename || op == OP_merge || op == OP_split || op == OP_transpose || op == OP_broadcast ||
           op == OP_slice || op == OP_pick || op == OP_reverse || op == OP_shift || op == OP_pad || op == OP_concat ||
           op == OP_cast || op == OP_stop_gradient;
}

// Not `select`, which may be there to replace those that are no index.
static bool passes_on(Op op, uint32_t operand) { return op_moves(op) || (op == OP_gather && operand == 0); }

typedef struct Operand {
    const Graph *callee;
    uint32_t number;
} Operand;

// One pass over the graph: what holds numbers of the input is marked, and a callee looked into once for each operand, so
// that neither values of many uses nor functions of many calls multiply the work.
int64_t input_limit(const Graph *graph, Value input) {
    Arena *arena = graph->ir->arena;
    bool *holds = ARENA_ARRAY(arena, bool, graph->nodes.count + 1);  // in result 0
    VECTOR(Operand) seen = {0};
    int64_t limit = INT64_MAX;
    for (uint32_t id = input.node; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; i < node->operand_count; i++) {
            Value operand = node->operands[i];
            if (!value_same(operand, input) && (operand.result || value_is_none(operand) || !holds[operand.node])) continue;
            if (node->op == OP_gather && i == 1) limit = smaller(limit, gather_limit(graph, node));
            if (passes_on(node->op, i)) holds[id] = true;
            const Graph *callee =
                attribute_graph(node, node->op == OP_stack ? ATTRIBUTE_body : ATTRIBUTE_function);
            bool known = !callee || i >= callee->inputs.count;
            for (size_t c = 0; c < seen.count && !known; c++)
                known = seen.items[c].callee == callee && seen.items[c].number == i;
            if (known) continue;
            vector_push(arena, &seen, ((Operand){callee, i}));
            limit = smaller(limit, input_limit(callee, (Value){callee->inputs.items[i], 0}));
        }
    }
    return limit;
}
