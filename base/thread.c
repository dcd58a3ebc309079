// The thread pool: workers pinned one to a processor, regions and barriers by counting on atomic
// words. A waiting thread spins for a bounded time and then sleeps on a futex, so a step pays about
// the latency of a cache line per barrier, and an oversubscribed machine loses little to spinning.
#include "base/thread.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/diagnostics.h"

enum {
    CACHE_LINE = 64,
    SPIN_NANOSECONDS = 100000,  // a sleep and a wake cost 5 to 50 us, more in a virtual machine
    SPINS_PER_CLOCK = 32,       // pauses between two looks at the clock
    PROCESSOR_LIMIT = 1 << 16,
    PROCESSOR_BITS = 8 * sizeof(unsigned long)
};

// A word that threads wait on, alone on its cache line with the number of those asleep.
typedef struct WaitWord {
    _Alignas(CACHE_LINE) atomic_uint value;
    atomic_int sleepers;
} WaitWord;

typedef struct Worker {
    ThreadPool *pool;
    pthread_t handle;
    int thread;
} Worker;

struct ThreadPool {
    int count;
    bool spins;  // false where threads outnumber processors: spinning would steal the time
    int home;    // processor of thread 0, -1: unpinned
    void (*work)(void *context, int thread);  // NULL tells the workers to end
    void *context;
    Worker *workers;                             // [1, count) are in use
    WaitWord start;                              // counts regions
    WaitWord release;                            // counts barriers
    _Alignas(CACHE_LINE) atomic_int arrived;     // at the current barrier
    _Alignas(CACHE_LINE) atomic_int unfinished;  // workers still in the region
    WaitWord finished;                           // counts regions that all workers have left
};

