// Random numbers by counter: a number is a pure function of (seed, stream, counter), so that nothing
// has to be saved to resume, and every device and thread gets the same ones.
//
//   mix(h, w) = finaliser of splitmix64 of (h xor w)    (hash_word in base/hash.h)
//   bits(seed, stream, counter) = mix(mix(mix(HASH_START, seed), stream), counter)
#ifndef CHERRY_RUNTIME_RANDOM_H
#define CHERRY_RUNTIME_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

// Streams keep uses of one seed apart.
enum { STREAM_WINDOWS = 1, STREAM_ROWS = 2, STREAM_SAMPLING = 3, STREAM_SHUFFLE = 4, STREAM_SUPERVISION = 5 };

static inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    return hash_word(hash_word(hash_word(HASH_START, seed), stream), counter);
}

// [0, 1), a multiple of 2^-53.
static inline double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(random_bits(seed, stream, counter) >> 11) * 0x1p-53;
}

// 0 .. limit - 1 (limit >= 1); the bias is below limit / 2^64.
int64_t random_below(uint64_t bits, int64_t limit);

// Entry `index` of a pseudo-random permutation of 0 .. count - 1 chosen by `key`, without a table: a
// Feistel network over the next even number of bits, walked until it lands inside.
int64_t random_permutation(uint64_t key, int64_t count, int64_t index);

// How the next token is chosen from its logits.
typedef struct Sampling {
    double temperature;  // 0: the largest logit, the smaller index of equal ones
    int64_t top_k;       // 0: all
    double top_p;        // 1 (or 0): all; else the fewest tokens whose probabilities reach it
    uint64_t seed;
} Sampling;

// The token at `position`, with the probability that sampling gives it; a function of logits, sampling and position alone. `order` is room for
// `count` indices. -1 where no logit is a number above -infinity.
int64_t random_sample(const Sampling *sampling, uint64_t position, const float *logits, int64_t count, int32_t *order);

#endif
