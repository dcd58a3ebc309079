// Medians of measurements.
#ifndef CHERRY_BASE_MEDIAN_H
#define CHERRY_BASE_MEDIAN_H

#include <stdlib.h>

static inline int median_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Sorts the numbers, of which there is at least one, ascending, and gives the one in the middle, the upper of two.
static inline double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, median_order);
    return values[count / 2];
}

#endif
