// How an emulated kernel is launched: shared by C, which launches, and C++, which the kernels are.
#ifndef CHERRY_TESTS_CUDA_LAUNCH_H
#define CHERRY_TESTS_CUDA_LAUNCH_H

#include <stdint.h>

typedef struct EmulateSpan {
    char *begin;
    int64_t bytes;
} EmulateSpan;

typedef struct EmulateGrid {
    int64_t blocks[3];
    int32_t block;         // threads
    int32_t span_count;
    int64_t shared_bytes;  // dynamic shared memory
    const EmulateSpan *spans;  // what the kernel may touch beside shared memory; they may overlap
} EmulateGrid;

typedef void (*LaunchFunction)(char *const *pointers, const EmulateGrid *grid);

#endif
