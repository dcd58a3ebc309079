// The machines that contractions are tested for.
#ifndef CHERRY_TESTS_CPU_MACHINES_H
#define CHERRY_TESTS_CPU_MACHINES_H

#include "tests/unit/cpu_test.h"

// The last one multiplies bf16 in pairs: only for products of bf16, and where this machine can run it.
static const char *const machines[] = {NULL, "x86-64-v3", "cooperlake"};
enum { MACHINES = sizeof machines / sizeof *machines };

static inline bool runs(const char *machine, bool products_of_bf16) {
    if (!machine || strcmp(machine, "cooperlake") != 0) return true;
#ifdef __x86_64__
    return products_of_bf16 && __builtin_cpu_supports("avx512bf16");
#else
    return false && products_of_bf16;
#endif
}

static inline void run_on_all(const Case *test) {
    for (int i = 0; i < MACHINES; i++)
        if (runs(machines[i], strstr(test->text, "bf16") != NULL)) run_case(test, machines[i]);
}

#endif
