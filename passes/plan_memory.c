// plan-memory: every temporary of a program gets its place in one arena.
//
//   t0: launches 0 to 3, 4 KB;  t1: 1 to 2, 8 KB;  t2: 3 to 9, 4 KB, written in place of t0
//   -> t0 at 8192, t1 at 0, t2 at 8192;  arena 12288 bytes, live 12288 bytes
//
// Requires: the final order of launches, their groups; workspaces known (kernel_workspace_bytes of those that are not
// optional, or attached).
// Leaves: offsets (multiples of 64), first and last launch of every temporary, arena_bytes, live_bytes.
// A result may take the storage of an operand that dies in its launch, where the launch reads each
// element of the one only where it writes that element of the other (in_place below).
// Blocks are placed one after the other into the smallest gap that holds them. Which order of blocks is
// best differs from program to program: three are tried, and where none comes close enough, each is
// improved by moving to its front the blocks that end up on top.
#include <stdlib.h>
#include <string.h>

#include "passes/program_passes.h"

// An arena of (1 + 1 / ENOUGH) times the largest live set is not improved further.
enum { ALIGNMENT = 64, ORDERS = 3, ENOUGH = 500, WINDOW = 256, MOST_TRIES = 60, MOST_PAIRS = 100 * 1000 * 1000 };

// Temporaries that share one place: a chain of in-place reuse, or a single one.
typedef struct Block {
    int64_t bytes, offset;
    int32_t first, last;
    uint32_t number;
} Block;

// Placed blocks, ascending by offset.
typedef struct Placed {
    Block **items;
    uint32_t count;
} Placed;

typedef struct Plan {
    Program *program;
    Arena *arena;
    uint32_t *block_of;  // per buffer, UINT32_MAX: none
    Block *blocks;
    uint32_t block_count;
    Placed all, *windows;  // of the order under trial
} Plan;

static int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) & ~(int64_t)(ALIGNMENT - 1); }

void program_attach_workspace(Program *program, uint32_t launch, int number, int64_t bytes) {
    Dimension dimension = {.name = names_intern(program->ir->names, "bytes"),
                           .extent = bytes > 0 ? bytes : 1};
    const Type *type = type_make(program->ir, ELEMENT_BOOL, 1, &dimension);
    program->launches.items[launch].workspaces[number] = program_add_buffer(
        program,
        (Buffer){.kind = BUFFER_TEMPORARY, .name = "workspace", .type = type, .bytes = bytes, .offset = -1});
}

static void attach_workspaces(Program *program) {
    for (uint32_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        for (int w = 0; w < WORKSPACE_MAX; w++) {
            int64_t bytes = kernel_pack(kernel, w).optional ? 0 : kernel_workspace_bytes(kernel, w);
            if (bytes > 0 && launch->workspaces[w] == UINT32_MAX) program_attach_workspace(program, i, w, bytes);
        }
    }
}

// What runs side by side is live as long as any of it runs.
static void touch(Program *program, uint32_t number, uint32_t launch) {
    Buffer *buffer = &program->buffers.items[number];
    const LaunchGroup *group = program_group(program, launch);
    if (buffer->first < 0) buffer->first = (int32_t)(group ? group->first : launch);
    buffer->last = (int32_t)(group ? group->first + group->count - 1 : launch);
}

static void find_lifetimes(Program *program) {
    for (size_t i = 0; i < program->buffers.count; i++) {
        Buffer *buffer = &program->buffers.items[i];
        buffer->first = buffer->last = -1;
        buffer->offset = buffer->kind == BUFFER_TEMPORARY ? 0 : -1;
    }
    for (uint32_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        for (int o = 0; o < launch->operand_count; o++) touch(program, launch->buffers[o], i);
        for (int w = 0; w < WORKSPACE_MAX; w++)
            if (launch->workspaces[w] != UINT32_MAX) touch(program, launch->workspaces[w], i);
    }
}

// ---- In place ----

typedef struct Walk {  // an access: where it starts and what each loop adds
    int64_t offset, step[LOOP_MAX];
} Walk;

static bool walk_of(const Nest *nest, const Launch *launch, uint32_t number, const Index *index, Walk *walk) {
    const NestOperand *operand = &nest->operands[number];
    *walk = (Walk){.offset = launch->offsets[number]};
    for (int d = 0; d < operand->rank; d++) {
        if (index[d].gathered != FORMULA_NONE) return false;
        walk->offset += index[d].affine.offset * operand->stride[d];
        for (int loop = 0; loop < nest->loop_count; loop++)
            walk->step[loop] += index[d].affine.scale[loop] * operand->stride[d];
    }
    return true;
}

