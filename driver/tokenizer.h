// Which tokenizer a command works with: what --tokenizer says, else what lies beside the weights, else bytes.
#ifndef CHERRY_DRIVER_TOKENIZER_H
#define CHERRY_DRIVER_TOKENIZER_H

#include "driver/arguments.h"
#include "runtime/tokens.h"

#define TOKENIZER_OPTION \
    { "--tokenizer", "FILE", "a SentencePiece model, or bytes (default: what the weights were trained with)" }

// `weights`: a file whose metadata names the tokenizer that it was trained with, or NULL. Its model is looked
// for as tokenizer.model beside it. NULL after errors: E0932 where the two differ, E0933 where the model that the
// weights want is not there.
const Tokenizer *tokenizer_choose(const Arguments *arguments, Ir *ir, const char *weights);
// Leaves the model in a run's folder, as tokenizer.model; bytes leave nothing.
bool tokenizer_keep(Ir *ir, const Tokenizer *tokenizer, const char *folder);
void tokenizer_release(const Tokenizer *tokenizer);

#endif
