// Plain C that reads memory as fast as it comes: a word of each line, in several streams. Lines of the second cache and
// of what is behind it arrive no sooner for vectors of all their bytes.
#ifndef CHERRY_BENCH_READING_H
#define CHERRY_BENCH_READING_H

#include "base/thread.h"

// The share of `thread` of as many as there are threads; the sum of what was read, which no one needs.
static inline uint64_t reading_share(const void *data, int64_t bytes, int thread, int threads) {
    enum { LINE = 64, LINE_WORDS = LINE / 8 };
    int64_t begin, end;
    thread_share(bytes / LINE, thread, threads, &begin, &end);
    const uint64_t *from = (const uint64_t *)data + begin * LINE_WORDS;
    int64_t words = (end - begin) * LINE_WORDS, stream = words / (4 * LINE_WORDS) * LINE_WORDS;
    uint64_t sum = 0;
    for (int64_t i = 0; i < stream; i += LINE_WORDS)
        sum += from[i] + from[stream + i] + from[2 * stream + i] + from[3 * stream + i];
    for (int64_t i = 4 * stream; i < words; i += LINE_WORDS) sum += from[i];
    return sum;
}

#endif
