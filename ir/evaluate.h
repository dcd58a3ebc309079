// Reference evaluation: every value as doubles, row-major, one element at a time; obviously right.
#ifndef CHERRY_IR_EVALUATE_H
#define CHERRY_IR_EVALUATE_H

#include "ir/graph.h"

typedef struct Tensor {
    const Type *type;  // extents are those of this run: bounded dimensions carry their actual extent
    double *data;      // type_count(type) elements
} Tensor;

// What a gradient takes as given: the values of every stop_gradient of a graph and of those below, in the order in which
// they are computed. The first run keeps them; those that follow, for the same graph, have them again in place of theirs.
typedef struct Held {
    Arena *arena;  // of the values
    VECTOR(Tensor) values;
    size_t next;
    bool kept;
} Held;

// What an op's evaluate sees. Results are allocated, typed and zero.
typedef struct Evaluation {
    Arena *arena;
    const Graph *graph;
    const Node *node;
    const Tensor *const *operands;
    Tensor *const *results;
    const char *site;  // what the sites of random numbers are followed by: ".layer.iteration" of each stack's entry
    Held *held;        // or NULL
} Evaluation;

// Runs a graph. `inputs` in the order of graph->inputs; `outputs` gets one tensor per output, in
// `arena`. Calls and stacks are run through their graphs. Bounded dimensions take their extent from
// the scalar input of that name. Accumulating ops copy: the inputs are never changed.
bool evaluate_graph(Arena *arena, const Graph *graph, const Tensor *inputs, Tensor *outputs);
// The same with what is held: a difference of two such runs is what a gradient says, which a stop_gradient cuts.
bool evaluate_holding(Arena *arena, const Graph *graph, const Tensor *inputs, Tensor *outputs, Held *held);
// The same for a graph below one, whose random numbers have sites of their own, as expand-stacks gives them.
bool evaluate_below(const Evaluation *above, const Graph *graph, const char *site, const Tensor *inputs, Tensor *outputs);

Tensor tensor_create(Arena *arena, const Type *type);

// Copies between a tensor and memory in the layout of its type (row-major, elements of their own width;
// bf16 is cut to its upper half, rounded to nearest even).
void tensor_store(Tensor tensor, void *memory);
void tensor_load(Tensor tensor, const void *memory);

// Walks all index tuples of `type`, the last dimension fastest.
typedef struct Odometer {
    const Type *type;
    int64_t at[RANK_MAX];
    int64_t position;  // linear index
} Odometer;

void odometer_start(Odometer *odometer, const Type *type);
bool odometer_next(Odometer *odometer);  // false after the last tuple
// Linear index into a tensor of type `type` for the dimensions that it shares by name with `odometer`;
// dimensions that the odometer lacks count as index 0.
int64_t odometer_offset(const Odometer *odometer, const Type *type);

#endif
