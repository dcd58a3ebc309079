// fuse-experts (passes/experts.c) and its parts.
#ifndef CHERRY_PASSES_EXPERTS_H
#define CHERRY_PASSES_EXPERTS_H

#include "passes/module_pass.h"

typedef enum ExpertRoute { ROUTE_SOFT, ROUTE_TOP_K } ExpertRoute;

typedef struct ExpertShare {
    bool embedding, head;
} ExpertShare;

// What an entry graph says about one of its nodes.
typedef struct ExpertMark {
    bool data, weight;  // depends on data, on trained parameters
    bool head;          // the last contraction with a parameter: experts end here
    bool after;         // depends on a head, or is one
} ExpertMark;

// A graph of the result, and what its router says.
typedef struct Routed {
    Graph *graph;
    Value weights;  // of what is mixed: [.., lane]
    Value shares;   // of all experts: [.., expert]
    Value choice;   // top_k: the experts that are computed, i32[.., lane]
} Routed;

typedef struct Experts {
    PassContext *context;
    const Module **modules;
    uint32_t count;
    ExpertRoute route;
    int64_t chosen, read;  // top_k: how many experts, by how many tokens
    Dimension expert;      // of parameters
    Dimension lane;        // of what is computed: all experts, or those that were chosen
    ExpertShare share;
    double balance;
    Retype *retype;
    Module *result;
    const char *score, *bias;  // paths of the router's parameters; NULL until it was needed
    VECTOR(Routed) routed;
    // Of the graph that is being rewritten:
    const Graph *from;
    ExpertMark *marks;
    Value *weights;  // by node: those of the head that it depends on
} Experts;

bool experts_refuse(const Experts *experts, Place place, const char *text);  // E0546
bool experts_has(const Graph *graph, Value value, const Dimension *dimension);

// ---- experts_find.c ----

// Marks of all nodes.
ExpertMark *experts_mark(const Graph *graph);
// Of a value that depends on parameters and not on data: is it a weight?
bool experts_is_weight(const ExpertMark *marks, Value value);
// The operand of a head that is the weight: 0 or 1.
uint32_t experts_head_weight(const ExpertMark *marks, const Node *head);
// Is the parameter one that the experts share: an embedding, or what a head and all behind it use?
bool experts_shares(const Module *module, const char *path, ExpertShare share);

// ---- experts_compare.c ----

// Whether two models differ in nothing but the values of their weights. False after error E0545, which names
// the first difference.
bool experts_alike(PassContext *context, const Module *a, const Module *b);

// ---- experts_route.c ----

// What the router says of what experts made, hidden[.., expert, ..] whose dimensions `over` are what a head
// sums; or, where it does not know those, what it said before in this graph. False after an error.
bool experts_route_soft(Experts *experts, Graph *graph, Value hidden, const Attribute *over, Routed *routed);
// What it says of the first tokens that the graph looks up. False after an error.
bool experts_route_top(Experts *experts, Rewrite *rewrite, Routed *routed);
// What it said before in this graph, or NULL.
const Routed *experts_routed(const Experts *experts, const Graph *graph);
// Adds the term that keeps the router even to the output `loss` of `loss`, and the metric `balance`.
bool experts_add_balance(const Experts *experts);

#endif
