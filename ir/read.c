// Reads modules from IR text. First pass: the module's head, and where each graph stands and which
// others it mentions. Then the graphs are read, callees before callers, whatever their order in the
// text. Nothing recurses, so no text is too deep.
#include <math.h>
#include <string.h>

#include "ir/reader.h"
#include "ir/training.h"

enum { CALL_DEPTH_LIMIT = 100 };  // passes may recurse over calls

// ---- words ----

bool reader_error(const Reader *reader, const char *expected) {
    const Token *token = &reader->lexer.token;
    return report_error(reader->ir->diagnostics, token->place, "E0402", "expected %s, found %s", expected,
                        token_describe(reader->ir->arena, token));
}

bool reader_sign(Reader *reader, char sign) {
    if (!token_is_sign(&reader->lexer.token, sign))
        return reader_error(reader, arena_format(reader->ir->arena, "'%c'", sign));
    lexer_next(&reader->lexer);
    return true;
}

bool reader_name(Reader *reader, const char *what, const char **name) {
    const Token *token = &reader->lexer.token;
    if (token->kind != TOKEN_NAME && token->kind != TOKEN_TEXT) return reader_error(reader, what);
    *name = token->text;
    lexer_next(&reader->lexer);
    return true;
}

bool reader_integer(Reader *reader, const char *what, int64_t low, int64_t high, int64_t *integer) {
    const Token *token = &reader->lexer.token;
    if (token->kind != TOKEN_NUMBER || !token->is_integer) return reader_error(reader, what);
    if (token->integer < low || token->integer > high)
        return report_error(reader->ir->diagnostics, token->place, "E0406", "%s must be from %lld to %lld",
                            what, (long long)low, (long long)high);
    *integer = token->integer;
    lexer_next(&reader->lexer);
    return true;
}

bool reader_dimension(Reader *reader, Dimension *dimension) {
    *dimension = (Dimension){0};
    if (!reader_name(reader, "a dimension", &dimension->name)) return false;
    bool bounded = reader->lexer.token.kind == TOKEN_AT_MOST;
    if (bounded)
        lexer_next(&reader->lexer);
    else if (!reader_sign(reader, '='))
        return false;
    if (!reader_integer(reader, "an extent", 1, INT64_C(1) << 47, &dimension->extent)) return false;
    return !bounded ||
           (reader_sign(reader, ':') && reader_name(reader, "the scalar that bounds it", &dimension->bound));
}

static bool dimension_is_new(const Reader *reader, const Dimension *dimensions, int rank, Place place) {
    for (int i = 0; i < rank; i++)
        if (dimensions[i].name == dimensions[rank].name)
            return report_error(reader->ir->diagnostics, place, "E0406",
                                "dimension %s comes twice in one type", dimensions[i].name);
    return true;
}

bool reader_type(Reader *reader, const Type **type) {
    const Place start = reader->lexer.token.place;
    Element element;
    if (reader->lexer.token.kind != TOKEN_NAME || !element_parse(reader->lexer.token.text, &element))
        return reader_error(reader, "an element type");
    lexer_next(&reader->lexer);
    if (!reader_sign(reader, '[')) return false;
    Dimension dimensions[RANK_MAX];
    int rank = 0;
    while (!token_is_sign(&reader->lexer.token, ']')) {
        if (rank && !reader_sign(reader, ',')) return false;
        Place place = reader->lexer.token.place;
        if (rank == RANK_MAX)
            return report_error(reader->ir->diagnostics, place, "E0406", "a type has at most %d dimensions",
                                RANK_MAX);
        if (!reader_dimension(reader, &dimensions[rank]) ||
            !dimension_is_new(reader, dimensions, rank, place))
            return false;
        rank++;
    }
    lexer_next(&reader->lexer);
    *type = type_make(reader->ir, element, rank, dimensions);
    return *type ||
           report_error(reader->ir->diagnostics, start, "E0406", "this type has 2^47 elements or more");
}

void reader_place(Reader *reader, Place *place) {
    if (reader->lexer.token.kind != TOKEN_PLACE) return;
    *place = reader->lexer.token.mentioned;
    lexer_next(&reader->lexer);
}

// ---- the module's head ----

static bool find_setting(const char *name, Setting *setting) {
    for (*setting = 0; *setting < SETTING_COUNT; ++*setting)
        if (strcmp(setting_name(*setting), name) == 0) return true;
    return false;
}

