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

// Bytes of the character at `text` if it may be printed: no control character, and whole as UTF-8; else 0.
static int printable_length(const char *text) {
    unsigned char first = (unsigned char)text[0];
    if (first < 0x80) return first >= 32 && first != 127;
    int length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    for (int i = 1; i < length; i++)
        if (((unsigned char)text[i] & 0xc0) != 0x80) return 0;
    return first == 0xc2 && (unsigned char)text[1] < 0xa0 ? 0 : length;  // U+0080 .. U+009F
}

// Messages quote files, which may hold anything, to a terminal, which obeys some of it.
static void make_printable(char *text) {
    for (char *at = text; *at;) {
        int length = printable_length(at);
        if (!length) *at = '?';
        at += length ? length : 1;
    }
}

static void add(Diagnostics *diagnostics, Severity severity, Place place, const char *code,
                const char *format, va_list arguments) {
    if (diagnostics->error_count > ERROR_LIMIT) return;
    char *text = arena_format_list(diagnostics->arena, format, arguments);
    make_printable(text);
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

enum { SHOWN_BEFORE = 100, SHOWN_AFTER = 60 };  // bytes of a long line, around the place

// How many bytes at `text` make one character that a terminal can be given: 0 for what is not UTF-8 and for
// control characters, which could drive it.
static int printable_bytes(const unsigned char *text, int length) {
    if (*text < 0x80) return *text >= 32 && *text < 127;
    int bytes = *text >= 0xf0 ? 4 : *text >= 0xe0 ? 3 : 2;
    if (*text < 0xc2 || *text > 0xf4 || bytes > length || (*text == 0xc2 && text[1] < 0xa0)) return 0;
    for (int i = 1; i < bytes; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    return bytes;
}

// Prints the line, or (caret) spaces as wide; what cannot be printed shows as '?'.
static void print_text(const char *line, int begin, int end, bool caret, FILE *stream) {
    for (int i = begin, bytes; i < end; i += bytes ? bytes : 1) {
        bytes = printable_bytes((const unsigned char *)line + i, end - i);
        if (line[i] == '\t')
            fputc('\t', stream);
        else if (caret || !bytes)
            fputc(caret ? ' ' : '?', stream);
        else
            fwrite(line + i, 1, (size_t)bytes, stream);
    }
}

static void print_source_line(const Diagnostics *diagnostics, Place place, FILE *stream) {
    const char *line = NULL;
    for (size_t i = 0; i < diagnostics->sources.count && !line; i++)
        if (strcmp(diagnostics->sources.items[i].file, place.file) == 0)
            line = find_line(diagnostics->sources.items[i].text, place.line);
    if (!line) return;
    int length = (int)strcspn(line, "\r\n"), at = place.column ? place.column - 1 : 0;
    int begin = at > SHOWN_BEFORE ? at - SHOWN_BEFORE : 0;
    int end = length - at > place.length + SHOWN_AFTER ? at + place.length + SHOWN_AFTER : length;
    if (end - begin > 2 * (SHOWN_BEFORE + SHOWN_AFTER)) end = begin + 2 * (SHOWN_BEFORE + SHOWN_AFTER);
    const char *before = begin ? "..." : "";
    fprintf(stream, "%5u | %s", place.line, before);
    print_text(line, begin, end, false, stream);
    fprintf(stream, "%s\n      | %s", end < length ? "..." : "", begin ? "   " : "");
    print_text(line, begin, at < end ? at : end, true, stream);
    fputc('^', stream);
    for (int i = at + 1; i < at + place.length && i < end; i++) fputc('~', stream);
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
