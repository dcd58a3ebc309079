// Diagnostics: every message to the user goes through here. Whatever can fail reports an error and
// returns false or NULL; nothing below driver/cherry.c prints to stderr or exits.
#ifndef CHERRY_BASE_DIAGNOSTICS_H
#define CHERRY_BASE_DIAGNOSTICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"

// A span on one line of a source file. `file` NULL: no place. Lines and columns start at 1.
typedef struct Place {
    const char *file;
    uint32_t line;
    uint16_t column, length;
} Place;

typedef enum Severity { SEVERITY_ERROR, SEVERITY_WARNING, SEVERITY_NOTE, SEVERITY_HINT } Severity;

typedef struct Message {
    Severity severity;
    const char *code;  // "E0203": an entry of docs/errors.md; NULL for notes and hints
    Place place;
    const char *text;
} Message;

typedef struct Diagnostics Diagnostics;

Diagnostics *diagnostics_create(Arena *arena);

// Makes the text of a file known, so that messages can show the line and a caret.
void diagnostics_add_source(Diagnostics *diagnostics, const char *file, const char *text);

// Texts of messages are made safe to print: control characters and broken UTF-8 become '?'.
// An error with its index in docs/errors.md. Always returns false: `return report_error(...)`.
__attribute__((format(printf, 4, 5))) bool report_error(Diagnostics *diagnostics, Place place,
                                                        const char *code, const char *format, ...);
__attribute__((format(printf, 4, 5))) void report_warning(Diagnostics *diagnostics, Place place,
                                                          const char *code, const char *format, ...);
// A note belongs to the message before it and usually has a place of its own ("declared here").
__attribute__((format(printf, 3, 4))) void report_note(Diagnostics *diagnostics, Place place,
                                                       const char *format, ...);
__attribute__((format(printf, 2, 3))) void report_hint(Diagnostics *diagnostics, const char *format, ...);

size_t diagnostics_error_count(const Diagnostics *diagnostics);
size_t diagnostics_count(const Diagnostics *diagnostics);
const Message *diagnostics_message(const Diagnostics *diagnostics, size_t index);

// Prints messages [first, end) as `file:line:column: error: text [E0203]`, the source line, a caret.
void diagnostics_print(const Diagnostics *diagnostics, size_t first, FILE *stream);

// For bugs in Cherry itself: prints file:line and aborts (the driver turns SIGABRT into exit status 3).
__attribute__((noreturn, format(printf, 3, 4))) void internal_error(const char *file, int line,
                                                                    const char *format, ...);
#define INTERNAL_ERROR(...) internal_error(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                                                  \
    do {                                                                  \
        if (!(condition)) INTERNAL_ERROR("check failed: %s", #condition); \
    } while (0)

#define NO_PLACE ((Place){0})

#endif
