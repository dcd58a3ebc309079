// Names and numbers as IR text writes them.
#include "ir/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Plain ASCII, whatever the locale says.
bool text_starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

static bool is_word(char c) { return text_starts_name(c) || (c >= '0' && c <= '9'); }

bool text_continues_name(char c, char next) { return is_word(c) || (c == '.' && is_word(next)); }

bool text_is_bare(const char *name) {
    if (!text_starts_name(name[0])) return false;
    for (const char *c = name + 1; *c; c++)
        if (!text_continues_name(c[0], c[1])) return false;
    return true;
}

bool text_continues_path(char c) { return is_word(c) || (c && strchr("./-+", c)); }

bool text_is_bare_path(const char *path) {
    for (const char *c = path; *c; c++)
        if (!text_continues_path(*c)) return false;
    return *path != 0;
}

const char *text_name(Arena *arena, const char *name) {
    return text_is_bare(name) ? name : text_quote(arena, name);
}

const char *text_quote(Arena *arena, const char *text) {
    char *quoted = arena_allocate(arena, 4 * strlen(text) + 3);
    char *out = quoted;
    *out++ = '"';
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\') {
            *out++ = '\\';
            *out++ = *c;
        } else if (*c == '\n') {
            *out++ = '\\';
            *out++ = 'n';
        } else if ((unsigned char)*c < 32 || *c == 127) {
            out += snprintf(out, 5, "\\x%02x", (unsigned char)*c);
        } else {
            *out++ = *c;
        }
    }
    *out++ = '"';
    *out = 0;
    return quoted;
}

const char *text_number(Arena *arena, double number) {
    if (isnan(number)) return "nan";
    if (isinf(number)) return number < 0 ? "-inf" : "inf";
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    return arena_copy(arena, text, strlen(text));
}
