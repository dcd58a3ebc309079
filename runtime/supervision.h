// Supervised sets: which tokens of a stream count as targets.
#ifndef CHERRY_RUNTIME_SUPERVISION_H
#define CHERRY_RUNTIME_SUPERVISION_H

#include "runtime/data.h"

typedef enum SupervisionKind {
    SUPERVISE_ALL,
    SUPERVISE_SPANS,    // spans[:KIND,KIND]: of a table of sentences and spans
    SUPERVISE_ANSWERS,  // of a table of questions and answers
    SUPERVISE_MASK,     // mask:FILE[,FILE]: a byte for each token of the data (of the held-out data), 0 or 1, or the digits
    SUPERVISE_RANDOM,   // random:P
    SUPERVISE_RARE      // rare:P: the rarest kinds of tokens that make up the share P
} SupervisionKind;

typedef struct Supervision {
    SupervisionKind kind;
    const char *text;  // kinds of spans, or NULL; the file of a mask
    double share;
} Supervision;

// "all", "spans:PS,LC", "random:0.15", ... False after E0931.
bool supervision_parse(Diagnostics *diagnostics, const char *text, Supervision *supervision);

// Marks the tokens of an open stream: masks are read (E0727: wrong length or bytes), random ones are drawn by
// seed and position. For rare ones the kinds of tokens are taken from the rarest of `counted` up (of equally
// rare ones the smaller id first), for as long as that brings their occurrences there nearer to the share.
bool supervision_mark(Diagnostics *diagnostics, const Supervision *supervision, const TokenFile *counted,
                      uint64_t seed, TokenFile *file);

#endif
