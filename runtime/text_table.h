// Text files as streams of tokens, and tables of text whose columns say which tokens carry meaning.
//
// A table has a row a line, its columns end with tabs. Kinds (docs/data.md):
//   lines   any text
//   tsv     sentence TAB spans: `start:end:KIND` with spaces between; byte offsets into the sentence, `end` not
//           included; the second column may be missing, and is read only where spans are asked for
//   pairs   question TAB answer
// Each row's tokens are followed by the tokenizer's separator; a pair has one between its columns too. All
// rows together are one stream.
#ifndef CHERRY_RUNTIME_TEXT_TABLE_H
#define CHERRY_RUNTIME_TEXT_TABLE_H

#include "runtime/data.h"
#include "runtime/tokens.h"

typedef enum TextMarks {
    TEXT_MARKS_NONE,
    TEXT_MARKS_SPANS,   // of tsv: tokens that share a byte with a span
    TEXT_MARKS_ANSWERS  // of pairs: the answer's tokens, and the separator behind them
} TextMarks;

typedef struct TextOptions {
    TokenFormat format;  // TOKENS_LINES, TOKENS_TSV, TOKENS_PAIRS
    TextMarks marks;
    const char *kinds;   // "PS,LC": of the spans that count; NULL: all
    const Tokenizer *tokenizer;
} TextOptions;

// Reads the whole file into tokens of four bytes, and marks where they are asked for. Every row is checked.
// Errors: E0701 empty, E0702 no memory for it, E0724 a row without a tab, E0725 a span that is malformed, E0726
// one that lies outside of its sentence or begins or ends inside of a character; with line and numbers.
bool text_table_open(Diagnostics *diagnostics, const char *path, const TextOptions *options, TokenFile *file);

#endif
