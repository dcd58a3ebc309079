// The CUDA back end: kernels of programs become CUDA C, products for cuBLASLt, and machine code for NVIDIA
// GPUs through NVRTC. Generating and printing need neither a GPU nor the toolkit; NVRTC is opened at run
// time.
//
//   cuda_generate   every kernel's CudaKernel: phases, text, workspace
//   cuda_compile    the same, and the machine code
//   cuda_print      the text as one file that nvcc takes too
//
// Results are deterministic: no floating-point atomics, every sum has one order that the extents fix.
#ifndef CHERRY_CODEGEN_CUDA_H
#define CHERRY_CODEGEN_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "ir/program.h"

typedef struct CudaOptions {
    const char *architecture;  // "sm_90"; NULL: that
    int driver;                // version of CUDA that the driver has, 12080: it loads the code of toolkits of its major
                               // version and of earlier ones; 0: code is not run here
    int threads;               // compile threads; 0: one a processor
    bool cache;                // keep machine code on disk
    const char *cache_folder;  // NULL: $XDG_CACHE_HOME/cherry or ~/.cache/cherry
    bool no_library;           // products as generated kernels too, never cuBLASLt: for tests and comparison
    // Whether the library has a product at addresses that are multiples of `alignment` bytes; NULL: it has all. Without
    // it a kernel does by itself what should follow the product, or all of it.
    bool (*has_product)(void *context, const CudaProduct *product, int64_t alignment);
    void *library;  // its context
} CudaOptions;

typedef struct CudaStatistics {
    size_t kernels, distinct, cached;  // over all programs; after merging equal texts; found on disk
    size_t products;                   // phases that are cuBLASLt's
    int most_registers, spilling;      // of a function; functions that spill
    double seconds;                    // of cuda_compile
} CudaStatistics;

// Whether a composite's `kernel` clause of this name has generated code here.
bool cuda_has_kernel(const char *name);

// Fills kernel.cuda of every kernel of every program. The kernels' operands are as aligned as the launches of
// the programs make them: a program whose launches change is generated anew. False after errors.
bool cuda_generate(Ir *ir, Program *const *programs, size_t count, const CudaOptions *options);

// cuda_generate, then machine code: kernel.cuda.image, registers and spills. The images live in ir->arena.
bool cuda_compile(Ir *ir, Program *const *programs, size_t count, const CudaOptions *options,
                  CudaStatistics *statistics);

// What stands before the text of every kernel: types, conversions, sums over warps and blocks, tiles.
const char *cuda_prelude(void);

// The generated kernels of a program, each headed by the source lines that it came from and its phases: their
// text, or what NVRTC makes of them. Format "cuda", "ptx" or "cubin": machine code in hexadecimal, with its
// registers, spills and bytes; `xxd -r -p` of one makes the file that nvdisasm takes.
bool cuda_print(Ir *ir, const Program *program, const CudaOptions *options, const char *format, FILE *stream);

// "13.0" of the NVRTC that would be used; NULL, and in *why the reason and what to install, where there is
// none.
const char *cuda_compiler_version(Ir *ir, const char **why);

#endif
