// fuse: launches of a program are merged, so that fewer of them move less memory.
//
//   n launches, one per node  ->  elementwise work inside of the nests that use it (fuse_inline.c),
//                                 large sums to a scalar in two steps (fuse_split.c),
//                                 launches over common loops as stages of one nest (fuse_merge.c),
//                                 for a GPU a norm of one row into the products that read it (fuse_repeat.c),
//                                 sums over rows with what walks the rows (fuse_rows.c),
//                                 for a processor other large sums to one row in two steps (fuse_split.c)
//
// Requires: a program as lower_graph leaves it. Leaves: a program that computes the same values, bit for
// bit, but for the order of the sums that are split or join rows; casts and every other primitive stay as they were.
// A launch never moves across one that writes what it reads, or touches what it writes.
// What is merged is decided by rules that look at loops, addresses and bytes only; the files above
// state them and their costs at the top. All choices are made in the order of launches: same in, same out.
#include "passes/fuse.h"

#include <string.h>

#include "passes/program_passes.h"

// ---- Nests ----

typedef struct KeptNest {
    uint64_t hash;
    const Nest *nest;  // NULL: an empty slot
} KeptNest;

typedef struct NestTable {
    KeptNest *slots;
    size_t count, capacity;  // a power of two
} NestTable;

static size_t kept_slot(const NestTable *table, uint64_t hash, const Nest *nest) {
    size_t slot = hash & (table->capacity - 1);
    while (table->slots[slot].nest &&
           (table->slots[slot].hash != hash || !nest_equal(table->slots[slot].nest, nest)))
        slot = (slot + 1) & (table->capacity - 1);
    return slot;
}

static void grow_kept(Arena *arena, NestTable *table) {
    NestTable old = *table;
    table->capacity = old.capacity ? 2 * old.capacity : 256;
    table->slots = ARENA_ARRAY(arena, KeptNest, table->capacity);
    for (size_t i = 0; i < old.capacity; i++)
        if (old.slots[i].nest) table->slots[kept_slot(table, old.slots[i].hash, old.slots[i].nest)] = old.slots[i];
}

const Nest *fuse_keep_nest(Fuse *fuse, const Nest *nest) {
    NestTable *table = fuse->kept;
    if (2 * table->count >= table->capacity) grow_kept(fuse->ir.arena, table);
    uint64_t hash = nest_hash(nest);
    KeptNest *slot = &table->slots[kept_slot(table, hash, nest)];
    if (!slot->nest) {
        *slot = (KeptNest){hash, nest_copy(&fuse->ir, nest)};
        table->count++;
    }
    return slot->nest;
}

void fuse_end_trial(Fuse *fuse) { arena_reset(fuse->trial.arena); }

// ---- The pass ----

static Fuse begin(Program *program, Arena *arena) {
    Fuse fuse = {.program = program, .ir = *program->ir, .count = 2 * (uint32_t)program->launches.count};
    fuse.ir.arena = arena;
    fuse.trial = *program->ir;
    fuse.trial.arena = arena_create();
    fuse.items = ARENA_ARRAY(arena, Item, fuse.count + 1);
    fuse.kept = ARENA_NEW(arena, NestTable);
    fuse.readers = ARENA_ARRAY(arena, ItemList, program->buffers.count + 1);
    fuse.writers = ARENA_ARRAY(arena, ItemList, program->buffers.count + 1);
    for (uint32_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        fuse.items[2 * i + 1] =
            (Item){.nest = program->kernels.items[launch->kernel].nest, .launch = *launch, .alive = true};
    }
    return fuse;
}

// Temporaries that no launch touches any more go.
static void drop_unused_buffers(Fuse *fuse) {
    Program *program = fuse->program;
    uint32_t *number = ARENA_ARRAY(fuse->ir.arena, uint32_t, program->buffers.count + 1);
    size_t kept = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        for (int o = 0; o < program->launches.items[i].operand_count; o++)
            number[program->launches.items[i].buffers[o]] = 1;
    for (size_t i = 0; i < program->buffers.count; i++) {
        if (!number[i] && program->buffers.items[i].kind == BUFFER_TEMPORARY) continue;
        program->buffers.items[kept] = program->buffers.items[i];
        number[i] = (uint32_t)kept++;
    }
    program->buffers.count = kept;
    for (size_t i = 0; i < program->launches.count; i++)
        for (int o = 0; o < program->launches.items[i].operand_count; o++)
            program->launches.items[i].buffers[o] = number[program->launches.items[i].buffers[o]];
}

static void finish(Fuse *fuse) {
    Program *program = fuse->program;
    program->launches.count = 0;
    for (uint32_t i = 0; i < fuse->count; i++) {
        Item *item = &fuse->items[i];
        if (!item->alive) continue;
        if (item->nest) item->launch.kernel = program_keep_nest(program, item->nest);
        vector_push(program->ir->arena, &program->launches, item->launch);
    }
    program_drop_unused_kernels(program);
    drop_unused_buffers(fuse);
}

bool fuse_program(Program *program, bool for_gpu) {
    Arena *arena = arena_create();
    Fuse fuse = begin(program, arena);
    fuse.for_gpu = for_gpu;
    for (uint32_t i = 0; i < fuse.count; i++)
        if (fuse.items[i].alive) fuse_list_item(&fuse, i);
    fuse_inline(&fuse);
    fuse_inline(&fuse);  // gathers by an index have become plain loads
    fuse_split(&fuse, SPLIT_TOTALS);
    fuse_merge(&fuse);
    if (for_gpu) fuse_repeat(&fuse);
    fuse_rows(&fuse);
    if (!for_gpu) fuse_split(&fuse, SPLIT_COLUMNS);  // a GPU's back end shares columns among its blocks
    finish(&fuse);
    arena_destroy(fuse.trial.arena);
    arena_destroy(arena);
    return true;
}
