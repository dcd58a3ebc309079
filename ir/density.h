// Expected shares of elements that are not zero: see density.c.
#ifndef CHERRY_IR_DENSITY_H
#define CHERRY_IR_DENSITY_H

#include "ir/graph.h"

// In (0, 1]; 1 where nothing is known.
double graph_density(const Graph *graph, Value value);

// How many positions a `compact` is expected to find; 0 where that is not known, or `node` is something else.
int64_t graph_expected_count(const Graph *graph, const Node *node);

#endif
