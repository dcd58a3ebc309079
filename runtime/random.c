// Random choices by counter: see random.h.
#include "runtime/random.h"

#include <math.h>

int64_t random_below(uint64_t bits, int64_t limit) {
    return (int64_t)((unsigned __int128)bits * (uint64_t)limit >> 64);
}

int64_t random_permutation(uint64_t key, int64_t count, int64_t index) {
    int half = 1;
    while (half < 31 && (INT64_C(1) << (2 * half)) < count) half++;
    uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t value = (uint64_t)index;
    do {  // the network permutes 0 .. 4^half - 1 < 4 count; walking on from outside keeps it a permutation
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (random_bits(key, round, right) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= (uint64_t)count);
    return (int64_t)value;
}

// ---- Sampling ----
//
// A race: each candidate arrives after a time drawn from an exponential distribution whose rate is its
// weight, and the first one is taken; so a candidate of share p of the weights is taken with probability p.
// Times come from (seed, position, candidate) alone. Two distributions that are alike therefore mostly choose
// alike at the same position, which is what lets a draft stand (driver/generator.c).

// Whether logit `a` comes before logit `b`: falling values, the smaller index first.
static int comes_before(const float *logits, int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(const float *logits, int32_t *heap, int64_t count, int64_t at) {
    int32_t moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_before(logits, heap[child + 1], heap[child])) child++;
        if (!comes_before(logits, heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

// Takes the first of the heap; it is then at heap[count - 1].
static int32_t pop(const float *logits, int32_t *heap, int64_t count) {
    int32_t first = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = first;
    sift_down(logits, heap, count - 1, 0);
    return first;
}

static double weight(const Sampling *sampling, const float *logits, int32_t index, double largest) {
    return exp(((double)logits[index] - largest) / sampling->temperature);
}

// Moves the candidates, best first, to the end of `order` (so order[total - 1] is the best) and returns
// how many there are.
static int64_t select_candidates(const Sampling *sampling, const float *logits, int32_t *order,
                                 int64_t total) {
    for (int64_t i = total / 2; i-- > 0;) sift_down(logits, order, total, i);
    double largest = (double)logits[order[0]];
    int64_t limit = sampling->top_k > 0 && sampling->top_k < total ? sampling->top_k : total;
    bool nucleus = sampling->top_p > 0 && sampling->top_p < 1;
    double all = 0;  // top_p counts within what top_k left
    if (nucleus && limit == total)
        for (int64_t i = 0; i < total; i++) all += weight(sampling, logits, order[i], largest);
    double mass = 0;
    int64_t kept = 0;
    while (kept < limit) {
        mass += weight(sampling, logits, pop(logits, order, total - kept), largest);
        kept++;
        if (nucleus && limit == total && mass >= sampling->top_p * all) break;
    }
    if (!nucleus || limit == total) return kept;
    double goal = sampling->top_p * mass;
    mass = 0;
    for (kept = 0; kept < limit && mass < goal; kept++)
        mass += weight(sampling, logits, order[total - 1 - kept], largest);
    return kept > 0 ? kept : 1;
}

// The first of the largest logits, -1: none is a number above -infinity. Lanes, so that it takes vectors.
static int64_t find_best(const float *logits, int64_t count) {
    enum { LANES = 16, PIECE = 1024 };
    int64_t from = -1;
    float largest = -INFINITY;
    for (int64_t begin = 0; begin < count; begin += PIECE) {
        int64_t end = begin + PIECE < count ? begin + PIECE : count, i = begin;
        float most[LANES], all = -INFINITY;
        for (int lane = 0; lane < LANES; lane++) most[lane] = -INFINITY;
        for (; i + LANES <= end; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                most[lane] = logits[i + lane] > most[lane] ? logits[i + lane] : most[lane];
        for (int lane = 0; lane < LANES; lane++) all = most[lane] > all ? most[lane] : all;
        for (; i < end; i++) all = logits[i] > all ? logits[i] : all;
        if (all > largest) largest = all, from = begin;
    }
    while (from >= 0 && logits[from] != largest) from++;
    return from;
}

// All candidates that are numbers above -infinity.
static int64_t find_candidates(const float *logits, int64_t count, int32_t *order) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++)
        if (logits[i] > -INFINITY) order[total++] = (int32_t)i;
    return total;
}

int64_t random_sample(const Sampling *sampling, uint64_t position, const float *logits, int64_t count,
                      int32_t *order) {
    int64_t best = find_best(logits, count);
    if (best < 0 || !(sampling->temperature > 0) || logits[best] == INFINITY) return best;

    bool cut = sampling->top_k > 0 || (sampling->top_p > 0 && sampling->top_p < 1);
    int64_t total = find_candidates(logits, count, order);
    int64_t kept = cut ? select_candidates(sampling, logits, order, total) : total;
    const int32_t *candidates = order + (total - kept);
    uint64_t key = random_bits(sampling->seed, STREAM_SAMPLING, position);
    double least = INFINITY;
    int64_t chosen = best;
    for (int64_t i = 0; i < kept; i++) {
        double uniform = (double)(hash_word(key, (uint64_t)candidates[i]) >> 11) * 0x1p-53;
        // Its time is at least uniform / share, for -log(1 - u) >= u, and share = exp(x) at most 1 / (1 - x + x^2 / 2):
        // of a large vocabulary all but a few come too late for their exponential to be asked for.
        double x = ((double)logits[candidates[i]] - (double)logits[best]) / sampling->temperature;
        if (uniform * (1 - x + x * x / 2) > least * (1 + 1e-9)) continue;
        double share = weight(sampling, logits, candidates[i], (double)logits[best]);
        if (!(uniform < least * share)) continue;
        double arrival = -log1p(-uniform) / share;
        if (arrival < least) least = arrival, chosen = candidates[i];
    }
    return chosen;
}
