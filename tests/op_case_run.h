// A lowered op case on buffers, whichever back end runs it, against the reference evaluator.
#ifndef CHERRY_TESTS_OP_CASE_RUN_H
#define CHERRY_TESTS_OP_CASE_RUN_H

#include "ir/program.h"
#include "tests/op_cases.h"

// Runs a program; buffers[i] is the start of buffer i.
typedef void (*RunProgram)(void *context, const Program *program, char *const *buffers);

// Buffers of exactly the planned bytes, inputs rounded to their elements; everything else holds 0x7f before `run`.
// How many elements of the outputs differ; the first is printed with `where` (the back end). -1: the reference
// reported errors.
int64_t op_case_run(const OpCase *op_case, const Graph *graph, const Program *program, const char *where,
                    RunProgram run, void *context);

#endif
