// What a device makes of an executor: the functions behind runtime/executor.h.
#ifndef CHERRY_RUNTIME_EXECUTOR_CALLS_H
#define CHERRY_RUNTIME_EXECUTOR_CALLS_H

#include "runtime/executor.h"

typedef struct ExecutorCalls {
    void (*destroy)(Executor *executor);
    void *(*input)(Executor *executor, const char *name);
    const void *(*output)(Executor *executor, const char *name);
    const void *(*scalar)(Executor *executor, const char *name, int runs_ago);
    void (*run)(Executor *executor);
    void (*run_timed)(Executor *executor, double *seconds_per_launch);
} ExecutorCalls;

// The first member of each device's executor.
struct Executor {
    const ExecutorCalls *calls;
    bool runs_ahead;
    int64_t phase_count, barrier_count;
};

Executor *executor_create_cpu(Diagnostics *diagnostics, const Program *program, State *state, ThreadPool *pool);
Executor *executor_create_cuda(Diagnostics *diagnostics, const Program *program, State *state);

#endif