static bool read_setting(Reader *reader, Training *training) {
    Lexer *lexer = &reader->lexer;
    Setting setting;
    Place place = lexer->token.place;
    const char *name = NULL;
    if (!reader_name(reader, "a setting", &name)) return false;
    if (!find_setting(name, &setting))
        return report_error(reader->ir->diagnostics, place, "E0403", "there is no setting '%s'", name);
    if (!reader_sign(reader, '=')) return false;
    const Token *value = &lexer->token;
    if (value->kind != TOKEN_NAME && value->kind != TOKEN_NUMBER) return reader_error(reader, "a value");
    double number = value->number;
    const char *word = value->kind == TOKEN_NAME ? value->text : NULL;
    if (word && strcmp(word, "inf") == 0) number = (double)INFINITY, word = NULL;
    if (word && strcmp(word, "nan") == 0) number = (double)NAN, word = NULL;
    if (!setting_store(training, setting, word, number, value->is_integer, value->integer))
        return report_error(reader->ir->diagnostics, value->place, "E0403", "%s cannot be %s", name,
                            token_describe(reader->ir->arena, value));
    lexer_next(lexer);
    return true;
}

static bool read_training(Reader *reader) {
    Module *module = reader->module;
    if (module->has_training) return reader_error(reader, "one training block only");
    lexer_next(&reader->lexer);
    module->has_training = true;
    module->training = (Training){0};
    if (!token_is_sign(&reader->lexer.token, '{') && !reader_name(reader, "a name", &module->training.name))
        return false;
    if (!reader_sign(reader, '{')) return false;
    while (!token_is_sign(&reader->lexer.token, '}'))
        if (!read_setting(reader, &module->training)) return false;
    lexer_next(&reader->lexer);
    reader_place(reader, &module->training.place);
    return true;
}

static bool read_word(Reader *reader, const char *word) {
    if (!token_is_word(&reader->lexer.token, word))
        return reader_error(reader, arena_format(reader->ir->arena, "'%s'", word));
    lexer_next(&reader->lexer);
    return true;
}

// The initialiser is kept in `initializers` until the graphs are read.
static bool read_parameter(Reader *reader, PointerMap *paths, Reference *initializer) {
    Parameter parameter = {0};
    lexer_next(&reader->lexer);
    Place place = reader->lexer.token.place;
    int64_t rank;
    if (!reader_name(reader, "a parameter's path", &parameter.path) || !reader_sign(reader, ':') ||
        !reader_type(reader, &parameter.type) || !read_word(reader, "rank") ||
        !reader_integer(reader, "a rank", 0, RANK_MAX, &rank))
        return false;
    parameter.declared_rank = (int)rank;
    *initializer = (Reference){0};
    if (token_is_word(&reader->lexer.token, "initialize")) {
        lexer_next(&reader->lexer);
        if (reader->lexer.token.kind != TOKEN_GRAPH) return reader_error(reader, "a graph");
        *initializer = (Reference){reader->lexer.token.text, reader->lexer.token.place, 0};
        lexer_next(&reader->lexer);
    }
    if (token_is_word(&reader->lexer.token, "from")) {
        lexer_next(&reader->lexer);
        if (!reader_name(reader, "a file", &parameter.file)) return false;
    }
    reader_place(reader, &parameter.place);
    if (pointer_map_find(paths, parameter.path) != POINTER_MISSING)
        return report_error(reader->ir->diagnostics, place, "E0404", "parameter %s comes twice",
                            parameter.path);
    pointer_map_set(reader->ir->arena, paths, parameter.path, 0);
    vector_push(reader->ir->arena, &reader->module->parameters, parameter);
    return true;
}

// ---- graphs: where they stand and what they mention ----

static bool scan_graph(Reader *reader) {
    Lexer *lexer = &reader->lexer;
    lexer_next(lexer);
    if (lexer->token.kind != TOKEN_GRAPH) return reader_error(reader, "a graph's name");
    GraphSource source = {.name = lexer->token.text, .place = lexer->token.place};
    lexer_next(lexer);
    if (!reader_sign(reader, '{')) return false;
    source.body = *lexer;
    for (int64_t open = 1; open > 0; lexer_next(lexer)) {
        if (lexer->token.kind == TOKEN_END) return reader_error(reader, "'}'");
        if (token_is_sign(&lexer->token, '{')) open++;
        if (token_is_sign(&lexer->token, '}')) open--;
        if (lexer->token.kind == TOKEN_GRAPH)
            vector_push(reader->ir->arena, &source.references,
                        ((Reference){lexer->token.text, lexer->token.place, 0}));
    }
    if (pointer_map_find(&reader->by_name, source.name) != POINTER_MISSING)
        return report_error(reader->ir->diagnostics, source.place, "E0404", "graph @%s comes twice",
                            source.name);
    pointer_map_set(reader->ir->arena, &reader->by_name, source.name, (uint32_t)reader->sources.count);
    vector_push(reader->ir->arena, &reader->sources, source);
    return true;
}

typedef VECTOR(Reference) References;

static bool read_transfer(Reader *reader, Reference *transfer) {
    lexer_next(&reader->lexer);
    if (reader->lexer.token.kind != TOKEN_GRAPH || transfer->name) return reader_error(reader, "one graph");
    *transfer = (Reference){reader->lexer.token.text, reader->lexer.token.place, 0};
    lexer_next(&reader->lexer);
    return true;
}

