// What an entry point costs on a GPU at the least: launches, FLOPs and bytes of the phases of its CUDA
// kernels, and the time that an H200 would need at its measured rates. Counted, not measured.
#ifndef CHERRY_DRIVER_CUDA_BUDGET_H
#define CHERRY_DRIVER_CUDA_BUDGET_H

#include "ir/program.h"

// Generates the program's kernels and prints a table: a line for each kernel and phase, the dearest first.
bool cuda_budget_print(Ir *ir, Program *program, FILE *stream);

#endif
