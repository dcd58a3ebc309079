// What the parts of the GPU that is not there (fake.c) share.
#ifndef CHERRY_TESTS_CUDA_FAKE_H
#define CHERRY_TESTS_CUDA_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

// Of the driver and cuBLASLt; the rest says what goes wrong here.
enum {
    OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, NO_CONTEXT = 201, NOT_FOUND = 500,
    NOT_READY = 600, LAUNCH_FAILED = 719
};
enum { NOT_SUPPORTED = 15 };  // of cuBLASLt

extern int fake_failed;  // a status: everything after it fails too
extern _Thread_local bool fake_current;  // this thread has a context; without one nothing but the device can be asked for

static inline int status_now(int status) { return !fake_current ? NO_CONTEXT : fake_failed ? fake_failed : status; }

int complain(const char *what);                                      // and ends
const char *variable(const char *name, const char *otherwise);       // of the environment
char *device_bytes(uint64_t address, size_t bytes);                  // complains where they are not the device's

// fake_stream.c: work of the one stream is done when somebody waits for it, not before, as on the slowest of GPUs. While
// launches are captured there is no other.
void stream_add(void (*run)(void *what), void *what, bool owned);  // owned: freed behind it
void stream_wait(void);                                             // all of it is done

// fake.c: a launch, or part of the graph that is captured.
bool is_capturing(void);
void record(void (*run)(void *what), void *what);

#endif
