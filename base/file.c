// Files. Everything goes through descriptors of regular files; see file.h for the promises.
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// Opens a regular file for reading; -1 after reporting an error.
static int open_regular(Diagnostics *diagnostics, const char *path, size_t *bytes) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block us
    if (descriptor < 0) {
        report_error(diagnostics, NO_PLACE, "E0950", "cannot open %s: %s", path, strerror(errno));
        return -1;
    }
    struct stat status;
    if (fstat(descriptor, &status) < 0)
        report_error(diagnostics, NO_PLACE, "E0950", "cannot read %s: %s", path, strerror(errno));
    else if (S_ISDIR(status.st_mode))
        report_error(diagnostics, NO_PLACE, "E0950", "cannot read %s: it is a folder", path);
    else if (!S_ISREG(status.st_mode))
        report_error(diagnostics, NO_PLACE, "E0950", "cannot read %s: it is not a regular file", path);
    else {
        *bytes = (size_t)status.st_size;
        return descriptor;
    }
    close(descriptor);
    return -1;
}

char *file_read(Arena *arena, Diagnostics *diagnostics, const char *path, size_t *length) {
    size_t bytes = 0;
    int descriptor = open_regular(diagnostics, path, &bytes);
    if (descriptor < 0) return NULL;
    char *text = arena_allocate(arena, bytes + 1);
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(descriptor, text + done, bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            report_error(diagnostics, NO_PLACE, "E0950", "cannot read %s: %s", path, strerror(errno));
            close(descriptor);
            return NULL;
        }
        if (got == 0) break;  // it became shorter meanwhile
        done += (size_t)got;
    }
    close(descriptor);
    text[done] = 0;
    if (length) *length = done;
    return text;
}

bool file_map(Diagnostics *diagnostics, const char *path, FileMap *map) {
    *map = (FileMap){0};
    size_t bytes = 0;
    int descriptor = open_regular(diagnostics, path, &bytes);
    if (descriptor < 0) return false;
    void *data = bytes ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0) : NULL;
    int error = errno;
    close(descriptor);
    if (data == MAP_FAILED)
        return report_error(diagnostics, NO_PLACE, "E0950", "cannot map %s (%zu bytes): %s", path, bytes,
                            strerror(error));
    *map = (FileMap){.data = data, .bytes = bytes};
    return true;
}

void file_unmap(FileMap *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (FileMap){0};
}

// ---- Atomic replacement ----

struct FileWriter {
    Diagnostics *diagnostics;
    int descriptor;  // -1 after a failure: the temporary file is gone
    char *path, *temporary;
};

static bool writer_fail(FileWriter *writer, const char *what) {
    int error = errno;
    report_error(writer->diagnostics, NO_PLACE, "E0951", "cannot %s %s: %s", what, writer->path,
                 strerror(error));
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        unlink(writer->temporary);
    }
    writer->descriptor = -1;
    return false;
}

static void writer_free(FileWriter *writer) {
    free(writer->path);
    free(writer->temporary);
    free(writer);
}

// Opens and locks the temporary file. The lock says that its writer lives: the system drops it when the
// process ends in whatever way. Someone may clear the file between open and lock: then again.
static int open_temporary(const char *temporary) {
    for (;;) {
        int descriptor = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (descriptor < 0) return -1;
        bool busy = flock(descriptor, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
        struct stat status;
        if (!busy && fstat(descriptor, &status) == 0 && status.st_nlink > 0 && ftruncate(descriptor, 0) == 0)
            return descriptor;
        close(descriptor);
        if (busy) {
            errno = EBUSY;  // this process writes it already
            return -1;
        }
    }
}

// Removes `path`.tmp-* whose writers died before they could.
static void clear_stale(const char *path) {
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    CHECK(folder);
    DIR *stream = opendir(folder);
    size_t length = strlen(name);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (strncmp(entry->d_name, name, length) != 0 || strncmp(entry->d_name + length, ".tmp-", 5) != 0)
            continue;
        int descriptor = openat(dirfd(stream), entry->d_name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (descriptor < 0) continue;
        if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(stream), entry->d_name, 0);
        close(descriptor);
    }
    if (stream) closedir(stream);
    free(folder);
}

