// What a program costs, counted from its loop nests: floating-point operations of contractions and bytes.
#ifndef CHERRY_DRIVER_COST_H
#define CHERRY_DRIVER_COST_H

#include "ir/program.h"

// FLOPs of one launch of a kernel: contractions alone, a multiply-add is two. Attention counts
// 4 x batch x heads x time x past x key, halved where it is causal; its gradient twice that.
double cost_flops(const Kernel *kernel);
double cost_bytes(const Kernel *kernel);  // least bytes moved
double cost_brought_bytes(const Kernel *kernel);  // those that come to a processor: a line comes before it is written
void cost_operand_bytes(const Kernel *kernel, double *read, double *written);  // the same by operand

// FLOPs of one forward and backward pass over a graph, in closed form: every dot is 2 x result x summed
// extents, once forward and once for each operand that a parameter flows into; causal attention counts the
// pairs below the diagonal. Rows that `compact` finds count as many as are expected (ir/density.h), not their
// capacity. What a schedule computes again is not counted.
double cost_model_flops(const Graph *graph);

double cost_program_flops(const Program *program);
double cost_program_bytes(const Program *program);  // of all launches together
// What the same kernels must move where every other access finds its bytes in a cache: each buffer, or what
// is used of it, written once and read once.
double cost_program_least_bytes(const Program *program);
int64_t cost_state_bytes(const Program *const *programs, size_t count);  // distinct state buffers of all

#endif
