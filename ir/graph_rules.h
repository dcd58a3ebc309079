// What graph.c shares with verify.c.
#ifndef CHERRY_IR_GRAPH_RULES_H
#define CHERRY_IR_GRAPH_RULES_H

#include "ir/graph.h"

// Runs the shape rule of `node`, whose operands are values of `graph`, and sets its types and
// result_count. False after reporting an error.
bool graph_infer_types(const Graph *graph, Node *node);

#endif
