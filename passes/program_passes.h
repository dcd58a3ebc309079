// Passes over programs: a flat graph becomes launches, launches are merged, ordered, and their
// temporaries placed. Each returns false (NULL) after reporting an error.
#ifndef CHERRY_PASSES_PROGRAM_PASSES_H
#define CHERRY_PASSES_PROGRAM_PASSES_H

#include "ir/program.h"

// Lowers a flat graph: no stacks; calls only with a kernel that `has_kernel` accepts. At least one
// launch for every node that computes; shape ops become views.
Program *lower_graph(const Graph *graph, bool (*has_kernel)(const char *kernel));

// Merges launches: see passes/fuse.c. `for_gpu`: the back end computes a product with one row like any other sum, so
// that two of them may share a nest; any other product is a library's, which can add one matrix to it and no more.
bool fuse_program(Program *program, bool for_gpu);

// Rows of temporaries that a library multiplies are aligned: passes/pad_rows.c. For a GPU.
bool pad_rows(Program *program);

// Reorders launches within their dependences so that less is live at once: see passes/order.c.
bool order_program(Program *program);

// Lets launches share what their kernels pack: see passes/share_packed.c. The order is final, the code made.
bool share_packed(Program *program);

// Gives every temporary its place in the arena: see passes/plan_memory.c. The order is final.
bool plan_memory(Program *program);

// Makes a buffer of `bytes` for workspace `number` of a launch; plan_memory does it by itself for kernels
// whose kernel_workspace_bytes is not 0.
void program_attach_workspace(Program *program, uint32_t launch, int number, int64_t bytes);

#endif
