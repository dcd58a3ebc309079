// Reads one graph of IR text: nodes, signature, outputs. An error ends its line; the value that the
// line was to define stays known but empty, so that its users are not reported as well.
#include <math.h>
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

// ---- attributes ----

static bool read_number(Reader *reader, double *number) {
    const Token *token = &reader->lexer.token;
    if (token->kind == TOKEN_NUMBER)
        *number = token->number;
    else if (token_is_word(token, "inf"))
        *number = (double)INFINITY;
    else if (token_is_word(token, "nan"))
        *number = (double)NAN;
    else
        return false;
    lexer_next(&reader->lexer);
    return true;
}

static bool read_option(Reader *reader, Option *option) {
    *option = (Option){0};
    if (!reader_name(reader, "an option's name", &option->name) || !reader_sign(reader, '=')) return false;
    return read_number(reader, &option->number) || reader_name(reader, "a number or a name", &option->text);
}

// "(" item {"," item} ")"; the items go where the attribute's kind keeps them.
static bool read_list(Reader *reader, AttributeKind kind, Attribute *attribute) {
    Arena *arena = reader->ir->arena;
    VECTOR(const char *) names = {0};
    VECTOR(Dimension) dimensions = {0};
    VECTOR(Option) options = {0};
    if (!reader_sign(reader, '(')) return false;
    for (; !token_is_sign(&reader->lexer.token, ')'); attribute->count++) {
        if (attribute->count && !reader_sign(reader, ',')) return false;
        const char *name;
        Dimension dimension;
        Option option;
        if (kind == KIND_NAMES) {
            if (!reader_name(reader, "a name", &name)) return false;
            vector_push(arena, &names, name);
        } else if (kind == KIND_DIMENSIONS) {
            if (!reader_dimension(reader, &dimension)) return false;
            vector_push(arena, &dimensions, dimension);
        } else {
            if (!read_option(reader, &option)) return false;
            vector_push(arena, &options, option);
        }
    }
    lexer_next(&reader->lexer);
    if (kind == KIND_NAMES)
        attribute->names = names.items;
    else if (kind == KIND_DIMENSIONS)
        attribute->dimensions = dimensions.items;
    else
        attribute->options = options.items;
    return true;
}

// One word of "[row=2, stop_gradient]".
static bool read_mark(Reader *reader, EntryItem *item) {
    Lexer *lexer = &reader->lexer;
    int64_t number = 0;
    Token word = lexer->token;
    bool named = token_is_word(&word, "iteration") || token_is_word(&word, "row") ||
                 token_is_word(&word, "stop_gradient") || token_is_word(&word, "recompute");
    if (!named) return reader_error(reader, "iteration, row, stop_gradient or recompute");
    lexer_next(lexer);
    item->stop_gradient |= token_is_word(&word, "stop_gradient");
    item->recompute |= token_is_word(&word, "recompute");
    bool iteration = token_is_word(&word, "iteration"), row = token_is_word(&word, "row");
    if (row) item->has_row = true;
    if (row) item->row_is_iteration = !token_is_sign(&lexer->token, '=');
    if (!iteration && (!row || item->row_is_iteration)) return true;
    if (!reader_sign(reader, '=') || !reader_integer(reader, "a number", 0, INT32_MAX, &number)) return false;
    if (iteration) item->has_iteration = true;
    *(iteration ? &item->iteration : &item->row) = (int32_t)number;
    return true;
}

typedef VECTOR(EntryItem) EntryItems;

