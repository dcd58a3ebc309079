// Graph: a function over tensors as a list of immutable, hash-consed nodes in topological order.
// A node is a 32-bit index; a value is one result of a node. Module functions, bodies of stacks,
// meanings of composites and flat entry points are all graphs.
#ifndef CHERRY_IR_GRAPH_H
#define CHERRY_IR_GRAPH_H

#include "base/vector.h"
#include "ir/type.h"

typedef enum Op {
#define OP(name, family, operands, results, doc) OP_##name,
#include "ir/ops.def"
#undef OP
    OP_COUNT
} Op;

typedef enum AttributeKey {
#define ATTRIBUTE(name, kind, doc) ATTRIBUTE_##name,
#include "ir/attributes.def"
#undef ATTRIBUTE
    ATTRIBUTE_COUNT
} AttributeKey;

typedef enum AttributeKind {
    KIND_INTEGER,     // integer
    KIND_NUMBER,      // number
    KIND_TEXT,        // text, printed in quotes
    KIND_NAME,        // text, printed bare
    KIND_NAMES,       // names[count]
    KIND_DIMENSIONS,  // dimensions[count]
    KIND_ELEMENT,     // integer holds an Element
    KIND_ROLE,        // integer holds a Role
    KIND_GRAPH,       // graph
    KIND_OPTIONS,     // options[count]
    KIND_ENTRIES      // entries[count]
} AttributeKind;

// What an input is. State (parameter .. cache) lives across calls and may be replaced by outputs.
typedef enum Role {
    ROLE_ARGUMENT,  // an operand of a composite, of a stack body, or of a plain function
    ROLE_DATA,      // fed by the caller for each call: tokens, targets, a column of a file
    ROLE_SCALAR,    // fed for each call, rank 0: rate, step, seed, extents of bounded dimensions
    ROLE_PARAMETER,
    ROLE_GRADIENT,  // accumulated gradient of the parameter with the same name
    ROLE_MOMENT1,
    ROLE_MOMENT2,
    ROLE_CACHE,   // what `incremental` keeps between calls
    ROLE_ROUNDED,  // a parameter as bf16: what `keep-rounded` reads
    ROLE_FROZEN,  // a weight of another model: read, never trained
    ROLE_COUNT
} Role;

typedef struct Graph Graph;

typedef struct Option {
    const char *name;
    double number;     // used when text is NULL
    const char *text;  // a dimension name
} Option;

// One application of a layer in a stack.
typedef struct StackEntry {
    int32_t layer;       // which stored layer
    int32_t iteration;   // how often this layer has run before
    int32_t row;         // row of the per-iteration parameters, -1: none
    bool stop_gradient;  // nothing flows back past this entry's inputs
    bool recompute;      // forward values are computed again for the backward pass
    bool enter, leave;   // the stack's `enter` graph runs before it, the `leave` graph after it
} StackEntry;

typedef struct Attribute {
    AttributeKey key;
    uint32_t count;
    union {
        int64_t integer;
        double number;
        const char *text;
        const char *const *names;
        const Dimension *dimensions;
        Graph *graph;
        const Option *options;
        const StackEntry *entries;
    };
} Attribute;

typedef struct Attributes {  // sorted by key
    const Attribute *items;
    uint32_t count;
    uint32_t hash;  // of the contents, where they are a node's
} Attributes;

typedef struct Value {
    uint32_t node, result;
} Value;

#define VALUE_NONE ((Value){UINT32_MAX, 0})
static inline bool value_is_none(Value value) { return value.node == UINT32_MAX; }
static inline bool value_same(Value a, Value b) { return a.node == b.node && a.result == b.result; }

typedef struct Node {
    Op op;
    uint32_t operand_count, result_count;
    const Value *operands;
    const Type *const *types;  // one per result
    Attributes attributes;
    Place place;  // where the user wrote it; not part of the node's identity
} Node;

typedef struct Output {
    const char *name;
    Value value;
    Value replaces;  // the state input whose storage this output takes over, or VALUE_NONE
} Output;

struct Graph {
    Ir *ir;
    const char *name;
    VECTOR(Node) nodes;
    VECTOR(uint32_t) inputs;  // OP_input nodes in the order of the signature
    VECTOR(Output) outputs;
    struct GraphTable *table;  // hash-consing
};

Graph *graph_create(Ir *ir, const char *name);
void graph_reserve(Graph *graph, size_t nodes);  // makes room at once for about so many nodes

// Adds a node, or returns the equal one that is there. Runs the op's shape rule, which reports errors
// at `place`; returns node UINT32_MAX (VALUE_NONE) after an error. The result is value 0 of the node.
// `attributes` may come in any order; the list is copied. OP_input is never merged.
Value graph_add(Graph *graph, Op op, const Value *operands, uint32_t operand_count,
                const Attribute *attributes, uint32_t attribute_count, Place place);

// An input has no shape rule: its type is given.
Value graph_add_input(Graph *graph, const char *name, Role role, const Type *type, Place place);
// An input like `node`, of this graph or of another, at `type`: its name, role and whatever else it carries.
Value graph_copy_input(Graph *graph, const Node *node, const Type *type);
// An input that says all of itself in attributes: name, role, and `by` where it has one.
Value graph_add_input_with(Graph *graph, const Attribute *attributes, uint32_t count, const Type *type,
                           Place place);
