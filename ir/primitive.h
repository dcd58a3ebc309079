// Scalar primitives by table: ir/primitives.def.
#ifndef CHERRY_IR_PRIMITIVE_H
#define CHERRY_IR_PRIMITIVE_H

#include "ir/type.h"

typedef enum Primitive {
#define PRIMITIVE(name, arguments, result, doc) PRIMITIVE_##name,
#include "ir/primitives.def"
#undef PRIMITIVE
    PRIMITIVE_COUNT
} Primitive;

const char *primitive_name(Primitive primitive);
int primitive_arguments(Primitive primitive);
bool primitive_is_comparison(Primitive primitive);  // result is bool whatever the arguments are
bool primitive_accepts(Primitive primitive, Element element);
// Transcendental or worse: fusing must not compute it more often than once per element.
bool primitive_is_expensive(Primitive primitive);

// The value in double precision. Integers are exact (wrapping to their width), bools are 0 and 1; a cast to bf16 rounds
// to nearest even, by way of f32.
// `element` is the type of the result for cast, of the arguments otherwise (of b and c for select).
double primitive_evaluate(Primitive primitive, Element element, const double *arguments);

#endif