// "4", "0..47", with marks.
static bool read_entry_range(Reader *reader, EntryItems *items) {
    Lexer *lexer = &reader->lexer;
    int64_t first, last;
    if (!reader_integer(reader, "a layer", 0, ENTRY_LAYER_LIMIT - 1, &first)) return false;
    last = first;
    if (lexer->token.kind == TOKEN_RANGE) {
        lexer_next(lexer);
        if (!reader_integer(reader, "the last layer", first, ENTRY_LAYER_LIMIT - 1, &last)) return false;
    }
    EntryItem item = {0};
    if (token_is_sign(&lexer->token, '[')) {
        do {
            lexer_next(lexer);
            if (!read_mark(reader, &item)) return false;
        } while (token_is_sign(&lexer->token, ','));
        if (!reader_sign(reader, ']')) return false;
    }
    for (int64_t layer = first; layer <= last; layer++) {
        item.layer = (int32_t)layer;
        if (items->count == ENTRY_COUNT_LIMIT) return reader_error(reader, "fewer entries");
        vector_push(reader->ir->arena, items, item);
    }
    return true;
}

// "(1..4)*8"
static bool read_entry_group(Reader *reader, EntryItems *items) {
    items->count = 0;
    lexer_next(&reader->lexer);
    while (!token_is_sign(&reader->lexer.token, ')'))
        if (!read_entry_range(reader, items)) return false;
    lexer_next(&reader->lexer);
    int64_t times;
    if (!reader_sign(reader, '*') || !reader_integer(reader, "a count", 1, ENTRY_COUNT_LIMIT, &times)) return false;
    for (int64_t t = 0; t < times; t++)
        for (size_t i = 0; i < items->count; i++)
            if (!entries_append(reader->ir->arena, &reader->entries, items->items[i]))
                return reader_error(reader, "fewer entries");
    return true;
}

static bool read_entries(Reader *reader, Attribute *attribute) {
    entries_start(reader->ir->arena, &reader->entries);
    if (!reader_sign(reader, '(')) return false;
    EntryItems items = {0};
    while (!token_is_sign(&reader->lexer.token, ')')) {
        if (token_is_sign(&reader->lexer.token, '(')) {
            if (!read_entry_group(reader, &items)) return false;
            continue;
        }
        items.count = 0;
        if (!read_entry_range(reader, &items)) return false;
        for (size_t i = 0; i < items.count; i++)
            if (!entries_append(reader->ir->arena, &reader->entries, items.items[i]))
                return reader_error(reader, "fewer entries");
    }
    lexer_next(&reader->lexer);
    attribute->entries = reader->entries.entries.items;
    attribute->count = (uint32_t)reader->entries.entries.count;
    return true;
}

static bool read_role(Reader *reader, int64_t *role) {
    for (*role = 0; *role < ROLE_COUNT; ++*role)
        if (token_is_word(&reader->lexer.token, role_name((Role)*role))) {
            lexer_next(&reader->lexer);
            return true;
        }
    return reader_error(reader, "a role");
}

static bool read_element(Reader *reader, int64_t *integer) {
    Element element;
    if (reader->lexer.token.kind != TOKEN_NAME || !element_parse(reader->lexer.token.text, &element))
        return reader_error(reader, "an element type");
    lexer_next(&reader->lexer);
    *integer = (int64_t)element;
    return true;
}

// A graph after errors of its own stays NULL, which the caller tells apart.
static bool read_graph_reference(Reader *reader, Graph **graph) {
    if (reader->lexer.token.kind != TOKEN_GRAPH) return reader_error(reader, "a graph");
    int64_t number = pointer_map_find(&reader->by_name, reader->lexer.token.text);
    CHECK(number != POINTER_MISSING);  // the first pass resolved it
    *graph = reader->sources.items[number].graph;
    lexer_next(&reader->lexer);
    return true;
}

