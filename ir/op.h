// What one op is: everything the compiler knows of it, in one definition.
// `ir/ops.def` has a row per op; ir/ops_<family>.c defines `const OpDefinition op_<name>`.
#ifndef CHERRY_IR_OP_H
#define CHERRY_IR_OP_H

#include "ir/evaluate.h"
#include "ir/graph.h"
#include "ir/lower.h"
#include "ir/primitive.h"

// Shape rule: from operand types and attributes to result types. Reports errors in names.
typedef struct Shape {
    Ir *ir;
    Op op;
    const Type *const *operands;
    const Place *operand_places;  // where each operand was computed: for "declared here" notes
    uint32_t operand_count;
    const Node *node;             // op, attributes and place of the node under construction
    const Type **results;         // to be written; room for result_limit
    uint32_t result_limit, result_count;
} Shape;

// What a gradient rule sees: `node` and its values live in `graph`, where new nodes are added.
typedef struct Gradient {
    Graph *graph;
    const Node *node;
    Value self;                // result 0 of the node
    const Value *cotangents;   // one per result, full type of the result; VALUE_NONE: zero
    Value *operand_cotangents; // to be written, one per operand; VALUE_NONE: zero. They may have
                               // more dimensions than the operand (the pass sums them) or fewer
                               // (the pass broadcasts them).
} Gradient;

// How a node behaves when its operands arrive a few positions of `along` at a time.
typedef enum Along {
    ALONG_POINTWISE,   // position i of the result needs position i of the operands
    ALONG_STATE,       // needs earlier positions too: attention, shift; see `incremental`
    ALONG_IMPOSSIBLE   // needs later positions, or all of them
} Along;

// A node whose operands get dimensions that they did not have, over which its function is then mapped. Most
// shape rules take them as they are.
typedef struct Widening {
    Graph *graph;                // of the operands
    const Node *node;            // as it was
    const Type *const *before;   // types of its operands, as they were
    Value *operands;             // to be changed: widening_spread
    Attribute *attributes;       // those of the node, to be changed
    Dimension extra[RANK_MAX];   // what some operand gets
    int extra_count;
} Widening;

typedef struct OpDefinition {
    const char *name, *family, *doc;
    int operands, results;  // -1: any number
    bool (*shape)(Shape *shape);
    bool (*gradient)(Gradient *gradient);  // NULL exactly when no_gradient says why
    const char *no_gradient;
    void (*evaluate)(const Evaluation *evaluation);
    bool (*lower)(Lowering *lowering);     // NULL exactly when no_lowering says why
    const char *no_lowering;
    Along (*along)(const Graph *graph, const Node *node, const char *name);
    Primitive primitive;                   // elementwise ops only
    void (*widen)(Widening *widening);     // NULL: the shape rule takes further dimensions
} OpDefinition;

extern const OpDefinition *const op_table[OP_COUNT];

#define OP(name, family, operands, results, doc) extern const OpDefinition op_##name;
#include "ir/ops.def"
#undef OP

#endif
