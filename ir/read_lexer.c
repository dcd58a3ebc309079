// The scanner of the IR text, by hand: it must not trust its input, and has few kinds of token.
// Whatever is not a token is reported (E0401) and skipped.
#include "ir/read_lexer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ir/text.h"

enum { NUMBER_LENGTH_MAX = 63 };

static Place place_at(const Lexer *lexer, const char *start, const char *end) {
    size_t column = (size_t)(start - lexer->line_start) + 1, length = (size_t)(end - start);
    return (Place){lexer->file, lexer->line, (uint16_t)(column < UINT16_MAX ? column : UINT16_MAX),
                   (uint16_t)(length < UINT16_MAX ? length : UINT16_MAX)};
}

static bool lexer_error(Lexer *lexer, const char *start, const char *message) {
    lexer->errors++;
    return report_error(lexer->ir->diagnostics, place_at(lexer, start, lexer->cursor), "E0401", "%s",
                        message);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static void skip_space(Lexer *lexer) {
    for (;; lexer->cursor++) {
        char c = *lexer->cursor;
        if (c == '#') {
            lexer->cursor += strcspn(lexer->cursor, "\n");
            c = *lexer->cursor;
        }
        if (c == '\n') {
            lexer->line++;
            lexer->line_start = lexer->cursor + 1;
            lexer->token.starts_line = true;
        } else if (c != ' ' && c != '\t' && c != '\r') {
            return;
        }
    }
}

static const char *scan_name(Lexer *lexer) {
    const char *start = lexer->cursor++;
    while (text_continues_name(lexer->cursor[0], lexer->cursor[0] ? lexer->cursor[1] : 0)) lexer->cursor++;
    return names_intern_length(lexer->ir->names, start, (size_t)(lexer->cursor - start));
}

static int hex_digit(char c) {
    if (is_digit(c)) return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// One character of a quoted text at the cursor, which is not at its end. 0 after an error.
static char scan_character(Lexer *lexer) {
    char c = *lexer->cursor++;
    if (c != '\\') return c;
    c = *lexer->cursor;
    if (c) lexer->cursor++;
    if (c == '"' || c == '\\') return c;
    if (c == 'n') return '\n';
    int high = c == 'x' ? hex_digit(lexer->cursor[0]) : -1;
    int low = high >= 0 ? hex_digit(lexer->cursor[1]) : -1;
    if (low < 0 || (high == 0 && low == 0)) return 0;
    lexer->cursor += 2;
    return (char)(high * 16 + low);
}

// A quoted text at the cursor, interned; NULL after an error.
static const char *scan_quoted(Lexer *lexer) {
    const char *start = lexer->cursor++;
    size_t rest = strcspn(start, "\n");
    char *out = arena_allocate(lexer->ir->arena, rest + 1);
    size_t length = 0;
    while (*lexer->cursor != '"') {
        if (!*lexer->cursor || *lexer->cursor == '\n') {
            lexer_error(lexer, start, "this text has no closing quote on its line");
            return NULL;
        }
        char c = scan_character(lexer);
        if (!c) {
            lexer->cursor += strcspn(lexer->cursor, "\n");
            lexer_error(lexer, start, "escapes are \\\", \\\\, \\n and \\xHH");
            return NULL;
        }
        out[length++] = c;
    }
    lexer->cursor++;
    return names_intern_length(lexer->ir->names, out, length);
}

static bool scan_number(Lexer *lexer) {
    const char *start = lexer->cursor;
    bool whole = true;
    if (*lexer->cursor == '-') lexer->cursor++;
    if (strncmp(lexer->cursor, "inf", 3) == 0) {
        lexer->cursor += 3;
        whole = false;
    }
    while (is_digit(*lexer->cursor)) lexer->cursor++;
    if (lexer->cursor[0] == '.' && is_digit(lexer->cursor[1])) {
        whole = false;
        for (lexer->cursor++; is_digit(*lexer->cursor);) lexer->cursor++;
    }
    const char *exponent = lexer->cursor;
    if (*exponent == 'e' || *exponent == 'E') exponent += exponent[1] == '-' || exponent[1] == '+' ? 2 : 1;
    if (exponent != lexer->cursor && is_digit(*exponent)) {
        whole = false;
        for (lexer->cursor = exponent; is_digit(*lexer->cursor);) lexer->cursor++;
    }
    size_t length = (size_t)(lexer->cursor - start);
    char spelling[NUMBER_LENGTH_MAX + 1] = {0}, *end;
    if (length > NUMBER_LENGTH_MAX) return lexer_error(lexer, start, "this number is too long");
    memcpy(spelling, start, length);
    lexer->token.number = strtod(spelling, &end);
    if (*end || end == spelling) return lexer_error(lexer, start, "this is not a number");
    errno = 0;
    lexer->token.integer = whole ? strtoll(spelling, NULL, 10) : 0;
    lexer->token.is_integer = whole && errno == 0;
    lexer->token.kind = TOKEN_NUMBER;
    return true;
}

// Digits at the cursor as a number below `limit`; false without digits or beyond.
static bool scan_digits(Lexer *lexer, uint64_t limit, uint32_t *number) {
    uint64_t value = 0;
    const char *start = lexer->cursor;
    for (; is_digit(*lexer->cursor) && value < limit; lexer->cursor++)
        value = value * 10 + (uint64_t)(*lexer->cursor - '0');
    *number = (uint32_t)value;
    return lexer->cursor > start && value < limit;
}

static bool scan_value(Lexer *lexer) {
    const char *start = lexer->cursor++;
    Value value = {0};
    bool good = scan_digits(lexer, UINT32_MAX, &value.node);
    if (good && lexer->cursor[0] == ':' && is_digit(lexer->cursor[1])) {
        lexer->cursor++;
        good = scan_digits(lexer, UINT16_MAX, &value.result);
    }
    if (!good) return lexer_error(lexer, start, "a value is written %node or %node:result");
    lexer->token.value = value;
    lexer->token.kind = TOKEN_VALUE;
    return true;
}

static bool scan_graph(Lexer *lexer) {
    const char *start = lexer->cursor++;
    const char *text = NULL;
    if (*lexer->cursor == '"')
        text = scan_quoted(lexer);
    else if (text_starts_name(*lexer->cursor))
        text = scan_name(lexer);
    else
        return lexer_error(lexer, start, "a graph is written @name");
    lexer->token.text = text;
    lexer->token.kind = TOKEN_GRAPH;
    return text != NULL;
}

static bool scan_place(Lexer *lexer) {
    const char *start = lexer->cursor++;
    const char *file = lexer->cursor;
    if (*file == '"') {
        file = scan_quoted(lexer);
        if (!file) return false;
    } else {
        while (text_continues_path(*lexer->cursor)) lexer->cursor++;
        file = names_intern_length(lexer->ir->names, file, (size_t)(lexer->cursor - file));
    }
    uint32_t line = 0, column = 0, length = 0;
    bool good = *file && *lexer->cursor == ':';
    if (good) lexer->cursor++;
    good = good && scan_digits(lexer, UINT32_MAX, &line) && *lexer->cursor == ':';
    if (good) lexer->cursor++;
    good = good && scan_digits(lexer, UINT16_MAX + 1, &column);
    if (good && *lexer->cursor == '+') {
        lexer->cursor++;
        good = scan_digits(lexer, UINT16_MAX + 1, &length);
    }
    if (!good) return lexer_error(lexer, start, "a place is written !file:line:column+length");
    lexer->token.mentioned = (Place){file, line, (uint16_t)column, (uint16_t)length};
    lexer->token.kind = TOKEN_PLACE;
    return true;
}

static bool scan_sign(Lexer *lexer) {
    const char *start = lexer->cursor++;
    if (start[0] == '.' && start[1] == '.') {
        lexer->cursor++;
        lexer->token.kind = TOKEN_RANGE;
    } else if (start[0] == '<' && start[1] == '=') {
        lexer->cursor++;
        lexer->token.kind = TOKEN_AT_MOST;
    } else if (strchr("=,:{}()[]*", *start)) {
        lexer->token.kind = TOKEN_SIGN;
        lexer->token.sign = *start;
    } else {
        return lexer_error(lexer, start, "this character has no meaning here");
    }
    return true;
}

// One token at the cursor, which is not at space. False after an error, with the cursor moved on.
static bool scan(Lexer *lexer) {
    char c = *lexer->cursor;
    if (text_starts_name(c)) {
        lexer->token.text = scan_name(lexer);
        lexer->token.kind = TOKEN_NAME;
        return true;
    }
    if (is_digit(c) || c == '-') return scan_number(lexer);
    if (c == '%') return scan_value(lexer);
    if (c == '@') return scan_graph(lexer);
    if (c == '!') return scan_place(lexer);
    if (c != '"') return scan_sign(lexer);
    lexer->token.text = scan_quoted(lexer);
    lexer->token.kind = TOKEN_TEXT;
    return lexer->token.text != NULL;
}

void lexer_next(Lexer *lexer) {
    bool starts_line = lexer->cursor == lexer->line_start;
    do {
        lexer->token = (Token){.starts_line = starts_line};
        skip_space(lexer);
        starts_line = lexer->token.starts_line;
        const char *start = lexer->cursor;
        lexer->token.place = place_at(lexer, start, start);
        if (!*start) return;
        if (scan(lexer)) {
            lexer->token.place = place_at(lexer, start, lexer->cursor);
            return;
        }
    } while (true);
}

Lexer lexer_start(Ir *ir, const char *file, const char *text) {
    Lexer lexer = {
        .ir = ir, .file = names_intern(ir->names, file), .cursor = text, .line_start = text, .line = 1};
    lexer_next(&lexer);
    return lexer;
}

bool token_is_word(const Token *token, const char *word) {
    return token->kind == TOKEN_NAME && strcmp(token->text, word) == 0;
}

const char *token_describe(Arena *arena, const Token *token) {
    switch (token->kind) {
        case TOKEN_END:
            return "the end of the text";
        case TOKEN_NAME:
            return arena_format(arena, "'%s'", token->text);
        case TOKEN_TEXT:
            return text_quote(arena, token->text);
        case TOKEN_NUMBER:
            return arena_format(arena, "%s", text_number(arena, token->number));
        case TOKEN_VALUE:
            return arena_format(arena, "%%%u", token->value.node);
        case TOKEN_GRAPH:
            return arena_format(arena, "@%s", text_name(arena, token->text));
        case TOKEN_PLACE:
            return "a place";
        case TOKEN_RANGE:
            return "'..'";
        case TOKEN_AT_MOST:
            return "'<='";
        case TOKEN_SIGN:
            return arena_format(arena, "'%c'", token->sign);
    }
    INTERNAL_ERROR("token of kind %d", (int)token->kind);
}
