// Data: token files and columns of safetensors files, mapped, cut into batches. Which rows a step sees
// is a function of (seed, step, row) alone: resuming needs no saved position, and every device and
// number of threads sees the same. The loader for evaluation visits every token once.
#ifndef CHERRY_RUNTIME_DATA_H
#define CHERRY_RUNTIME_DATA_H

#include "runtime/safetensors.h"

// ---- Token files ----

typedef enum TokenFormat {
    TOKENS_DETECT,  // llm.c by its header; else *.bin is U16, everything else BYTES
    TOKENS_BYTES,   // any file: a token is a byte, vocabulary 256
    TOKENS_U16,     // raw little-endian, as nanoGPT writes *.bin
    TOKENS_U32,     // raw little-endian
    TOKENS_LLMC     // 256 int32 of header: magic 20240520, version 1 (u16 tokens), or magic 20240801,
                    // version 7 (u32 tokens); then as many tokens as the header says
} TokenFormat;

bool token_format_parse(const char *text, TokenFormat *format);  // "detect", "bytes", "u16", "u32", "llmc"

typedef struct TokenFile {
    const char *path;
    FileMap map;
    TokenFormat format;   // never TOKENS_DETECT
    int width;            // bytes per token: 1, 2, 4
    int64_t header_bytes;
    int64_t count;        // tokens
} TokenFile;

// Errors: E0701 empty, E0702 not of this format or cut short.
bool token_file_open(Diagnostics *diagnostics, const char *path, TokenFormat format, TokenFile *file);
void token_file_close(TokenFile *file);

static inline uint32_t token_at(const TokenFile *file, int64_t index) {
    const unsigned char *data = file->map.data + file->header_bytes + index * file->width;
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

// E0701 where the part cannot fill one window (time + 1 tokens).
bool token_part_check(Diagnostics *diagnostics, const TokenPart *part, int64_t time, const char *what);

// Reads the whole part and reports the first id that is not below `vocabulary` (E0703, with its offset).
bool token_part_check_ids(Diagnostics *diagnostics, const TokenPart *part, int64_t vocabulary);

// ---- Training batches: random windows ----

// First token of the window that row `row` of step `step` reads (row counts on over micro-batches).
int64_t token_window(const TokenPart *part, uint64_t seed, int64_t step, int64_t row, int64_t time);

// Fills tokens[rows, time] with rows first_row .. first_row + rows - 1 of the step, and targets[rows,
// time] with the token that follows each. Ids are checked (E0703).
bool token_batch(Diagnostics *diagnostics, const TokenPart *part, uint64_t seed, int64_t step, int64_t first_row,
                 int64_t rows, int64_t time, int64_t vocabulary, int32_t *tokens, int32_t *targets);

// ---- Evaluation: every token of the part once ----

// Windows of `time` targets that follow each other without overlap; each token but the first is the
// target of exactly one. The last window may be partial.
int64_t token_sequence_windows(const TokenPart *part, int64_t time);

// Rows are the windows first_window, first_window + 1, ... What lies beyond the end has token and target
// 0 and weight 0, all else weight 1. `weights` may be NULL. `counted` gets the sum of the weights: the
// mean over a whole part is the sum of weighted losses over the sum of `counted`.
bool token_sequence_batch(Diagnostics *diagnostics, const TokenPart *part, int64_t first_window, int64_t rows,
                          int64_t time, int64_t vocabulary, int32_t *tokens, int32_t *targets, float *weights,
                          int64_t *counted);

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
