// How a nest will be run: which loop is vectorised, how stages share loops, what one task is.
#ifndef CHERRY_CODEGEN_CPU_PLAN_H
#define CHERRY_CODEGEN_CPU_PLAN_H

#include "codegen/cpu_emit.h"

// Consecutive stages that run the same inner loops together.
typedef struct StageGroup {
    int first, count;
    uint32_t inner;   // loops
    int vector;       // inner loop that runs lanes at a time, -1: none
    int unroll;       // vectors per iteration, each with accumulators of its own
} StageGroup;

typedef struct CpuPlan {
    const Nest *nest;   // normalised
    const NestAnalysis *analysis;
    int lanes;
    int vector;         // outer loop that runs lanes at a time, -1: the groups choose
    int unroll;         // vectors of it at once; a task is a multiple of them
    int wide;           // as many where a share of the tasks has them
    int group_count;
    StageGroup groups[CPU_STAGE_LIMIT];
    int spread_count;   // parallel loops that tasks walk, but for `vector`; outermost first
    int spread[LOOP_MAX];
    int sequential_count;  // outer loops that every task runs as a whole, outermost first
    int sequential[LOOP_MAX];
    bool bounded;          // some spread loop is: tasks share what there is at run time
    int64_t points;        // of the spread loops at capacity
    int64_t points_a_task; // spread points of one task
    int64_t block;         // iterations of `vector` of one task
    int64_t blocks;        // tasks along `vector`
    int64_t tasks;
} CpuPlan;

CpuPlan cpu_plan(Arena *arena, const CpuTarget *target, const Nest *normalised);

// Vector instructions, roughly: of one run of a nest, and of the stages behind the sum of a contraction for `lanes`
// results along loop `column`.
double cpu_plan_instructions(Arena *arena, const CpuPlan *plan);
double cpu_stage_instructions(Arena *arena, const CpuTarget *target, const Nest *contraction, int column);

#endif
