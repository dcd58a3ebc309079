// Checkpoints: the state of a model in safetensors files.
//
//   model.safetensors       weights only, for `eval`, `generate`, `convert` and other programs
//   checkpoint.safetensors  weights, optimiser moments, and where the run stood: what --resume reads
//
// Everything that a resumed run needs is in the one file, and one rename replaces it: a run killed at
// any moment resumes from the old one or from the new one. The weights in it are redundant with
// model.safetensors; two files that must agree could be caught between their two renames.
//
// Tensors are named by parameter path. A parameter of a stack (dimension `layer` in front that its
// declaration lacks) is stored per layer: trunk.wq as trunk.0.wq, trunk.1.wq, ... Moments are called
// moment1.trunk.0.wq, moment2.trunk.0.wq. Metadata: "format" = "cherry", "model", "structure" (a hash of
// the parameters' names and types), and in a checkpoint "step", "seed", "tokens", "best_loss",
// "best_step" and what the driver adds.
#ifndef CHERRY_RUNTIME_CHECKPOINT_H
#define CHERRY_RUNTIME_CHECKPOINT_H

#include "ir/module.h"
#include "runtime/safetensors.h"
#include "runtime/state.h"

// Where a run stands. The position in the data and all random numbers follow from seed and step.
typedef struct RunPosition {
    int64_t step;  // updates done
    int64_t seed;
    int64_t tokens;    // trained on so far
    double best_loss;  // on held-out data; INFINITY before the first evaluation
    int64_t best_step;
    const char *tokenizer;  // name of what made the data's tokens; written only
} RunPosition;

// Names, element types and dimensions of all parameters: equal for equal structures on any machine.
// Extents of the dimension `iteration` do not count: a model may iterate more or less often than when it was
// saved. Where it does, the first rows are loaded, and the last one serves those that follow.
uint64_t checkpoint_structure(const Module *module);

// The parameters of `module` from `state` (where their role is ROLE_PARAMETER).
bool checkpoint_save_weights(Diagnostics *diagnostics, const char *path, const Module *module,
                             const State *state,
                             const RunPosition *position);  // NULL: weights that no run made (convert)

// Weights, the moments that the state has, `position`, and `extra` metadata.
bool checkpoint_save(Diagnostics *diagnostics, const char *path, const Module *module, const State *state,
                     const RunPosition *position, const StoredText *extra, size_t extra_count);

// Fills the parameters from either kind of file, converting element types where that loses nothing but
// precision. All of the file is checked before the first value is written. False after an error:
// E0801 a tensor is missing, E0802 has another shape, E0803 another kind of element, E0804 belongs to no
// parameter; all of them are reported, with names and numbers.
bool checkpoint_load_weights(Diagnostics *diagnostics, const char *path, const Module *module, State *state);

// The same, but a tensor that the file lacks leaves its parameter as it is: `absent` is their number. False where it
// lacks all.
bool checkpoint_load_known(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                           size_t *absent);

// The same for weights of another model: into the frozen buffers called `prefix` and their paths. `state` NULL:
// the file is only checked.
bool checkpoint_load_frozen(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                            const char *prefix);

// Weights, moments and position from a file of checkpoint_save. E0806 where the file has no training
// state or belongs to another structure.
bool checkpoint_load(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                     RunPosition *position);

// An entry of the file's metadata, without loading it: arena_copy'd, NULL where there is none.
// Reports an error only where the file cannot be read.
const char *checkpoint_metadata(Arena *arena, Diagnostics *diagnostics, const char *path, const char *key);

#endif