FileWriter *file_create(Diagnostics *diagnostics, const char *path) {
    FileWriter *writer = calloc(1, sizeof *writer);
    CHECK(writer);
    *writer = (FileWriter){.diagnostics = diagnostics, .descriptor = -1};
    // A symbolic link stays one: the file that it names is replaced.
    writer->path = realpath(path, NULL);
    if (!writer->path) writer->path = strdup(path);
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) {
        report_error(diagnostics, NO_PLACE, "E0951", "cannot write %s: it is %s", path,
                     S_ISDIR(status.st_mode) ? "a folder" : "not a regular file");
        writer_free(writer);
        return NULL;
    }
    CHECK(writer->path && asprintf(&writer->temporary, "%s.tmp-%ld", writer->path, (long)getpid()) > 0);
    clear_stale(writer->path);
    writer->descriptor = open_temporary(writer->temporary);
    if (writer->descriptor < 0) {
        writer_fail(writer, "create");
        writer_free(writer);
        return NULL;
    }
    return writer;
}

bool file_write(FileWriter *writer, const void *data, size_t bytes) {
    if (writer->descriptor < 0) return false;
    const char *cursor = data;
    while (bytes) {
        ssize_t put = write(writer->descriptor, cursor, bytes < (1u << 30) ? bytes : 1u << 30);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return writer_fail(writer, "write");
        cursor += put;
        bytes -= (size_t)put;
    }
    return true;
}

// Makes the rename itself durable. Some file systems cannot sync a folder: then there is no more to do.
static bool sync_folder(const char *path) {
    char *folder = strdup(path);
    CHECK(folder);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int descriptor = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (descriptor < 0) return errno == EACCES;  // a folder that may be written but not read
    bool good = fsync(descriptor) == 0 || errno == EINVAL || errno == ENOTSUP;
    int error = errno;
    close(descriptor);
    errno = error;
    return good;
}

bool file_commit(FileWriter *writer) {
    bool good = writer->descriptor >= 0;
    if (good && fsync(writer->descriptor) < 0) good = writer_fail(writer, "sync");
    if (good) {
        if (rename(writer->temporary, writer->path) < 0) {
            good = writer_fail(writer, "replace");
        } else {
            close(writer->descriptor);  // it is synced: nothing can fail here
            writer->descriptor = -1;
        }
    }
    if (good && !sync_folder(writer->path)) good = writer_fail(writer, "sync the folder of");
    writer_free(writer);
    return good;
}

void file_abandon(FileWriter *writer) {
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        unlink(writer->temporary);
    }
    writer_free(writer);
}

// ---- Paths ----

bool file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

bool file_make_folder(Diagnostics *diagnostics, const char *path) {
    char *partial = strdup(path);
    CHECK(partial);
    bool good = true;
    size_t length = strlen(path);
    for (size_t i = 1; i <= length && good; i++) {
        if (partial[i] != '/' && partial[i] != 0) continue;
        char saved = partial[i];
        partial[i] = 0;
        struct stat status;
        if (mkdir(partial, 0777) < 0) {
            int error = errno;  // where it exists, some systems say EROFS or EACCES first
            if (stat(partial, &status) < 0 || !S_ISDIR(status.st_mode))
                good = report_error(diagnostics, NO_PLACE, "E0951", "cannot make the folder %s: %s", partial,
                                    strerror(error));
        }
        partial[i] = saved;
    }
    free(partial);
    return good;
}

int file_lock_folder(Diagnostics *diagnostics, const char *path) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) {
        report_error(diagnostics, NO_PLACE, "E0951", "cannot open the folder %s: %s", path, strerror(errno));
    } else if (flock(descriptor, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        report_error(diagnostics, NO_PLACE, "E0912", "another run is writing to %s", path);
        close(descriptor);
        descriptor = -1;
    }
    return descriptor;
}

const char *file_folder(Arena *arena, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return ".";
    if (slash == path) return "/";
    return arena_copy(arena, path, (size_t)(slash - path));
}
