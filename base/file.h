// Files: read whole, map, and replace atomically. Every failure is reported with the path and the
// system's reason; nothing half-written is left under the final name.
#ifndef CHERRY_BASE_FILE_H
#define CHERRY_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/diagnostics.h"

// Reads a whole regular file into the arena, with a terminating zero. NULL after reporting an error.
char *file_read(Arena *arena, Diagnostics *diagnostics, const char *path, size_t *length);

// A read-only mapping. `data` is NULL for an empty file, which is not an error here.
typedef struct FileMap {
    const unsigned char *data;
    size_t bytes;
} FileMap;

bool file_map(Diagnostics *diagnostics, const char *path, FileMap *map);
void file_unmap(FileMap *map);

// Atomic replacement: write to `path`.tmp-PID, then file_commit syncs and renames it over `path`.
// After a failed file_write, or file_abandon, the temporary file is gone and `path` is untouched.
typedef struct FileWriter FileWriter;
FileWriter *file_create(Diagnostics *diagnostics, const char *path);  // NULL after an error
bool file_write(FileWriter *writer, const void *data, size_t bytes);
bool file_commit(FileWriter *writer);   // frees the writer either way
void file_abandon(FileWriter *writer);  // frees the writer

bool file_exists(const char *path);
bool file_make_folder(Diagnostics *diagnostics, const char *path);  // with parents; existing is fine
// Of two processes one gets the folder, until it closes the descriptor or ends in whatever way; -1 after an error, E0912.
// Where the file system knows no locks, both do.
int file_lock_folder(Diagnostics *diagnostics, const char *path);
// "a/b/c.cherry" -> "a/b"; "c" -> ".".
const char *file_folder(Arena *arena, const char *path);

#endif
