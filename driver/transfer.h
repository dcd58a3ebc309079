// Weights of one model from those of others: the transfer graphs of its derivations as one graph, run by the
// same compiler.
#ifndef CHERRY_DRIVER_TRANSFER_H
#define CHERRY_DRIVER_TRANSFER_H

#include "ir/module.h"

// A checkpoint, and the model whose weights it holds: the target itself or one that it was made from.
typedef struct TransferSource {
    const char *path;
    const Module *module;
    const char *prefix;  // of its frozen inputs: "0.", "1.", ...
} TransferSource;

// Finds which model each checkpoint belongs to: the target's own, else its sources', in order. Reports
// E0920 where there are too many or too few. NULL after errors.
TransferSource *transfer_find_sources(const Module *target, const char *const *paths, size_t count);

// (frozen weights of the sources, seed) -> every trained parameter of the target, replacing its storage.
Graph *transfer_graph(const Module *target, const TransferSource *sources, size_t count);

#endif
