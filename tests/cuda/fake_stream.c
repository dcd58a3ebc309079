// The stream of the GPU that is not there, copies and events. Nothing is done before somebody waits for it, so that the host
// sees its outputs late, and what it overwrites too early is copied wrong. See fake.c.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/cuda/fake.h"

typedef struct Work {
    struct Work *next;
    void (*run)(void *what);
    void *what;
    bool owned;
} Work;
static Work *first, **last = &first;

void stream_add(void (*run)(void *what), void *what, bool owned) {
    if (is_capturing()) complain("work other than launches while they are captured");
    Work *work = malloc(sizeof *work);
    *work = (Work){.run = run, .what = what, .owned = owned};
    *last = work;
    last = &work->next;
}

// Does what comes first; false: there is nothing left.
static bool step(void) {
    Work *work = first;
    if (!work) return false;
    first = work->next;
    if (!first) last = &first;
    work->run(work->what);
    if (work->owned) free(work->what);
    free(work);
    return true;
}

void stream_wait(void) {
    while (step()) continue;
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    *stream = &last;
    return status_now(OK);
}
EXPORT int cuStreamDestroy_v2(void *stream) { return stream ? OK : INVALID; }

// ---- Memory of the host ----

enum { PINNED_MAX = 4096 };
static struct {
    char *data;
    size_t bytes;
} pinned[PINNED_MAX];

EXPORT int cuMemAllocHost_v2(void **address, size_t bytes) {
    for (int i = 0; i < PINNED_MAX; i++) {
        if (pinned[i].data) continue;
        pinned[i].data = *address = aligned_alloc(256, (bytes + 255) & ~(size_t)255);
        pinned[i].bytes = bytes;
        return *address ? status_now(OK) : NO_MEMORY;
    }
    return complain("too much pinned memory");
}

EXPORT int cuMemFreeHost(void *address) {
    stream_wait();
    for (int i = 0; i < PINNED_MAX; i++)
        if (pinned[i].data == address) pinned[i].data = NULL;
    free(address);
    return OK;
}

static bool is_pinned(const char *memory) {
    for (int i = 0; i < PINNED_MAX; i++)
        if (pinned[i].data && memory >= pinned[i].data && memory < pinned[i].data + pinned[i].bytes) return true;
    return false;
}

// ---- Copies ----

typedef struct Copy {
    char *to;
    const char *from;
    size_t bytes;
    char taken[];  // from plain memory at once
} Copy;

static void copy(void *what) {
    const Copy *copied = what;
    memcpy(copied->to, copied->from, copied->bytes);
}

static int add_copy(char *to, const char *from, size_t bytes, bool take) {
    Copy *added = malloc(sizeof *added + (take ? bytes : 0));
    *added = (Copy){.to = to, .from = take ? added->taken : from, .bytes = bytes};
    if (take) memcpy(added->taken, from, bytes);
    stream_add(copy, added, true);
    return status_now(OK);
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return stream ? add_copy(device_bytes(to, bytes), from, bytes, !is_pinned(from)) : INVALID;
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    if (!stream) return INVALID;
    add_copy(to, device_bytes(from, bytes), bytes, false);
    if (!is_pinned(to)) stream_wait();
    return status_now(OK);
}
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return stream ? add_copy(device_bytes(to, bytes), device_bytes(from, bytes), bytes, false) : INVALID;
}

typedef struct Fill {
    char *to;
    unsigned char value;
    size_t bytes;
} Fill;

static void fill(void *what) {
    const Fill *filled = what;
    memset(filled->to, filled->value, filled->bytes);
}

EXPORT int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    Fill *added = malloc(sizeof *added);
    *added = (Fill){device_bytes(address, bytes), value, bytes};
    stream_add(fill, added, true);
    return stream ? status_now(OK) : INVALID;
}

// ---- Events ----

typedef struct Event {
    double at;
    int pending;
} Event;

static void happen(void *what) {
    Event *event = what;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    event->at = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    event->pending--;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof(Event));
    return status_now(OK);
}
EXPORT int cuEventRecord(void *event, void *stream) {
    ((Event *)event)->pending++;
    stream_add(happen, event, false);
    return stream ? status_now(OK) : INVALID;
}
EXPORT int cuEventSynchronize(void *event) {
    while (((Event *)event)->pending && step()) continue;
    return status_now(OK);
}
EXPORT int cuEventDestroy_v2(void *event) {
    cuEventSynchronize(event);
    free(event);
    return OK;
}
EXPORT int cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
    const Event *from = begin, *to = end;
    if (from->pending || to->pending || from->at == 0 || to->at == 0) return NOT_READY;
    *milliseconds = (float)((to->at - from->at) * 1e3);
    return status_now(OK);
}
