// share-packed: launches that pack the same operand into the same form do it once.
//
//   launch 3: dot(x, w) workspace 8      launch 7: dot(y, w)
//   -> launch 3: dot(x, w) workspace 8;  launch 7: dot(y, w) workspace 8, packed
//
// Requires: the final order of launches, and compiled kernels: kernel_packed_key names what phase 0 leaves in
// the workspace. Leaves: `packed` launches, which skip that phase and read the workspace that an earlier
// launch filled; it lives until its last reader.
// The weights of a recurrent core are so packed once a step in the forward pass and once in the backward
// pass, not once an iteration. Between two uses the packed form takes room; it is kept where the largest
// live set of the program grows by a sixteenth at most, else packed again.
#include "passes/program_passes.h"

enum { GROWTH_PART = 16 };

// The latest launch that left an operand packed in its workspace.
typedef struct Packed {
    uint64_t key;
    uint32_t launch;
    int64_t offset;
} Packed;
typedef VECTOR(Packed) PackedList;

typedef struct Share {
    Program *program;
    Arena *arena;
    int64_t *live, limit;   // bytes live in each launch; what that may become
    PackedList *packed;     // per buffer: what was packed from it as it is now
} Share;

static const Kernel *code_of(const Share *share, uint32_t launch) {
    return &share->program->kernels.items[share->program->launches.items[launch].kernel];
}

static void fill_live(Share *share) {
    const Program *program = share->program;
    size_t count = program->launches.count, buffers = program->buffers.count;
    int64_t *first = ARENA_ARRAY(share->arena, int64_t, buffers + 1), live = 0;
    int64_t *last = ARENA_ARRAY(share->arena, int64_t, buffers + 1);
    for (size_t i = 0; i < count; i++) {
        const Launch *launch = &program->launches.items[i];
        for (int o = 0; o < launch->operand_count; o++) {
            if (!last[launch->buffers[o]]) first[launch->buffers[o]] = (int64_t)i;
            last[launch->buffers[o]] = (int64_t)i + 1;
        }
    }
    share->live = ARENA_ARRAY(share->arena, int64_t, count + 2);
    for (size_t b = 0; b < buffers; b++) {
        if (program->buffers.items[b].kind != BUFFER_TEMPORARY || !last[b]) continue;
        share->live[first[b]] += program->buffers.items[b].bytes;
        share->live[last[b]] -= program->buffers.items[b].bytes;
    }
    int64_t most = 0;
    for (size_t i = 0; i < count; i++) {
        live += share->live[i];
        share->live[i] = live + kernel_workspace_bytes(code_of(share, (uint32_t)i));
        if (share->live[i] > most) most = share->live[i];
    }
    share->limit = most + most / GROWTH_PART;
}

// Whether `bytes` more fit into every launch between the two; then they are counted there.
static bool reserve(Share *share, uint32_t from, uint32_t to, int64_t bytes) {
    for (uint32_t i = from + 1; i < to; i++)
        if (share->live[i] + bytes > share->limit) return false;
    for (uint32_t i = from + 1; i < to; i++) share->live[i] += bytes;
    return true;
}

static Packed *find(PackedList *list, uint64_t key, int64_t offset) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].key == key && list->items[i].offset == offset) return &list->items[i];
    return NULL;
}

static void visit(Share *share, uint32_t number) {
    Program *program = share->program;
    Launch *launch = &program->launches.items[number];
    const Kernel *code = code_of(share, number);
    int32_t operand;
    uint64_t key = kernel_packed_key(code, &operand);
    if (key) {
        PackedList *list = &share->packed[launch->buffers[operand]];
        Packed now = {key, number, launch->offsets[operand]};
        Packed *packed = find(list, now.key, now.offset);
        int64_t bytes = kernel_workspace_bytes(code);
        if (packed && reserve(share, packed->launch, number, bytes)) {
            Launch *earlier = &program->launches.items[packed->launch];
            if (earlier->workspace == UINT32_MAX) program_attach_workspace(program, packed->launch, bytes);
            launch->workspace = earlier->workspace;
            launch->packed = true;
        }
        if (packed) *packed = now;
        else vector_push(share->arena, list, now);
    }
    for (int o = 0; o < launch->operand_count; o++)
        if (launch_writes(program, launch, o)) share->packed[launch->buffers[o]].count = 0;
}

bool share_packed(Program *program) {
    Share share = {.program = program, .arena = arena_create()};
    share.packed = ARENA_ARRAY(share.arena, PackedList, program->buffers.count + 1);
    fill_live(&share);
    for (uint32_t i = 0; i < program->launches.count; i++) visit(&share, i);
    arena_destroy(share.arena);
    return true;
}
