// The context that everything in one compile shares.
#ifndef CHERRY_IR_IR_H
#define CHERRY_IR_IR_H

#include "base/arena.h"
#include "base/diagnostics.h"
#include "base/names.h"

typedef struct TypeTable TypeTable;

typedef struct Ir {
    Arena *arena;
    Names *names;
    Diagnostics *diagnostics;
    TypeTable *types;
} Ir;

Ir *ir_create(Arena *arena);  // with its own names, diagnostics and type table

#endif
