#include "passes/rewrite.h"
Graph *simplify(PassContext *context, const Graph *graph) {
    return rewrite_graph(context, graph, graph->name, NULL, NULL);
}
