// Graphs from graphs: copied nodes, inlining, and retyping (the same function at other extents, or mapped
// over further dimensions).
#include <string.h>

#include "ir/op.h"
#include "ir/pointer_map.h"

// ---- copying ----

static Value copy_with_attributes(Graph *graph, const Node *node, const Value *operands,
                                  const Attribute *attributes, uint32_t count) {
    if (node->op != OP_input)
        return graph_add(graph, node->op, operands, node->operand_count, attributes, count, node->place);
    return graph_add_input_with(graph, attributes, count, node->types[0], node->place);
}

Value graph_copy_node(Graph *graph, const Node *node, const Value *operands) {
    Node held = *node;  // `node` may lie in a node list that grows meanwhile
    return copy_with_attributes(graph, &held, operands, held.attributes.items, held.attributes.count);
}

Value graph_copy_node_with(Graph *graph, const Node *node, const Value *operands, Attribute attribute) {
    Node held = *node;
    Attribute attributes[ATTRIBUTE_COUNT + 1];
    uint32_t count = 0;
    for (uint32_t i = 0; i < held.attributes.count; i++)
        if (held.attributes.items[i].key != attribute.key) attributes[count++] = held.attributes.items[i];
    attributes[count++] = attribute;
    return copy_with_attributes(graph, &held, operands, attributes, count);
}

static Value map_value(const Value *map, Value value) {
    if (value_is_none(value) || value_is_none(map[value.node])) return VALUE_NONE;
    return (Value){map[value.node].node, map[value.node].result + value.result};
}

static Value *map_operands(Arena *arena, const Value *map, const Node *node) {
    Value *operands = ARENA_ARRAY(arena, Value, node->operand_count);
    for (uint32_t i = 0; i < node->operand_count; i++) operands[i] = map_value(map, node->operands[i]);
    return operands;
}

void graph_inline(Graph *graph, const Graph *callee, const Value *arguments, Value *results) {
    CHECK(graph != callee);
    Arena *arena = graph->ir->arena;
    // map[node]: result 0 of the node here. An input stands for one value, so result 0 is all it has.
    Value *map = ARENA_ARRAY(arena, Value, callee->nodes.count);
    for (size_t i = 0; i < callee->inputs.count; i++) map[callee->inputs.items[i]] = arguments[i];
    for (uint32_t id = 0; id < callee->nodes.count; id++) {
        const Node *node = graph_node(callee, id);
        if (node->op != OP_input)
            map[id] = graph_copy_from(graph, callee, node, map_operands(arena, map, node));
    }
    for (size_t i = 0; i < callee->outputs.count; i++)
        results[i] = map_value(map, callee->outputs.items[i].value);
}

// ---- retyping ----

// `from` becomes `to`. A given change holds for every extent of that name; a learned one, seen on a
// value whose type followed from others (rename time -> past), for exactly the dimension it was.
typedef struct Change {
    Dimension from, to;
    bool any;
} Change;

typedef VECTOR(Change) Changes;

typedef struct Retyped {
    const Graph *from;
    const Type **inputs;
    Graph *to;
} Retyped;

struct Retype {
    Ir *ir;
    const Dimension *map;
    uint32_t count;
    VECTOR(Retyped) done;  // one copy per callee and input types, so that equal calls stay equal
    PointerMap mentions;   // per graph below: 1 where it mentions a mapped dimension
};

static const Dimension *find_change(const Changes *changes, const Dimension *dimension) {
    for (size_t i = changes->count; i-- > 0;) {  // learned ones are behind the given ones and are exact
        const Change *change = &changes->items[i];
        if (change->any ? change->from.name == dimension->name : dimension_same(&change->from, dimension))
            return &change->to;
    }
    return NULL;
}

static void learn(Ir *ir, Changes *changes, const Type *before, const Type *after) {
    for (int i = 0; i < before->rank; i++) {
        const Dimension *from = &before->dimensions[i];
        int at = type_find(after, from->name);
        if (at < 0) continue;
        const Dimension *to = &after->dimensions[at], *known = find_change(changes, from);
        if (!dimension_same(known ? known : from, to))
            vector_push(ir->arena, changes, ((Change){.from = *from, .to = *to}));
    }
}

static const Type *retype_type(Ir *ir, const Changes *changes, const Type *type) {
    Dimension dimensions[RANK_MAX];
    for (int i = 0; i < type->rank; i++) {
        const Dimension *to = find_change(changes, &type->dimensions[i]);
        dimensions[i] = to ? *to : type->dimensions[i];
    }
    return type_make(ir, type->element, type->rank, dimensions);
}

