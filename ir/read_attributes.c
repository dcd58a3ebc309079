// Reads the attributes of a node, "{along = time, entries = (0 (1..4)*8 5)}", by their kinds.
#include <math.h>
#include <string.h>

#include "ir/reader.h"

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
                 token_is_word(&word, "stop_gradient") || token_is_word(&word, "recompute") ||
                 token_is_word(&word, "enter") || token_is_word(&word, "leave");
    if (!named) return reader_error(reader, "iteration, row, stop_gradient, recompute, enter or leave");
    lexer_next(lexer);
    item->stop_gradient |= token_is_word(&word, "stop_gradient");
    item->recompute |= token_is_word(&word, "recompute");
    item->enter |= token_is_word(&word, "enter");
    item->leave |= token_is_word(&word, "leave");
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
    if (!reader_sign(reader, '*') || !reader_integer(reader, "a count", 1, ENTRY_COUNT_LIMIT, &times))
        return false;
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
        case KIND_INTEGER:
            return reader_integer(reader, "a whole number", INT64_MIN, INT64_MAX, &attribute->integer);
        case KIND_NUMBER:
            return read_number(reader, &attribute->number) || reader_error(reader, "a number");
        case KIND_TEXT:
        case KIND_NAME:
            return reader_name(reader, "a name", &attribute->text);
        case KIND_ELEMENT:
            return read_element(reader, &attribute->integer);
        case KIND_ROLE:
            return read_role(reader, &attribute->integer);
        case KIND_GRAPH:
            return read_graph_reference(reader, &attribute->graph);
        case KIND_ENTRIES:
            return read_entries(reader, attribute);
        case KIND_NAMES:
        case KIND_DIMENSIONS:
        case KIND_OPTIONS:
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
            if (attributes[i].key == key)
                return report_error(reader->ir->diagnostics, place, "E0404", "this attribute comes twice");
        attributes[*count] = (Attribute){.key = key};
        if (!reader_sign(reader, '=') || !read_value_of(reader, &attributes[*count])) return false;
        ++*count;
    } while (token_is_sign(&lexer->token, ','));
    return reader_sign(reader, '}');
}
