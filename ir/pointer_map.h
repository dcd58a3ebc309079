// A map from pointers (interned names, graphs) to numbers.
#ifndef CHERRY_IR_POINTER_MAP_H
#define CHERRY_IR_POINTER_MAP_H

#include <stdint.h>

#include "base/arena.h"

typedef struct PointerMap {
    struct PointerSlot *slots;
    size_t count, capacity;
} PointerMap;

enum { POINTER_MISSING = -1 };

int64_t pointer_map_find(const PointerMap *map, const void *key);  // or POINTER_MISSING
void pointer_map_set(Arena *arena, PointerMap *map, const void *key, uint32_t number);

#endif