static bool mentions_dimension(const Retype *retype, const Dimension *dimension) {
    for (uint32_t i = 0; i < retype->count; i++)
        if (retype->map[i].name == dimension->name && !dimension_same(&retype->map[i], dimension))
            return true;
    return false;
}

// Whether a result type in `graph` or below has a mapped dimension. (Attributes need no look of their
// own: a dimension in an attribute is in the type of that node's result.)
static bool mentions(Retype *retype, const Graph *graph);

static bool look_for_mention(Retype *retype, const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t r = 0; r < node->result_count; r++)
            for (int d = 0; d < node->types[r]->rank; d++)
                if (mentions_dimension(retype, &node->types[r]->dimensions[d])) return true;
        for (uint32_t i = 0; i < node->attributes.count; i++) {
            const Attribute *attribute = &node->attributes.items[i];
            if (attribute_kind(attribute->key) == KIND_GRAPH && mentions(retype, attribute->graph))
                return true;
        }
    }
    return false;
}

static bool mentions(Retype *retype, const Graph *graph) {
    int64_t known = pointer_map_find(&retype->mentions, graph);
    if (known != POINTER_MISSING) return known;
    bool found = look_for_mention(retype, graph);
    pointer_map_set(retype->ir->arena, &retype->mentions, graph, found);
    return found;
}

static Graph *retype_graph(Retype *retype, const Graph *graph, const char *name, const Type **inputs,
                           const Type **outputs);

// The dimensions of `after` that `before` lacks and `extra` has not yet.
static int more_dimensions(const Type *before, const Type *after, Dimension *extra, int count) {
    for (int i = 0; i < after->rank; i++) {
        bool known = type_find(before, after->dimensions[i].name) >= 0;
        for (int j = 0; j < count; j++) known |= extra[j].name == after->dimensions[i].name;
        if (!known && count < RANK_MAX) extra[count++] = after->dimensions[i];
    }
    return count;
}

// Distinct among the copies, which may differ in which operands have a further dimension.
static const char *fresh_name(const Retype *retype, const char *name) {
    for (size_t i = 0; i < retype->done.count; i++)
        if (retype->done.items[i].to->name == name)
            return fresh_name(retype, names_format(retype->ir->names, "%s.%zu", name, i + 1));
    return name;
}

// "attention_core.time32": the callee with the dimensions of its inputs that changed or came.
static const char *retyped_name(Retype *retype, const Graph *callee, const Type *const *inputs) {
    Names *names = retype->ir->names;
    const char *name = callee->name;
    Changes seen = {0};
    Dimension extra[RANK_MAX];
    int extra_count = 0;
    for (size_t i = 0; i < callee->inputs.count; i++) {
        const Type *before = graph_node(callee, callee->inputs.items[i])->types[0];
        learn(retype->ir, &seen, before, inputs[i]);
        extra_count = more_dimensions(before, inputs[i], extra, extra_count);
    }
    for (int i = 0; i < extra_count; i++)
        name = names_format(names, "%s.%s%lld", name, extra[i].name, (long long)extra[i].extent);
    for (size_t i = 0; i < seen.count; i++)
        name = names_format(names, "%s.%s%lld%s%s", name, seen.items[i].to.name,
                            (long long)seen.items[i].to.extent, seen.items[i].to.bound ? "." : "",
                            seen.items[i].to.bound ? seen.items[i].to.bound : "");
    for (uint32_t i = 0; i < retype->count && !seen.count; i++)
        name = names_format(names, "%s.%s%lld", name, retype->map[i].name, (long long)retype->map[i].extent);
    return fresh_name(retype, name);
}

// The copy of `callee` for these input types, or `callee` itself where nothing changes.
static Graph *retype_callee(Retype *retype, Graph *callee, const Type **inputs, const Type **outputs) {
    size_t count = callee->inputs.count;
    bool changed = false;
    for (size_t i = 0; i < count; i++)
        changed |= inputs[i] != graph_node(callee, callee->inputs.items[i])->types[0];
    if (!changed && !mentions(retype, callee)) return callee;
    for (size_t i = 0; i < retype->done.count; i++) {
        const Retyped *done = &retype->done.items[i];
        if (done->from == callee && memcmp(done->inputs, inputs, count * sizeof *inputs) == 0)
            return done->to;
    }
    Graph *to = retype_graph(retype, callee, retyped_name(retype, callee, inputs), inputs, outputs);
    if (to) vector_push(retype->ir->arena, &retype->done, ((Retyped){callee, inputs, to}));
    return to;
}

