// What passes on modules share: finding the stack that an option names, rewriting the entry graphs round
// it, and writing down how the new model's weights come from the old one's.
#ifndef CHERRY_PASSES_MODULE_PASS_H
#define CHERRY_PASSES_MODULE_PASS_H

#include "passes/rewrite.h"

// ---- Finding ----

// The stack that the option `stack` names, or the only one of the module: its name, and in `node` one of
// its nodes (every entry graph has its own) with the graph it is in. NULL after error E0540, which lists
// the stacks that there are.
const char *module_pass_stack(PassContext *context, const Module *module, const Graph **graph,
                              const Node **node);
// How many layers a stack stores: the extent of `layer` of what it stacks. 1 where it has no parameters.
int64_t stack_layers(const Graph *graph, const Node *stack);
// Whether each stored layer runs once, in order.
bool stack_is_straight(const Graph *graph, const Node *stack);
// The first operand behind carried and invariant ones.
uint32_t stack_first_stacked(const Node *stack);
bool stack_has_name(const Node *node, const char *name);
// Whether a parameter is one that the stack stores per layer.
bool stack_stores(const Graph *graph, const Node *stack, const char *path);
// An option "1|4|1" as numbers; the count, or -1 where a part is none.
int64_t module_pass_numbers(Arena *arena, const char *text, double **numbers);

// ---- Rewriting ----

// Rewrites every entry graph of the module into `result`, whose parameters are there already: inputs of
// parameters take the types that they have there (those that are not there stay), stacks called `stack` go
// through `node`, everything else is copied. Inputs are put in order: parameters as in `result`, data,
// scalars. NULL after errors.
Module *module_pass_rewrite(PassContext *context, const Module *module, Module *result, RewriteNode node,
                            void *data);
// The input of a parameter of `result` in a graph under construction; added where it is not there yet.
Value module_pass_parameter(Graph *graph, const Module *module, const char *path);
// Puts inputs in order: parameters as in the module, then everything else as it came.
void module_pass_order(Graph *graph, const Module *module);

// Another number of stored layers for a parameter that is stored per layer; false after errors.
bool module_pass_set_layers(Ir *ir, Parameter *parameter, int64_t layers);

// What starts at random in a parameter that a pass adds: uniform of deviation 0.02, from `seed`, at the site
// `path`.
Value module_pass_random(Graph *graph, Value seed, const char *path, const Type *type, Place place);

// ---- Transfers ----

// A graph that gives the new parameters from the old ones.
typedef struct Transfer {
    PassContext *context;
    Graph *graph;
    Value seed;
} Transfer;

Transfer transfer_begin(PassContext *context);
// A parameter of a source: `source` -1 where there is one source alone, else its number.
Value transfer_source(Transfer *transfer, const Module *from, int source, const char *path);
// The start of a new parameter.
Value transfer_initial(Transfer *transfer, const Parameter *parameter);
// Layers, one after the other, as a parameter that is stored per layer.
Value transfer_stack(Transfer *transfer, const Value *layers, uint32_t count);
void transfer_result(Transfer *transfer, const char *path, Value value);
// Results are checked against `result`'s parameters; those that nothing was said about are copied from the
// only source. False after errors.
bool transfer_end(Transfer *transfer, Module *result, const Module *const *sources, uint32_t source_count);

#endif
