// State: the buffers that live across calls (parameters, gradients, moments, caches), shared by the
// programs of one model, and the memory that those programs use in turn.
#ifndef CHERRY_RUNTIME_STATE_H
#define CHERRY_RUNTIME_STATE_H

#include "ir/program.h"
#include "runtime/device.h"
#include "runtime/memory.h"

typedef struct StateBuffer {
    const char *name;  // of the parameter or cache; belongs to the program
    Role role;
    const Type *type;
    int64_t bytes;
    char *data;        // row-major, 64-byte aligned. With a device: the host's copy, see state_download
    uint64_t address;  // on the device
} StateBuffer;

typedef struct State State;

// The union of the programs' BUFFER_STATE by (name, role), zeroed, and one arena as large as the
// largest that any of them asks for: programs of one state never run at the same time, so they share
// it. The programs outlive the state. NULL after an error: E0952 with the figures where memory is
// short, E0953 where two programs disagree on a type.
State *state_create(Diagnostics *diagnostics, Program *const *programs, size_t count);
// The same on a device (NULL: the CPU): one allocation there. E0643 with the figures where its memory is short.
State *state_create_on(Device *device, Diagnostics *diagnostics, Program *const *programs, size_t count);
void state_destroy(State *state);
Device *state_device(const State *state);
bool state_works(const State *state);  // its device has not failed

// Copies all buffers of a role from the device to the host's copies, or back. Nothing to do on the CPU.
void state_download(const State *state, Role role);
void state_upload(const State *state, Role role);
void state_clear(State *state, Role role);  // all bytes zero, where the programs run

size_t state_count(const State *state);
const StateBuffer *state_buffer(const State *state, size_t index);
const StateBuffer *state_find(const State *state, const char *name, Role role);  // or NULL
void *state_data(const State *state, const char *name, Role role);               // or NULL

int64_t state_bytes(const State *state);  // of all state buffers
char *state_arena(const State *state);
uint64_t state_arena_address(const State *state);  // on the device
int64_t state_arena_bytes(const State *state);

// Private memory of thread `thread` for the kernel that it runs. state_reserve_scratch gives every
// thread below `threads` at least `bytes`; pointers from before it are void.
bool state_reserve_scratch(Diagnostics *diagnostics, State *state, int threads, int64_t bytes);
char *state_scratch(const State *state, int thread);

#endif
