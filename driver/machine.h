// What a machine can do, by all its threads together: measured on the spot, so that predictions hold on any.
#ifndef CHERRY_DRIVER_MACHINE_H
#define CHERRY_DRIVER_MACHINE_H

#include "codegen/cpu.h"

// Bytes that were touched not longer ago than so many others come from where those still are.
enum { MACHINE_NEAR_LEAST = 2 << 20, MACHINE_NEAR_SIZES = 5 };  // 2, 4, ..., 32 MiB

typedef struct Machine {
    const char *name;         // of a GPU; NULL: the CPU
    int threads;
    double flops_per_second;  // multiply-adds in registers, of f32 or of bf16 operands
    double bytes_per_second;  // of 64 MiB, read and written: updated in place by the CPU, copied by a GPU
    // Of the CPU alone, for predictions and floors; 0: not known.
    double instructions_per_second;  // multiply-adds in registers, a vector each
    double multiplies_per_second;    // the same in a contraction, with all that it does beside
    double near_bytes_per_second[MACHINE_NEAR_SIZES];  // that come to a processor, of so many again and again
    double far_bytes_per_second;     // that come from memory
    double barrier_seconds;          // for all threads to meet
    CpuOptions cpu;                  // what code is made for
} Machine;

// The CPU, in some 0.1 s and 80 MiB. Rates that could not be measured are 0.
Machine machine_measure(Ir *ir, int threads, Element precision, const CpuOptions *options);

#endif
