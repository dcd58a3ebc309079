// How long launches will take on a CPU, from what its machine was measured to do: see predict.c.
#ifndef CHERRY_DRIVER_PREDICT_H
#define CHERRY_DRIVER_PREDICT_H

#include "driver/machine.h"

// Seconds by launch, and their sum; all 0 where it is not known: on a GPU. Memory is planned.
double predict_launches(const Program *program, const Machine *machine, double *seconds);

#endif
