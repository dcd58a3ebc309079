// fuse-experts (passes/experts.c) and its parts.
#ifndef CHERRY_PASSES_EXPERTS_H
#define CHERRY_PASSES_EXPERTS_H

#include "passes/module_pass.h"

typedef struct ExpertShare {
    bool embedding, head;
} ExpertShare;

// What an entry graph says about one of its nodes.
typedef struct ExpertMark {
    bool data, weight;  // depends on data, on trained parameters
    bool head;          // the last contraction with a parameter: experts end here
    bool after;         // depends on a head, or is one
} ExpertMark;

// passes/experts_find.c: marks of all nodes.
ExpertMark *experts_mark(const Graph *graph);
// Of a value that depends on parameters and not on data: is it a weight?
bool experts_is_weight(const ExpertMark *marks, Value value);
// The operand of a head that is the weight: 0 or 1.
uint32_t experts_head_weight(const ExpertMark *marks, const Node *head);
// Is the parameter one that the experts share: an embedding, or what a head and all behind it use?
bool experts_shares(const Module *module, const char *path, ExpertShare share);

// passes/experts_compare.c: whether two models differ in nothing but the values of their weights. False
// after error E0545, which names the first difference.
bool experts_alike(PassContext *context, const Module *a, const Module *b);

#endif