// Everything but the insides of graphs. One error ends it: what follows would be guesswork.
static bool scan_text(Reader *reader, References *initializers, Reference *transfer) {
    Lexer *lexer = &reader->lexer;
    if (token_is_word(&lexer->token, "module")) {
        lexer_next(lexer);
        if (!reader_name(reader, "the module's name", &reader->module->name)) return false;
    }
    PointerMap paths = {0};
    while (lexer->token.kind != TOKEN_END) {
        if (token_is_word(&lexer->token, "training")) {
            if (!read_training(reader)) return false;
        } else if (token_is_word(&lexer->token, "parameter")) {
            Reference initializer;
            if (!read_parameter(reader, &paths, &initializer)) return false;
            vector_push(reader->ir->arena, initializers, initializer);
        } else if (token_is_word(&lexer->token, "transfer")) {
            if (!read_transfer(reader, transfer)) return false;
        } else if (token_is_word(&lexer->token, "graph")) {
            if (!scan_graph(reader)) return false;
        } else {
            return reader_error(reader, "'training', 'parameter', 'transfer' or 'graph'");
        }
    }
    return lexer->errors == 0;
}

static bool resolve(Reader *reader, Reference *reference) {
    int64_t number = pointer_map_find(&reader->by_name, reference->name);
    if (number == POINTER_MISSING)
        return report_error(reader->ir->diagnostics, reference->place, "E0404", "this text has no graph @%s",
                            reference->name);
    reference->source = (uint32_t)number;
    return true;
}

// ---- reading callees before callers ----

typedef struct Visit {
    uint32_t source;
    size_t next;  // reference to look at
} Visit;

// Opens the next unread callee of the visit on top, or reads that visit's graph.
static bool advance(Reader *reader, Visit *visit, uint32_t *callee) {
    GraphSource *source = &reader->sources.items[visit->source];
    while (visit->next < source->references.count) {
        const Reference *reference = &source->references.items[visit->next++];
        GraphSource *below = &reader->sources.items[reference->source];
        if (below->state == SOURCE_OPEN)
            return report_error(reader->ir->diagnostics, reference->place, "E0407",
                                "graph @%s is part of its own meaning", reference->name);
        if (below->state == SOURCE_NEW) {
            *callee = reference->source;
            visit->next--;  // its depth is looked at once it is done
            return true;
        }
        if (below->depth + 1 > source->depth) source->depth = below->depth + 1;
    }
    if (source->depth > CALL_DEPTH_LIMIT)
        return report_error(reader->ir->diagnostics, source->place, "E0407",
                            "calls nest deeper than %d below @%s", CALL_DEPTH_LIMIT, source->name);
    source->graph = reader_graph(reader, source);
    source->state = SOURCE_DONE;
    return true;
}

static bool read_source(Reader *reader, uint32_t first) {
    VECTOR(Visit) visits = {0};
    vector_push(reader->ir->arena, &visits, ((Visit){first, 0}));
    reader->sources.items[first].state = SOURCE_OPEN;
    while (visits.count) {
        Visit *visit = &vector_last(&visits);
        uint32_t callee = visit->source;
        if (!advance(reader, visit, &callee)) return false;
        if (callee != visit->source) {
            reader->sources.items[callee].state = SOURCE_OPEN;
            vector_push(reader->ir->arena, &visits, ((Visit){callee, 0}));
        } else {
            visits.count--;
        }
    }
    return true;
}

static bool read_graphs(Reader *reader, Reference *transfer) {
    bool good = !transfer->name || resolve(reader, transfer);
    for (size_t i = 0; i < reader->sources.count; i++) {
        GraphSource *source = &reader->sources.items[i];
        for (size_t r = 0; r < source->references.count; r++)
            good &= resolve(reader, &source->references.items[r]);
    }
    for (uint32_t i = 0; good && i < reader->sources.count; i++)
        if (reader->sources.items[i].state == SOURCE_NEW) good = read_source(reader, i);
    for (size_t i = 0; good && i < reader->sources.count; i++)
        if (transfer->name && transfer->source == i)
            reader->module->transfer = reader->sources.items[i].graph;
        else
            vector_push(reader->ir->arena, &reader->module->graphs, reader->sources.items[i].graph);
    return good;
}

Module *module_read(Ir *ir, const char *file, const char *text) {
    size_t errors = diagnostics_error_count(ir->diagnostics);
    diagnostics_add_source(ir->diagnostics, file, text);
    Reader reader = {.ir = ir, .module = module_create(ir, "")};
    reader.lexer = lexer_start(ir, file, text);
    References initializers = {0};
    Reference transfer = {0};
    if (!scan_text(&reader, &initializers, &transfer) || !read_graphs(&reader, &transfer)) return NULL;
    for (size_t i = 0; i < initializers.count; i++) {
        Reference *initializer = &initializers.items[i];
        if (!initializer->name || !resolve(&reader, initializer)) continue;
        reader.module->parameters.items[i].initialize = reader.sources.items[initializer->source].graph;
    }
    return diagnostics_error_count(ir->diagnostics) == errors ? reader.module : NULL;
}
