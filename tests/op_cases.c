// Builds the graphs of op cases from their text, and fills their inputs.
#include "tests/op_cases.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Reading ----

typedef struct Reader {
    Ir *ir;
    const char *at;
} Reader;

static void skip_spaces(Reader *reader) {
    while (*reader->at == ' ') reader->at++;
}

static bool accept(Reader *reader, const char *text) {
    skip_spaces(reader);
    size_t length = strlen(text);
    if (strncmp(reader->at, text, length) != 0) return false;
    reader->at += length;
    return true;
}

static void expect(Reader *reader, const char *text) {
    if (!accept(reader, text)) INTERNAL_ERROR("op case: expected %s before: %s", text, reader->at);
}

static const char *read_name(Reader *reader) {
    skip_spaces(reader);
    const char *start = reader->at;
    while (isalnum((unsigned char)*reader->at) || *reader->at == '_') reader->at++;
    return names_intern_length(reader->ir->names, start, (size_t)(reader->at - start));
}

static int64_t read_integer(Reader *reader) {
    char *end;
    int64_t integer = strtoll(reader->at, &end, 10);
    reader->at = end;
    return integer;
}

static Dimension read_dimension(Reader *reader) {
    Dimension dimension = {.name = read_name(reader)};
    bool bounded = accept(reader, "<=");
    if (!bounded) expect(reader, "=");
    dimension.extent = read_integer(reader);
    if (bounded) {
        expect(reader, ":");
        dimension.bound = read_name(reader);
    }
    return dimension;
}

static uint32_t read_dimensions(Reader *reader, const char *close, Dimension *dimensions) {
    uint32_t count = 0;
    while (!accept(reader, close)) {
        if (count) expect(reader, ",");
        dimensions[count++] = read_dimension(reader);
    }
    return count;
}

static const Type *read_type(Reader *reader) {
    Element element;
    Dimension dimensions[RANK_MAX];
    CHECK(element_parse(read_name(reader), &element));
    expect(reader, "[");
    uint32_t count = read_dimensions(reader, "]", dimensions);
    return type_make(reader->ir, element, (int)count, dimensions);
}

static AttributeKey find_key(const char *name) {
    for (int key = 0; key < ATTRIBUTE_COUNT; key++)
        if (strcmp(attribute_name((AttributeKey)key), name) == 0) return (AttributeKey)key;
    INTERNAL_ERROR("op case: no attribute %s", name);
}

static Attribute read_attribute(Reader *reader) {
    Attribute attribute = {.key = find_key(read_name(reader))};
    Dimension *dimensions = ARENA_ARRAY(reader->ir->arena, Dimension, RANK_MAX);
    const char **names = ARENA_ARRAY(reader->ir->arena, const char *, RANK_MAX);
    Element element = ELEMENT_F32;
    char *end;
    expect(reader, "=");
    skip_spaces(reader);
    switch (attribute_kind(attribute.key)) {
        case KIND_INTEGER:
            attribute.integer = read_integer(reader);
            break;
        case KIND_NUMBER:
            attribute.number = strtod(reader->at, &end);
            reader->at = end;
            break;
        case KIND_TEXT:
        case KIND_NAME:
            attribute.text = read_name(reader);
            break;
        case KIND_ELEMENT:
            CHECK(element_parse(read_name(reader), &element));
            attribute.integer = element;
            break;
        case KIND_DIMENSIONS:
            expect(reader, "(");
            attribute.count = read_dimensions(reader, ")", dimensions);
            attribute.dimensions = dimensions;
            break;
        case KIND_NAMES:
            expect(reader, "(");
            while (!accept(reader, ")")) {
                if (attribute.count) expect(reader, ",");
                names[attribute.count++] = read_name(reader);
            }
            attribute.names = names;
            break;
        default:
            INTERNAL_ERROR("op case: attribute %s has no text form here", attribute_name(attribute.key));
    }
    return attribute;
}

// ---- Graphs ----

static void add_bounds(Graph *graph, const Type *type) {
    for (int i = 0; i < type->rank; i++) {
        const char *bound = type->dimensions[i].bound;
        if (bound && value_is_none(graph_find_input(graph, bound, ROLE_SCALAR)))
            graph_add_input(graph, bound, ROLE_SCALAR, type_scalar(graph->ir, ELEMENT_I64), NO_PLACE);
    }
}

// The inputs of a case; their count.
static uint32_t add_operands(Graph *graph, const OpCase *op_case, Value *operands) {
    Reader reader = {graph->ir, op_case->operands};
    uint32_t count = 0;
    while (*reader.at) {
        if (count) expect(&reader, ";");
        const Type *type = read_type(&reader);
        add_bounds(graph, type);
        const char *name = names_format(graph->ir->names, "x%u", count);
        operands[count++] = graph_add_input(graph, name, ROLE_DATA, type, NO_PLACE);
    }
    return count;
}