static bool read_value_of(Reader *reader, Attribute *attribute) {
    switch (attribute_kind(attribute->key)) {
    case KIND_INTEGER: return reader_integer(reader, "a whole number", INT64_MIN, INT64_MAX, &attribute->integer);
    case KIND_NUMBER: return read_number(reader, &attribute->number) || reader_error(reader, "a number");
    case KIND_TEXT: case KIND_NAME: return reader_name(reader, "a name", &attribute->text);
    case KIND_ELEMENT: return read_element(reader, &attribute->integer);
    case KIND_ROLE: return read_role(reader, &attribute->integer);
    case KIND_GRAPH: return read_graph_reference(reader, &attribute->graph);
    case KIND_ENTRIES: return read_entries(reader, attribute);
    case KIND_NAMES: case KIND_DIMENSIONS: case KIND_OPTIONS:
        return read_list(reader, attribute_kind(attribute->key), attribute);
    }
    INTERNAL_ERROR("attribute %s has no kind", attribute_name(attribute->key));
}

bool reader_attributes(Reader *reader, Attribute *attributes, uint32_t *count) {
    Lexer *lexer = &reader->lexer;
    *count = 0;
    if (!token_is_sign(&lexer->token, '{')) return true;
    do {
        lexer_next(lexer);
        Place place = lexer->token.place;
        const char *name;
        if (!reader_name(reader, "an attribute", &name)) return false;
        AttributeKey key = 0;
        while (key < ATTRIBUTE_COUNT && strcmp(attribute_name(key), name) != 0) key++;
        if (key == ATTRIBUTE_COUNT)
            return report_error(reader->ir->diagnostics, place, "E0403", "there is no attribute '%s'", name);
        for (uint32_t i = 0; i < *count; i++)
            if (attributes[i].key == key) return error_at(reader, place, "E0404", "this attribute comes twice");
        attributes[*count] = (Attribute){.key = key};
        if (!reader_sign(reader, '=') || !read_value_of(reader, &attributes[*count])) return false;
        ++*count;
    } while (token_is_sign(&lexer->token, ','));
    return reader_sign(reader, '}');
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
        return report_error(in->reader->ir->diagnostics, token.place, "E0404", "%%%u is not defined before this line",
                            token.value.node);
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
    if (!name || role < 0 || line->attribute_count != 2 || line->types.count != 1 || line->operands.count) {
        error_at(in->reader, line->op_place, "E0402", "an input is written: input {name = \"x\", role = data} : type");
        return VALUE_NONE;
    }
    return graph_add_input(in->graph, name, (Role)role, line->types.items[0], line->declared);
}

static bool check_types(const GraphReader *in, const Line *line, const Node *node) {
    Ir *ir = in->reader->ir;
    if (node->result_count != line->types.count)
        return report_error(ir->diagnostics, line->op_place, "E0405", "%s has %u results here, the text declares %zu",
                            op_name(line->op), node->result_count, line->types.count);
    for (uint32_t i = 0; i < node->result_count; i++)
        if (node->types[i] != line->types.items[i])
            return report_error(ir->diagnostics, line->op_place, "E0405", "%s gives %s, the text declares %s",
                                op_name(line->op), type_text(ir, node->types[i]), type_text(ir, line->types.items[i]));
    return true;
}

// The shape rule reports at the line of the text; then the node gets the place that the text declares.
static Value add_line(GraphReader *in, const Line *line) {
    if (line->op == OP_input) return add_input(in, line);
    for (uint32_t i = 0; i < line->attribute_count; i++)
        if (attribute_kind(line->attributes[i].key) == KIND_GRAPH && !line->attributes[i].graph) return VALUE_NONE;
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
    if (count != graph->inputs.count) return error_at(in->reader, place, "E0404", "`inputs` names each input once");
    for (size_t i = 0; i < count; i++) graph->inputs.items[i] = order[i];
    return true;
}

static bool read_output(GraphReader *in) {
    lexer_next(in->lexer);
    const char *name;
    Value value, replaces = VALUE_NONE;
    if (!reader_name(in->reader, "the output's name", &name) || !reader_sign(in->reader, '=') || !read_value(in, &value))
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
    GraphReader in = {.reader = reader, .lexer = &reader->lexer, .graph = graph_create(reader->ir, source->name)};
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
