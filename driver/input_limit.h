// What values an integer input may have: it indexes tables, and a table has an end.
#ifndef CHERRY_DRIVER_INPUT_LIMIT_H
#define CHERRY_DRIVER_INPUT_LIMIT_H

#include "ir/graph.h"

// The smallest extent that any gather, in the graph or in the graphs it calls, indexes with the input;
// INT64_MAX where none does. Values 0 .. limit - 1 are safe.
int64_t input_limit(const Graph *graph, Value input);

#endif
