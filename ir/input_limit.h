// What values an integer input may have: it indexes tables, and a table has an end.
#ifndef CHERRY_IR_INPUT_LIMIT_H
#define CHERRY_IR_INPUT_LIMIT_H

#include "ir/graph.h"

// The smallest extent that any gather, in the graph or in the graphs it calls, indexes with the input;
// INT64_MAX where none does. Values 0 .. limit - 1 are safe.
int64_t input_limit(const Graph *graph, Value input);

// Ops whose result holds numbers of its operands, all or some of them, and beside those nothing but zeros.
bool op_moves(Op op);

#endif
