// Every op case and every nest case as a program, for the tests that run them on a GPU, emulated or real.
#ifndef CHERRY_TESTS_CASE_SWEEP_H
#define CHERRY_TESTS_CASE_SWEEP_H

#include "tests/nest_case.h"
#include "tests/op_case_run.h"

typedef struct SweepCase {
    const char *name;       // "dot/batched", "nest/softmax", "half/plain"
    const OpCase *op_case;  // with its graph; or
    const Graph *graph;
    const Case *nest_case;  // with its nest
    const Nest *nest;
    Program *program;  // of a nest: one launch, every operand a state buffer, at its smallest offset
} SweepCase;

typedef struct CaseSweep {
    SweepCase *cases;
    Program **programs;  // of the cases, in their order
    size_t count;
    int covered, lowered;  // ops of the table: with a case here; that are lowered at all
} CaseSweep;

// The cases whose name contains a part of `filter`, parts with commas between (NULL: all), in the IR's arena. False after printing which failed.
bool case_sweep_create(Ir *ir, const char *filter, bool (*has_kernel)(const char *kernel), CaseSweep *sweep);

// Runs one case of a compiled program against the reference, as op_case_run does. How many elements differ; -1: the
// reference reported errors.
int64_t sweep_case_run(const SweepCase *sweep_case, const char *where, RunProgram run, void *context);

#endif
