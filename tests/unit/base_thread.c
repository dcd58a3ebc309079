// The thread pool: every thread runs, barriers order memory, many regions, more threads than processors.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"

enum { THREAD_LIMIT = 16, ROUNDS = 200 };

typedef struct Ring {
    ThreadPool *pool;
    int rounds;
    int64_t cell[THREAD_LIMIT];   // plain memory: only the barrier orders it
    int64_t wrong[THREAD_LIMIT];
} Ring;

// Each round every thread adds to its cell what its neighbour held in the round before.
static void ring_work(void *context, int thread) {
    Ring *ring = context;
    int count = thread_pool_count(ring->pool);
    for (int round = 0; round < ring->rounds; round++) {
        if (ring->cell[(thread + 1) % count] != round) ring->wrong[thread]++;
        thread_pool_barrier(ring->pool, thread);
        ring->cell[thread] = round + 1;
        thread_pool_barrier(ring->pool, thread);
    }
}

static void run_ring(int count, int rounds, int regions) {
    ThreadPool *pool = thread_pool_create(count);
    assert_int_equal(thread_pool_count(pool), count);
    for (int region = 0; region < regions; region++) {
        Ring ring = {.pool = pool, .rounds = rounds};
        thread_pool_run(pool, ring_work, &ring);
        for (int i = 0; i < count; i++) {
            assert_int_equal(ring.cell[i], rounds);
            assert_int_equal(ring.wrong[i], 0);
        }
    }
    thread_pool_destroy(pool);
}

static void test_barriers(void **state) {
    (void)state;
    for (int count = 1; count <= 3; count++) run_ring(count, ROUNDS, 10);
}

static void test_oversubscribed(void **state) {
    (void)state;
    double start = clock_seconds();
    run_ring(THREAD_LIMIT, ROUNDS, 2);
    assert_true(clock_seconds() - start < 20);
}

static void count_work(void *context, int thread) { ((int64_t *)context)[thread * 8]++; }

static void test_many_regions(void **state) {
    (void)state;
    ThreadPool *pool = thread_pool_create(2);
    _Alignas(64) int64_t counts[16] = {0};
    for (int region = 0; region < 20000; region++) thread_pool_run(pool, count_work, counts);
    assert_int_equal(counts[0], 20000);
    assert_int_equal(counts[8], 20000);
    thread_pool_destroy(pool);
}

static void lagging_work(void *context, int thread) {
    Ring *ring = context;
    for (int round = 0; round < 4; round++) {
        if (thread == round % 2) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        ring->cell[thread] = round;
        thread_pool_barrier(ring->pool, thread);
        if (ring->cell[1 - thread] != round) ring->wrong[thread]++;
        thread_pool_barrier(ring->pool, thread);
    }
}

// Waits far beyond the spinning time: threads sleep and are woken, in regions, barriers and at the end.
static void test_sleep(void **state) {
    (void)state;
    ThreadPool *pool = thread_pool_create(2);
    for (int region = 0; region < 3; region++) {
        Ring ring = {.pool = pool};
        thread_pool_run(pool, lagging_work, &ring);
        assert_int_equal(ring.wrong[0] + ring.wrong[1], 0);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    thread_pool_destroy(pool);
}

static void identity_work(void *context, int thread) {
    if (thread == 0) *(pthread_t *)context = pthread_self();
}

static void test_single_is_plain_call(void **state) {
    (void)state;
    ThreadPool *pool = thread_pool_create(1);
    pthread_t self;
    thread_pool_run(pool, identity_work, &self);
    assert_true(pthread_equal(self, pthread_self()));
    thread_pool_barrier(pool, 0);
    thread_pool_destroy(pool);
}

static void affinity_work(void *context, int thread) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    sched_getaffinity(0, sizeof mask, &mask);
    ((int *)context)[thread] = CPU_COUNT(&mask);
}

// Workers stay inside the mask of the process, and the caller keeps its own mask.
static void test_affinity(void **state) {
    (void)state;
    int available = thread_available_processors();
    ThreadPool *pool = thread_pool_create(0);
    assert_int_equal(thread_pool_count(pool), available);
    if (available <= THREAD_LIMIT) {
        int counts[THREAD_LIMIT] = {0};
        thread_pool_run(pool, affinity_work, counts);
        assert_int_equal(counts[0], available);
        for (int i = 1; i < available; i++) assert_int_equal(counts[i], 1);
    }
    thread_pool_destroy(pool);

    cpu_set_t before, one;
    sched_getaffinity(0, sizeof before, &before);
    int last = 0;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &before)) last = i;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(thread_available_processors(), 1);
    pool = thread_pool_create(3);  // all three share the one processor
    int counts[THREAD_LIMIT] = {0};
    thread_pool_run(pool, affinity_work, counts);
    for (int i = 0; i < 3; i++) assert_int_equal(counts[i], 1);
    thread_pool_destroy(pool);
    sched_setaffinity(0, sizeof before, &before);
}

static void test_shares(void **state) {
    (void)state;
    for (int count = 1; count <= 7; count++)
        for (int64_t tasks = 0; tasks < 20; tasks++) {
            int64_t next = 0;
            for (int thread = 0; thread < count; thread++) {
                int64_t begin, end;
                thread_share(tasks, thread, count, &begin, &end);
                assert_int_equal(begin, next);
                next = end;
            }
            assert_int_equal(next, tasks);
        }
}

static void barrier_work(void *context, int thread) {
    Ring *ring = context;
    for (int round = 0; round < ring->rounds; round++) thread_pool_barrier(ring->pool, thread);
}

static void empty_work(void *context, int thread) { (void)context, (void)thread; }

// Not a check: prints what a barrier and a region cost on this machine.
static void test_cost(void **state) {
    (void)state;
    for (int count = 2; count <= 3; count++) {
        ThreadPool *pool = thread_pool_create(count);
        int rounds = count == 2 ? 100000 : 2000;
        double best = 1e9, best_region = 1e9;
        for (int repeat = 0; repeat < 5; repeat++) {
            Ring ring = {.pool = pool, .rounds = rounds};
            double start = clock_seconds();
            thread_pool_run(pool, barrier_work, &ring);
            double middle = clock_seconds();
            for (int i = 0; i < 1000; i++) thread_pool_run(pool, empty_work, NULL);
            double end = clock_seconds();
            if (middle - start < best) best = middle - start;
            if (end - middle < best_region) best_region = end - middle;
        }
        print_message("%d threads on %d processors: barrier %.0f ns, empty region %.0f ns\n", count,
                      thread_available_processors(), 1e9 * best / rounds, 1e9 * best_region / 1000);
        thread_pool_destroy(pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barriers),       cmocka_unit_test(test_oversubscribed),
        cmocka_unit_test(test_many_regions),   cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_single_is_plain_call), cmocka_unit_test(test_affinity),
        cmocka_unit_test(test_shares),         cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
