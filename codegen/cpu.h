// The CPU back end: kernels of programs become machine code in memory, through LLVM.
// Nothing of LLVM shows here; built with -DCHERRY_LLVM=OFF, codegen/none.c answers these calls with E0601.
#ifndef CHERRY_CODEGEN_CPU_H
#define CHERRY_CODEGEN_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "ir/program.h"

struct CpuUnit;

// AddressSanitizer's checks inside the generated code, where it is an option of cpu_compile. A program that does not
// name it is linked without LLVM's passes.
typedef bool (*CpuSanitize)(struct CpuUnit *unit);
bool cpu_sanitize(struct CpuUnit *unit);

typedef struct CpuOptions {
    const char *cpu;           // NULL: this machine. "x86-64-v3", "znver5", ...; a name that starts with
                               // "aarch64" compiles for the other machine (printing and objects only)
    int threads;               // compile threads; 0: one a processor
    bool cache;                // keep object code on disk
    const char *cache_folder;  // NULL: $XDG_CACHE_HOME/cherry or ~/.cache/cherry
    CpuSanitize sanitize;      // NULL, or cpu_sanitize
} CpuOptions;

// Owns the machine code of the programs that were compiled together.
typedef struct CpuCode CpuCode;

// Compiles every kernel of every program (equal kernels once) and fills kernel.cpu. NULL after errors.
CpuCode *cpu_compile(Ir *ir, Program *const *programs, size_t count, const CpuOptions *options);
void cpu_code_destroy(CpuCode *code);

typedef struct CpuStatistics {
    size_t kernels, distinct, cached;  // over all programs; after merging equal ones; found on disk
    double seconds;                    // of cpu_compile
    size_t object_bytes;
} CpuStatistics;
CpuStatistics cpu_code_statistics(const CpuCode *code);

// Whether a composite's `kernel` clause of this name has generated code here.
bool cpu_has_kernel(const char *name);

// The generated code of a program, each kernel headed by the source lines that it came from.
bool cpu_print(Ir *ir, const Program *program, const CpuOptions *options, bool assembly, FILE *stream);

// Peak of multiply-adds in registers, all threads together, in FLOP/s; 0 after an error. Of bf16 operands where
// `precision` is bf16: pairs at once where the machine does that as fast, else widened to f32.
double cpu_measure_peak(Ir *ir, int threads, Element precision, const CpuOptions *options);

// Of results that pass by the caches: half a usual third cache. Lines of smaller ones come before they are written.
enum { CPU_STREAM_BYTES = 16 << 20 };

// What one launch of a kernel does, told by its plan: bounded extents at capacity.
typedef struct CpuWork {
    double multiplies;    // multiply-adds of products, a vector each, filled up to whole tiles
    double instructions;  // vector instructions of all else, roughly
    double packed_bytes;  // of operands, copied to where tiles read them
    int64_t tasks;        // of the phase that computes
    int phases;
} CpuWork;

// How much longer the thread with most tasks works than if all had the same.
static inline double cpu_work_imbalance(const CpuWork *work, int threads) {
    int64_t most = (work->tasks + threads - 1) / threads;
    return work->tasks > 0 ? (double)most * threads / (double)work->tasks : 1;
}

// Of each kernel of a program, by its number; false after an error.
bool cpu_program_work(Ir *ir, const Program *program, const CpuOptions *options, CpuWork *works);

// FLOPs of one of the instructions that cpu_measure_peak counts; 0 after an error.
double cpu_peak_instruction_flops(Ir *ir, Element precision, const CpuOptions *options);

#endif
