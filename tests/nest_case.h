// A loop nest as a test case: its text, numbers for its operands, and what the reference makes of them.
#ifndef CHERRY_TESTS_NEST_CASE_H
#define CHERRY_TESTS_NEST_CASE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/nest.h"
#include "tests/elements.h"

typedef struct Case {
    const char *name, *text;
    int64_t limit;           // integers are drawn from [0, limit); 0: any 16-bit number
    int64_t bounds[4];       // values of the i64 scalars, in the order of the operands
    double tolerance;        // relative; 0: 3e-6
    double low, high;        // floats are drawn from here; both 0: [-2, 2]
} Case;

typedef struct Storage {
    int64_t low, count;  // smallest offset, elements
    char *bytes;         // what the kernel sees
    double *values;      // what the reference sees
} Storage;

static uint64_t test_random_state = 1;
static inline double test_random(void) {  // [0, 1)
    test_random_state = test_random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(test_random_state >> 40) * 0x1p-24;
}

// The smallest and largest offset of an operand, elements.
static inline void operand_span(const NestOperand *operand, int64_t *low, int64_t *high) {
    *low = *high = 0;
    for (int d = 0; d < operand->rank; d++) {
        int64_t last = (operand->extent[d] - 1) * operand->stride[d];
        *(last < 0 ? low : high) += last;
    }
}

static inline Storage storage_create(const NestOperand *operand, const Case *test, int *bounds_used) {
    Storage storage = {0};
    int64_t high;
    operand_span(operand, &storage.low, &high);
    storage.count = high - storage.low + 1;
    int width = element_bytes(operand->element);
    storage.bytes = malloc((size_t)(storage.count * width));
    storage.values = malloc((size_t)storage.count * sizeof(double));
    bool bound = operand->rank == 0 && operand->element == ELEMENT_I64;
    for (int64_t i = 0; i < storage.count; i++) {
        double low = test->low, span = test->high - test->low, value;
        if (low == 0 && span == 0) low = -2, span = 4;
        if (bound) value = (double)test->bounds[(*bounds_used)++];
        else if (operand->element == ELEMENT_BOOL) value = test_random() < 0.5;
        else if (element_is_float(operand->element)) value = low + span * test_random();
        else if (test->limit) value = floor(test_random() * (double)test->limit);
        else value = floor(test_random() * 65536) - 32768;
        element_write(operand->element, storage.bytes + i * width, value);
        storage.values[i] = element_read(operand->element, storage.bytes + i * width);
    }
    return storage;
}

// How many elements of an operand differ from the reference; the first is printed with `where` (the back end).
static inline int64_t storage_differs(const Case *test, const char *where, const Nest *nest, int operand,
                                      const Storage *storage, const char *got) {
    Element element = nest->operands[operand].element;
    double tolerance = test->tolerance > 0 ? test->tolerance : 3e-6;
    if (element == ELEMENT_BF16 && tolerance < 0x1p-7) tolerance = 0x1p-7;
    int64_t wrong = 0;
    for (int64_t i = 0; i < storage->count; i++) {
        double expected = storage->values[i], found = element_read(element, got + i * element_bytes(element));
        if (isnan(expected) && isnan(found)) continue;
        if (expected == found) continue;
        double error = fabs(found - expected), size = fabs(expected) > 1 ? fabs(expected) : 1;
        if (error <= tolerance * size) continue;
        if (!wrong++)
            fprintf(stderr, "%s on %s, operand %d, element %lld: expected %.9g, found %.9g\n", test->name, where, operand,
                    (long long)i, expected, found);
    }
    return wrong;
}

#endif
