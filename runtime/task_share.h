// How threads share the tasks of a phase. Each thread has a share, as long as the others' and always the same part of the
// tasks: what it wrote in one phase is what it reads in the next, out of a cache that is near. Of a phase with many tasks
// the last part of each share is handed out task by task, to its own thread as long as that comes for them, then to
// those next to it that have none left: a processor that others slow down does not hold up the rest.
#ifndef CHERRY_RUNTIME_TASK_SHARE_H
#define CHERRY_RUNTIME_TASK_SHARE_H

#include <stdatomic.h>

#include "base/thread.h"
#include "ir/program.h"

enum {
    SHARE_TASKS_MIN = 4,  // of a thread, from which on some are handed out:
    SHARE_PART = 4,       // the last 1 / SHARE_PART
    SHARE_REACH = 8       // threads that one looks to for more
};

// How many tasks of a share were handed out, on a line of its own: the upper half is the number of the run in which they
// were, which differs from that of the run before, so that no one has to clear it.
typedef union TaskCounter {
    atomic_ullong taken;
    char line[64];
} TaskCounter;

typedef struct TaskPhase {
    CpuFunction function;
    char *const *operands, *const *workspaces;
    int64_t tasks;
    TaskCounter *counters;  // one a thread; not used where tasks are few
} TaskPhase;

static inline bool task_phase_is_shared(const TaskPhase *phase, int threads) {
    return threads > 1 && phase->tasks >= (int64_t)SHARE_TASKS_MIN * threads;
}

// The next of `count` tasks that are handed out in this run, or -1.
static inline int64_t task_take(TaskCounter *counter, uint32_t run, int64_t count) {
    unsigned long long seen = atomic_load_explicit(&counter->taken, memory_order_relaxed), taken;
    do {
        taken = seen >> 32 == run ? seen & UINT32_MAX : 0;
        if ((int64_t)taken >= count) return -1;
    } while (!atomic_compare_exchange_weak_explicit(&counter->taken, &seen, (unsigned long long)run << 32 | (taken + 1),
                                                    memory_order_relaxed, memory_order_relaxed));
    return (int64_t)taken;
}

// The share of `thread`, and what is left of others'. `run` counts the runs of the phase.
static inline void task_share_run(const TaskPhase *phase, int thread, int threads, uint32_t run, char *scratch) {
    bool shared = task_phase_is_shared(phase, threads);
    int64_t begin, end, task;
    thread_share(phase->tasks, thread, threads, &begin, &end);
    int64_t kept = end - (shared ? (end - begin) / SHARE_PART : 0);
    if (begin < kept) phase->function(phase->operands, phase->workspaces, scratch, begin, kept);
    for (int i = 0; shared && i < threads && i <= SHARE_REACH; i++) {
        int other = (thread + i) % threads;
        thread_share(phase->tasks, other, threads, &begin, &end);
        int64_t count = (end - begin) / SHARE_PART;
        while ((task = task_take(&phase->counters[other], run, count)) >= 0) {
            int64_t at = end - count + task;
            phase->function(phase->operands, phase->workspaces, scratch, at, at + 1);
        }
    }
}

#endif
