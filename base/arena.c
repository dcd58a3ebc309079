#include "base/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

enum { BLOCK_BYTES = 1 << 18, ALIGNMENT = 16 };

typedef struct Block {
    struct Block *previous;
    size_t used, capacity;
} Block;

struct Arena {
    Block *block;
    size_t bytes;
};

_Static_assert(sizeof(Block) <= 2 * ALIGNMENT, "block header is padded to two units");

static void *checked_calloc(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) {
        fprintf(stderr, "cherry: out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return memory;
}

Arena *arena_create(void) { return checked_calloc(sizeof(Arena)); }

void arena_destroy(Arena *arena) {
    if (!arena) return;
    for (Block *block = arena->block; block;) {
        Block *previous = block->previous;
        free(block);
        block = previous;
    }
    free(arena);
}

void arena_reset(Arena *arena) {
    Block *first = arena->block;
    if (!first) return;
    while (first->previous) {
        Block *previous = first->previous;
        free(first);
        first = previous;
    }
    memset((char *)first + 2 * ALIGNMENT, 0, first->used);
    first->used = 0;
    arena->block = first;
    arena->bytes = 0;
}

void *arena_allocate(Arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 2) bytes = SIZE_MAX / 2;  // calloc refuses it and we abort with its size
    bytes = (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    Block *block = arena->block;
    if (!block || block->capacity - block->used < bytes) {
        size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block = checked_calloc(2 * ALIGNMENT + capacity);
        block->capacity = capacity;
        block->previous = arena->block;
        arena->block = block;
    }
    void *memory = (char *)block + 2 * ALIGNMENT + block->used;
    block->used += bytes;
    arena->bytes += bytes;
    return memory;
}

char *arena_copy(Arena *arena, const char *text, size_t length) {
    char *copy = arena_allocate(arena, length + 1);
    if (length) memcpy(copy, text, length);
    return copy;
}

char *arena_format_list(Arena *arena, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *text = arena_allocate(arena, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

char *arena_format(Arena *arena, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = arena_format_list(arena, format, arguments);
    va_end(arguments);
    return text;
}

size_t arena_bytes(const Arena *arena) { return arena->bytes; }

void *vector_grow(Arena *arena, const void *items, size_t item_bytes, size_t count, size_t *capacity) {
    *capacity = *capacity ? *capacity * 2 : 8;
    void *moved = arena_allocate(arena, *capacity * item_bytes);
    if (count) memcpy(moved, items, count * item_bytes);
    return moved;
}
