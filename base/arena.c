#include "base/arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>

#include "base/vector.h"

// An arena that has grown beyond LARGE_FROM takes blocks of LARGE_BYTES on huge pages: a page fault for
// every 4 KB was a third of the time of compiling a deep model.
enum { BLOCK_BYTES = 1 << 18, LARGE_FROM = 1 << 20, LARGE_BYTES = 1 << 22, HUGE_PAGE = 1 << 21, ALIGNMENT = 16 };

typedef struct Block {
    struct Block *previous;
    size_t used, capacity, mapped;  // mapped: bytes to unmap, 0: from calloc
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

static Block *small_block(size_t bytes) {
    size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    Block *block = checked_calloc(2 * ALIGNMENT + capacity);
    block->capacity = capacity;
    return block;
}

// Mapped, aligned to a huge page; NULL where that is not to be had. Leak checkers look for pointers in
// what calloc gave only.
static Block *large_block(void) {
#ifdef __SANITIZE_ADDRESS__
    return NULL;
#else
    size_t asked = LARGE_BYTES + HUGE_PAGE;
    char *memory = mmap(NULL, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    size_t skipped = -(uintptr_t)memory % HUGE_PAGE;
    if (skipped) munmap(memory, skipped);
    munmap(memory + skipped + LARGE_BYTES, HUGE_PAGE - skipped);
    Block *block = (Block *)(memory + skipped);
    madvise(block, LARGE_BYTES, MADV_HUGEPAGE);
    block->mapped = LARGE_BYTES;
    block->capacity = LARGE_BYTES - 2 * ALIGNMENT;
    return block;
#endif
}

static void free_block(Block *block) {
    if (block->mapped) munmap(block, block->mapped);
    else free(block);
}

Arena *arena_create(void) { return checked_calloc(sizeof(Arena)); }

void arena_destroy(Arena *arena) {
    if (!arena) return;
    for (Block *block = arena->block; block;) {
        Block *previous = block->previous;
        free_block(block);
        block = previous;
    }
    free(arena);
}

void arena_reset(Arena *arena) {
    Block *first = arena->block;
    if (!first) return;
    while (first->previous) {
        Block *previous = first->previous;
        free_block(first);
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
        block = arena->bytes >= LARGE_FROM && bytes <= LARGE_BYTES / 4 ? large_block() : NULL;
        if (!block) block = small_block(bytes);
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