// Stages that use a formula.
static uint32_t users_of(const Nest *nest, Arena *arena, uint32_t formula) {
    bool *uses = ARENA_ARRAY(arena, bool, nest->formulas.count);
    uint32_t mask = 0;
    uses[formula] = true;
    for (size_t i = (size_t)formula + 1; i < nest->formulas.count; i++) {
        const Formula *user = &nest->formulas.items[i];
        if (user->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(user->primitive); a++)
                uses[i] |= uses[user->arguments[a]];
        if (user->kind == FORMULA_LOAD)
            for (int d = 0; d < nest->operands[user->operand].rank; d++)
                if (user->index[d].gathered != FORMULA_NONE) uses[i] |= uses[user->index[d].gathered];
    }
    for (int s = 0; s < nest->stage_count; s++)
        if (uses[nest->stages[s].formula]) mask |= 1u << s;
    return mask;
}

// Every load of `from` is at the address of the one store to `to`, in its stage or an earlier one.
static bool in_place(const Plan *plan, const Nest *nest, const Launch *launch, int from, int to) {
    Contraction contraction;
    Walk store, load;
    int number = -1;
    if (nest_contraction(nest, &contraction)) return false;  // may store parts of its sums early
    for (int s = 0; s < nest->stage_count; s++) {
        const Stage *stage = &nest->stages[s];
        if ((stage->kind != STAGE_STORE && stage->kind != STAGE_ADD) || stage->operand != (uint32_t)to)
            continue;
        if (number >= 0 || stage->kind == STAGE_ADD) return false;
        number = s;
        if (!walk_of(nest, launch, stage->operand, stage->index, &store)) return false;
    }
    if (number < 0 || nest->operands[to].reads) return false;
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *formula = &nest->formulas.items[f];
        if (formula->kind != FORMULA_LOAD || formula->operand != (uint32_t)from) continue;
        if (!walk_of(nest, launch, formula->operand, formula->index, &load)) return false;
        if (memcmp(&load, &store, sizeof load) != 0) return false;
        if (users_of(nest, plan->arena, (uint32_t)f) >> number > 1) return false;
    }
    return true;
}

// The operand of the launch that `to` may take over, or -1.
static int find_dying(const Plan *plan, const Launch *launch, const Nest *nest, int32_t at, int to,
                      const bool *taken) {
    const Program *program = plan->program;
    const Buffer *target = &program->buffers.items[launch->buffers[to]];
    for (int from = 0; from < launch->operand_count; from++) {
        uint32_t number = launch->buffers[from];
        const Buffer *buffer = &program->buffers.items[number];
        if (taken[number] || buffer->kind != BUFFER_TEMPORARY || buffer->last != at || buffer->first == at)
            continue;
        if (buffer->bytes != target->bytes || buffer->type->element != target->type->element) continue;
        if (nest->operands[from].writes || nest->operands[from].rank == 0) continue;
        int uses = 0;  // the buffer must be this operand alone
        for (int o = 0; o < launch->operand_count; o++) uses += launch->buffers[o] == number;
        if (uses == 1 && in_place(plan, nest, launch, from, to)) return from;
    }
    return -1;
}

static void reuse_in_place(Plan *plan) {
    Program *program = plan->program;
    bool *taken = ARENA_ARRAY(plan->arena, bool, program->buffers.count + 1);
    for (uint32_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const Nest *nest = program->kernels.items[launch->kernel].nest;
        if (program_group(program, i)) continue;  // another launch of it may read the operand
        for (int to = 0; nest && to < launch->operand_count; to++) {
            uint32_t number = launch->buffers[to];
            const Buffer *buffer = &program->buffers.items[number];
            int uses = 0;
            for (int o = 0; o < launch->operand_count; o++) uses += launch->buffers[o] == number;
            if (buffer->kind != BUFFER_TEMPORARY || buffer->first != (int32_t)i || uses != 1) continue;
            if (!nest->operands[to].writes) continue;
            int from = find_dying(plan, launch, nest, (int32_t)i, to, taken);
            if (from < 0) continue;
            taken[launch->buffers[from]] = true;
            plan->block_of[number] = plan->block_of[launch->buffers[from]];
            plan->blocks[plan->block_of[number]].last = buffer->last;
        }
    }
}

