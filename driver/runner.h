// A model ready to run: programs compiled, state allocated, executors bound.
#ifndef CHERRY_DRIVER_RUNNER_H
#define CHERRY_DRIVER_RUNNER_H

#include "base/thread.h"
#include "driver/compile.h"
#include "driver/machine.h"
#include "runtime/executor.h"
#include "runtime/state.h"

typedef struct Runner {
    Ir *ir;
    const Module *module;
    Compilation *compilation;
    Device *device;  // a GPU; NULL: the CPU
    ThreadPool *pool;
    Machine machine;  // a GPU's peaks; the CPU's are measured between steps: runner_machine
    CpuOptions cpu;   // how code was made
    State *state;
    Executor *executors[ENTRY_COUNT];
    double compile_seconds;  // passes and code
} Runner;

// Compiles the entries (bits 1 << Entry), and for training on a GPU ENTRY_ROUND; allocates, binds. NULL after errors.
Runner *runner_create(Ir *ir, const Module *module, uint32_t entries, const CompileOptions *options,
                      int threads);
void runner_destroy(Runner *runner);

// Every parameter's first value.
void runner_initialize(Runner *runner, int64_t seed);
// Makes the rounded copies of parameters, where programs read any: after parameters came from elsewhere than a step,
// and before what is no step reads them.
void runner_round(Runner *runner);

// Writes a scalar input where the entry point has it.
void runner_set_float(Runner *runner, Entry entry, const char *name, float value);
void runner_set_integer(Runner *runner, Entry entry, const char *name, int64_t value);
// Reads a rank-0 f32 output; NAN where there is none.
float runner_output(const Runner *runner, Entry entry, const char *name);
// The same of the last run (0) or of the one before (1), waiting for that run alone: see executor_scalar.
float runner_scalar(const Runner *runner, Entry entry, const char *name, int runs_ago);
void runner_run(Runner *runner, Entry entry);
bool runner_works(const Runner *runner);  // false once its GPU has failed, which was reported

// What its device can do: a GPU as it was measured before memory was taken, the CPU as it is now.
Machine runner_machine(const Runner *runner);
int64_t runner_peak_bytes(const Runner *runner);  // the most memory taken so far: of the process, or on its GPU

#endif
