// Proofs by example: graphs before and after a pass run in the reference evaluator on the same random
// inputs. Inputs are matched by name and role; they depend on name, role and seed alone, so equal inputs get
// equal numbers. Run them at small extents: the evaluator takes one element at a time.
#ifndef CHERRY_PASSES_PROVE_H
#define CHERRY_PASSES_PROVE_H

#include "ir/evaluate.h"
#include "passes/pass.h"

// Inputs for a graph: floats in [-1, 1), integers that are valid indices wherever the graph gathers by
// them, second moments positive, float scalars 0.5, integer scalars 1, but extents of bounded dimensions at
// their capacity and `position` 0.
Tensor *prove_inputs(Arena *arena, const Graph *graph, uint64_t seed);

// Every output of `before` is an output of `after`, of the same type and equal to `tolerance` (relative to
// 1 + its size). Else false, after error E0516 that names `pass`, the output and the index.
bool prove_same(const char *pass, const Graph *before, const Graph *after, uint64_t seed, double tolerance);

// The outputs gradient.<path> of `accumulate`, less what the gradient inputs hold, against central
// differences of the output `loss` of `loss`, at up to `samples` elements of each parameter (0: all). Else
// false, after error E0517. `worst` may be NULL: the largest error found.
bool prove_gradients(const Graph *loss, const Graph *accumulate, uint64_t seed, int64_t samples,
                     double tolerance, double *worst);

// Runs passes over a module like pass_run_module, and after each proves every entry graph that it kept by
// name the same, and `accumulate`, where the pass made it of `loss`, right. A pass that makes another model
// (it leaves a transfer) is proved with options under which it keeps every value, weights transferred. NULL
// after errors.
Module *prove_passes(PassContext *context, const char *passes, const Module *module, uint64_t seed,
                     double tolerance);

#endif
