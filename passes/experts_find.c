// fuse-experts: where experts begin and end in an entry graph.
#include <string.h>

#include "passes/experts.h"

static Role input_role(const Node *node) {
    return (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
}

bool experts_is_weight(const ExpertMark *marks, Value value) {
    return marks[value.node].weight && !marks[value.node].data;
}

uint32_t experts_head_weight(const ExpertMark *marks, const Node *head) {
    return experts_is_weight(marks, head->operands[0]) ? 0 : 1;
}

static bool takes_weight(const ExpertMark *marks, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (experts_is_weight(marks, node->operands[i])) return true;
    return false;
}

// Data times a weight.
static bool could_be_head(const ExpertMark *marks, const Node *node) {
    return node->op == OP_dot && takes_weight(marks, node) &&
           (marks[node->operands[0].node].data || marks[node->operands[1].node].data);
}

static bool applies_weights(const ExpertMark *marks, const Node *node) {
    bool applies = node->op == OP_dot || node->op == OP_stack || node->op == OP_call;
    return applies && takes_weight(marks, node);
}

ExpertMark *experts_mark(const Graph *graph) {
    Arena *arena = graph->ir->arena;
    size_t count = graph->nodes.count;
    ExpertMark *marks = ARENA_ARRAY(arena, ExpertMark, count);
    bool *blocked = ARENA_ARRAY(arena, bool, count);  // weights are applied to what comes of it
    const bool *live = graph_live_nodes(graph);
    for (uint32_t id = 0; id < count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op == OP_input) {
            marks[id].data = input_role(node) == ROLE_DATA;
            marks[id].weight = input_role(node) == ROLE_PARAMETER;
        }
        for (uint32_t i = 0; i < node->operand_count; i++) {
            marks[id].data |= marks[node->operands[i].node].data;
            marks[id].weight |= marks[node->operands[i].node].weight;
        }
    }
    for (uint32_t id = (uint32_t)count; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        bool blocks = live[id] && (blocked[id] || applies_weights(marks, node));
        for (uint32_t i = 0; blocks && i < node->operand_count; i++) blocked[node->operands[i].node] = true;
    }
    for (uint32_t id = 0; id < count; id++) {
        const Node *node = graph_node(graph, id);
        marks[id].head = live[id] && !blocked[id] && could_be_head(marks, node);
        marks[id].after = marks[id].head;
        for (uint32_t i = 0; i < node->operand_count; i++)
            marks[id].after |= marks[node->operands[i].node].after;
    }
    return marks;
}

// ---- Sharing ----

// Does a weight come from the parameter?
static bool comes_from(const Graph *graph, Value value, const char *path) {
    const Node *node = graph_node(graph, value.node);
    if (node->op == OP_input) return strcmp(attribute_text(node, ATTRIBUTE_name), path) == 0;
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (comes_from(graph, node->operands[i], path)) return true;
    return false;
}

static bool shares_in(const Graph *graph, const char *path, ExpertShare share) {
    const ExpertMark *marks = experts_mark(graph);
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; i < node->operand_count; i++) {
            bool wanted =
                (share.embedding && node->op == OP_gather && i == 0) || (share.head && marks[id].after);
            if (wanted && experts_is_weight(marks, node->operands[i]) &&
                comes_from(graph, node->operands[i], path))
                return true;
        }
    }
    return false;
}

bool experts_shares(const Module *module, const char *path, ExpertShare share) {
    for (size_t i = 0; i < module->graphs.count; i++)
        if (module_is_entry(module, module->graphs.items[i]) &&
            shares_in(module->graphs.items[i], path, share))
            return true;
    return false;
}
