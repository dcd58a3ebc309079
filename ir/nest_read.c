// Reads the text form of a nest (nest_print.c describes it). Codes: E0401 syntax, E0402 unknown name.
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ir/nest.h"
#include "ir/text.h"

typedef struct Reader {
    Ir *ir;
    const char *file, *cursor, *line_start;
    uint32_t line;
    bool failed;
    Nest *nest;
    VECTOR(uint32_t) lets;  // formula of v0, v1, ...
} Reader;

static Place here(const Reader *reader) {
    return (Place){reader->file, reader->line, (uint16_t)(reader->cursor - reader->line_start + 1), 1};
}

static void fail(Reader *reader, const char *code, const char *text) {
    if (!reader->failed) report_error(reader->ir->diagnostics, here(reader), code, "%s", text);
    reader->failed = true;
}

static void skip_space(Reader *reader) {
    for (;; reader->cursor++) {
        if (*reader->cursor == '\n') {
            reader->line++;
            reader->line_start = reader->cursor + 1;
        } else if (*reader->cursor != ' ' && *reader->cursor != '\t' && *reader->cursor != '\r') {
            return;
        }
    }
}

static bool accept(Reader *reader, const char *text) {
    skip_space(reader);
    size_t length = strlen(text);
    if (reader->failed || strncmp(reader->cursor, text, length) != 0) return false;
    if (isalpha((unsigned char)text[0]) &&
        (isalnum((unsigned char)reader->cursor[length]) || reader->cursor[length] == '_'))
        return false;
    reader->cursor += length;
    return true;
}

static void expect(Reader *reader, const char *text) {
    if (!reader->failed && !accept(reader, text))
        fail(reader, "E0401", arena_format(reader->ir->arena, "expected `%s` in a loop nest", text));
}

// An interned word, bare or in quotes: a name, an element, a primitive. "" after an error.
static const char *word(Reader *reader) {
    skip_space(reader);
    bool quoted = *reader->cursor == '"';
    const char *start = reader->cursor + quoted;
    size_t length = 0;
    if (quoted)
        length = strcspn(start, "\"\n");
    else if (text_starts_name(*start))
        do length++;
        while (text_continues_name(start[length], start[length + 1]));
    if (!length || (quoted && start[length] != '"')) fail(reader, "E0401", "expected a name in a loop nest");
    if (reader->failed) return "";
    reader->cursor = start + length + quoted;
    return names_intern_length(reader->ir->names, start, length);
}

static int64_t integer(Reader *reader) {
    skip_space(reader);
    if (reader->failed) return 0;
    char *end;
    int64_t value = strtoll(reader->cursor, &end, 10);
    if (end == reader->cursor) fail(reader, "E0401", "expected a whole number in a loop nest");
    reader->cursor = end;
    return value;
}

// A number in [0, limit).
static uint32_t number_below(Reader *reader, int64_t limit, const char *what) {
    int64_t value = integer(reader);
    if (!reader->failed && (value < 0 || value >= limit))
        fail(reader, "E0402", arena_format(reader->ir->arena, "no %s %lld", what, (long long)value));
    return reader->failed ? 0 : (uint32_t)value;
}

static Element element(Reader *reader) {
    const char *name = word(reader);
    Element result = ELEMENT_F32;
    if (!reader->failed && !element_parse(name, &result)) fail(reader, "E0402", "no such element type");
    return result;
}

static int loop_named(Reader *reader, const char *name) {
    for (int i = 0; i < reader->nest->loop_count; i++)
        if (reader->nest->loops[i].dimension.name == name) return i;
    fail(reader, "E0402", arena_format(reader->ir->arena, "no loop is called %s", name));
    return 0;
}

static uint32_t read_formula(Reader *reader, int depth);

// Reads terms until something else comes; `gathered` receives the formula in braces.
static Affine affine(Reader *reader, uint32_t *gathered, int depth) {
    Affine result = {0};
    do {
        skip_space(reader);
        if (gathered && accept(reader, "{")) {
            *gathered = read_formula(reader, depth + 1);
            expect(reader, "}");
        } else if (isdigit((unsigned char)*reader->cursor) || *reader->cursor == '-') {
            int64_t value = integer(reader);
            if (accept(reader, "*"))
                result.scale[loop_named(reader, word(reader))] += value;
            else
                result.offset += value;
        } else {
            result.scale[loop_named(reader, word(reader))] += 1;
        }
    } while (accept(reader, "+"));
    return result;
}

