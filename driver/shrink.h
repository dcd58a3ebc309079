// A model that shows a fault is cut down to a smallest one that still shows it.
#ifndef CHERRY_DRIVER_SHRINK_H
#define CHERRY_DRIVER_SHRINK_H

#include "frontend/frontend.h"

// Whether the model of `options` loads and shows the fault; `ir` is fresh for every call.
typedef bool (*ShowsFault)(void *context, Ir *ir, const FrontendOptions *options);

// Lowers the dims and consts of the file one by one, each as far as the fault stays, until none can go
// lower. Returns the settings, "name=value", that make the smallest model; memory of `arena`.
const char *const *shrink_settings(Arena *arena, const FrontendOptions *options, const char *path,
                                   ShowsFault shows, void *context, size_t *count);

#endif
