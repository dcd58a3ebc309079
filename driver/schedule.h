// The rate of each step.
#ifndef CHERRY_DRIVER_SCHEDULE_H
#define CHERRY_DRIVER_SCHEDULE_H

#include "ir/module.h"

// `step` counts from 0. Warm-up climbs to the rate as (step + 1) / (warmup + 1); after it the rate stays,
// falls along half a cosine, or falls in a line, to reach final_rate at `steps`.
double schedule_rate(const Training *training, int64_t step);

#endif
