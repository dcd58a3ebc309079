// Shares of tasks: each task is run once in every run, whoever comes for it; a thread runs its own, and of others' only
// those that are handed out.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "runtime/task_share.h"

enum { TASKS_MAX = 1000, THREADS_MAX = 12 };

typedef struct Notes {
    int runner;             // who runs now
    int times[TASKS_MAX], by[TASKS_MAX];
} Notes;

static void note(char *const *operands, char *const *workspaces, char *scratch, int64_t begin, int64_t end) {
    (void)workspaces, (void)scratch;
    Notes *notes = (Notes *)(void *)operands[0];
    for (int64_t task = begin; task < end; task++) {
        notes->times[task]++;
        notes->by[task] = notes->runner;
    }
}

// Threads one after the other, from `first` on: those that come early find all that is handed out.
static void run_all(TaskPhase *phase, Notes *notes, int first, int threads, uint32_t run) {
    memset(notes, 0, sizeof *notes);
    for (int i = 0; i < threads; i++) {
        notes->runner = (first + i) % threads;
        task_share_run(phase, notes->runner, threads, run, NULL);
    }
    for (int64_t task = 0; task < TASKS_MAX; task++) assert_int_equal(notes->times[task], task < phase->tasks);
}

static void test_each_task_once(void **state) {
    (void)state;
    static const int64_t counts[] = {1, 2, 3, 7, 8, 15, 16, 47, 48, 100, 999};
    Notes notes;
    char *operands[] = {(char *)&notes};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            TaskCounter counters[THREADS_MAX] = {0};
            TaskPhase phase = {.function = note, .operands = operands, .tasks = counts[i], .counters = counters};
            for (uint32_t run = UINT32_MAX - 2; run != 3; run++) run_all(&phase, &notes, (int)run & 1, threads, run);
        }
}

// Of 16 tasks of its own a thread keeps twelve and hands out four.
static void test_own_first(void **state) {
    (void)state;
    enum { THREADS = 2, TASKS = 32 };
    Notes notes;
    char *operands[] = {(char *)&notes};
    TaskCounter counters[THREADS] = {0};
    TaskPhase phase = {.function = note, .operands = operands, .tasks = TASKS, .counters = counters};
    for (int first = 0; first < THREADS; first++) {
        run_all(&phase, &notes, first, THREADS, (uint32_t)first);
        for (int task = 0; task < TASKS; task++) {
            bool handed_out = task % (TASKS / THREADS) >= 12;
            assert_int_equal(notes.by[task], handed_out ? first : task / (TASKS / THREADS));
        }
    }
}

// A thread that comes while nobody has begun with his own takes no more than the neighbours hand out.
static void test_reach(void **state) {
    (void)state;
    enum { TASKS = 8 * THREADS_MAX };
    Notes notes = {.runner = 0};
    char *operands[] = {(char *)&notes};
    TaskCounter counters[THREADS_MAX] = {0};
    TaskPhase phase = {.function = note, .operands = operands, .tasks = TASKS, .counters = counters};
    task_share_run(&phase, 0, THREADS_MAX, 1, NULL);
    for (int task = 0; task < TASKS; task++) {
        int owner = task / 8;
        assert_int_equal(notes.times[task], owner == 0 || (owner <= SHARE_REACH && task % 8 >= 6));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_task_once), cmocka_unit_test(test_own_first),
                                       cmocka_unit_test(test_reach)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
