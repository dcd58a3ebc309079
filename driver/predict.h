// How long launches will take on a CPU, from what its machine was measured to do: see predict.c.
#ifndef CHERRY_DRIVER_PREDICT_H
#define CHERRY_DRIVER_PREDICT_H

#include "driver/machine.h"

// Seconds by launch, and their sum; all 0 where it is not known: on a GPU. Memory is planned.
double predict_launches(const Program *program, const Machine *machine, double *seconds);

// Seconds that a launch needs at the least: for its FLOPs at the machine's peak, for all its bytes at the rate of memory,
// for those that come to a processor at the rate at which they do (far_bytes_per_second), whichever is longest.
double predict_floor(const Kernel *kernel, const Machine *machine);

#endif
