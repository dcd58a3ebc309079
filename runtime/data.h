// Data: streams of tokens and columns of safetensors files, cut into batches. Which rows a step sees
// is a function of (seed, step, row) alone: resuming needs no saved position, and every device and
// number of threads sees the same. The windows for evaluation visit every token once.
#ifndef CHERRY_RUNTIME_DATA_H
#define CHERRY_RUNTIME_DATA_H

#include "runtime/memory.h"
#include "runtime/safetensors.h"

// ---- Token files ----

typedef enum TokenFormat {
    TOKENS_DETECT,  // llm.c by its header; else *.bin is U16, everything else BYTES
    TOKENS_BYTES,   // any file: a token is a byte, vocabulary 256
    TOKENS_U16,     // raw little-endian, as nanoGPT writes *.bin
    TOKENS_U32,     // raw little-endian
    TOKENS_LLMC,    // 256 int32 of header: magic 20240520, version 1 (u16 tokens), or magic 20240801,
                    // version 7 (u32 tokens); then as many tokens as the header says
    TOKENS_TSV,     // a table whose first column is text (runtime/text_table.h); not of token_file_open
    TOKENS_PAIRS,   // a table of two columns of text
    TOKENS_LINES    // text that a tokenizer other than bytes has cut
} TokenFormat;

// "detect", "bytes", "u16", "u32", "llmc", "tsv", "pairs"
bool token_format_parse(const char *text, TokenFormat *format);

typedef struct TokenFile {
    const char *path;
    FileMap map;
    TokenFormat format;   // never TOKENS_DETECT
    int width;            // bytes per token: 1, 2, 4
    int64_t header_bytes;
    int64_t count;        // tokens
    const unsigned char *tokens;  // little-endian, in `map` or `made`
    const unsigned char *marks;   // a byte for each token: 1 where it counts as a target; NULL: all do
    MemoryBlock made, made_marks; // what is in no file
} TokenFile;

// Errors: E0701 empty, E0702 not of this format or cut short.
bool token_file_open(Diagnostics *diagnostics, const char *path, TokenFormat format, TokenFile *file);
void token_file_close(TokenFile *file);
// The format that token_file_open would take for TOKENS_DETECT. False where the file cannot be read.
bool token_file_detect(Diagnostics *diagnostics, const char *path, TokenFormat *format);

static inline uint32_t token_at(const TokenFile *file, int64_t index) {
    const unsigned char *data = file->tokens + index * file->width;
    uint32_t token = data[0];
    if (file->width > 1) token |= (uint32_t)data[1] << 8;
    if (file->width > 2) token |= (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    return token;
}

// A stretch of a token file.
typedef struct TokenPart {
    const TokenFile *file;
    int64_t begin, end;
} TokenPart;

// The last `fraction` (0 .. 1) of the file is held out.
void token_file_split(const TokenFile *file, double fraction, TokenPart *train, TokenPart *valid);
TokenPart token_file_whole(const TokenFile *file);

// E0701 where the part cannot fill one window of `tokens` tokens.
bool token_part_check(Diagnostics *diagnostics, const TokenPart *part, int64_t tokens, const char *what);

// Reads the whole part and reports the first id that is not below `vocabulary` (E0703, with its offset).
bool token_part_check_ids(Diagnostics *diagnostics, const TokenPart *part, int64_t vocabulary);

// ---- Windows ----

// First token of the window that row `row` of step `step` reads (row counts on over micro-batches), where a
// window reads `span` tokens after its first: any stretch of the part that fits, equally likely.
int64_t token_window(const TokenPart *part, uint64_t seed, int64_t step, int64_t row, int64_t span);

// Windows of `time` targets that follow each other without overlap; each token but the first is the
// target of exactly one. Window i begins at token i * time of the part; the last may be partial.
int64_t token_sequence_windows(const TokenPart *part, int64_t time);
// Targets of the window that begins at `start`: 0 .. time.
int64_t token_window_targets(const TokenPart *part, int64_t start, int64_t time);

// What one input of a program takes from a window: position i of a row is token start + by + i of the
// stream, its id or its mark. One of the two pointers is NULL.
typedef struct TokenColumn {
    int64_t by;      // tokens: 0, targets: 1, what lies k further on: 1 + k
    int32_t *ids;    // [rows, time]
    bool *marks;     // [rows, time]
} TokenColumn;

typedef struct TokenReader {
    int64_t time;
    int64_t reach;         // the largest `by`, at least 1
    int64_t vocabulary;
    bool shuffle;          // the tokens of a window change places, each with its mark
    TokenColumn *columns;
    size_t count;
    int32_t *ids;          // room for time + reach
    unsigned char *marks;  // room for time + reach
} TokenReader;

// Fills row `row` of every column from the window that begins at `start`. Ids are checked (E0703). A position
// whose next token is beyond the end of the part has id 0 and mark false in every column, and so has in a
// column a position whose token is. The order of a shuffled window is a function of `start`.
bool token_read_row(Diagnostics *diagnostics, const TokenReader *reader, const TokenPart *part, int64_t start,
                    int64_t row);

// ---- Columns: tensors of a safetensors file, bound by name to a program's inputs ----

typedef struct Column {
    const char *name;           // of the tensor and of the input
    const StoredTensor *tensor; // [rows of the file, then the dimensions of `type` after its first]
    const Type *type;           // of the input: [batch, ...]
    int64_t row_count;          // elements of one row
} Column;

typedef struct ColumnSet {
    TensorFile *file;
    Column *columns;
    size_t count;
    int64_t rows;
} ColumnSet;

typedef struct ColumnRequest {
    const char *name;
    const Type *type;
    int64_t limit;    // integer columns: values are 0 .. limit - 1; 0: any
} ColumnRequest;

// Binds every request to the tensor of its name. Errors: E0704 no such tensor (with those there are),
// E0705 shape or element type does not fit, E0706 a value is not below its limit (with its row),
// E0701 no rows.
bool column_set_open(Arena *arena, Diagnostics *diagnostics, const char *path, const ColumnRequest *requests,
                     size_t count, ColumnSet *set);
void column_set_close(ColumnSet *set);

typedef struct RowPart {
    int64_t begin, end;
} RowPart;

void row_split(int64_t rows, double fraction, RowPart *train, RowPart *valid);

// The row that slot `slot` of step `step` reads (slots_per_step of them): every row once per pass over
// the part, in another order each pass.
int64_t row_shuffled(const RowPart *part, uint64_t seed, int64_t step, int64_t slot, int64_t slots_per_step);

// Copies rows[0 .. count) of one column into `data`, converted to the input's element type.
void column_gather(const Column *column, const int64_t *rows, int64_t count, void *data);

#endif