static inline void pause_processor(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- Waiting ----

// Returns once the word differs from `old`. No wake can be lost: the sleeper counts itself before the
// kernel compares the word, the waker changes the word before it looks at the count (both in one
// total order), so either the kernel sees the new word or the waker sees the sleeper.
static void wait_while(WaitWord *word, unsigned old, bool spins) {
    if (spins) {
        double deadline = 0;
        for (int spin = 1;; spin++) {
            if (atomic_load_explicit(&word->value, memory_order_acquire) != old) return;
            pause_processor();
            if (spin % SPINS_PER_CLOCK) continue;
            double now = clock_seconds();
            if (deadline == 0) deadline = now + 1e-9 * SPIN_NANOSECONDS;
            if (now > deadline) break;
        }
    }
    atomic_fetch_add(&word->sleepers, 1);
    while (atomic_load(&word->value) == old)
        syscall(SYS_futex, &word->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&word->sleepers, 1);
}

static void advance(WaitWord *word) {
    atomic_fetch_add(&word->value, 1);
    if (atomic_load(&word->sleepers) > 0)
        syscall(SYS_futex, &word->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

// ---- Processors ----

// The processors that this process may run on, as a bit mask of `*bytes` bytes that the caller frees.
// The kernel refuses masks shorter than its own, so the size grows until it fits.
static unsigned long *read_affinity(size_t *bytes) {
    for (size_t size = 128; size <= PROCESSOR_LIMIT / 8; size *= 2) {
        unsigned long *mask = calloc(1, size);
        CHECK(mask);
        *bytes = size;
        if (sched_getaffinity(0, size, (cpu_set_t *)mask) == 0) return mask;
        free(mask);
        if (errno != EINVAL) break;
    }
    return NULL;
}

// The processor numbers in the mask; NULL where the kernel does not tell.
static int *list_processors(int *count) {
    *count = 0;
    size_t bytes = 0;
    unsigned long *mask = read_affinity(&bytes);
    if (!mask) return NULL;
    int *processors = malloc(8 * bytes * sizeof *processors);
    CHECK(processors);
    for (int i = 0; i < (int)(8 * bytes); i++)
        if (mask[i / PROCESSOR_BITS] >> (i % PROCESSOR_BITS) & 1) processors[(*count)++] = i;
    free(mask);
    return processors;
}

// A container may get less time than its processors have: threads beyond that share would only be
// stopped while others wait for them. 0 where there is no such limit.
static int read_quota(void) {
    FILE *stream = fopen("/sys/fs/cgroup/cpu.max", "re");
    long long quota = 0, period = 0;
    if (stream && fscanf(stream, "%lld %lld", &quota, &period) != 2) quota = 0;  // "max 100000"
    if (stream) fclose(stream);
    return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int thread_available_processors(void) {
    int count = 0, quota = read_quota();
    free(list_processors(&count));
    if (quota && quota < count) count = quota;
    return count > 0 ? count : 1;
}

// Moves the calling thread to `processor`. A refusal costs speed only, so it is not an error.
static void pin(int processor) {
    unsigned long mask[PROCESSOR_LIMIT / PROCESSOR_BITS] = {0};
    mask[processor / PROCESSOR_BITS] = 1ul << (processor % PROCESSOR_BITS);
    (void)sched_setaffinity(0, sizeof mask, (cpu_set_t *)mask);
}

// Thread 0 is the caller, and what it starts later (compile threads, child processes) would inherit a
// pin. So it is only moved home when it has strayed, and gets its old mask back at once: with a
// pinned worker on every other processor the scheduler has no reason to move it again.
static void go_home(const ThreadPool *pool) {
    if (pool->home < 0 || sched_getcpu() == pool->home) return;
    size_t bytes = 0;
    unsigned long *mask = read_affinity(&bytes);
    if (!mask) return;
    pin(pool->home);
    (void)sched_setaffinity(0, bytes, (cpu_set_t *)mask);
    free(mask);
}

// ---- The pool ----

static void *worker_main(void *argument) {
    Worker *worker = argument;
    ThreadPool *pool = worker->pool;
    for (unsigned region = 0;; region++) {
        wait_while(&pool->start, region, pool->spins);
        if (!pool->work) return NULL;
        pool->work(pool->context, worker->thread);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1) advance(&pool->finished);
    }
}

static bool start_worker(Worker *worker, int processor) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return false;
    unsigned long mask[PROCESSOR_LIMIT / PROCESSOR_BITS] = {0};
    if (processor >= 0) {
        mask[processor / PROCESSOR_BITS] = 1ul << (processor % PROCESSOR_BITS);
        (void)pthread_attr_setaffinity_np(&attributes, sizeof mask, (cpu_set_t *)mask);
    }
    int error = pthread_create(&worker->handle, &attributes, worker_main, worker);
    if (error && processor >= 0)  // the processor may have left the mask meanwhile: run unpinned
        error = pthread_create(&worker->handle, NULL, worker_main, worker);
    pthread_attr_destroy(&attributes);
    return error == 0;
}

// Signals belong to the caller: workers are started with all of them blocked.
static void start_workers(ThreadPool *pool, int count, const int *processors) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (int i = 1; i < count; i++) {
        pool->workers[i] = (Worker){.pool = pool, .thread = i};
        if (!start_worker(&pool->workers[i], processors ? processors[i] : -1)) break;
        pool->count = i + 1;  // where the system refuses threads, the pool is smaller
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

ThreadPool *thread_pool_create(int count) {
    int available = 0;
    int *processors = list_processors(&available);
    if (count <= 0) count = thread_available_processors();
    bool fits = count <= available;
    ThreadPool *pool = aligned_alloc(_Alignof(ThreadPool), sizeof *pool);
    CHECK(pool);
    *pool = (ThreadPool){.count = 1, .spins = fits, .home = fits && count > 1 ? processors[0] : -1};
    pool->workers = calloc((size_t)count, sizeof *pool->workers);
    CHECK(pool->workers);
    start_workers(pool, count, fits ? processors : NULL);
    free(processors);
    return pool;
}

void thread_pool_destroy(ThreadPool *pool) {
    if (!pool) return;
    pool->work = NULL;
    advance(&pool->start);
    for (int i = 1; i < pool->count; i++) pthread_join(pool->workers[i].handle, NULL);
    free(pool->workers);
    free(pool);
}

int thread_pool_count(const ThreadPool *pool) { return pool->count; }

void thread_pool_run(ThreadPool *pool, void (*work)(void *context, int thread), void *context) {
    if (pool->count == 1) {
        work(context, 0);
        return;
    }
    go_home(pool);
    unsigned finished = atomic_load_explicit(&pool->finished.value, memory_order_relaxed);
    pool->work = work;
    pool->context = context;
    atomic_store_explicit(&pool->unfinished, pool->count - 1, memory_order_relaxed);
    advance(&pool->start);
    work(context, 0);
    wait_while(&pool->finished, finished, pool->spins);
}

void thread_pool_barrier(ThreadPool *pool, int thread) {
    (void)thread;
    if (pool->count == 1) return;
    unsigned barrier = atomic_load_explicit(&pool->release.value, memory_order_relaxed);
    if (atomic_fetch_add(&pool->arrived, 1) == pool->count - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        advance(&pool->release);
    } else {
        wait_while(&pool->release, barrier, pool->spins);
    }
}
