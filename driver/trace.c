#include "driver/trace.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static void observe(void *data, Entry entry, const char *stage, const Graph *graph, const Program *program) {
    (void)graph;
    (void)program;
    Trace *trace = data;
    trace_stage(trace, arena_format(trace->arena, "%s %s", entry_name(entry), stage));
}

Trace *trace_create(Arena *arena, double start) {
    Trace *trace = ARENA_NEW(arena, Trace);
    *trace = (Trace){.arena = arena, .start = start};
    trace->observer = (Observer){.stage = observe, .data = trace};
    return trace;
}

void trace_stage(Trace *trace, const char *name) {
    vector_push(trace->arena, &trace->stages, ((TraceStage){.name = name, .end = clock_seconds()}));
}

// Adds a bar to `events`; returns its arguments.
static cJSON *add_event(const Trace *trace, cJSON *events, const char *kind, const char *name, double start,
                        double seconds) {
    cJSON *event = cJSON_CreateObject(), *arguments = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "name", name);
    cJSON_AddStringToObject(event, "cat", kind);
    cJSON_AddStringToObject(event, "ph", "X");
    cJSON_AddNumberToObject(event, "ts", (start - trace->start) * 1e6);
    cJSON_AddNumberToObject(event, "dur", seconds * 1e6);
    cJSON_AddNumberToObject(event, "pid", 1);
    cJSON_AddNumberToObject(event, "tid", 1);
    cJSON_AddItemToObject(event, "args", arguments);
    cJSON_AddItemToArray(events, event);
    return arguments;
}

// A stage ends when it is observed. The first memory plan comes behind all machine code.
static void add_stages(const Trace *trace, const Runner *runner, cJSON *events) {
    const Compilation *compilation = runner->compilation;
    double start = trace->start;
    bool coded = false;
    for (size_t i = 0; i < trace->stages.count; i++) {
        const TraceStage *stage = &trace->stages.items[i];
        if (!coded && strstr(stage->name, " plan-memory")) {
            cJSON *arguments = add_event(trace, events, "compile", "machine code", start, compilation->machine_seconds);
            cJSON_AddNumberToObject(arguments, "kernels", (double)compilation->kernels);
            cJSON_AddNumberToObject(arguments, "cached", (double)compilation->cached);
            start += compilation->machine_seconds;
            coded = true;
        }
        add_event(trace, events, "compile", stage->name, start, stage->end - start);
        start = stage->end;
    }
}

static void add_launches(const Trace *trace, const Runner *runner, const Profile *profile, Entry entry,
                         cJSON *events) {
    const Program *program = runner->compilation->programs[entry];
    double at = profile->began[entry];
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        double seconds = profile->seconds[entry][i], flops = cost_flops(kernel), bytes = cost_bytes(kernel);
        cJSON *arguments = add_event(trace, events, entry_name(entry), kernel->name, at, seconds);
        cJSON_AddStringToObject(arguments, "line",
                                profile_row_name(trace->arena, &(ProfileRow){.place = launch->place}));
        cJSON_AddNumberToObject(arguments, "flops", flops);
        cJSON_AddNumberToObject(arguments, "bytes", bytes);
        at += seconds;
    }
}

bool trace_write(const Trace *trace, const Runner *runner, const Profile *profile, const char *path) {
    cJSON *json = cJSON_CreateObject(), *events = cJSON_AddArrayToObject(json, "traceEvents");
    cJSON_AddStringToObject(json, "displayTimeUnit", "ms");
    add_stages(trace, runner, events);
    add_launches(trace, runner, profile, ENTRY_ACCUMULATE, events);
    add_launches(trace, runner, profile, ENTRY_UPDATE, events);
    char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    CHECK(text);
    FileWriter *writer = file_create(runner->ir->diagnostics, path);
    bool ok = writer != NULL;
    if (ok && !file_write(writer, text, strlen(text)))
        ok = false;
    else if (ok)
        ok = file_commit(writer);
    free(text);
    return ok;
}