static Graph *add_outputs(Graph *graph, Value value) {
    if (value_is_none(value)) return NULL;
    for (uint32_t i = 0; i < graph_node(graph, value.node)->result_count; i++)
        graph_add_output(graph, names_format(graph->ir->names, "y%u", i), (Value){value.node, i}, VALUE_NONE);
    return graph;
}

Graph *op_case_graph(Ir *ir, const OpCase *op_case) {
    if (op_case->build) return op_case->build(ir, op_case);
    Graph *graph = graph_create(ir, "case");
    Value operands[8];
    Attribute attributes[ATTRIBUTE_COUNT];
    uint32_t operand_count = add_operands(graph, op_case, operands), attribute_count = 0;
    Reader reader = {ir, op_case->attributes};
    while (*reader.at) {
        if (attribute_count) expect(&reader, ",");
        attributes[attribute_count++] = read_attribute(&reader);
    }
    if (op_case->op == OP_input) return add_outputs(graph, operands[0]);
    return add_outputs(
        graph, graph_add(graph, op_case->op, operands, operand_count, attributes, attribute_count, NO_PLACE));
}

static Graph *difference(Ir *ir, const OpCase *op_case) {
    Graph *graph = graph_create(ir, "difference");
    Value operands[8];
    add_operands(graph, op_case, operands);
    Value y = build_binary(graph, OP_sub, operands[0], operands[1], NO_PLACE);
    const char *over = names_intern(ir->names, "a");
    Value total = build_reduce(graph, OP_sum, y, &over, 1, NO_PLACE);
    graph_add_output(graph, names_intern(ir->names, "y"), y, VALUE_NONE);
    graph_add_output(graph, names_intern(ir->names, "total"), total, VALUE_NONE);
    return graph;
}

static Graph *call_of(Ir *ir, const OpCase *op_case, Graph *function) {
    Graph *graph = graph_create(ir, "case");
    Value operands[8];
    uint32_t count = add_operands(graph, op_case, operands);
    Attribute attribute = {.key = ATTRIBUTE_function, .graph = function};
    return add_outputs(graph, graph_add(graph, OP_call, operands, count, &attribute, 1, NO_PLACE));
}

Graph *op_case_call(Ir *ir, const OpCase *op_case) { return call_of(ir, op_case, difference(ir, op_case)); }

Graph *op_case_call_nested(Ir *ir, const OpCase *op_case) {
    return call_of(ir, op_case, op_case_call(ir, op_case));
}

static Graph *stack_of(Ir *ir, const OpCase *op_case, const StackEntry *entries, uint32_t entry_count) {
    Graph *body = graph_create(ir, "body");
    Dimension a = {.name = names_intern(ir->names, "a"), .extent = 2};
    Value inputs[4];
    for (int i = 0; i < 4; i++)
        inputs[i] = graph_add_input(body, names_format(ir->names, "b%d", i), ROLE_ARGUMENT,
                                    type_make(ir, ELEMENT_F32, i < 3, &a), NO_PLACE);
    Value x = build_binary(body, OP_add, inputs[0], inputs[1], NO_PLACE);
    x = build_binary(body, OP_mul, build_binary(body, OP_mul, x, inputs[2], NO_PLACE), inputs[3], NO_PLACE);
    graph_add_output(body, names_intern(ir->names, "y"), x, VALUE_NONE);
    Graph *graph = graph_create(ir, "case");
    Value operands[8];
    uint32_t count = add_operands(graph, op_case, operands);
    Attribute attributes[] = {{.key = ATTRIBUTE_body, .graph = body},
                              {.key = ATTRIBUTE_carried, .integer = 1},
                              {.key = ATTRIBUTE_invariant, .integer = 1},
                              {.key = ATTRIBUTE_entries, .entries = entries, .count = entry_count}};
    return add_outputs(graph, graph_add(graph, OP_stack, operands, count, attributes, 4, NO_PLACE));
}

Graph *op_case_stack(Ir *ir, const OpCase *op_case) {
    StackEntry entries[] = {{.layer = 0, .iteration = 0, .row = 0},
                            {.layer = 1, .row = 1},
                            {.layer = 0, .iteration = 1, .row = 1}};
    return stack_of(ir, op_case, entries, 3);
}

// before, x, row -> x * row + before; or x, row -> x + row.
static Graph *stack_bracket(Ir *ir, const Type *type, bool leaves) {
    Graph *graph = graph_create(ir, leaves ? "leave" : "enter");
    Value before = VALUE_NONE;
    if (leaves) before = graph_add_input(graph, "before", ROLE_ARGUMENT, type, NO_PLACE);
    Value x = graph_add_input(graph, "x", ROLE_ARGUMENT, type, NO_PLACE);
    Value row = graph_add_input(graph, "row", ROLE_ARGUMENT, type_scalar(ir, ELEMENT_F32), NO_PLACE);
    Value y = build_binary(graph, leaves ? OP_mul : OP_add, x, row, NO_PLACE);
    if (leaves) y = build_binary(graph, OP_add, y, before, NO_PLACE);
    graph_add_output(graph, "y", y, VALUE_NONE);
    return graph;
}

