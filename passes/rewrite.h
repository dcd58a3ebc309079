// Rewriting: a new graph from an old one, node by node in the old order, through an old-to-new map.
// Nodes that no output needs are left behind; inputs are all kept, in their order.
#ifndef CHERRY_PASSES_REWRITE_H
#define CHERRY_PASSES_REWRITE_H

#include "passes/pass.h"

typedef struct Rewrite Rewrite;

// What a pass does with one node. True: it has mapped the node's results with rewrite_set (or failed,
// with rewrite->failed set). False: the node is copied with its operands mapped.
typedef bool (*RewriteNode)(Rewrite *rewrite, uint32_t id);

struct Rewrite {
    PassContext *context;
    const Graph *from;
    Graph *to;
    RewriteNode node;  // NULL: copy every node
    void *data;        // the pass's own
    uint32_t *slots;   // first slot of each old node
    Value *map;        // new value of each old one, by slot; VALUE_NONE: not made
    bool failed;
};

// Rewrites a whole graph under a new name. NULL after errors.
Graph *rewrite_graph(PassContext *context, const Graph *from, const char *name, RewriteNode node,
                     void *data);

// The same in steps, for passes that work outside the node callback.
Rewrite *rewrite_begin(PassContext *context, const Graph *from, const char *name, RewriteNode node,
                       void *data);
bool rewrite_inputs(Rewrite *rewrite);   // copies the inputs alone
bool rewrite_nodes(Rewrite *rewrite);    // runs every live node that is not mapped yet
void rewrite_outputs(Rewrite *rewrite);  // copies the outputs

Value rewrite_value(const Rewrite *rewrite, Value old);
void rewrite_set(Rewrite *rewrite, Value old, Value value);  // VALUE_NONE marks failure
// Mapped operands of a node, in the arena.
Value *rewrite_operands(const Rewrite *rewrite, const Node *node);
// Copies one node with mapped operands and, where `attribute` is not NULL, one attribute replaced.
bool rewrite_copy(Rewrite *rewrite, uint32_t id, const Attribute *attribute);
bool rewrite_fail(Rewrite *rewrite);  // marks failure; returns true, for callbacks

// Puts the nodes of `callee` into the new graph, its inputs being `arguments` (new values), running the
// same callback on each; writes the outputs' values.
bool rewrite_splice(Rewrite *rewrite, const Graph *callee, const Value *arguments, Value *results);

// An attribute of a copied node of `from`, in which extents that copied nodes compute (`compact`; those whose
// `own` is true, NULL: all) have the suffix to their names. Its graph is NULL after an error.
Attribute rename_extents(const Graph *from, const bool *own, const char *suffix, const Node *node,
                         Attribute attribute);

// Ops that move elements or set zeros between them: rounding may stand before or behind.
bool node_is_move(const Node *node);

// live[id]: an output needs the node.
bool *graph_live_nodes(const Graph *graph);
// uses[id]: how many operands and outputs are results of the node.
uint32_t *graph_uses(const Graph *graph);

#endif
