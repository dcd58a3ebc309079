// One compilation of a list of programs: kernels, batches, results.
#ifndef CHERRY_CODEGEN_CPU_COMPILE_H
#define CHERRY_CODEGEN_CPU_COMPILE_H

#include <stdatomic.h>
#include <string.h>

#include "codegen/cpu_llvm.h"

typedef struct CpuItem {
    Kernel kernel;   // its hash is cpu_kernel_key
    CpuKernel code;  // functions are set by linking
    uint64_t bundle;  // that its symbols belong to
    bool found;       // on disk
} CpuItem;

typedef struct CpuBatch {
    CpuItem **items;
    size_t count;
    LLVMMemoryBufferRef object;
    char failure[512];  // empty: none
    Place failure_place;
} CpuBatch;

typedef struct CpuCompile {
    Ir *ir;
    const CpuTarget *target;
    uint64_t target_key;
    CpuSanitize sanitize;
    bool verify;
    CpuItem *items;
    size_t item_count;
    uint32_t *table;  // open addressing by key: 1 + number of an item, or 0
    size_t table_size;
    uint64_t bundle;  // what is compiled now: all batches together
    CpuHelpers *helpers;
    CpuBatch *batches;
    size_t batch_count;
    _Atomic size_t next_batch;
    const char *cache_folder;  // NULL: none
    VECTOR(LLVMMemoryBufferRef) cached_objects;
    CpuStatistics statistics;
} CpuCompile;

// Of the table: where the item with this key is, or where it would go.
static inline size_t cpu_compile_slot(const CpuCompile *compile, uint64_t key) {
    size_t slot = key & (compile->table_size - 1);
    while (compile->table[slot] && compile->items[compile->table[slot] - 1].kernel.hash != key)
        slot = (slot + 1) & (compile->table_size - 1);
    return slot;
}

static inline CpuItem *cpu_compile_find(const CpuCompile *compile, uint64_t key) {  // or NULL
    uint32_t number = compile->table[cpu_compile_slot(compile, key)];
    return number ? &compile->items[number - 1] : NULL;
}

#endif
