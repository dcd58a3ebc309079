// Module: what a .cherry file means once it is checked: parameters, and one graph per function that
// the driver needs, in which calls and stacks are single nodes. The CHERRY passes work here.
#ifndef CHERRY_IR_MODULE_H
#define CHERRY_IR_MODULE_H

#include "ir/graph.h"

typedef struct Parameter {
    const char *path;   // "table", "trunk.wq"
    const Type *type;   // with dimension `layer` in front where it belongs to a stack
    int declared_rank;  // without `layer`: weight decay looks at this
    Graph *initialize;  // (seed: i64[]) -> value of `type`; NULL: its value comes from `file`
    const char *file;   // of a frozen parameter, of another model: the weights to read; else NULL
    Place place;
} Parameter;

typedef enum OptimizerKind { OPTIMIZER_ADAMW, OPTIMIZER_SGD } OptimizerKind;

typedef enum RateKind { RATE_CONSTANT, RATE_COSINE, RATE_LINEAR } RateKind;

// A `train` block: constants only. Everything here may be set by --set.
typedef struct Training {
    const char *name;
    OptimizerKind optimizer;
    double rate, beta1, beta2, epsilon, decay, clip, momentum;  // clip 0: none
    int decay_rank;  // parameters of at least this declared rank decay (2)
    RateKind schedule;
    int64_t warmup, steps;  // steps
    double final_rate;      // of cosine and linear
    int64_t batch, time, accumulate;
    Element precision;
    int64_t evaluate_every, sample_every, save_every, seed;
    Place place;
} Training;

// Are gradients summed over micro-batches? Else `accumulate` stores them, and `update` need not clear them.
static inline bool training_sums_gradients(const Training *training) { return training->accumulate != 1; }

typedef struct Module Module;

// A step from one model to the next: a module pass with its options.
typedef struct Derivation {
    const char *name;          // of the model that it makes; NULL: a further model, not the one trained
    const char *passes;        // "average-layers{stack=trunk, to=6}"
    Place place;               // where the file says so
    VECTOR(Module *) experts;  // fuse-experts: those after the first, with derivations of their own
} Derivation;
typedef VECTOR(Derivation) Derivations;

// Which layers of a source one stored layer stands for: average-layers keeps it for reports.
typedef struct LayerGroup {
    const char *stack;
    int32_t layer, first, count;
} LayerGroup;

struct Module {
    Ir *ir;
    const char *name;  // the model's name
    VECTOR(Parameter) parameters;
    VECTOR(Graph *) graphs;  // entry graphs first, then bodies and composites they refer to
    bool has_training;
    Training training;
    Derivations derivations;        // still to be done: pass_derive
    // What a module pass leaves: how the weights come from those of other modules. Inputs of `transfer` are
    // frozen and called by their paths (with several sources "0.trunk.wq", "1.trunk.wq", ...), and `seed`
    // where something starts at random; outputs are all parameters by path. NULL: nothing was transferred.
    Graph *transfer;
    VECTOR(const Module *) sources;
    VECTOR(LayerGroup) groups;
};

// Entry graphs, by name. Inputs: parameters (ROLE_PARAMETER, name = path), then data, then scalars.
//   "loss"    data of the objective -> "loss": f32[]; further outputs are metrics
//   "logits"  tokens -> "logits": f32[batch, time, vocab]         (models with a function `logits`)
//   "draft"   tokens -> "logits", "draft1", ... of the same type: what further heads say of later tokens
Module *module_create(Ir *ir, const char *name);
Module *module_copy(const Module *module);                         // all but the graphs
Graph *module_find_graph(const Module *module, const char *name);  // or NULL
const Parameter *module_find_parameter(const Module *module, const char *path);
bool module_add_graph(Module *module, Graph *graph);  // names are distinct

// Text: what module_print writes, module_read reads, and module_print writes again to the same bytes.
void module_print(const Module *module, FILE *stream);
void graph_print(const Graph *graph, FILE *stream);
Module *module_read(Ir *ir, const char *file, const char *text);  // NULL after errors

// Every rule of docs/ir.md. `after` names the pass that ran last, for the message.
bool module_verify(const Module *module, const char *after);
bool graph_verify(const Graph *graph, const char *after);

#endif
