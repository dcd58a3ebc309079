// Words of the IR text that printing and reading share: bare and quoted names, numbers.
#ifndef CHERRY_IR_TEXT_H
#define CHERRY_IR_TEXT_H

#include <stdbool.h>

#include "base/arena.h"

// A bare name is a letter or '_', then letters, digits, '_' and single dots that another such
// character follows: "trunk.wq", "attention_core.1". Everything else is written in quotes.
bool text_is_bare(const char *name);
bool text_starts_name(char c);
bool text_continues_name(char c, char next);

// A path is bare where it has only letters, digits, and "_./-+".
bool text_is_bare_path(const char *path);
bool text_continues_path(char c);

const char *text_name(Arena *arena, const char *name);   // bare where that reads back, else quoted
const char *text_quote(Arena *arena, const char *text);  // "...", with \" \\ \n and \xHH

// The shortest decimal that reads back to the same bits; "inf", "-inf", "nan".
const char *text_number(Arena *arena, double number);

#endif