// What one entry of a stack sees of an operand: stacked ones lose the dimension in front.
static const Type *operand_type(Ir *ir, const Node *node, size_t operand, const Type *type) {
    size_t whole = (size_t)(attribute_integer(node, ATTRIBUTE_carried, 0) +
                            attribute_integer(node, ATTRIBUTE_invariant, 0));
    if (node->op != OP_stack || operand < whole) return type;
    return type_make(ir, type->element, type->rank - 1, type->dimensions + 1);
}

// Which operand an input of a node's graph stands for. The graphs that enter and leave a core take the
// carried values, once or twice, and the operands behind the body's.
static size_t callee_operand(const Node *node, AttributeKey key, size_t input) {
    if (key != ATTRIBUTE_enter && key != ATTRIBUTE_leave) return input;
    size_t carried = node->result_count, sets = key == ATTRIBUTE_leave ? 2 : 1;
    if (input < sets * carried) return input % carried;
    return attribute_graph(node, ATTRIBUTE_body)->inputs.count + input - sets * carried;
}

// What the callee's inputs become: the operands, then (a gradient's inputs) results and cotangents.
static const Type **callee_inputs(Retype *retype, const Graph *graph, const Node *node, const Value *operands,
                                  const Attribute *attribute, const Graph *function) {
    const Graph *callee = attribute->graph;
    const Type **types = ARENA_ARRAY(retype->ir->arena, const Type *, callee->inputs.count);
    for (size_t i = 0; i < callee->inputs.count; i++) {
        const Type *before = graph_node(callee, callee->inputs.items[i])->types[0];
        size_t operand = callee_operand(node, attribute->key, i);
        types[i] = before;
        if (operand < node->operand_count) {
            types[i] = operand_type(retype->ir, node, operand, graph_type(graph, operands[operand]));
        } else if (function && function->outputs.count) {
            size_t result = (i - node->operand_count) % function->outputs.count;
            types[i] = graph_type(function, function->outputs.items[result].value);
        }
    }
    return types;
}

// What the callee's outputs must be: a stack's graphs give what it carries, a gradient the types of the
// operands, or of the float ones. NULL: as they come.
static const Type **callee_outputs(Retype *retype, const Graph *graph, const Node *node,
                                   const Value *operands, const Attribute *attribute) {
    size_t wanted = attribute->graph->outputs.count, count = 0;
    if (attribute->key == ATTRIBUTE_function) return NULL;
    const Type **types = ARENA_ARRAY(retype->ir->arena, const Type *, wanted);
    bool all = node->op == OP_stack || wanted == node->operand_count;
    for (uint32_t i = 0; i < node->operand_count && count < wanted; i++) {
        const Type *type = graph_type(graph, operands[i]);
        if (all || element_is_float(type->element)) types[count++] = type;
    }
    return count == wanted ? types : NULL;
}

static const Dimension *retype_dimensions(Ir *ir, const Changes *changes, const Attribute *attribute) {
    Dimension *dimensions = ARENA_ARRAY(ir->arena, Dimension, attribute->count);
    for (uint32_t i = 0; i < attribute->count; i++) {
        const Dimension *to = find_change(changes, &attribute->dimensions[i]);
        dimensions[i] = to ? *to : attribute->dimensions[i];
    }
    return dimensions;
}

// The node's attributes, in `to`, at the new extents. False after an error in a callee.
static bool retype_attributes(Retype *retype, const Changes *changes, const Graph *graph, const Node *node,
                              const Value *operands, Attribute *to) {
    const Graph *function = NULL;  // retyped; stands before `gradient`, as keys are sorted
    for (uint32_t i = 0; i < node->attributes.count; i++) {
        if (attribute_kind(to[i].key) == KIND_DIMENSIONS) {
            to[i].dimensions = retype_dimensions(retype->ir, changes, &to[i]);
        } else if (node->op == OP_pad && to[i].key == ATTRIBUTE_count) {
            Dimension along = {attribute_text(node, ATTRIBUTE_along), to[i].integer, NULL};
            const Dimension *changed = find_change(changes, &along);
            if (changed) to[i].integer = changed->extent;
        } else if (attribute_kind(to[i].key) == KIND_GRAPH) {
            const Type **inputs = callee_inputs(retype, graph, node, operands, &to[i], function);
            const Type **outputs = callee_outputs(retype, graph, node, operands, &to[i]);
            to[i].graph = retype_callee(retype, to[i].graph, inputs, outputs);
            if (!to[i].graph) return false;
            if (to[i].key == ATTRIBUTE_function) function = to[i].graph;
        }
    }
    return true;
}

