// Arena: memory that lives as long as one compile and is freed at once.
// Nothing allocated from an arena is ever freed alone. Running out of memory aborts.
#ifndef CHERRY_BASE_ARENA_H
#define CHERRY_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>

typedef struct Arena Arena;

Arena *arena_create(void);
void arena_destroy(Arena *arena);

// Zeroed memory, aligned to 16 bytes. Never returns NULL.
void *arena_allocate(Arena *arena, size_t bytes);

// A copy of `length` bytes with a terminating zero.
char *arena_copy(Arena *arena, const char *text, size_t length);

// printf into the arena.
__attribute__((format(printf, 2, 3))) char *arena_format(Arena *arena, const char *format, ...);
__attribute__((format(printf, 2, 0))) char *arena_format_list(Arena *arena, const char *format,
                                                              va_list arguments);

// Gives everything back and keeps one block: for scratch memory of a step that is repeated.
void arena_reset(Arena *arena);

// Bytes handed out so far.
size_t arena_bytes(const Arena *arena);

#define ARENA_NEW(arena, T) ((T *)arena_allocate((arena), sizeof(T)))
#define ARENA_ARRAY(arena, T, count) ((T *)arena_allocate((arena), sizeof(T) * (size_t)(count)))

#endif
