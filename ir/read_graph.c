// Reads one graph of IR text: nodes, signature, outputs. An error ends its line; the value that the
// line was to define stays known but empty, so that its users are not reported as well.
#include <string.h>

#include "ir/reader.h"

// A value by its number in the text.
typedef struct Numbered {
    uint32_t number, node;  // node UINT32_MAX: its line had an error
} Numbered;

typedef struct GraphReader {
    Reader *reader;
    Lexer *lexer;
    Graph *graph;
    VECTOR(Numbered) values;  // numbers rise
} GraphReader;

static bool error_at(const Reader *reader, Place place, const char *code, const char *text) {
    return report_error(reader->ir->diagnostics, place, code, "%s", text);
}

// ---- values ----

static const Numbered *find_number(const GraphReader *in, uint32_t number) {
    size_t low = 0, high = in->values.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (in->values.items[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < in->values.count && in->values.items[low].number == number ? &in->values.items[low] : NULL;
}

// A mention of a value. VALUE_NONE where the line that defines it had an error.
static bool read_value(GraphReader *in, Value *value) {
    const Token token = in->lexer->token;
    if (token.kind != TOKEN_VALUE) return reader_error(in->reader, "a value");
    const Numbered *numbered = find_number(in, token.value.node);
    if (!numbered)
        return report_error(in->reader->ir->diagnostics, token.place, "E0404",
                            "%%%u is not defined before this line", token.value.node);
    *value = (Value){numbered->node, token.value.result};
    if (numbered->node == UINT32_MAX)
        *value = VALUE_NONE;
    else if (token.value.result >= graph_node(in->graph, numbered->node)->result_count)
        return error_at(in->reader, token.place, "E0404", "the node has fewer results");
    lexer_next(in->lexer);
    return true;
}

// ---- nodes ----

// What a line says, before the node exists.
typedef struct Line {
    Place start, op_place, declared;  // declared: "!file:line:column"
    uint32_t number;
    Op op;
    VECTOR(Value) operands;
    Attribute attributes[ATTRIBUTE_COUNT];
    uint32_t attribute_count;
    VECTOR(const Type *) types;
} Line;

static bool read_op(GraphReader *in, Line *line) {
    line->op_place = in->lexer->token.place;
    if (in->lexer->token.kind != TOKEN_NAME) return reader_error(in->reader, "an op");
    for (line->op = 0; line->op < OP_COUNT; line->op++)
        if (strcmp(op_name(line->op), in->lexer->token.text) == 0) {
            lexer_next(in->lexer);
            return true;
        }
    return report_error(in->reader->ir->diagnostics, line->op_place, "E0403", "there is no op '%s'",
                        in->lexer->token.text);
}

static bool read_line(GraphReader *in, Line *line) {
    Arena *arena = in->reader->ir->arena;
    if (!reader_sign(in->reader, '=') || !read_op(in, line)) return false;
    // Operands stand on the op's line: a value that starts a line defines the next node.
    while (in->lexer->token.kind == TOKEN_VALUE && !in->lexer->token.starts_line) {
        Value operand;
        if (!read_value(in, &operand)) return false;
        vector_push(arena, &line->operands, operand);
        if (!token_is_sign(&in->lexer->token, ',')) break;
        lexer_next(in->lexer);
        if (in->lexer->token.kind != TOKEN_VALUE || in->lexer->token.starts_line)
            return reader_error(in->reader, "a value on this line");
    }
    if (!reader_attributes(in->reader, line->attributes, &line->attribute_count)) return false;
    if (token_is_sign(&in->lexer->token, ':')) do {
            const Type *type;
            lexer_next(in->lexer);
            if (!reader_type(in->reader, &type)) return false;
            vector_push(arena, &line->types, type);
        } while (token_is_sign(&in->lexer->token, ','));
    reader_place(in->reader, &line->declared);
    if (!in->lexer->token.starts_line && !token_is_sign(&in->lexer->token, '}'))
        return reader_error(in->reader, "the end of the line");
    return true;
}

static Value add_input(GraphReader *in, const Line *line) {
    const Node node = {.attributes = {line->attributes, line->attribute_count}};
    const char *name = attribute_text(&node, ATTRIBUTE_name);
    int64_t role = attribute_integer(&node, ATTRIBUTE_role, -1);
    uint32_t known = attribute_find(&node, ATTRIBUTE_by) ? 3 : 2;
    if (!name || role < 0 || line->attribute_count != known || line->types.count != 1 ||
        line->operands.count) {
        error_at(in->reader, line->op_place, "E0402",
                 "an input is written: input {name = \"x\", role = data} : type");
        return VALUE_NONE;
    }
    return graph_add_input_with(in->graph, line->attributes, line->attribute_count, line->types.items[0],
                                line->declared);
}

static bool check_types(const GraphReader *in, const Line *line, const Node *node) {
    Ir *ir = in->reader->ir;
    if (node->result_count != line->types.count)
        return report_error(ir->diagnostics, line->op_place, "E0405",
                            "%s has %u results here, the text declares %zu", op_name(line->op),
                            node->result_count, line->types.count);
    for (uint32_t i = 0; i < node->result_count; i++)
        if (node->types[i] != line->types.items[i])
            return report_error(ir->diagnostics, line->op_place, "E0405", "%s gives %s, the text declares %s",
                                op_name(line->op), type_text(ir, node->types[i]),
                                type_text(ir, line->types.items[i]));
    return true;
}

// The shape rule reports at the line of the text; then the node gets the place that the text declares.
static Value add_line(GraphReader *in, const Line *line) {
    if (line->op == OP_input) return add_input(in, line);
    for (uint32_t i = 0; i < line->attribute_count; i++)
        if (attribute_kind(line->attributes[i].key) == KIND_GRAPH && !line->attributes[i].graph)
            return VALUE_NONE;
    size_t count = in->graph->nodes.count;
    Value value = graph_add(in->graph, line->op, line->operands.items, (uint32_t)line->operands.count,
                            line->attributes, line->attribute_count, line->op_place);
    if (value_is_none(value)) return value;
    if (in->graph->nodes.count > count) in->graph->nodes.items[value.node].place = line->declared;
    return check_types(in, line, graph_node(in->graph, value.node)) ? value : VALUE_NONE;
}

static bool read_node(GraphReader *in) {
    Line line = {.start = in->lexer->token.place, .number = in->lexer->token.value.node};
    bool rises = !in->values.count || vector_last(&in->values).number < line.number;
    if (in->lexer->token.value.result || !rises)
        return error_at(in->reader, line.start, "E0404", "numbers of nodes rise from line to line");
    lexer_next(in->lexer);
    bool good = read_line(in, &line);
    Value value = good ? add_line(in, &line) : VALUE_NONE;
    vector_push(in->reader->ir->arena, &in->values, ((Numbered){line.number, value.node}));
    return good;
}

// ---- signature and outputs ----

// "inputs %3, %0": every input once, in the order of the signature.
static bool read_signature(GraphReader *in) {
    Graph *graph = in->graph;
    Place place = in->lexer->token.place;
    bool *given = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count + 1);
    uint32_t *order = ARENA_ARRAY(graph->ir->arena, uint32_t, graph->inputs.count + 1);
    size_t count = 0;
    do {
        lexer_next(in->lexer);
        Value value;
        if (!read_value(in, &value)) return false;
        if (value_is_none(value)) return true;
        if (graph_node(graph, value.node)->op != OP_input || given[value.node])
            return error_at(in->reader, place, "E0404", "`inputs` names each input once");
        given[value.node] = true;
        order[count++] = value.node;
    } while (token_is_sign(&in->lexer->token, ','));
    if (count != graph->inputs.count)
        return error_at(in->reader, place, "E0404", "`inputs` names each input once");
    for (size_t i = 0; i < count; i++) graph->inputs.items[i] = order[i];
    return true;
}

static bool read_output(GraphReader *in) {
    lexer_next(in->lexer);
    const char *name;
    Value value, replaces = VALUE_NONE;
    if (!reader_name(in->reader, "the output's name", &name) || !reader_sign(in->reader, '=') ||
        !read_value(in, &value))
        return false;
    if (token_is_word(&in->lexer->token, "replaces")) {
        lexer_next(in->lexer);
        if (!read_value(in, &replaces)) return false;
    }
    graph_add_output(in->graph, name, value, replaces);
    return true;
}

static bool read_statement(GraphReader *in) {
    const Token *token = &in->lexer->token;
    if (token->kind == TOKEN_VALUE) return read_node(in);
    if (token_is_word(token, "inputs")) return read_signature(in);
    if (token_is_word(token, "output")) return read_output(in);
    return reader_error(in->reader, "a node, an output or '}'");
}

Graph *reader_graph(Reader *reader, const GraphSource *source) {
    size_t errors = diagnostics_error_count(reader->ir->diagnostics);
    reader->lexer = source->body;
    GraphReader in = {
        .reader = reader, .lexer = &reader->lexer, .graph = graph_create(reader->ir, source->name)};
    // The braces are balanced (first pass), but an error may stop amid a list: its lines run on to the
    // next one that starts a statement.
    while (!token_is_sign(&in.lexer->token, '}') && in.lexer->token.kind != TOKEN_END) {
        const char *start = in.lexer->cursor;
        if (read_statement(&in)) continue;
        if (in.lexer->cursor == start) lexer_next(in.lexer);  // always forward
        while (in.lexer->token.kind != TOKEN_END && !in.lexer->token.starts_line) lexer_next(in.lexer);
    }
    return diagnostics_error_count(reader->ir->diagnostics) == errors ? in.graph : NULL;
}
