// A graph as Graphviz text: cherry dump --format dot | dot -Tsvg.
#ifndef CHERRY_DRIVER_GRAPH_DOT_H
#define CHERRY_DRIVER_GRAPH_DOT_H

#include "ir/graph.h"

void graph_print_dot(const Graph *graph, FILE *stream);

#endif
