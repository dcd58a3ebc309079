// Runs generated CUDA C on this processor: one shared object for all kernels of some programs, made by the
// system's C++ compiler behind tests/cuda/emulate.h; products for cuBLASLt as plain loops.
#ifndef CHERRY_TESTS_CUDA_RUN_H
#define CHERRY_TESTS_CUDA_RUN_H

#include "codegen/cuda.h"

typedef struct Emulation Emulation;

// The programs are generated. NULL after printing what the compiler said.
Emulation *emulation_create(Program *const *programs, size_t count);
void emulation_destroy(Emulation *emulation);

// Runs one kernel; operands hold exactly what the launch would give.
void emulation_run_kernel(const Emulation *emulation, const Kernel *kernel, char *const *operands);
// Runs every launch; buffers[i] is the start of buffer i. Workspaces are those of the plan,
// or made here where there is none.
void emulation_run_program(const Emulation *emulation, const Program *program, char *const *buffers);

#endif
