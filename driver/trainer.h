// Training: the loop of `cherry train`.
#ifndef CHERRY_DRIVER_TRAINER_H
#define CHERRY_DRIVER_TRAINER_H

#include "driver/feed.h"
#include "driver/generator.h"

typedef struct TrainerOptions {
    const char *folder;   // checkpoints, weights, metrics
    const char *weights;  // start from these, or NULL
    bool allow_new;       // parameters that they lack start as the model says
    const Tokenizer *tokenizer;  // of the data; its model is kept with the run
    bool evaluate_first;  // held-out data before the first step
    bool resume;
    int64_t evaluate_batches;  // of each evaluation during training; 0: all held-out data
    double peak_flops;         // of the machine, for the progress line; 0: unknown
    const Sampling *sampling;
    const char *prompt;  // of the samples during training
    FILE *progress;
    bool terminal;
} TrainerOptions;

// Trains until module->training.steps updates are done, or until SIGINT or SIGTERM (then it saves and
// returns as well). `generator` NULL: no samples. False after an error; what was saved before stays.
bool trainer_run(Runner *runner, Feed *feed, Generator *generator, const TrainerOptions *options);

// Must be called before threads exist: interruptions then wait until the loop looks for them.
void trainer_hold_interruptions(void);

#endif