// "@2[batch, {v0}]" after the "@".
static uint32_t access(Reader *reader, const Index **index, int depth) {
    uint32_t number = number_below(reader, reader->nest->operand_count, "operand");
    int rank = reader->nest->operands[number].rank;
    Index *items = ARENA_ARRAY(reader->ir->arena, Index, RANK_MAX);
    expect(reader, "[");
    for (int d = 0; d < rank && !reader->failed; d++) {
        if (d) expect(reader, ",");
        items[d].gathered = FORMULA_NONE;
        items[d].affine = affine(reader, &items[d].gathered, depth);
    }
    expect(reader, "]");
    *index = items;
    return number;
}

static Primitive primitive_named(Reader *reader, const char *name) {
    for (int i = 0; i < PRIMITIVE_COUNT; i++)
        if (strcmp(primitive_name((Primitive)i), name) == 0) return (Primitive)i;
    fail(reader, "E0402", arena_format(reader->ir->arena, "no primitive is called %s", name));
    return PRIMITIVE_add;
}

static uint32_t read_primitive(Reader *reader, const char *name, int depth) {
    Formula formula = {
        .kind = FORMULA_PRIMITIVE, .primitive = primitive_named(reader, name), .place = here(reader)};
    if (formula.primitive == PRIMITIVE_cast) formula.element = element(reader);
    expect(reader, "(");
    for (int i = 0; i < primitive_arguments(formula.primitive) && !reader->failed; i++) {
        if (i) expect(reader, ",");
        formula.arguments[i] = read_formula(reader, depth + 1);
    }
    expect(reader, ")");
    if (reader->failed) return 0;
    const Formula *items = reader->nest->formulas.items;
    if (primitive_is_comparison(formula.primitive))
        formula.element = ELEMENT_BOOL;
    else if (formula.primitive == PRIMITIVE_select)
        formula.element = items[formula.arguments[1]].element;
    else if (formula.primitive != PRIMITIVE_cast)
        formula.element = items[formula.arguments[0]].element;
    return nest_formula(reader->nest, formula);
}

static uint32_t read_constant(Reader *reader) {
    char *end;
    double value = strtod(reader->cursor, &end);  // reads inf and nan too
    if (end == reader->cursor) fail(reader, "E0401", "expected a formula in a loop nest");
    reader->cursor = end;
    expect(reader, ":");
    Element type = element(reader);
    if (reader->failed) return 0;
    return nest_formula(reader->nest, (Formula){.kind = FORMULA_CONSTANT, .element = type, .number = value});
}

static uint32_t read_load(Reader *reader, int depth) {
    Formula formula = {.kind = FORMULA_LOAD, .place = here(reader)};
    formula.operand = access(reader, &formula.index, depth);
    if (reader->failed) return 0;
    formula.element = reader->nest->operands[formula.operand].element;
    return nest_formula(reader->nest, formula);
}

static uint32_t read_stage_value(Reader *reader) {
    uint32_t stage = number_below(reader, reader->nest->stage_count, "stage");
    if (reader->failed) return 0;
    return nest_formula(
        reader->nest,
        (Formula){.kind = FORMULA_STAGE, .stage = stage, .element = reader->nest->stages[stage].element});
}

static uint32_t read_formula(Reader *reader, int depth) {
    if (depth > 400) fail(reader, "E0401", "a formula is nested too deeply");
    if (reader->failed) return 0;
    if (accept(reader, "@")) return read_load(reader, depth);
    if (accept(reader, "stage")) return read_stage_value(reader);
    if (accept(reader, "index")) {
        expect(reader, "(");
        Formula formula = {
            .kind = FORMULA_LOOP, .element = ELEMENT_I32, .affine = affine(reader, NULL, depth)};
        expect(reader, ")");
        return reader->failed ? 0 : nest_formula(reader->nest, formula);
    }
    skip_space(reader);
    if (reader->cursor[0] == 'v' && isdigit((unsigned char)reader->cursor[1])) {
        reader->cursor++;
        uint32_t number = number_below(reader, (int64_t)reader->lets.count, "let");
        return reader->failed ? 0 : reader->lets.items[number];
    }
    bool is_name = isalpha((unsigned char)*reader->cursor) && strncmp(reader->cursor, "nan:", 4) != 0 &&
                   strncmp(reader->cursor, "inf:", 4) != 0;
    return is_name ? read_primitive(reader, word(reader), depth) : read_constant(reader);
}

