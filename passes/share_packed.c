// share-packed: launches that pack the same operand into the same form do it once.
//
//   launch 3: dot(x, w) workspace 8      launch 7: dot(y, w)
//   -> launch 3: dot(x, w) workspace 8;  launch 7: dot(y, w) workspace 8, packed
//
// Requires: the final order of launches, and compiled kernels: kernel_pack(i).key names what phase i leaves in
// workspace i. Leaves: `packed` launches, which skip that phase and read the workspace that an earlier
// launch filled; it lives until its last reader.
// The weights of a recurrent core are so packed once a step in the forward pass and once in the backward
// pass, not once an iteration, and what queries, keys and values are made of once for the three. Between two
// uses the packed form takes room; it is kept where the largest live set of the program grows by a sixteenth
// at most, else packed again.
#include "passes/program_passes.h"

enum { GROWTH_PART = 16 };

// The latest launch that left an operand packed in its workspace.
typedef struct Packed {
    uint64_t key;
    uint32_t launch;
    int phase;  // of it
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
        share->live[i] = live;
        const Kernel *code = code_of(share, (uint32_t)i);
        for (int w = 0; w < WORKSPACE_MAX; w++)
            if (!kernel_pack(code, w).optional) share->live[i] += kernel_workspace_bytes(code, w);
        if (share->live[i] > most) most = share->live[i];
    }
    share->limit = most + most / GROWTH_PART;
}

// Whether `bytes` more fit into launches [from, to); then they are counted there.
static bool reserve(Share *share, uint32_t from, uint32_t to, int64_t bytes) {
    for (uint32_t i = from; i < to; i++)
        if (share->live[i] + bytes > share->limit) return false;
    for (uint32_t i = from; i < to; i++) share->live[i] += bytes;
    return true;
}

static Packed *find(PackedList *list, uint64_t key, int64_t offset) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].key == key && list->items[i].offset == offset) return &list->items[i];
    return NULL;
}

static void visit_operand(Share *share, uint32_t number, int phase) {
    Program *program = share->program;
    Launch *launch = &program->launches.items[number];
    const Kernel *code = code_of(share, number);
    KernelPack pack = kernel_pack(code, phase);
    PackedList *list = &share->packed[launch->buffers[pack.operand]];
    Packed now = {pack.key, number, phase, launch->offsets[pack.operand]};
    Packed *packed = find(list, now.key, now.offset);
    Launch *earlier = packed ? &program->launches.items[packed->launch] : NULL;
    int64_t bytes = kernel_workspace_bytes(code, phase);
    // At the two launches it is counted already, unless they could do without.
    bool first = earlier && earlier->workspaces[packed->phase] == UINT32_MAX;
    uint32_t skipped = pack.optional && first ? 0 : 1;
    if (packed && reserve(share, packed->launch + skipped, number + pack.optional, bytes)) {
        if (first) program_attach_workspace(program, packed->launch, packed->phase, bytes);
        launch->workspaces[phase] = earlier->workspaces[packed->phase];
        launch->packed[phase] = true;
    }
    if (packed) *packed = now;
    else vector_push(share->arena, list, now);
}

static void visit(Share *share, uint32_t number) {
    Program *program = share->program;
    const Launch *launch = &program->launches.items[number];
    const Kernel *code = code_of(share, number);
    for (int phase = 0; phase < WORKSPACE_MAX; phase++)
        if (kernel_pack(code, phase).key) visit_operand(share, number, phase);
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
