// The SentencePiece library (C++) behind a C interface.
#ifndef CHERRY_RUNTIME_SENTENCEPIECE_SHIM_H
#define CHERRY_RUNTIME_SENTENCEPIECE_SHIM_H

#include "runtime/tokens.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SentencePiece SentencePiece;

// A model from the bytes of its file; NULL where they are none, with the reason in `error`.
SentencePiece *sentencepiece_load(const void *bytes, size_t count, char *error, size_t error_room);
void sentencepiece_destroy(SentencePiece *model);

int64_t sentencepiece_vocabulary(const SentencePiece *model);
// The end of a sentence, or the piece of a newline where the model has no such token; -1: neither.
int32_t sentencepiece_separator(const SentencePiece *model);
int64_t sentencepiece_longest(const SentencePiece *model);  // bytes of a token's text

void sentencepiece_encode(const SentencePiece *model, const char *line, size_t length, TokenSink *sink,
                          void *context);
// Writes at most `room` bytes; ids outside of the vocabulary are left out.
size_t sentencepiece_decode(const SentencePiece *model, const int32_t *ids, int64_t count, char *text,
                            size_t room);

#ifdef __cplusplus
}
#endif

#endif
