// Types: an element type and named dimensions, in memory order (the last one is contiguous).
// Types are interned: equal types are equal pointers.
#ifndef CHERRY_IR_TYPE_H
#define CHERRY_IR_TYPE_H

#include <stdbool.h>
#include <stdint.h>

#include "ir/ir.h"

enum { RANK_MAX = 8 };

typedef enum Element {
    ELEMENT_BOOL,  // 1 byte, 0 or 1
    ELEMENT_I32,
    ELEMENT_I64,
    ELEMENT_BF16,
    ELEMENT_F32,
    ELEMENT_F64,
    ELEMENT_COUNT
} Element;

typedef struct Dimension {
    const char *name;   // interned
    int64_t extent;     // >= 1; the capacity where the dimension is bounded
    const char *bound;  // NULL: static. Else the interned name of the i64 scalar that holds the extent
                        // at run time, 0 <= value <= extent: an input, or the count of a `compact` node.
} Dimension;

typedef struct Type {
    Element element;
    int rank;
    Dimension dimensions[RANK_MAX];  // entries at `rank` and above are zero
} Type;

// The table behind type_make; made once, by ir_create.
TypeTable *type_table_create(Arena *arena);

// Interns a type. Names must be distinct and rank at most RANK_MAX (internal error else). NULL, without
// a message, where an extent is below 1 or the extents multiply to 2^47 or more: a shape rule may store
// that NULL as its result, graph_add then reports it.
const Type *type_make(Ir *ir, Element element, int rank, const Dimension *dimensions);
const Type *type_scalar(Ir *ir, Element element);
const Type *type_with_element(Ir *ir, const Type *type, Element element);

int type_find(const Type *type, const char *name);  // index of an interned name, or -1
int64_t type_count(const Type *type);               // elements at capacity
int64_t type_bytes(const Type *type);               // bytes at capacity, row-major, no padding
bool type_contains(const Type *type, const Type *part);  // every name of `part`, with equal extents
bool type_same_dimensions(const Type *a, const Type *b);  // same names, extents and order
bool dimension_same(const Dimension *a, const Dimension *b);

int element_bytes(Element element);
const char *element_name(Element element);  // "f32"
bool element_is_float(Element element);
bool element_is_integer(Element element);             // i32, i64
bool element_parse(const char *text, Element *element);

// "f32[batch=8, time<=256:length, embed=512]" (a bounded dimension prints capacity and scalar).
const char *type_text(Ir *ir, const Type *type);
const char *type_dimension_text(Ir *ir, const Dimension *dimension);  // "time<=256:length"

#endif
