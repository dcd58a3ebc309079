// State buffers, the shared arena and the threads' scratch memory: see state.h.
#include "runtime/state.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/device_cuda.h"

// Buffers that a kernel streams side by side (parameter, gradient, moments) start at different places
// of a page: else a store and a load at one index agree in their low 12 address bits, and processors
// take the load for dependent on the store.
enum { STAGGER = 9 * MEMORY_ALIGNMENT };

struct State {
    Arena *arena;  // of the tables
    Device *device;           // NULL: the CPU
    DeviceBlock block;        // there: buffers, then the arena
    int64_t arena_bytes;
    VECTOR(StateBuffer) buffers;
    int64_t bytes;
    MemoryBlock memory;       // the state buffers
    MemoryBlock temporaries;  // the programs' arena
    MemoryBlock scratch;
    int threads;
    int64_t scratch_bytes;  // of each thread
};

static int64_t align(int64_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) & ~(int64_t)(MEMORY_ALIGNMENT - 1);
}

static bool types_agree(const Type *a, const Type *b) {
    if (a->element != b->element || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dimensions[i].extent != b->dimensions[i].extent ||
            strcmp(a->dimensions[i].name, b->dimensions[i].name) != 0)
            return false;
    return true;
}

const StateBuffer *state_find(const State *state, const char *name, Role role) {
    for (size_t i = 0; i < state->buffers.count; i++) {
        const StateBuffer *buffer = &state->buffers.items[i];
        if (buffer->role == role && (buffer->name == name || strcmp(buffer->name, name) == 0)) return buffer;
    }
    return NULL;
}

void *state_data(const State *state, const char *name, Role role) {
    const StateBuffer *buffer = state_find(state, name, role);
    return buffer ? buffer->data : NULL;
}

static bool add_buffers(Diagnostics *diagnostics, State *state, const Program *program) {
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind != BUFFER_STATE) continue;
        const StateBuffer *known = state_find(state, buffer->name, buffer->role);
        if (known && !types_agree(known->type, buffer->type))
            return report_error(diagnostics, NO_PLACE, "E0953",
                                "%s %s has type %s in program %s and %s in a program before it",
                                role_name(buffer->role), buffer->name, type_text(program->ir, buffer->type),
                                program->name, type_text(program->ir, known->type));
        if (known) continue;
        StateBuffer added = {
            .name = buffer->name, .role = buffer->role, .type = buffer->type, .bytes = buffer->bytes};
        vector_push(state->arena, &state->buffers, added);
        state->bytes += buffer->bytes;
    }
    return true;
}

// The bytes of all buffers on the host.
static int64_t host_bytes(const State *state) {
    int64_t total = 0;
    for (size_t i = 0; i < state->buffers.count; i++) total += align(state->buffers.items[i].bytes) + STAGGER;
    return total;
}

// Gives every buffer its place in the host's block.
static void place_buffers(State *state) {
    int64_t offset = 0;
    for (size_t i = 0; i < state->buffers.count; i++) {
        state->buffers.items[i].data = state->memory.data + offset;
        offset += align(state->buffers.items[i].bytes) + STAGGER;
    }
}

static bool allocate_here(Diagnostics *diagnostics, State *state) {
    int64_t total = host_bytes(state);
    if (!memory_check(diagnostics, total + state->arena_bytes, "this model")) return false;
    if (!memory_allocate(diagnostics, total, "the state of the model", &state->memory)) return false;
    place_buffers(state);
    return memory_allocate(diagnostics, state->arena_bytes, "intermediate values", &state->temporaries);
}

// One block on the device. The host's copies take memory once something is copied to them.
static bool allocate_there(Diagnostics *diagnostics, State *state) {
    int64_t total = 0;
    for (size_t i = 0; i < state->buffers.count; i++) total += device_align(state->buffers.items[i].bytes);
    if (!device_allocate(state->device, total + state->arena_bytes, &state->block)) return false;
    CudaAddress address = state->block.address;
    for (size_t i = 0; i < state->buffers.count; i++) {
        state->buffers.items[i].address = address;
        address += (uint64_t)device_align(state->buffers.items[i].bytes);
    }
    if (!memory_reserve(diagnostics, host_bytes(state), "the state of the model", &state->memory)) return false;
    place_buffers(state);
    return true;
}

State *state_create_on(Device *device, Diagnostics *diagnostics, Program *const *programs, size_t count) {
    Arena *arena = arena_create();
    State *state = ARENA_NEW(arena, State);
    *state = (State){.arena = arena, .device = device};
    bool good = true;
    for (size_t i = 0; i < count && good; i++) {
        good = add_buffers(diagnostics, state, programs[i]);
        if (programs[i]->arena_bytes > state->arena_bytes) state->arena_bytes = programs[i]->arena_bytes;
    }
    if (good && (device ? allocate_there(diagnostics, state) : allocate_here(diagnostics, state))) return state;
    state_destroy(state);
    return NULL;
}

State *state_create(Diagnostics *diagnostics, Program *const *programs, size_t count) {
    return state_create_on(NULL, diagnostics, programs, count);
}

void state_destroy(State *state) {
    if (!state) return;
    if (state->device) device_release(state->device, &state->block);
    memory_release(&state->memory);
    memory_release(&state->temporaries);
    memory_release(&state->scratch);
    arena_destroy(state->arena);
}

size_t state_count(const State *state) { return state->buffers.count; }
const StateBuffer *state_buffer(const State *state, size_t index) { return &state->buffers.items[index]; }
int64_t state_bytes(const State *state) { return state->bytes; }
char *state_arena(const State *state) { return state->temporaries.data; }
int64_t state_arena_bytes(const State *state) { return state->arena_bytes; }
Device *state_device(const State *state) { return state->device; }

bool state_works(const State *state) { return !state->device || device_works(state->device); }

uint64_t state_arena_address(const State *state) {
    return state->block.address + (uint64_t)(state->block.bytes - state->arena_bytes);
}

void state_download(const State *state, Role role) {
    for (size_t i = 0; i < state->buffers.count && state->device; i++) {
        const StateBuffer *buffer = &state->buffers.items[i];
        if (buffer->role == role) device_read(state->device, buffer->data, buffer->address, buffer->bytes);
    }
}

void state_upload(const State *state, Role role) {
    for (size_t i = 0; i < state->buffers.count && state->device; i++) {
        const StateBuffer *buffer = &state->buffers.items[i];
        if (buffer->role == role) device_write(state->device, buffer->address, buffer->data, buffer->bytes);
    }
}

void state_clear(State *state, Role role) {
    for (size_t i = 0; i < state->buffers.count; i++) {
        const StateBuffer *buffer = &state->buffers.items[i];
        if (buffer->role != role) continue;
        if (state->device) device_clear(state->device, buffer->address, buffer->bytes);
        else memset(buffer->data, 0, (size_t)buffer->bytes);
    }
}

bool state_reserve_scratch(Diagnostics *diagnostics, State *state, int threads, int64_t bytes) {
    if (threads < state->threads) threads = state->threads;
    bytes = align(bytes) + STAGGER;
    if (bytes < state->scratch_bytes) bytes = state->scratch_bytes;
    if (threads == state->threads && bytes == state->scratch_bytes) return true;
    memory_release(&state->scratch);
    state->threads = 0;
    state->scratch_bytes = 0;
    if (!memory_allocate(diagnostics, threads * bytes, "the threads", &state->scratch)) return false;
    state->threads = threads;
    state->scratch_bytes = bytes;
    return true;
}

char *state_scratch(const State *state, int thread) {
    return state->scratch.data + thread * state->scratch_bytes;
}
