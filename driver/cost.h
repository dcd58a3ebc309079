// What a program costs, counted from its loop nests: floating-point operations of contractions and bytes.
#ifndef CHERRY_DRIVER_COST_H
#define CHERRY_DRIVER_COST_H

#include "ir/program.h"

// FLOPs of one launch of a kernel: contractions alone, a multiply-add is two. Attention counts
// 4 x batch x heads x time x past x key, halved where it is causal; its gradient twice that.
double cost_flops(const Kernel *kernel);
double cost_bytes(const Kernel *kernel);  // least bytes moved

// FLOPs of one forward and backward pass over a graph, in closed form: every dot is 2 x result x summed
// extents, once forward and once for each operand that a parameter flows into; causal attention counts the
// pairs below the diagonal. What a schedule computes again is not counted.
double cost_model_flops(const Graph *graph);

double cost_program_flops(const Program *program);
double cost_program_bytes(const Program *program);  // of all launches together
// What the same kernels must move where every other access finds its bytes in a cache: each buffer, or what
// is used of it, written once and read once.
double cost_program_least_bytes(const Program *program);
int64_t cost_state_bytes(const Program *const *programs, size_t count);  // distinct state buffers of all

// The machine. The CPU is measured on the spot by all `threads` together (about 50 ms).
typedef struct Machine {
    const char *name;         // of a GPU; NULL: the CPU
    int threads;
    double flops_per_second;  // multiply-adds in registers, of f32 or of bf16 operands
    double bytes_per_second;  // copying 64 MiB, bytes read and written
} Machine;
Machine machine_measure(Ir *ir, int threads, Element precision, const char *cpu);

// What launches take on this CPU: see the rates in cost.c. 0 where it is not known: on a GPU.
double cost_predict_launch(const Kernel *kernel, const Machine *machine);
double cost_predict_seconds(const Program *program, const Machine *machine);

#endif
