#include "base/names.h"

#include <stdint.h>
#include <string.h>

#include "base/hash.h"

struct Names {
    Arena *arena;
    const char **slots;  // open addressing; the capacity is a power of two
    size_t count, capacity;
};

Names *names_create(Arena *arena) {
    Names *names = ARENA_NEW(arena, Names);
    names->arena = arena;
    names->capacity = 256;
    names->slots = ARENA_ARRAY(arena, const char *, names->capacity);
    return names;
}

static size_t find_slot(const Names *names, const char *text, size_t length) {
    size_t slot = hash_bytes(HASH_START, text, length) & (names->capacity - 1);
    for (; names->slots[slot]; slot = (slot + 1) & (names->capacity - 1)) {
        const char *candidate = names->slots[slot];
        if (strncmp(candidate, text, length) == 0 && candidate[length] == 0) break;
    }
    return slot;
}

static void grow(Names *names) {
    const char **old = names->slots;
    size_t old_capacity = names->capacity;
    names->capacity *= 2;
    names->slots = ARENA_ARRAY(names->arena, const char *, names->capacity);
    for (size_t i = 0; i < old_capacity; i++)
        if (old[i]) names->slots[find_slot(names, old[i], strlen(old[i]))] = old[i];
}

const char *names_intern_length(Names *names, const char *text, size_t length) {
    if (names->count * 2 >= names->capacity) grow(names);
    size_t slot = find_slot(names, text, length);
    if (!names->slots[slot]) {
        names->slots[slot] = arena_copy(names->arena, text, length);
        names->count++;
    }
    return names->slots[slot];
}

const char *names_intern(Names *names, const char *text) {
    return names_intern_length(names, text, strlen(text));
}

const char *names_format(Names *names, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_format_list(names->arena, format, arguments);
    va_end(arguments);
    return names_intern(names, text);
}
