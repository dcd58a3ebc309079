// Tokens of the IR text. Newlines are space; a token knows whether it is the first of its line.
#ifndef CHERRY_IR_READ_LEXER_H
#define CHERRY_IR_READ_LEXER_H

#include "ir/graph.h"

typedef enum TokenKind {
    TOKEN_END,
    TOKEN_NAME,     // bare name: text
    TOKEN_TEXT,     // "quoted": text
    TOKEN_NUMBER,   // number; is_integer where it is whole, without point or exponent, and fits 64 bits
    TOKEN_VALUE,    // %node or %node:result: value
    TOKEN_GRAPH,    // @name or @"name": text
    TOKEN_PLACE,    // !file:line:column+length: mentioned
    TOKEN_RANGE,    // ..
    TOKEN_AT_MOST,  // <=
    TOKEN_SIGN      // one of = , : { } ( ) [ ] * in sign
} TokenKind;

typedef struct Token {
    TokenKind kind;
    Place place;  // in the IR text
    bool starts_line;
    char sign;
    const char *text;  // interned
    double number;
    bool is_integer;
    int64_t integer;
    Value value;
    Place mentioned;
} Token;

// May be copied: the copy goes on from the same place.
typedef struct Lexer {
    Ir *ir;
    const char *file;
    const char *cursor, *line_start;
    uint32_t line;
    size_t errors;
    Token token;  // the current one
} Lexer;

Lexer lexer_start(Ir *ir, const char *file, const char *text);  // at the first token
void lexer_next(Lexer *lexer);

static inline bool token_is_sign(const Token *token, char sign) {
    return token->kind == TOKEN_SIGN && token->sign == sign;
}
bool token_is_word(const Token *token, const char *word);      // a bare name
const char *token_describe(Arena *arena, const Token *token);  // for "expected ..., found ..."

#endif
