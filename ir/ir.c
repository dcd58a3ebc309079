// The shared context of one compile.
#include "ir/ir.h"

#include "ir/type.h"

Ir *ir_create(Arena *arena) {
    Ir *ir = ARENA_NEW(arena, Ir);
    ir->arena = arena;
    ir->names = names_create(arena);
    ir->diagnostics = diagnostics_create(arena);
    ir->types = type_table_create(arena);
    return ir;
}
