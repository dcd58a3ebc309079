// Whether every index lies within what it indexes: a kernel that reads or adds at one does not look.
#ifndef CHERRY_IR_INDEX_RANGE_H
#define CHERRY_IR_INDEX_RANGE_H

#include "ir/module.h"

// Follows integers from where they come from (positions, constants, data, of which the limit is checked when it is
// read) to every gather and scatter of the module's entry graphs. Reports E0264 and returns false where one could miss.
bool module_check_indices(const Module *module);

#endif
