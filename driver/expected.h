// Programs at the extents that are expected at run time: see expected.c.
#ifndef CHERRY_DRIVER_EXPECTED_H
#define CHERRY_DRIVER_EXPECTED_H

#include "ir/program.h"

// The same buffers and launches; for counting what they cost, not for running.
const Program *expected_program(const Program *program);

#endif