Graph *op_case_stack_core(Ir *ir, const OpCase *op_case) {
    Dimension a = {.name = names_intern(ir->names, "a"), .extent = 2};
    const Type *type = type_make(ir, ELEMENT_F32, 1, &a);
    Graph *body = graph_create(ir, "body");
    Value inputs[3];
    for (int i = 0; i < 3; i++)
        inputs[i] = graph_add_input(body, names_format(ir->names, "b%d", i), ROLE_ARGUMENT, type, NO_PLACE);
    Value x = build_binary(body, OP_add, inputs[0], inputs[1], NO_PLACE);
    graph_add_output(body, "y", build_binary(body, OP_mul, x, inputs[2], NO_PLACE), VALUE_NONE);
    StackEntry entries[] = {{.layer = 0, .row = -1}, {.layer = 1, .row = 1, .enter = true, .leave = true}};
    Graph *graph = graph_create(ir, "case");
    Value operands[8];
    uint32_t count = add_operands(graph, op_case, operands);
    Attribute attributes[] = {{.key = ATTRIBUTE_body, .graph = body},
                              {.key = ATTRIBUTE_carried, .integer = 1},
                              {.key = ATTRIBUTE_invariant, .integer = 1},
                              {.key = ATTRIBUTE_entries, .entries = entries, .count = 2},
                              {.key = ATTRIBUTE_enter, .graph = stack_bracket(ir, type, false)},
                              {.key = ATTRIBUTE_leave, .graph = stack_bracket(ir, type, true)}};
    return add_outputs(graph, graph_add(graph, OP_stack, operands, count, attributes, 6, NO_PLACE));
}

Graph *op_case_stack_empty(Ir *ir, const OpCase *op_case) { return stack_of(ir, op_case, NULL, 0); }

// ---- Inputs ----

static double actual_extent(int64_t capacity) { return (double)(capacity * 3 / 4); }

static const Type *actual_type(Ir *ir, const Type *type) {
    Dimension dimensions[RANK_MAX];
    for (int i = 0; i < type->rank; i++) {
        dimensions[i] = type->dimensions[i];
        if (!dimensions[i].bound) continue;
        dimensions[i].extent = (int64_t)actual_extent(dimensions[i].extent);
        dimensions[i].bound = NULL;
    }
    return type_make(ir, type->element, type->rank, dimensions);
}

// Numbers that fill [low, high) evenly and stay apart: multiples of the golden ratio, modulo 1.
static double spread(int64_t position, int operand, double low, double high) {
    double turns = (double)(position + 1) * 0.6180339887498949 + operand * 0.37;
    return low + (high - low) * (turns - floor(turns));
}

static void fill(Tensor *tensor, int operand, const char *spec) {
    int64_t count = type_count(tensor->type), given = 0;
    Element element = tensor->type->element;
    double low = element_is_float(element) ? -1.5 : 0, high = element_is_float(element) ? 1.5 : 2;
    while (*spec == ' ') spec++;
    if (*spec == '[') {
        for (char *end = NULL; given < count; given++, spec = end) {
            spec += *spec == '[';
            tensor->data[given] = strtod(spec, &end);
            if (end == spec) break;
        }
        for (int64_t i = given; i < count; i++) tensor->data[i] = tensor->data[i % given];
        return;
    }
    char *dots;
    if (*spec != ';' && *spec) {
        low = strtod(spec, &dots);
        while (*dots == '.') dots++;
        high = strtod(dots, NULL);
    }
    for (int64_t i = 0; i < count; i++) {
        tensor->data[i] = spread(i, operand, low, high);
        if (!element_is_float(element)) tensor->data[i] = floor(tensor->data[i]);
    }
}

Tensor *op_case_inputs(Arena *arena, const OpCase *op_case, const Graph *graph) {
    Tensor *inputs = ARENA_ARRAY(arena, Tensor, graph->inputs.count + 1);
    const char *spec = op_case->values;
    int operand = 0;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        inputs[i] = tensor_create(arena, actual_type(graph->ir, node->types[0]));
        if (attribute_integer(node, ATTRIBUTE_role, 0) == ROLE_SCALAR) continue;
        fill(&inputs[i], operand++, spec);
        spec = strchr(spec, ';') ? strchr(spec, ';') + 1 : "";
        for (int d = 0; d < node->types[0]->rank; d++) {
            const Dimension *dimension = &node->types[0]->dimensions[d];
            for (size_t j = 0; dimension->bound && j < i; j++) {
                const char *name = attribute_text(graph_node(graph, graph->inputs.items[j]), ATTRIBUTE_name);
                if (name == dimension->bound) inputs[j].data[0] = actual_extent(dimension->extent);
            }
        }
    }
    return inputs;
}

int op_case_expected(const OpCase *op_case, double *numbers, int limit) {
    const char *at = op_case->expected;
    int count = 0;
    for (char *end = NULL; at && count < limit; count++, at = end) {
        numbers[count] = strtod(at, &end);
        if (end == at) break;
    }
    return count;
}
