// A pinned thread pool with static partition. A region runs `work(context, thread)` once on every
// thread (0 .. count-1, thread 0 is the caller); threads meet at barriers inside the region, so a
// whole training step is one region and takes no lock and no allocation.
#ifndef CHERRY_BASE_THREAD_H
#define CHERRY_BASE_THREAD_H

#include <stdint.h>

typedef struct ThreadPool ThreadPool;

// `count` 0: one thread for each processor that this process may run on.
ThreadPool *thread_pool_create(int count);
void thread_pool_destroy(ThreadPool *pool);
int thread_pool_count(const ThreadPool *pool);

void thread_pool_run(ThreadPool *pool, void (*work)(void *context, int thread), void *context);

// Inside a region: returns when every thread of the pool has arrived. Spins briefly, then sleeps.
void thread_pool_barrier(ThreadPool *pool, int thread);

// The static share [begin, end) of `tasks` that belongs to `thread` of `count`.
static inline void thread_share(int64_t tasks, int thread, int count, int64_t *begin, int64_t *end) {
    *begin = tasks * thread / count;
    *end = tasks * (thread + 1) / count;
}

int thread_available_processors(void);
double clock_seconds(void);  // monotonic

#endif
