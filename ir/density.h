// Expected shares of elements that are not zero: see density.c.
#ifndef CHERRY_IR_DENSITY_H
#define CHERRY_IR_DENSITY_H

#include "ir/graph.h"

// In (0, 1]; 1 where nothing is known.
double graph_density(const Graph *graph, Value value);

#endif
