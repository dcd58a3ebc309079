// Passes: what one is, how it is found by name, given options, run and checked.
// A graph pass builds a new graph through an old-to-new map (passes/rewrite.h) and never changes the
// one it was given. After errors, which are in ir->diagnostics, it returns NULL.
#ifndef CHERRY_PASSES_PASS_H
#define CHERRY_PASSES_PASS_H

#include "ir/module.h"

typedef enum PassLevel { PASS_MODULE, PASS_GRAPH, PASS_PROGRAM } PassLevel;

typedef struct PassContext PassContext;

typedef struct Pass {
    const char *name;  // "expand-stacks"
    PassLevel level;
    const char *options;  // "bytes=8388608 mode=cheap": every option with its default
    const char *doc;
    Module *(*run_module)(PassContext *context, const Module *module);
    Graph *(*run_graph)(PassContext *context, const Graph *graph);
} Pass;

// An option's value. Numbers are kept as text as well; text options have number 0.
typedef struct PassOption {
    const char *name, *text;
    double number;
    bool is_number;
} PassOption;

// A pass with every one of its options set: by the request's text, else by the default.
typedef struct PassRequest {
    const Pass *pass;
    PassOption *options;
    uint32_t option_count;
} PassRequest;

struct PassContext {
    Ir *ir;
    const Module *module;  // parameters and training, for passes that need them; else NULL
    bool verify;           // check the rules of the IR after every pass (debug builds always do)
    // Which named kernels the back end has. NULL function: none.
    bool (*has_kernel)(const char *kernel);
    const PassRequest *request;  // the one that runs; set by pass_run
    // Of passes that make one model of others, set by pass_derive: the further experts, and where the file
    // asks for the pass.
    const Module *const *experts;
    uint32_t expert_count;
    Place place;
};

extern const Pass pass_table[];
extern const uint32_t pass_count;
const Pass *pass_find(const char *name);  // or NULL

// Reads `name{key=value, key=value}, name, ...`, or nothing: no pass. Unknown passes (E0512), malformed text
// (E0502), unknown
// options (E0503) and values of the wrong kind (E0504) are reported with what there is.
bool pass_parse(Ir *ir, const char *text, PassRequest **requests, uint32_t *count);

// Options of the running pass. Asking for one that its row does not declare is an internal error.
int64_t pass_integer(const PassContext *context, const char *option);
double pass_number(const PassContext *context, const char *option);
const char *pass_text(const PassContext *context, const char *option);
// For options with a fixed set of words: the index of the value in `words` ("cheap layer none"), or -1
// after reporting E0504.
int pass_choice(const PassContext *context, const char *option, const char *words);

// Runs graph passes, `text` as in pass_parse, one after the other; NULL in gives NULL out, so a
// pipeline is a list of calls. The result is verified; a broken rule names its pass.
Graph *pass_run(PassContext *context, const char *text, const Graph *graph);
// Runs passes of levels module and graph over a module; graph passes run on every entry graph, except
// `gradient`, which runs on `loss` alone and makes it `accumulate`. Returns a new module.
Module *pass_run_module(PassContext *context, const char *text, const Module *module);
// Runs the module's derivations, and those of its experts before them. NULL after errors; the module itself
// where there are none.
Module *pass_derive(PassContext *context, Module *module);
// One request on one graph, or on a module, for callers that look between passes.
Graph *pass_run_request(PassContext *context, const PassRequest *request, const Graph *graph);
Module *pass_run_module_request(PassContext *context, const PassRequest *request, const Module *module);

// Graphs of a module that no other graph of it refers to, and that initialise no parameter.
bool module_is_entry(const Module *module, const Graph *graph);

// Whether it, or a graph that it refers to, draws random numbers.
bool graph_draws_random(const Graph *graph);

// Adds a graph and all that it refers to: a pass may have made new ones.
bool module_add_with_callees(Module *module, Graph *graph);

bool pass_has_kernel(const PassContext *context, const char *kernel);

// The name of the output that replaces a state input: "trunk.wq", "gradient.trunk.wq", "moment1.trunk.wq".
const char *state_output_name(Ir *ir, Role role, const char *name);

// Prototypes of the passes themselves.
#define PASS_PROTOTYPE_module(function) Module *function(PassContext *context, const Module *module);
#define PASS_PROTOTYPE_graph(function) Graph *function(PassContext *context, const Graph *graph);
#define PASS_PROTOTYPE_program(function)
#define PASS(name, level, function, options, doc) PASS_PROTOTYPE_##level(function)
#include "passes/passes.def"
#undef PASS

#endif
