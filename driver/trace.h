// A time line in Chrome's trace format (it opens in Perfetto): compilation, stage by stage, and one training
// step, launch by launch.
#ifndef CHERRY_DRIVER_TRACE_H
#define CHERRY_DRIVER_TRACE_H

#include "driver/profile.h"

typedef struct TraceStage {
    const char *name;
    double end;  // clock_seconds
} TraceStage;

typedef struct Trace {
    Arena *arena;
    double start;  // of the command: 0 on the time line
    VECTOR(TraceStage) stages;
    Observer observer;
} Trace;

// Observer of the compilation to be traced, which has to live as long as the trace.
Trace *trace_create(Arena *arena, double start);
void trace_stage(Trace *trace, const char *name);  // what ends now
bool trace_write(const Trace *trace, const Runner *runner, const Profile *profile, const char *path);

#endif
