// Graphs: adding nodes with hash-consing, inputs and outputs.
#include "ir/graph.h"

#include <string.h>

#include "base/hash.h"
#include "ir/attributes.h"
#include "ir/graph_rules.h"
#include "ir/op.h"

typedef struct Slot {
    uint32_t hash;
    uint32_t node_plus_one;  // 0: empty
} Slot;

struct GraphTable {
    Slot *slots;
    size_t count, capacity;  // capacity is a power of two
};

Graph *graph_create(Ir *ir, const char *name) {
    Graph *graph = ARENA_NEW(ir->arena, Graph);
    graph->ir = ir;
    graph->name = names_intern(ir->names, name);
    graph->table = ARENA_NEW(ir->arena, struct GraphTable);
    graph->table->capacity = 64;
    graph->table->slots = ARENA_ARRAY(ir->arena, Slot, graph->table->capacity);
    return graph;
}

// ---- hash-consing: a node is its op, operands and attributes; result types follow from them ----

static uint32_t node_hash(const Node *node) {
    uint64_t hash = hash_word(HASH_START, (uint64_t)node->op << 32 | node->operand_count);
    for (uint32_t i = 0; i < node->operand_count; i++)
        hash = hash_word(hash, (uint64_t)node->operands[i].node << 32 | node->operands[i].result);
    return (uint32_t)(hash_word(hash, node->attributes.hash) >> 32);
}

static bool node_same(const Node *a, const Node *b) {
    if (a->op != b->op || a->operand_count != b->operand_count) return false;
    for (uint32_t i = 0; i < a->operand_count; i++)
        if (!value_same(a->operands[i], b->operands[i])) return false;
    return attributes_same(a->attributes, b->attributes);
}

// The slot of the equal node, or the empty slot where it belongs.
static Slot *table_find(const Graph *graph, const Node *node, uint32_t hash) {
    const struct GraphTable *table = graph->table;
    size_t at = hash & (table->capacity - 1);
    for (; table->slots[at].node_plus_one; at = (at + 1) & (table->capacity - 1)) {
        const Slot *slot = &table->slots[at];
        if (slot->hash == hash && node_same(graph_node(graph, slot->node_plus_one - 1), node)) break;
    }
    return &table->slots[at];
}

static void table_resize(Graph *graph, size_t capacity) {
    struct GraphTable *table = graph->table;
    Slot *old = table->slots;
    size_t old_capacity = table->capacity;
    table->capacity = capacity;
    table->slots = ARENA_ARRAY(graph->ir->arena, Slot, capacity);
    for (size_t i = 0; i < old_capacity; i++) {
        if (!old[i].node_plus_one) continue;
        size_t at = old[i].hash & (capacity - 1);
        while (table->slots[at].node_plus_one) at = (at + 1) & (capacity - 1);
        table->slots[at] = old[i];
    }
}

void graph_reserve(Graph *graph, size_t nodes) {
    size_t capacity = graph->table->capacity;
    while (capacity < 2 * nodes) capacity *= 2;
    if (capacity > graph->table->capacity) table_resize(graph, capacity);
    if (nodes <= graph->nodes.capacity) return;
    Node *items = ARENA_ARRAY(graph->ir->arena, Node, nodes);
    if (graph->nodes.count) memcpy(items, graph->nodes.items, sizeof(Node) * graph->nodes.count);
    graph->nodes.items = items;
    graph->nodes.capacity = nodes;
}

static void table_insert(Graph *graph, const Node *node, uint32_t hash, uint32_t id) {
    if (graph->table->count * 3 >= graph->table->capacity * 2) table_resize(graph, graph->table->capacity * 2);
    *table_find(graph, node, hash) = (Slot){hash, id + 1};
    graph->table->count++;
}

// ---- adding ----

// How many results the shape rule may write.
static uint32_t result_limit(const Node *node) {
    int declared = op_table[node->op]->results;
    if (declared >= 0) return (uint32_t)declared;
    const Graph *callee = attribute_graph(node, ATTRIBUTE_function);
    uint32_t outputs = callee ? (uint32_t)callee->outputs.count : 0;
    return outputs > node->operand_count ? outputs : node->operand_count;
}

enum { USUAL_OPERANDS = 16 };  // as many need no memory of the arena

bool graph_infer_types(const Graph *graph, Node *node) {
    Ir *ir = graph->ir;
    const Type *usual_types[USUAL_OPERANDS], **operands = usual_types;
    Place usual_places[USUAL_OPERANDS], *places = usual_places;
    if (node->operand_count > USUAL_OPERANDS) {
        operands = ARENA_ARRAY(ir->arena, const Type *, node->operand_count);
        places = ARENA_ARRAY(ir->arena, Place, node->operand_count);
    }
    for (uint32_t i = 0; i < node->operand_count; i++) {
        operands[i] = graph_type(graph, node->operands[i]);
        places[i] = graph_node(graph, node->operands[i].node)->place;
    }
    uint32_t limit = result_limit(node);
    const Type **results = ARENA_ARRAY(ir->arena, const Type *, limit);
    Shape shape = {.ir = ir,
                   .op = node->op,
                   .operands = operands,
                   .operand_places = places,
                   .operand_count = node->operand_count,
                   .node = node,
                   .results = results,
                   .result_limit = limit};
    if (!op_table[node->op]->shape(&shape)) return false;
    CHECK(shape.result_count <= limit);
    for (uint32_t i = 0; i < shape.result_count; i++)
        if (!results[i])
            return report_error(ir->diagnostics, node->place, "E0291",
                                "result %u of %s would have an extent below 1 or more than 2^47 elements", i,
                                op_name(node->op));
    node->types = results;
    node->result_count = shape.result_count;
    return true;
}