void graph_add_output(Graph *graph, const char *name, Value value, Value replaces);
Value graph_find_input(const Graph *graph, const char *name, Role role);  // or VALUE_NONE
const Output *graph_find_output(const Graph *graph, const char *name);    // or NULL

static inline const Node *graph_node(const Graph *graph, uint32_t id) { return &graph->nodes.items[id]; }
static inline const Type *graph_type(const Graph *graph, Value value) {
    return graph->nodes.items[value.node].types[value.result];
}

// Copies `node` of another graph (or of this one) with new operands; attributes and place stay.
Value graph_copy_node(Graph *graph, const Node *node, const Value *operands);
// The same for a node of `from`: where the operands have the types that they had there, the copy shares
// attributes and result types with the original.
Value graph_copy_from(Graph *graph, const Graph *from, const Node *node, const Value *operands);
// As graph_copy_node, with one attribute set or replaced.
Value graph_copy_node_with(Graph *graph, const Node *node, const Value *operands, Attribute attribute);

// A copy of `graph` under `name` in which every dimension called map[i].name, in input types and in
// attributes, is map[i]: another extent, or another bound. Callees of calls and stacks are retyped too.
// NULL after an error (a slice that no longer fits).
Graph *graph_retype(const Graph *graph, const char *name, const Dimension *map, uint32_t count);

// Copies of nodes whose operands have other types than they had: other extents, or further dimensions, over
// which the node's function is then mapped. Callees are retyped with them; equal ones are one graph. `map`: as
// graph_retype's, for attributes.
typedef struct Retype Retype;
Retype *retype_begin(Ir *ir, const Dimension *map, uint32_t count);
Value retype_node(Retype *retype, Graph *graph, const Graph *from, const Node *node, const Value *operands);

// Inlines `callee`: its inputs, in order, become `arguments`; writes its outputs' values, in order.
void graph_inline(Graph *graph, const Graph *callee, const Value *arguments, Value *results);

// The interned name of the scalar that a `compact` node computes, which bounds dimensions; else NULL.
const char *graph_bound(Ir *ir, const Node *node);
// The scalar called `name` that bounds dimensions: an input, or the count of a `compact` node; or VALUE_NONE.
Value graph_find_bound(const Graph *graph, const char *name);

const Attribute *attribute_find(const Node *node, AttributeKey key);  // or NULL
int64_t attribute_integer(const Node *node, AttributeKey key, int64_t otherwise);
double attribute_number(const Node *node, AttributeKey key, double otherwise);
const char *attribute_text(const Node *node, AttributeKey key);  // or NULL
Graph *attribute_graph(const Node *node, AttributeKey key);      // or NULL
const char *attribute_name(AttributeKey key);
AttributeKind attribute_kind(AttributeKey key);
const char *op_name(Op op);
const char *role_name(Role role);
bool role_is_state(Role role);

// ---- Building: thin names over graph_add, used by the front end, gradient rules and passes. ----
Value build_constant(Graph *graph, Element element, double value, Place place);
Value build_index(Graph *graph, Dimension dimension, Place place);
Value build_unary(Graph *graph, Op op, Value a, Place place);
Value build_binary(Graph *graph, Op op, Value a, Value b, Place place);
Value build_select(Graph *graph, Value condition, Value a, Value b, Place place);
Value build_cast(Graph *graph, Value a, Element element, Place place);  // `a` itself where it fits
Value build_dot(Graph *graph, Value a, Value b, const char *const *over, uint32_t count, Place place);
Value build_reduce(Graph *graph, Op op, Value a, const char *const *over, uint32_t count, Place place);
Value build_rename(Graph *graph, Value a, const char *from, const char *to, Place place);
Value build_split(Graph *graph, Value a, const char *along, const Dimension *into, uint32_t count,
                  Place place);
Value build_merge(Graph *graph, Value a, const char *const *from, uint32_t count, const char *to,
                  Place place);
Value build_transpose(Graph *graph, Value a, const char *const *order, uint32_t count, Place place);
Value build_broadcast(Graph *graph, Value a, const Dimension *dimensions, uint32_t count, Place place);
Value build_slice(Graph *graph, Value a, const char *along, int64_t start, int64_t count, Place place);
Value build_pick(Graph *graph, Value a, const char *along, int64_t at, Place place);
Value build_pad(Graph *graph, Value a, const char *along, int64_t start, int64_t count, Place place);
Value build_gather(Graph *graph, Value table, Value indices, const char *along, Place place);
Value build_scatter_add(Graph *graph, Value acc, Value indices, Value values, const char *along, Place place);
Value build_accumulate(Graph *graph, Value acc, Value value, Place place);
Value build_accumulate_at(Graph *graph, Value acc, Value value, const char *along, int64_t at, Place place);
// Broadcasts missing dimensions and reorders, so that the result has exactly the dimensions of `type`.
Value build_expand(Graph *graph, Value a, const Type *type, Place place);
// Sums the dimensions that `type` lacks and reorders: the transpose of build_expand.
Value build_reduce_to(Graph *graph, Value a, const Type *type, Place place);

#endif
