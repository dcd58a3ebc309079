#include "base/diagnostics.h"

#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

enum { ERROR_LIMIT = 50 };  // further errors of one run are counted but not kept

typedef struct Source {
    const char *file, *text;
} Source;

struct Diagnostics {
    Arena *arena;
    VECTOR(Message) messages;
    VECTOR(Source) sources;
    size_t error_count;
};

Diagnostics *diagnostics_create(Arena *arena) {
    Diagnostics *diagnostics = ARENA_NEW(arena, Diagnostics);
    diagnostics->arena = arena;
    return diagnostics;
}

void diagnostics_add_source(Diagnostics *diagnostics, const char *file, const char *text) {
    vector_push(diagnostics->arena, &diagnostics->sources, ((Source){file, text}));
}

static void add(Diagnostics *diagnostics, Severity severity, Place place, const char *code,
                const char *format, va_list arguments) {
    if (diagnostics->error_count > ERROR_LIMIT) return;
    const char *text = arena_format_list(diagnostics->arena, format, arguments);
    vector_push(diagnostics->arena, &diagnostics->messages,
                ((Message){.severity = severity, .code = code, .place = place, .text = text}));
}

bool report_error(Diagnostics *diagnostics, Place place, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    diagnostics->error_count++;
    add(diagnostics, SEVERITY_ERROR, place, code, format, arguments);
    va_end(arguments);
    return false;
}

void report_warning(Diagnostics *diagnostics, Place place, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, SEVERITY_WARNING, place, code, format, arguments);
    va_end(arguments);
}

void report_note(Diagnostics *diagnostics, Place place, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, SEVERITY_NOTE, place, NULL, format, arguments);
    va_end(arguments);
}

void report_hint(Diagnostics *diagnostics, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, SEVERITY_HINT, NO_PLACE, NULL, format, arguments);
    va_end(arguments);
}

size_t diagnostics_error_count(const Diagnostics *diagnostics) { return diagnostics->error_count; }
size_t diagnostics_count(const Diagnostics *diagnostics) { return diagnostics->messages.count; }

const Message *diagnostics_message(const Diagnostics *diagnostics, size_t index) {
    return &diagnostics->messages.items[index];
}

// The start of line `line` in `text`, or NULL.
static const char *find_line(const char *text, uint32_t line) {
    for (uint32_t current = 1; current < line; current++) {
        text = strchr(text, '\n');
        if (!text) return NULL;
        text++;
    }
    return text;
}

static void print_source_line(const Diagnostics *diagnostics, Place place, FILE *stream) {
    const char *line = NULL;
    for (size_t i = 0; i < diagnostics->sources.count && !line; i++)
        if (strcmp(diagnostics->sources.items[i].file, place.file) == 0)
            line = find_line(diagnostics->sources.items[i].text, place.line);
    if (!line) return;
    int length = (int)strcspn(line, "\r\n");
    fprintf(stream, "%5u | %.*s\n      | ", place.line, length, line);
    for (int i = 0; i + 1 < place.column && i < length; i++) fputc(line[i] == '\t' ? '\t' : ' ', stream);
    fputc('^', stream);
    for (int i = 1; i < place.length && place.column + i <= length; i++) fputc('~', stream);
    fputc('\n', stream);
}

static void print_message(const Diagnostics *diagnostics, const Message *message, FILE *stream) {
    static const char *const label[] = {"error", "warning", "note", "hint"};
    if (message->place.file && message->place.line)
        fprintf(stream, "%s:%u:%u: ", message->place.file, message->place.line, message->place.column);
    else if (message->place.file)
        fprintf(stream, "%s: ", message->place.file);
    else if (message->severity < SEVERITY_NOTE)
        fprintf(stream, "cherry: ");
    fprintf(stream, "%s: %s", label[message->severity], message->text);
    if (message->code) fprintf(stream, " [%s]", message->code);
    fputc('\n', stream);
    if (message->place.file && message->place.line) print_source_line(diagnostics, message->place, stream);
}

void diagnostics_print(const Diagnostics *diagnostics, size_t first, FILE *stream) {
    for (size_t i = first; i < diagnostics->messages.count; i++)
        print_message(diagnostics, &diagnostics->messages.items[i], stream);
    if (diagnostics->error_count > ERROR_LIMIT)
        fprintf(stream, "cherry: %zu errors, the first %d shown\n", diagnostics->error_count, ERROR_LIMIT);
}

void internal_error(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cherry: internal error at %s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}
