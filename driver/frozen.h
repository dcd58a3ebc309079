// Weights of the further models of a train block: read from their files, never trained.
#ifndef CHERRY_DRIVER_FROZEN_H
#define CHERRY_DRIVER_FROZEN_H

#include "ir/module.h"
#include "runtime/state.h"

// Holds each file against its model, before anything is compiled or allocated. False after errors.
bool frozen_check(const Module *module);
bool frozen_load(const Module *module, State *state);

#endif
