// The front end: from .cherry text to a checked module.
#ifndef CHERRY_FRONTEND_FRONTEND_H
#define CHERRY_FRONTEND_FRONTEND_H

#include "base/vector.h"
#include "ir/module.h"

// A dim or const of the file that --set may give another number.
typedef struct FrontendConstant {
    const char *name;
    double value;
} FrontendConstant;
typedef VECTOR(FrontendConstant) FrontendConstants;

typedef struct FrontendOptions {
    const char *const *settings;  // "name=value" of --set; later ones win
    size_t setting_count;
    const char *train;  // name of the train block, NULL: the first one
    const char *model;  // a model by name instead of a train block, NULL: that of the train block
    const char *objective;  // in place of the train block's, as in evaluation: nothing is dropped out; NULL: that
                            // one. Of the file, or of the prelude; needs no train block
    bool small;         // every dim that is written as a number becomes a handful, for checks that
                        // run the reference evaluator; dims computed from others follow
    bool narrow;        // precision is bf16 where neither the train block nor a setting says it
    FrontendConstants *constants; // gets every dim and const that is written as a number, in order; or NULL
} FrontendOptions;

// Reads `path` and what it includes, checks all of it, and builds one module: parameters with their
// `initialize` graphs, the entry graphs "loss" and "evaluate" (where a train block applies) and "logits"
// (where the model has a function of that name), then stack bodies and meanings of composites.
// `options` may be NULL. NULL after errors, all of which are in ir->diagnostics.
Module *frontend_load(Ir *ir, const char *path, const FrontendOptions *options);

#endif
