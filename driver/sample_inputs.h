// Made-up data for programs that are measured rather than trained.
#ifndef CHERRY_DRIVER_SAMPLE_INPUTS_H
#define CHERRY_DRIVER_SAMPLE_INPUTS_H

#include "driver/runner.h"

// Fills every data input of `entry` with numbers that its type and its use allow; `graph_name` is the
// module graph that the entry point comes from.
void sample_inputs(Runner *runner, Entry entry, const char *graph_name);

#endif
