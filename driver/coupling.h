// Gradient coupling: gamma = <g_S, g_U> / (|g_S| |g_U|), where g_S and g_U are the gradients of the mean loss
// over the supervised positions of a batch and over the others; for the model and for its parts, over
// batches.
#ifndef CHERRY_DRIVER_COUPLING_H
#define CHERRY_DRIVER_COUPLING_H

#include "driver/runner.h"

typedef enum CouplingPart {
    COUPLING_WHOLE,
    COUPLING_OUTSIDE,    // parameters outside of stacks: embedding, head, last norm
    COUPLING_STACKS,     // all others
    COUPLING_PARAMETER,  // one outside of stacks
    COUPLING_LAYER,      // a stored layer: the sum over its runs
    COUPLING_ROWS,       // what each iteration of a stack has of its own
    COUPLING_ITERATION,  // one run of a stored layer, its gradient by itself
    COUPLING_PART_COUNT
} CouplingPart;

typedef struct CouplingFigure {
    CouplingPart part;
    const char *name;  // of the parameter; of the stack
    int32_t layer, entry, iteration;
    double supervised, unsupervised, both;  // of one batch: |g_S|^2, |g_U|^2, <g_S, g_U>
    int64_t count;                          // batches in which both gradients were there
    double mean, squares;                   // of gamma; sum of squared differences from the mean
} CouplingFigure;

// Adds to a batch's sums.
void coupling_add(CouplingFigure *figure, const float *supervised, const float *unsupervised, int64_t count);
// Ends a batch: gamma of its sums joins the mean, where it has one; the sums start anew. Returns gamma or
// NAN.
double coupling_close(CouplingFigure *figure);
double coupling_deviation(const CouplingFigure *figure);  // of single batches, NAN below two

typedef struct Coupling {
    Runner *runner;  // of ENTRY_ACCUMULATE, in a model whose layers are untied
    VECTOR(CouplingFigure) figures;
    int64_t batches, skipped;      // skipped: nothing was supervised, or everything
    double supervised, positions;  // counts, over all batches
    struct CouplingLayout *layout;
} Coupling;

// `module` has an objective of `tokens`, `targets` and `supervised`: FrontendOptions.objective = "coupling".
// NULL after errors.
Coupling *coupling_create(Ir *ir, const Module *module, const char *weights, const CompileOptions *options,
                          int threads);
void coupling_destroy(Coupling *coupling);

// Takes the batch that lies in the inputs of ENTRY_ACCUMULATE into all figures. Leaves `supervised` inverted.
void coupling_measure(Coupling *coupling);

#endif
