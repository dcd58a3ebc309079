// Where compiled code is kept on disk.
#ifndef CHERRY_CODEGEN_CACHE_FOLDER_H
#define CHERRY_CODEGEN_CACHE_FOLDER_H

#include "base/arena.h"

// `given`, else $XDG_CACHE_HOME/cherry or ~/.cache/cherry, made where it is not there. NULL, and nothing is said, where it
// cannot be made or written, or is not the user's own: what lies there will be run.
const char *cache_folder(Arena *arena, const char *given);

#endif
