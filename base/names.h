// Interned text: equal names are equal pointers, so names compare with ==.
#ifndef CHERRY_BASE_NAMES_H
#define CHERRY_BASE_NAMES_H

#include "base/arena.h"

typedef struct Names Names;

Names *names_create(Arena *arena);
const char *names_intern(Names *names, const char *text);
const char *names_intern_length(Names *names, const char *text, size_t length);
__attribute__((format(printf, 2, 3))) const char *names_format(Names *names, const char *format, ...);

#endif
