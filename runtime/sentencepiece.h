// SentencePiece models as tokenizers.
#ifndef CHERRY_RUNTIME_SENTENCEPIECE_H
#define CHERRY_RUNTIME_SENTENCEPIECE_H

#include "base/diagnostics.h"
#include "runtime/tokens.h"

// Loads the .model file at `path`; the caller calls its `destroy`. NULL after an error: E0720 no such model,
// E0721 built without the library, E0723 it has no token that can stand for a newline.
Tokenizer *sentencepiece_open(Arena *arena, Diagnostics *diagnostics, const char *path);

#endif
