// Tables of text: see text_table.h.
#include "runtime/text_table.h"

#include <stdlib.h>
#include <string.h>

typedef struct Span {
    size_t begin, end;
} Span;

enum { SPAN_LIMIT = 4096 };  // of one row

typedef struct Table {
    Diagnostics *diagnostics;
    const TextOptions *options;
    TokenFile *file;
    int64_t capacity, line;
    uint32_t *ids;
    unsigned char *marks;  // or NULL
    Span spans[SPAN_LIMIT];
    int span_count;
    bool marks_all, full;  // of the column under way; the stream has no more room
} Table;

// ---- Tokens ----

static void push(Table *table, int32_t id, bool mark) {
    if (table->file->count == table->capacity) {
        table->full = true;
        return;
    }
    table->ids[table->file->count] = (uint32_t)id;
    if (table->marks) table->marks[table->file->count] = mark;
    table->file->count++;
}

static void take(void *context, int32_t id, size_t begin, size_t end) {
    Table *table = context;
    bool mark = table->marks_all;
    for (int i = 0; i < table->span_count && !mark; i++)
        mark = begin < table->spans[i].end && table->spans[i].begin < end;
    push(table, id, mark);
}

static void encode(Table *table, const char *text, size_t length) {
    table->options->tokenizer->encode(table->options->tokenizer, text, length, take, table);
}

// ---- Spans ----

static bool wrong(const Table *table, const char *code, const char *text, size_t length, const char *why) {
    return report_error(table->diagnostics, NO_PLACE, code, "%s:%lld: span `%.*s` %s", table->file->path,
                        (long long)table->line, (int)(length < 80 ? length : 80), text, why);
}

static bool is_inside_character(const char *sentence, size_t length, size_t at) {
    return at < length && ((unsigned char)sentence[at] & 0xc0) == 0x80;
}

static bool counts(const char *kinds, const char *kind, size_t length) {
    if (!kinds) return true;
    for (const char *at = kinds; *at;) {
        size_t word = strcspn(at, ",");
        if (word == length && strncmp(at, kind, length) == 0) return true;
        at += word + (at[word] == ',');
    }
    return false;
}

static bool read_offset(const char **at, const char *end, size_t *offset) {
    const char *start = *at;
    for (*offset = 0; *at < end && **at >= '0' && **at <= '9' && *at - start < 12; ++*at)
        *offset = *offset * 10 + (size_t)(**at - '0');
    return *at > start && *at < end && *(*at)++ == ':';
}

static bool read_span(Table *table, const char *text, size_t length, const char *sentence, size_t sentence_length) {
    const char *at = text, *end = text + length;
    Span span;
    if (!read_offset(&at, end, &span.begin) || !read_offset(&at, end, &span.end) || at == end)
        return wrong(table, "E0725", text, length, "does not read start:end:KIND");
    if (span.begin >= span.end || span.end > sentence_length) {
        char why[96];
        snprintf(why, sizeof why, "does not lie in its sentence of %zu bytes", sentence_length);
        return wrong(table, "E0726", text, length, why);
    }
    if (is_inside_character(sentence, sentence_length, span.begin) ||
        is_inside_character(sentence, sentence_length, span.end))
        return wrong(table, "E0726", text, length, "begins or ends inside of a character");
    if (!counts(table->options->kinds, at, (size_t)(end - at))) return true;
    if (table->span_count == SPAN_LIMIT) return wrong(table, "E0725", text, length, "is one too many in a row");
    table->spans[table->span_count++] = span;
    return true;
}

static bool read_spans(Table *table, const char *text, size_t length, const char *sentence,
                       size_t sentence_length) {
    bool good = true;
    for (size_t at = 0; at < length && good;) {
        const char *space = memchr(text + at, ' ', length - at);
        size_t word = space ? (size_t)(space - text) - at : length - at;
        if (word) good = read_span(table, text + at, word, sentence, sentence_length);
        at += word + 1;
    }
    return good;
}

// ---- Rows ----

static bool read_row(Table *table, const char *row, size_t length) {
    const TextOptions *options = table->options;
    int32_t separator = options->tokenizer->separator;
    const char *tab = options->format == TOKENS_LINES ? NULL : memchr(row, '\t', length);
    size_t first = tab ? (size_t)(tab - row) : length;
    table->span_count = 0;
    table->marks_all = false;
    if (options->format == TOKENS_PAIRS && !tab)
        return report_error(table->diagnostics, NO_PLACE, "E0724", "%s:%lld: this row has no tab; a pair is question, tab, answer",
                            table->file->path, (long long)table->line);
    size_t second = tab ? length - first - 1 : 0;
    bool spans = options->format == TOKENS_TSV && options->marks == TEXT_MARKS_SPANS;
    if (spans && tab && !read_spans(table, tab + 1, second, row, first)) return false;
    encode(table, row, first);
    push(table, separator, false);
    if (options->format != TOKENS_PAIRS) return true;
    const char *more = memchr(tab + 1, '\t', second);  // further columns are not read
    if (more) second = (size_t)(more - tab) - 1;
    table->marks_all = true;
    encode(table, tab + 1, second);
    push(table, separator, true);
    return true;
}

static bool read_rows(Table *table) {
    const char *text = (const char *)table->file->map.data;
    size_t length = table->file->map.bytes;
    for (size_t at = 0; at < length;) {
        const char *newline = memchr(text + at, '\n', length - at);
        size_t row = newline ? (size_t)(newline - text) - at : length - at, next = at + row + 1;
        if (row && text[at + row - 1] == '\r') row--;
        table->line++;
        bool empty = row == 0 && table->options->format != TOKENS_LINES;
        if (!empty && !read_row(table, text + at, row)) return false;
        at = next;
    }
    return true;
}

bool text_table_open(Diagnostics *diagnostics, const char *path, const TextOptions *options, TokenFile *file) {
    *file = (TokenFile){.path = path, .format = options->format, .width = 4};
    if (!file_map(diagnostics, path, &file->map)) return false;
    Table *table = calloc(1, sizeof *table);
    if (!table) return report_error(diagnostics, NO_PLACE, "E0702", "%s: no memory to read it", path);
    // A token for each byte and two separators for each line are the most that there can be; what is not
    // used is never touched.
    *table = (Table){.diagnostics = diagnostics, .options = options, .file = file};
    table->capacity = 3 * (int64_t)file->map.bytes + 4;
    bool good = memory_allocate(diagnostics, 4 * table->capacity, path, &file->made) &&
                (options->marks == TEXT_MARKS_NONE || memory_allocate(diagnostics, table->capacity, path, &file->made_marks));
    table->ids = (uint32_t *)(void *)file->made.data;
    table->marks = (unsigned char *)file->made_marks.data;
    good = good && read_rows(table);
    if (good && table->full)
        good = report_error(diagnostics, NO_PLACE, "E0702", "%s: the tokenizer makes more than three tokens a byte", path);
    if (good && !file->count) good = report_error(diagnostics, NO_PLACE, "E0701", "%s holds no tokens", path);
    free(table);
    file_unmap(&file->map);
    file->map = (FileMap){0};
    file->tokens = (const unsigned char *)file->made.data;
    file->marks = (const unsigned char *)file->made_marks.data;
    if (!good) token_file_close(file);
    return good;
}