static void read_loops(Reader *reader) {
    do {
        Loop loop = {.dimension.name = word(reader), .bound_operand = UINT32_MAX};
        bool bounded = accept(reader, "<=");
        if (!bounded) expect(reader, "=");
        loop.dimension.extent = integer(reader);
        if (bounded) {
            expect(reader, ":");
            loop.dimension.bound = word(reader);
            expect(reader, "@");
            loop.bound_operand = number_below(reader, NEST_OPERAND_MAX, "operand");
        }
        if (!reader->failed && reader->nest->loop_count == LOOP_MAX) fail(reader, "E0401", "too many loops");
        if (!reader->failed && loop.dimension.extent < 1) fail(reader, "E0401", "a loop's extent is below 1");
        if (!reader->failed) reader->nest->loops[reader->nest->loop_count++] = loop;
    } while (accept(reader, ","));
}

static uint32_t read_loop_names(Reader *reader) {
    uint32_t mask = 0;
    do mask |= 1u << loop_named(reader, word(reader));
    while (accept(reader, ","));
    return mask;
}

static void read_operand(Reader *reader) {
    Nest *nest = reader->nest;
    if (nest->operand_count == NEST_OPERAND_MAX) fail(reader, "E0401", "too many operands");
    if (integer(reader) != nest->operand_count) fail(reader, "E0401", "operands are not in order");
    expect(reader, ":");
    NestOperand operand = {0};
    if (accept(reader, "update"))
        operand.reads = operand.writes = true;
    else if (accept(reader, "write"))
        operand.writes = true;
    else {
        expect(reader, "read");
        operand.reads = true;
    }
    operand.element = element(reader);
    expect(reader, "[");
    while (!reader->failed && !accept(reader, "]")) {
        if (operand.rank) expect(reader, ",");
        if (operand.rank == RANK_MAX) fail(reader, "E0401", "too many dimensions");
        if (reader->failed) return;
        operand.extent[operand.rank] = integer(reader);
        expect(reader, ":");
        operand.stride[operand.rank++] = integer(reader);
    }
    if (!reader->failed) nest->operands[nest->operand_count++] = operand;
}

static void read_stage(Reader *reader) {
    Nest *nest = reader->nest;
    Stage stage = {.place = here(reader)};
    if (nest->stage_count == STAGE_LIMIT) fail(reader, "E0401", "too many stages");
    if (integer(reader) != nest->stage_count) fail(reader, "E0401", "stages are not in order");
    expect(reader, ":");
    if (accept(reader, "sum"))
        stage.kind = STAGE_SUM;
    else if (accept(reader, "max"))
        stage.kind = STAGE_MAX;
    else if (accept(reader, "add"))
        stage.kind = STAGE_ADD;
    else {
        expect(reader, "store");
        stage.kind = STAGE_STORE;
    }
    if (accept(reader, "over")) stage.inner = read_loop_names(reader);
    if (stage.kind == STAGE_STORE || stage.kind == STAGE_ADD) {
        expect(reader, "@");
        stage.operand = access(reader, &stage.index, 0);
    }
    expect(reader, "{");
    stage.formula = read_formula(reader, 0);
    expect(reader, "}");
    if (reader->failed) return;
    stage.element = nest->formulas.items[stage.formula].element;
    nest->stages[nest->stage_count++] = stage;
}

static void read_let(Reader *reader) {
    const char *expected = arena_format(reader->ir->arena, "v%zu", reader->lets.count);
    expect(reader, expected);
    expect(reader, "=");
    uint32_t formula = read_formula(reader, 0);
    vector_push(reader->ir->arena, &reader->lets, formula);
}

Nest *nest_read(Ir *ir, const char *file, const char *text) {
    Reader reader = {.ir = ir, .file = file, .cursor = text, .line_start = text, .line = 1};
    skip_space(&reader);
    Place place = here(&reader);
    expect(&reader, "nest");
    Nest *nest = reader.nest = nest_create(ir, word(&reader), place);
    expect(&reader, "{");
    while (!reader.failed && !accept(&reader, "}")) {
        if (accept(&reader, "outer")) {
            read_loops(&reader);
            nest->outer_count = nest->loop_count;
        } else if (accept(&reader, "inner"))
            read_loops(&reader);
        else if (accept(&reader, "parallel"))
            nest->parallel = read_loop_names(&reader);
        else if (accept(&reader, "operand"))
            read_operand(&reader);
        else if (accept(&reader, "let"))
            read_let(&reader);
        else if (accept(&reader, "stage"))
            read_stage(&reader);
        else
            fail(&reader, "E0401", "expected outer, inner, parallel, operand, let, stage or }");
    }
    skip_space(&reader);
    if (!reader.failed && *reader.cursor) fail(&reader, "E0401", "text after the end of a loop nest");
    if (reader.failed) return NULL;
    return nest_verify(ir, nest) ? nest : NULL;
}
