// Generating text with the derived prefill and decode entry points.
#ifndef CHERRY_DRIVER_GENERATOR_H
#define CHERRY_DRIVER_GENERATOR_H

#include "driver/runner.h"
#include "runtime/random.h"
#include "runtime/tokens.h"

enum { GENERATOR_DRAFTS = 16 };

// What a generation did: each step runs the model once and gives one token, and one more for each draft that
// stands.
typedef struct GeneratorCount {
    int64_t tokens, steps;
    int64_t drafted, accepted;
} GeneratorCount;

typedef struct Generator {
    Runner *runner;  // with ENTRY_PREFILL and ENTRY_DECODE, and ENTRY_DRAFT where heads draft; maybe ENTRY_ROUND
    const Tokenizer *tokenizer;
    int64_t chunk, context;  // as compiled
    int64_t vocabulary;
    int64_t heads;     // that draft; 0: none
    int32_t *history;  // the tokens that the caches hold, `context` at most
    int64_t length;    // of what has been read: caches beyond it hold drafts that fell, and are written again
    Entry entry;       // which ran last, over `rows` tokens
    int64_t rows, row;                 // the next token follows the one in `row`
    int32_t drafts[GENERATOR_DRAFTS];  // in the rows behind the first of ENTRY_DRAFT
    int32_t token;                     // the last that was made, not yet read; -1: none
    int32_t *order;                    // room for sampling
    GeneratorCount count;
} Generator;

bool generator_create(Runner *runner, const Tokenizer *tokenizer, int64_t chunk, int64_t context,
                      Generator *generator);

// Whether a prompt can be read, and what is wrong where it cannot: known before weights are.
bool generator_accepts(const Generator *generator, const char *prompt, size_t length);

// Reads a prompt. False after an error: an empty prompt, a token outside the model's vocabulary.
bool generator_start(Generator *generator, const char *prompt, size_t length);
// The next token, a function of weights, prompt and sampling alone: drafts change the time it takes, and
// nothing else. A head drafts the token that it would sample with the random number of that position; the
// draft stands where the model itself samples the same. Where the context is full, the newest half of it is
// read again. -1 after an error.
int32_t generator_next(Generator *generator, const Sampling *sampling);

// Continues `prompt` by `count` tokens and writes them to `stream` as they come, as safe text. False after
// an error.
bool generator_run(Generator *generator, const char *prompt, size_t prompt_length, int64_t count,
                   const Sampling *sampling, FILE *stream);

#endif
