#include "codegen/cache_folder.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *choose(Arena *arena, const char *given) {
    if (given) return given;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache) return arena_format(arena, "%s/cherry", cache);
    if (home && *home) return arena_format(arena, "%s/.cache/cherry", home);
    return NULL;
}

// With parents.
static bool make(Arena *arena, const char *path) {
    char *copy = arena_copy(arena, path, strlen(path));
    for (char *at = copy + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        mkdir(copy, 0700);
        *at = '/';
    }
    mkdir(copy, 0700);
    struct stat status;
    return stat(copy, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid() &&
           !(status.st_mode & (S_IWGRP | S_IWOTH)) && access(copy, W_OK | X_OK) == 0;
}

const char *cache_folder(Arena *arena, const char *given) {
    const char *folder = choose(arena, given);
    return folder && make(arena, folder) ? folder : NULL;
}