static void widen(Graph *graph, const Graph *from, const Node *node, Value *operands, Attribute *attributes) {
    uint32_t count = node->operand_count;
    const Type **before = ARENA_ARRAY(graph->ir->arena, const Type *, count + 1);
    Widening widening = {.graph = graph, .node = node, .before = before};
    for (uint32_t i = 0; i < count; i++) {
        if (value_is_none(operands[i])) return;
        before[i] = graph_type(from, node->operands[i]);
        widening.extra_count =
            more_dimensions(before[i], graph_type(graph, operands[i]), widening.extra, widening.extra_count);
    }
    widening.operands = operands;
    widening.attributes = attributes;
    if (widening.extra_count && op_table[node->op]->widen) op_table[node->op]->widen(&widening);
}

static Value retype_one(Retype *retype, const Changes *changes, Graph *graph, const Graph *from,
                        const Node *node, Value *operands) {
    Attribute attributes[ATTRIBUTE_COUNT];
    for (uint32_t i = 0; i < node->attributes.count; i++) attributes[i] = node->attributes.items[i];
    widen(graph, from, node, operands, attributes);
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (value_is_none(operands[i])) return VALUE_NONE;
    if (!retype_attributes(retype, changes, graph, node, operands, attributes)) return VALUE_NONE;
    return graph_add(graph, node->op, operands, node->operand_count, attributes, node->attributes.count,
                     node->place);
}

static Changes mapped_changes(const Retype *retype) {
    Changes changes = {0};
    for (uint32_t i = 0; i < retype->count; i++)
        vector_push(retype->ir->arena, &changes, ((Change){retype->map[i], retype->map[i], .any = true}));
    return changes;
}

// `inputs`: the new types of the inputs, or NULL where the map alone decides. `outputs`: what they must be,
// or NULL; a dimension that is not wanted is summed.
static Graph *retype_graph(Retype *retype, const Graph *graph, const char *name, const Type **inputs,
                           const Type **outputs) {
    Ir *ir = retype->ir;
    Graph *copy = graph_create(ir, name);
    Changes changes = mapped_changes(retype);
    Value *map = ARENA_ARRAY(ir->arena, Value, graph->nodes.count);
    const Type **given = ARENA_ARRAY(ir->arena, const Type *, graph->nodes.count);
    for (size_t i = 0; i < graph->inputs.count && inputs; i++) given[graph->inputs.items[i]] = inputs[i];

    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        Value *operands = map_operands(ir->arena, map, node);
        if (node->op == OP_input) {
            const Type *type = given[id] ? given[id] : retype_type(ir, &changes, node->types[0]);
            if (!type) {
                report_error(ir->diagnostics, node->place, "E0291",
                             "input '%s' would have more than 2^47 elements",
                             attribute_text(node, ATTRIBUTE_name));
                return NULL;
            }
            map[id] = graph_copy_input(copy, node, type);
        } else {
            map[id] = retype_one(retype, &changes, copy, graph, node, operands);
            if (value_is_none(map[id])) return NULL;
        }
        for (uint32_t r = 0; r < node->result_count; r++)
            learn(ir, &changes, node->types[r], graph_type(copy, (Value){map[id].node, r}));
    }
    copy->inputs.count = 0;  // in the order of the signature, which need not be that of the nodes
    for (size_t i = 0; i < graph->inputs.count; i++)
        vector_push(ir->arena, &copy->inputs, map[graph->inputs.items[i]].node);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        Value value = map_value(map, output->value);
        if (outputs)
            value = build_reduce_to(copy, value, outputs[i], graph_node(graph, output->value.node)->place);
        if (value_is_none(value)) return NULL;
        graph_add_output(copy, output->name, value, map_value(map, output->replaces));
    }
    return copy;
}

Retype *retype_begin(Ir *ir, const Dimension *map, uint32_t count) {
    Retype *retype = ARENA_NEW(ir->arena, Retype);
    Dimension *interned = ARENA_ARRAY(ir->arena, Dimension, count + 1);
    for (uint32_t i = 0; i < count; i++)
        interned[i] = (Dimension){names_intern(ir->names, map[i].name), map[i].extent,
                                  map[i].bound ? names_intern(ir->names, map[i].bound) : NULL};
    *retype = (Retype){.ir = ir, .map = interned, .count = count};
    return retype;
}

Graph *graph_retype(const Graph *graph, const char *name, const Dimension *map, uint32_t count) {
    return retype_graph(retype_begin(graph->ir, map, count), graph, name, NULL, NULL);
}

Value retype_node(Retype *retype, Graph *graph, const Graph *from, const Node *node, const Value *operands) {
    Value *held = ARENA_ARRAY(graph->ir->arena, Value, node->operand_count + 1);
    memcpy(held, operands, node->operand_count * sizeof *held);
    Changes changes = mapped_changes(retype);
    return retype_one(retype, &changes, graph, from, node, held);
}
