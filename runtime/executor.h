// Executor: one program bound to a state, on the device that the state is on. Every pointer is resolved and every
// barrier decided when it is created; running it allocates nothing and takes no lock. The CPU runs it on a thread
// pool. A GPU runs its first run launch by launch, so that a failure has a name, and then replays it as a graph.
#ifndef CHERRY_RUNTIME_EXECUTOR_H
#define CHERRY_RUNTIME_EXECUTOR_H

#include "base/thread.h"
#include "runtime/state.h"

typedef struct Executor Executor;

// `state` was created from a list that had `program` in it; the kernels are compiled. `pool` is the CPU's. Program, state
// and pool outlive the executor. Executors of one state share its arena: run one at a time.
// NULL after reporting that memory is short.
Executor *executor_create(Diagnostics *diagnostics, const Program *program, State *state, ThreadPool *pool);
void executor_destroy(Executor *executor);

// Where the host writes an input before a run, and reads an output after it: row-major at capacity,
// 64-byte aligned. Inputs keep their values from run to run. NULL where there is no such name. A GPU runs
// while the host goes on: reading an output waits for it.
void *executor_input(Executor *executor, const char *name);
const void *executor_output(Executor *executor, const char *name);

// A rank-0 output of the last run (0) or of the one before it (1), waiting for that run alone: a GPU goes on with
// what was asked for since. The CPU has nothing of the one before. NULL where there is no such name.
const void *executor_scalar(Executor *executor, const char *name, int runs_ago);
bool executor_runs_ahead(const Executor *executor);  // a run may be asked for before the last one is done

// One region of the pool, or one graph. The result does not depend on the number of threads.
void executor_run(Executor *executor);

// The same, with a barrier (an event) round every launch, whose seconds are added to seconds_per_launch
// (program->launches.count of them).
void executor_run_timed(Executor *executor, double *seconds_per_launch);

// What a run consists of: phases, and barriers among them (for `explain`, and for tests).
int64_t executor_phase_count(const Executor *executor);
int64_t executor_barrier_count(const Executor *executor);

#endif
