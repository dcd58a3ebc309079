// Large blocks of memory from the system: zeroed, in huge pages where they are large, and asked for
// only after a look at what is free.
#ifndef CHERRY_RUNTIME_MEMORY_H
#define CHERRY_RUNTIME_MEMORY_H

#include <stdint.h>

#include "base/diagnostics.h"

enum { MEMORY_ALIGNMENT = 64 };

typedef struct MemoryBlock {
    char *data;          // aligned to 2 MiB where the block is that large; NULL for 0 bytes
    int64_t bytes;
    void *mapping;       // what the system gave
    int64_t mapping_bytes;
} MemoryBlock;

// Bytes that can be had without swapping: MemAvailable, or less where a control group limits us.
// INT64_MAX where the system does not tell.
int64_t memory_available(void);

// Reports E0952, with both figures and `what` the memory is for, when `bytes` are not to be had.
bool memory_check(Diagnostics *diagnostics, int64_t bytes, const char *what);

// Zeroed memory after memory_check. False after reporting an error.
bool memory_allocate(Diagnostics *diagnostics, int64_t bytes, const char *what, MemoryBlock *block);
// The same without a look at what is free: for what may never be used.
bool memory_reserve(Diagnostics *diagnostics, int64_t bytes, const char *what, MemoryBlock *block);
void memory_release(MemoryBlock *block);

#endif
