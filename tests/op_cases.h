// Cases of every op: small graphs of one node, with inputs and, where known from elsewhere, results.
// The op sweep runs them through the reference, the gradient rules and the lowering; each back end runs
// them too.
#ifndef CHERRY_TESTS_OP_CASES_H
#define CHERRY_TESTS_OP_CASES_H

#include "ir/evaluate.h"

enum {
    CASE_NO_DIFFERENCES = 1,  // at a kink or a pole: finite differences say nothing
    CASE_NO_GRADIENT = 2,     // the op has a gradient, but not here
    CASE_EXTREME = 4,         // results and gradients must be finite all the same
};

typedef struct OpCase {
    Op op;
    const char *name;
    const char *operands;    // types: "f32[a=2, b<=6:length]; i32[b<=6:length]"
    const char *attributes;  // "over=(a, b), start=1, into=(a=2, b=3)"
    const char *values;      // one of "", "low..high" and "[1 2 3]" for each operand, with ; between
    const char *result;      // types of the results
    const char *expected;    // numbers of all results in order, or NULL
    int flags;
    Graph *(*build)(Ir *ir, const struct OpCase *op_case);  // where attributes are graphs; else NULL
} OpCase;

extern const OpCase op_cases[];
extern const int op_case_count;

// Inputs x0, x1, ... (data), and before them an i64 scalar for each bound; outputs y0, y1, ... NULL after a
// reported error.
Graph *op_case_graph(Ir *ir, const OpCase *op_case);

// A tensor for each input of the graph, in order. An extent at run time is 3/4 of its capacity.
Tensor *op_case_inputs(Arena *arena, const OpCase *op_case, const Graph *graph);

// The numbers of `expected`; their count.
int op_case_expected(const OpCase *op_case, double *numbers, int limit);

// The graphs of cases whose attributes are graphs.
Graph *op_case_call(Ir *ir, const OpCase *op_case);         // (a - b, its sum)
Graph *op_case_call_nested(Ir *ir, const OpCase *op_case);  // the same through a second call
Graph *op_case_stack(Ir *ir, const OpCase *op_case);        // x = (x + b) w[layer] g[row], three entries
Graph *op_case_stack_empty(Ir *ir, const OpCase *op_case);
Graph *op_case_stack_core(Ir *ir, const OpCase *op_case);

#endif
