// Feeding a model: token files or columns into the inputs of its programs, for training and evaluation.
#ifndef CHERRY_DRIVER_FEED_H
#define CHERRY_DRIVER_FEED_H

#include "driver/runner.h"
#include "runtime/metrics.h"
#include "runtime/tokens.h"

typedef struct Feed Feed;

typedef struct FeedOptions {
    const char *data;    // training data, or NULL where only `valid` is read
    const char *valid;   // held-out data; NULL: the last `fraction` of `data`
    const char *format;  // "detect", "bytes", "u16", "u32", "llmc", "tsv", "pairs"
    const Tokenizer *tokenizer;  // of text; NULL: bytes
    const char *supervise;       // runtime/supervision.h; NULL: every token
    uint64_t seed;               // of a random set
    double share;                // of the sequences of a training batch that are supervised at all; 0: 1
    bool shuffle;                // the tokens of a window change places
    double fraction;     // 0.1
    bool evaluate_all;   // `data` is held-out data as a whole (cherry eval)
} FeedOptions;

// Opens and checks the data that the objective of `module` wants, before anything is compiled: every
// token id and every label is held against the tables that it indexes. NULL after errors.
Feed *feed_open(Ir *ir, const Module *module, const FeedOptions *options);
void feed_close(Feed *feed);

bool feed_is_text(const Feed *feed);  // the tokenizer made the tokens
bool feed_has_valid(const Feed *feed);
int64_t feed_tokens_per_batch(const Feed *feed);
const char *feed_unit(const Feed *feed);  // of which: "tokens" or "examples"

// Fills the inputs of ENTRY_ACCUMULATE with micro-batch `micro` of `step`.
bool feed_train(Feed *feed, Runner *runner, int64_t step, int64_t micro, int64_t micro_count, int64_t seed);

enum { OBJECTIVE_METRICS_MAX = 64 };

// The numbers that an entry graph of an objective gives beside the loss, at most OBJECTIVE_METRICS_MAX; each is 0.
size_t objective_metrics(const Graph *graph, Metric *metrics);

typedef struct Evaluated {
    double loss;  // mean over every held-out token (or row)
    double supervised, unsupervised;  // over those of the set, and over the others; NAN: there are none
    int64_t tokens, supervised_tokens;
    Metric metrics[OBJECTIVE_METRICS_MAX];  // of the objective, means over whole batches
    size_t metric_count;                    // 0 where no batch was whole
    int64_t batches;                        // whole ones
} Evaluated;

// Adds what a whole batch of `count` tokens (or rows) gives as one: metrics, and the loss where single ones have none.
void evaluated_add_batch(const Runner *runner, int64_t count, Evaluated *evaluated);

// Without losses of single examples it takes a whole batch of held-out data to evaluate: is there one?
bool feed_check_valid(const Feed *feed, const Runner *runner);
// Runs ENTRY_EVALUATE over the held-out data, each token once; at most `limit` batches (0: all).
bool feed_evaluate(Feed *feed, Runner *runner, int64_t limit, Evaluated *evaluated);

#endif
