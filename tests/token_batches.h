// Batches of windows for tests: tokens[rows, time] and the token that follows each.
#ifndef CHERRY_TESTS_TOKEN_BATCHES_H
#define CHERRY_TESTS_TOKEN_BATCHES_H

#include "runtime/data.h"

static inline TokenReader test_reader(int64_t time, int64_t vocabulary, TokenColumn *columns, int32_t *ids,
                                      unsigned char *marks) {
    return (TokenReader){.time = time, .reach = 1, .vocabulary = vocabulary, .columns = columns, .count = 3,
                         .ids = ids, .marks = marks};
}

// Rows first_row .. first_row + rows - 1 of a training step.
static inline bool token_batch(Diagnostics *diagnostics, const TokenPart *part, uint64_t seed, int64_t step,
                               int64_t first_row, int64_t rows, int64_t time, int64_t vocabulary, int32_t *tokens,
                               int32_t *targets) {
    int32_t ids[64];
    unsigned char room[64];
    bool marks[256];
    TokenColumn columns[] = {{0, tokens, NULL}, {1, targets, NULL}, {1, NULL, marks}};
    TokenReader reader = test_reader(time, vocabulary, columns, ids, room);
    for (int64_t row = 0; row < rows; row++) {
        int64_t start = token_window(part, seed, step, first_row + row, time);
        if (!token_read_row(diagnostics, &reader, part, start, row)) return false;
        for (int64_t i = 0; i < time; i++) CHECK(marks[row * time + i]);
    }
    return true;
}

// Windows first, first + 1, ... of an evaluation; marks where there is a target.
static inline bool token_sequence_batch(Diagnostics *diagnostics, const TokenPart *part, int64_t first, int64_t rows,
                                        int64_t time, int64_t vocabulary, int32_t *tokens, int32_t *targets,
                                        bool *marks, int64_t *counted) {
    int32_t ids[64];
    unsigned char room[64];
    TokenColumn columns[] = {{0, tokens, NULL}, {1, targets, NULL}, {1, NULL, marks}};
    TokenReader reader = test_reader(time, vocabulary, columns, ids, room);
    *counted = 0;
    for (int64_t row = 0; row < rows; row++) {
        int64_t start = part->begin + (first + row) * time;
        *counted += token_window_targets(part, start, time);
        if (!token_read_row(diagnostics, &reader, part, start, row)) return false;
    }
    return true;
}

#endif