static uint32_t push_node(Graph *graph, const Node *node) {
    CHECK(graph->nodes.count < UINT32_MAX - 1);
    vector_push(graph->ir->arena, &graph->nodes, *node);
    return (uint32_t)graph->nodes.count - 1;
}

static void check_operands(const Graph *graph, const Value *operands, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        CHECK(operands[i].node < graph->nodes.count);
        CHECK(operands[i].result < graph_node(graph, operands[i].node)->result_count);
    }
}

static bool any_none(const Value *operands, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (value_is_none(operands[i])) return true;  // its error is reported already
    return false;
}

static void copy_operands(const Graph *graph, Node *node) {
    Value *copies = ARENA_ARRAY(graph->ir->arena, Value, node->operand_count);
    for (uint32_t i = 0; i < node->operand_count; i++) copies[i] = node->operands[i];
    node->operands = copies;
}

Value graph_add(Graph *graph, Op op, const Value *operands, uint32_t operand_count,
                const Attribute *attributes, uint32_t attribute_count, Place place) {
    CHECK((unsigned)op < OP_COUNT && op != OP_input);
    if (any_none(operands, operand_count)) return VALUE_NONE;
    check_operands(graph, operands, operand_count);
    Attribute sorted[ATTRIBUTE_COUNT];
    attributes_sort(attributes, attribute_count, sorted);
    Node node = {.op = op,
                 .operand_count = operand_count,
                 .operands = operands,
                 .attributes = {sorted, attribute_count, 0},
                 .place = place};
    node.attributes.hash = attributes_hash(node.attributes);
    uint32_t hash = node_hash(&node);
    const Slot *slot = table_find(graph, &node, hash);
    if (slot->node_plus_one) return (Value){slot->node_plus_one - 1, 0};

    copy_operands(graph, &node);
    node.attributes = attributes_copy(graph->ir, node.attributes);
    if (!graph_infer_types(graph, &node)) return VALUE_NONE;
    uint32_t id = push_node(graph, &node);
    table_insert(graph, &node, hash, id);
    return (Value){id, 0};
}

Value graph_copy_from(Graph *graph, const Graph *from, const Node *node, const Value *operands) {
    uint32_t count = node->operand_count;
    if (any_none(operands, count)) return VALUE_NONE;
    check_operands(graph, operands, count);
    bool alike = node->op != OP_input && from->ir == graph->ir;
    for (uint32_t i = 0; alike && i < count; i++)
        alike = graph_type(graph, operands[i]) == graph_type(from, node->operands[i]);
    if (!alike) return graph_copy_node(graph, node, operands);
    Node copy = *node;
    copy.operands = operands;
    uint32_t hash = node_hash(&copy);
    const Slot *slot = table_find(graph, &copy, hash);
    if (slot->node_plus_one) return (Value){slot->node_plus_one - 1, 0};
    copy_operands(graph, &copy);
    uint32_t id = push_node(graph, &copy);
    table_insert(graph, &copy, hash, id);
    return (Value){id, 0};
}

Value graph_add_input_with(Graph *graph, const Attribute *attributes, uint32_t count, const Type *type,
                           Place place) {
    const Type **types = ARENA_ARRAY(graph->ir->arena, const Type *, 1);
    types[0] = type;
    Attribute sorted[ATTRIBUTE_COUNT];
    attributes_sort(attributes, count, sorted);
    Node node = {.op = OP_input,
                 .result_count = 1,
                 .types = types,
                 .place = place,
                 .attributes = attributes_copy(graph->ir, (Attributes){sorted, count, 0})};
    CHECK(type && attribute_text(&node, ATTRIBUTE_name));
    CHECK((uint64_t)attribute_integer(&node, ATTRIBUTE_role, -1) < ROLE_COUNT);
    uint32_t id = push_node(graph, &node);
    vector_push(graph->ir->arena, &graph->inputs, id);
    return (Value){id, 0};
}

Value graph_add_input(Graph *graph, const char *name, Role role, const Type *type, Place place) {
    Attribute attributes[] = {{.key = ATTRIBUTE_name, .text = name},
                              {.key = ATTRIBUTE_role, .integer = role}};
    return graph_add_input_with(graph, attributes, 2, type, place);
}

Value graph_copy_input(Graph *graph, const Node *node, const Type *type) {
    Node held = *node;  // `node` may lie in a node list that grows meanwhile
    return graph_add_input_with(graph, held.attributes.items, held.attributes.count, type, held.place);
}

void graph_add_output(Graph *graph, const char *name, Value value, Value replaces) {
    vector_push(graph->ir->arena, &graph->outputs,
                ((Output){names_intern(graph->ir->names, name), value, replaces}));
}

Value graph_find_input(const Graph *graph, const char *name, Role role) {
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, -1) == (int64_t)role &&
            strcmp(attribute_text(node, ATTRIBUTE_name), name) == 0)
            return (Value){graph->inputs.items[i], 0};
    }
    return VALUE_NONE;
}

const char *graph_bound(Ir *ir, const Node *node) {
    return node->op == OP_compact ? names_intern(ir->names, attribute_text(node, ATTRIBUTE_name)) : NULL;
}

Value graph_find_bound(const Graph *graph, const char *name) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const char *bound = graph_bound(graph->ir, graph_node(graph, id));
        if (bound && strcmp(bound, name) == 0) return (Value){id, 1};
    }
    return graph_find_input(graph, name, ROLE_SCALAR);
}

const Output *graph_find_output(const Graph *graph, const char *name) {
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (strcmp(graph->outputs.items[i].name, name) == 0) return &graph->outputs.items[i];
    return NULL;
}
