// What the definitions of ops (ir/ops_<family>.c) share: the columns of a row of ir/ops.def, and
// helpers of shape, gradient, evaluation and lowering rules. Included by those files alone.
#ifndef CHERRY_IR_OP_RULES_H
#define CHERRY_IR_OP_RULES_H

#include "ir/op.h"

// The columns of each row, so that a definition repeats none of them: OP_ROW(dot).
#define OP(op, family, operands, results, doc)     \
    static const char row_family_##op[] = #family; \
    static const char row_doc_##op[] = doc;        \
    enum { ROW_OPERANDS_##op = operands, ROW_RESULTS_##op = results };
#include "ir/ops.def"
#undef OP

#define OP_ROW(op)                                                                              \
    .name = #op, .family = row_family_##op, .doc = row_doc_##op, .operands = ROW_OPERANDS_##op, \
    .results = ROW_RESULTS_##op

// ---- Shape rules. Every function that returns bool has reported an error when it returns false. ----

// Checks the number of operands; every shape rule starts with it.
bool shape_begin(Shape *shape);
// An error at the node, then a note with the type of every operand at its place.
__attribute__((format(printf, 3, 4))) bool shape_error(const Shape *shape, const char *code,
                                                       const char *format, ...);
static inline const Type *shape_type(const Shape *shape, uint32_t operand) {
    return shape->operands[operand];
}
const Attribute *shape_attribute(const Shape *shape, AttributeKey key);  // NULL after an error
// Names that operands share have the same extent and bound in all of them. With `except`, that name
// may differ.
bool shape_agree(const Shape *shape, const char *except);
bool shape_same_elements(const Shape *shape, uint32_t first, uint32_t second);
bool shape_accepts_float(const Shape *shape, uint32_t operand);
// The index of `name` in operand `operand`, or -1 after an error.
int shape_find(const Shape *shape, uint32_t operand, const char *name);
// The same for a dimension whose extent must be known when compiling.
int shape_find_static(const Shape *shape, uint32_t operand, const char *name);
// Are all names distinct, and all in operand `operand`?
bool shape_find_all(const Shape *shape, uint32_t operand, const Attribute *names);
// "a and b", "a, b and c": the names of `type` that `other` lacks. NULL where there are none.
const char *shape_missing(Ir *ir, const Type *type, const Type *other);

// Dimensions of a result under construction; `count` runs on beyond RANK_MAX without storing.
typedef struct DimensionList {
    Dimension items[RANK_MAX];
    int count;
} DimensionList;

void dimensions_push(DimensionList *list, Dimension dimension);
// All dimensions of `type` but those called names[0 .. count).
void dimensions_push_except(DimensionList *list, const Type *type, const char *const *names, uint32_t count);
bool name_among(const char *name, const char *const *names, uint32_t count);
// Sets the next result. Checks rank, size, extents and that names are distinct.
bool shape_result(Shape *shape, Element element, const DimensionList *dimensions);
bool shape_result_type(Shape *shape, const Type *type);

// The index that an entry takes along the front dimension of a stacked operand, -1: none.
int32_t stack_entry_index(const StackEntry *entry, const Dimension *front);

// ---- Attributes of nodes under construction. ----
Attribute attribute_of_integer(AttributeKey key, int64_t integer);
Attribute attribute_of_text(AttributeKey key, const char *text);
Attribute attribute_of_names(AttributeKey key, const char *const *names, uint32_t count);
Attribute attribute_of_dimensions(AttributeKey key, const Dimension *dimensions, uint32_t count);

// ---- Gradient rules: building at the place of the node. ----
static inline Value gradient_operand(const Gradient *gradient, uint32_t operand) {
    return gradient->node->operands[operand];
}
static inline const Type *gradient_type(const Gradient *gradient, uint32_t operand) {
    return graph_type(gradient->graph, gradient->node->operands[operand]);
}
static inline Value gradient_unary(const Gradient *gradient, Op op, Value a) {
    return build_unary(gradient->graph, op, a, gradient->node->place);
}
static inline Value gradient_binary(const Gradient *gradient, Op op, Value a, Value b) {
    return build_binary(gradient->graph, op, a, b, gradient->node->place);
}
// A scalar with the element type of `like`, and a tensor of zeros.
Value gradient_constant(const Gradient *gradient, Value like, double number);
Value gradient_zeros(const Gradient *gradient, const Type *type);
// The cotangent of one operand; false where building it failed.
bool gradient_set(Gradient *gradient, uint32_t operand, Value value);
bool gradient_none(Gradient *gradient);  // all operands' cotangents are zero
bool gradient_pass(Gradient *gradient);  // the first operand's is that of the result

// ---- Evaluation: a walk is the type whose index tuples an odometer visits. ----

// For all tuples of `type`, none where an extent is 0.
#define ODOMETER_EACH(odometer, type_)                                                  \
    for (odometer_start(&(odometer), (type_)); (odometer).position < type_count(type_); \
         odometer_next(&(odometer)))

// How far a row-major operand moves when dimension i of `walk` moves by one; 0 where it has no such
// name, and for the name `except`. Writes RANK_MAX strides.
void walk_strides(const Type *walk, const Type *operand, const char *except, int64_t *strides);
int64_t walk_stride(const Type *type, const char *name);  // of one dimension of a row-major tensor
static inline int64_t walk_offset(const Odometer *odometer, const int64_t *strides) {
    int64_t offset = 0;
    for (int i = 0; i < odometer->type->rank; i++) offset += odometer->at[i] * strides[i];
    return offset;
}

// The extent that a `compact` node gives to the dimension that it bounds.
int64_t compact_count(const Node *node, const Tensor *mask);

// ---- Lowering ----
static inline const View *lower_operand(const Lowering *lowering, uint32_t operand) {
    return lowering_view(lowering, lowering->node->operands[operand]);
}
// A nest named after the op with one outer loop for each dimension of `type`.
NestBuilder lower_nest(Lowering *lowering, const Type *type);
// Ends a nest that computes `formula` for each element of `view`.
void lower_store(NestBuilder *builder, const View *view, uint32_t formula);
// The part [start, start + count) of dimension `along`; one index of it, the dimension gone.
View view_slice(Ir *ir, View view, const char *along, int64_t start, int64_t count);
View view_pick(Ir *ir, View view, const char *along, int64_t at);

// ---- Behaviour along a dimension. ----
Along along_pointwise(const Graph *graph, const Node *node, const char *name);
Along along_impossible(const Graph *graph, const Node *node, const char *name);
// Impossible along the names in attribute `over`, or along `along`; pointwise elsewhere.
Along along_except_over(const Graph *graph, const Node *node, const char *name);
Along along_except_along(const Graph *graph, const Node *node, const char *name);

#endif
