// Growable arrays in an arena:  typedef VECTOR(Node) NodeVector;  vector_push(arena, &v, node);
// Growth copies into fresh arena memory and leaves the old block behind (at most twice the final size).
#ifndef CHERRY_BASE_VECTOR_H
#define CHERRY_BASE_VECTOR_H

#include "base/arena.h"

#define VECTOR(T)               \
    struct {                    \
        T *items;               \
        size_t count, capacity; \
    }

#define vector_push(arena, vector, item)                                                     \
    do {                                                                                     \
        if ((vector)->count == (vector)->capacity)                                           \
            (vector)->items = vector_grow((arena), (vector)->items, sizeof *(vector)->items, \
                                          (vector)->count, &(vector)->capacity);             \
        (vector)->items[(vector)->count++] = (item);                                         \
    } while (0)

#define vector_last(vector) ((vector)->items[(vector)->count - 1])

// Doubles the capacity (8 at first) and returns the moved items.
void *vector_grow(Arena *arena, const void *items, size_t item_bytes, size_t count, size_t *capacity);

#endif