static void make_blocks(Plan *plan) {
    Program *program = plan->program;
    plan->block_of = ARENA_ARRAY(plan->arena, uint32_t, program->buffers.count + 1);
    plan->blocks = ARENA_ARRAY(plan->arena, Block, program->buffers.count + 1);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        plan->block_of[i] = UINT32_MAX;
        if (buffer->kind != BUFFER_TEMPORARY || buffer->first < 0) continue;
        plan->block_of[i] = plan->block_count;
        plan->blocks[plan->block_count] =
            (Block){aligned(buffer->bytes), 0, buffer->first, buffer->last, plan->block_count};
        plan->block_count++;
    }
    reuse_in_place(plan);
    // Blocks that were taken over live on in the first of their chain; the others hold nothing.
    bool *used = ARENA_ARRAY(plan->arena, bool, plan->block_count + 1);
    for (size_t i = 0; i < program->buffers.count; i++)
        if (plan->block_of[i] != UINT32_MAX) used[plan->block_of[i]] = true;
    for (uint32_t i = 0; i < plan->block_count; i++)
        if (!used[i]) plan->blocks[i].bytes = 0;
}

static int64_t largest_live_set(const Plan *plan) {
    size_t count = plan->program->launches.count;
    int64_t *change = ARENA_ARRAY(plan->arena, int64_t, count + 2), live = 0, most = 0;
    for (uint32_t i = 0; i < plan->block_count; i++) {
        change[plan->blocks[i].first] += plan->blocks[i].bytes;
        change[plan->blocks[i].last + 1] -= plan->blocks[i].bytes;
    }
    for (size_t i = 0; i < count; i++) {
        live += change[i];
        if (live > most) most = live;
    }
    return most;
}

// ---- Placing ----

typedef int Compare(const void *, const void *);

static int by_number(const Block *x, const Block *y) {
    return x->number < y->number ? -1 : x->number > y->number;
}

static int larger_first(const void *a, const void *b) {
    const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return by_number(x, y);
}

static double area(const Block *block) { return (double)block->bytes * (block->last - block->first + 1); }

static int larger_area_first(const void *a, const void *b) {
    const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
    if (area(x) != area(y)) return area(x) > area(y) ? -1 : 1;
    return by_number(x, y);
}

static int longer_first(const void *a, const void *b) {
    const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
    int32_t x_length = x->last - x->first, y_length = y->last - y->first;
    if (x_length != y_length) return x_length > y_length ? -1 : 1;
    return larger_first(a, b);
}

// A window is some launches in a row. A short block is compared with those of its one or two windows
// only, which keeps the time for a deep model from growing with the square of its layers.
static void make_windows(Plan *plan) {
    size_t count = plan->program->launches.count / WINDOW + 1;
    uint32_t *most = ARENA_ARRAY(plan->arena, uint32_t, count);
    for (uint32_t i = 0; i < plan->block_count; i++)
        for (int32_t w = plan->blocks[i].first / WINDOW; w <= plan->blocks[i].last / WINDOW; w++) most[w]++;
    plan->windows = ARENA_ARRAY(plan->arena, Placed, count);
    for (size_t w = 0; w < count; w++) plan->windows[w].items = ARENA_ARRAY(plan->arena, Block *, most[w] + 1);
    plan->all.items = ARENA_ARRAY(plan->arena, Block *, plan->block_count + 1);
}

static void clear_windows(Plan *plan) {
    plan->all.count = 0;
    for (size_t w = 0; w <= plan->program->launches.count / WINDOW; w++) plan->windows[w].count = 0;
}

static void insert(Placed *placed, Block *block) {
    uint32_t low = 0, high = placed->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (placed->items[middle]->offset <= block->offset) low = middle + 1;
        else high = middle;
    }
    memmove(placed->items + low + 1, placed->items + low, sizeof *placed->items * (placed->count - low));
    placed->items[low] = block;
    placed->count++;
}

// The smallest gap between placed blocks that live at the same time; these are in one list or the other.
static int64_t best_gap(const Placed *a, const Placed *b, const Block *block) {
    int64_t end = 0, best = -1, best_bytes = INT64_MAX;
    for (uint32_t i = 0, j = 0; i < a->count || j < b->count;) {
        bool from_a = j == b->count || (i < a->count && a->items[i]->offset <= b->items[j]->offset);
        const Block *other = from_a ? a->items[i++] : b->items[j++];
        if (other->last < block->first || block->last < other->first) continue;
        int64_t gap = other->offset - end;
        if (gap >= block->bytes && gap < best_bytes) {
            best = end;
            best_bytes = gap;
        }
        if (other->offset + other->bytes > end) end = other->offset + other->bytes;
    }
    return best >= 0 ? best : end;
}

