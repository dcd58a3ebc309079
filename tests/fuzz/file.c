#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

static char folder[4096], path[4096 + 8];
static int descriptor = -1;

static void remove_file(void) {
    unlink(path);
    rmdir(folder);
}

// Alone in a folder of its own: what is read may include files beside it, and there are none.
static void create_file(void) {
    const char *place = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", place && *place ? place : "/tmp");
    if (!mkdtemp(folder)) return;
    snprintf(path, sizeof path, "%s/input", folder);
    descriptor = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    atexit(remove_file);
}

const char *fuzz_file(const uint8_t *data, size_t size) {
    if (descriptor < 0) create_file();
    if (descriptor < 0 || ftruncate(descriptor, 0) != 0 || pwrite(descriptor, data, size, 0) != (ssize_t)size) {
        fprintf(stderr, "fuzz_file: %s: %s\n", folder, strerror(errno));
        abort();
    }
    return path;
}
