// Executors of all devices: see executor.h.
#include "runtime/executor_calls.h"

Executor *executor_create(Diagnostics *diagnostics, const Program *program, State *state, ThreadPool *pool) {
    return state_device(state) ? executor_create_cuda(diagnostics, program, state)
                               : executor_create_cpu(diagnostics, program, state, pool);
}

void executor_destroy(Executor *executor) {
    if (executor) executor->calls->destroy(executor);
}

void *executor_input(Executor *executor, const char *name) { return executor->calls->input(executor, name); }
const void *executor_output(Executor *executor, const char *name) { return executor->calls->output(executor, name); }

const void *executor_scalar(Executor *executor, const char *name, int runs_ago) {
    return executor->calls->scalar(executor, name, runs_ago);
}

bool executor_runs_ahead(const Executor *executor) { return executor->runs_ahead; }
void executor_run(Executor *executor) { executor->calls->run(executor); }

void executor_run_timed(Executor *executor, double *seconds_per_launch) {
    executor->calls->run_timed(executor, seconds_per_launch);
}

int64_t executor_phase_count(const Executor *executor) { return executor->phase_count; }
int64_t executor_barrier_count(const Executor *executor) { return executor->barrier_count; }
