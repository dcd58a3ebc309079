// What the two files of the pass `simplify` share.
#ifndef CHERRY_PASSES_SIMPLIFY_H
#define CHERRY_PASSES_SIMPLIFY_H

#include "passes/rewrite.h"

// A node of the old graph with its operands in the new one, where a rule may add nodes.
typedef struct Match {
    Graph *graph;
    const Node *node;
    const Value *operands;
    const uint32_t *uses;  // of each old node
} Match;

// A constant, or a broadcast of one.
bool simplify_constant(const Graph *graph, Value value, double *number);
// `value` with exactly the dimensions of `type`.
Value simplify_fit(Graph *graph, Value value, const Type *type, Place place);

// Rules over views; each returns the node's new value, or VALUE_NONE where it does not apply.
Value simplify_rename(const Match *match);
Value simplify_transpose(const Match *match);
Value simplify_broadcast(const Match *match);
Value simplify_split(const Match *match);
Value simplify_merge(const Match *match);
Value simplify_slice(const Match *match);
Value simplify_pick(const Match *match);
Value simplify_reverse(const Match *match);
Value simplify_shift(const Match *match);
Value simplify_pad(const Match *match);
Value simplify_concat(const Match *match);
Value simplify_reduction(const Match *match);

#endif
