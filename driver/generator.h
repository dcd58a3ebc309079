// Generating text with the derived prefill and decode entry points.
#ifndef CHERRY_DRIVER_GENERATOR_H
#define CHERRY_DRIVER_GENERATOR_H

#include "driver/runner.h"
#include "runtime/random.h"
#include "runtime/tokens.h"

typedef struct Generator {
    Runner *runner;  // with ENTRY_PREFILL and ENTRY_DECODE
    const Tokenizer *tokenizer;
    int64_t chunk, context;  // as compiled
    int64_t vocabulary;
    int32_t *history;  // the tokens that the caches hold, `context` at most
    int64_t length;
    int32_t *order;  // room for sampling
} Generator;

bool generator_create(Runner *runner, const Tokenizer *tokenizer, int64_t chunk, int64_t context,
                      Generator *generator);

// Continues `prompt` by `count` tokens and writes them to `stream` as they come, as safe text. Where the
// context is full, the newest half of it is read again and generation goes on from there.
// False after an error: an empty prompt, a token outside the model's vocabulary.
bool generator_run(Generator *generator, const char *prompt, size_t prompt_length, int64_t count,
                   const Sampling *sampling, FILE *stream);

#endif
