#include "driver/graph_dot.h"

static void print_node(const Graph *graph, uint32_t id, FILE *stream) {
    const Node *node = graph_node(graph, id);
    const char *name = attribute_text(node, ATTRIBUTE_name);
    const Graph *callee = attribute_graph(node, ATTRIBUTE_function);
    fprintf(stream, "  n%u [label=\"%%%u %s%s%s\\n%s\"%s];\n", id, id, op_name(node->op),
            name || callee ? " " : "",
            name     ? name
            : callee ? callee->name
                     : "",
            node->result_count ? type_text(graph->ir, node->types[0]) : "",
            node->op == OP_input ? ", shape=box" : "");
    for (uint32_t i = 0; i < node->operand_count; i++)
        fprintf(stream, "  n%u -> n%u;\n", node->operands[i].node, id);
}

void graph_print_dot(const Graph *graph, FILE *stream) {
    fprintf(stream, "digraph \"%s\" {\n  node [fontname=monospace];\n", graph->name);
    for (uint32_t id = 0; id < graph->nodes.count; id++) print_node(graph, id, stream);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        fprintf(stream, "  o%zu [label=\"%s\", shape=doublecircle];\n  n%u -> o%zu;\n", i, output->name,
                output->value.node, i);
    }
    fprintf(stream, "}\n");
}