// Places the blocks in this order; returns the arena's size.
static int64_t place(Plan *plan, Block *const *order) {
    static const Placed nothing;
    int64_t arena = 0;
    clear_windows(plan);
    for (uint32_t i = 0; i < plan->block_count; i++) {
        Block *block = order[i];
        block->offset = 0;
        if (block->bytes == 0) continue;
        int32_t first = block->first / WINDOW, last = block->last / WINDOW;
        const Placed *windows = plan->windows;
        block->offset = first == last       ? best_gap(&windows[first], &nothing, block)
                        : first + 1 == last ? best_gap(&windows[first], &windows[last], block)
                                            : best_gap(&plan->all, &nothing, block);
        insert(&plan->all, block);
        for (int32_t w = first; w <= last; w++) insert(&plan->windows[w], block);
        if (block->offset + block->bytes > arena) arena = block->offset + block->bytes;
    }
    return arena;
}

// The blocks that reach the top of the arena had the worst choice: they go to the front.
static void promote_highest(const Plan *plan, Block **order, Block **moved, int64_t arena) {
    uint32_t front = 0, rest = 0;
    for (uint32_t i = 0; i < plan->block_count; i++)
        if (order[i]->bytes && order[i]->offset + order[i]->bytes == arena) moved[front++] = order[i];
    for (uint32_t i = 0; i < plan->block_count; i++)
        if (!order[i]->bytes || order[i]->offset + order[i]->bytes != arena) moved[front + rest++] = order[i];
    memcpy(order, moved, sizeof *order * plan->block_count);
}

// Places the blocks in this order and keeps the plan where it is the best so far; returns its size.
static int64_t try_order(Plan *plan, Block **order) {
    Program *program = plan->program;
    int64_t bytes = place(plan, order);
    if (bytes >= program->arena_bytes) return bytes;
    program->arena_bytes = bytes;
    for (size_t b = 0; b < program->buffers.count; b++)
        if (plan->block_of[b] != UINT32_MAX)
            program->buffers.items[b].offset = plan->blocks[plan->block_of[b]].offset;
    return bytes;
}

// Tries the three orders, then improves each, until the arena is about as small as the largest live set,
// or enough time went by: that is counted in pairs of blocks, so that the result is the same everywhere.
static void place_blocks(Plan *plan) {
    static Compare *const compares[ORDERS] = {longer_first, larger_first, larger_area_first};
    Program *program = plan->program;
    Block **orders[ORDERS], **scratch = ARENA_ARRAY(plan->arena, Block *, plan->block_count + 1);
    double pairs = (double)plan->block_count * plan->block_count + 1;
    int tries = pairs * MOST_TRIES < MOST_PAIRS ? MOST_TRIES : (int)(MOST_PAIRS / pairs);
    make_windows(plan);
    int64_t enough = program->live_bytes + program->live_bytes / ENOUGH;
    program->arena_bytes = INT64_MAX;
    for (int kind = 0; kind < ORDERS; kind++) {
        orders[kind] = ARENA_ARRAY(plan->arena, Block *, plan->block_count + 1);
        for (uint32_t i = 0; i < plan->block_count; i++) orders[kind][i] = &plan->blocks[i];
        qsort(orders[kind], plan->block_count, sizeof *orders[kind], compares[kind]);
        try_order(plan, orders[kind]);
        if (program->arena_bytes <= enough) return;
    }
    for (int kind = 0; kind < ORDERS; kind++) {
        int64_t bytes = place(plan, orders[kind]);  // the offsets are another order's by now
        for (int try = 0; try < tries && program->arena_bytes > enough; try++) {
            promote_highest(plan, orders[kind], scratch, bytes);
            bytes = try_order(plan, orders[kind]);
        }
    }
}

bool plan_memory(Program *program) {
    Plan plan = {.program = program, .arena = arena_create()};
    attach_workspaces(program);
    find_lifetimes(program);
    make_blocks(&plan);
    program->live_bytes = largest_live_set(&plan);
    place_blocks(&plan);
    arena_destroy(plan.arena);
    return true;
}
