// fuse, after the merges: a sum over rows joins the launch that walks the same rows. It finds them in the cache, or on
// the chip of a GPU.
//
//   dx[r, e] = f(x[r, e], dy[r, e], sum over e ...);   dg[e] = sum over r of x[r, e] * dy[r, e]
//   -> for r = 8 p + q:   dx[r, e] = ...;   parts[p, e] = (q == 0 ? 0 : parts[p, e]) + x[r, e] * dy[r, e]
//      dg[e] = sum over p of parts[p, e]
//
// Loop q runs in order, so the sum has one order; a back end may run the rows of a block side by side and add them
// up behind (codegen/cuda_fold.c). What is moved less is a second reading of the rows, what more an eighth of it, or a
// sixteenth: blocks of a GPU are small, as many rows as it has warps in one; those of a processor are tasks of threads.
#include <string.h>

#include "passes/fuse.h"

enum {
    GPU_BLOCK_ROWS = 8, BLOCK_ROWS = 16,
    GPU_LEAST_ROWS = 1 << 11, LEAST_ROWS = 1 << 9,  // so that there are blocks to share
    LONGEST_ROW = 1 << 11, SHORTEST_ROW = 32
};

static int64_t block_rows(const Fuse *fuse) { return fuse->for_gpu ? GPU_BLOCK_ROWS : BLOCK_ROWS; }

enum { SUMS_MOST = 4 };

typedef struct Sum {
    const Item *item;
    int loops[LOOP_MAX];  // of the rows, by loop of the sum
    uint32_t parts;       // the buffer
} Sum;

typedef struct Join {
    Fuse *fuse;
    const Item *rows;
    Sum sums[SUMS_MOST];
    int count;
} Join;

static uint32_t inner_mask(const Nest *nest) { return ((1u << nest->loop_count) - 1) & ~nest_outer_mask(nest); }

static bool has_bounds(const Nest *nest) {
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (nest->loops[loop].bound_operand != UINT32_MAX) return true;
    return false;
}

// Outer loops are rows, one inner loop walks each.
static bool walks_rows(const Fuse *fuse, const Nest *nest) {
    int last = nest->outer_count - 1;
    if (last < 0 || nest->loop_count != last + 2 || nest->parallel != nest_outer_mask(nest) || has_bounds(nest))
        return false;
    int64_t length = nest->loops[last + 1].dimension.extent;
    bool reduces = false;
    for (int s = 0; s < nest->stage_count; s++) reduces |= !stage_writes(&nest->stages[s]) && nest->stages[s].inner;
    return reduces && length >= SHORTEST_ROW && length <= LONGEST_ROW &&
           nest_iterations(nest, nest_outer_mask(nest)) >= (fuse->for_gpu ? GPU_LEAST_ROWS : LEAST_ROWS) &&
           nest->loops[last].dimension.extent % block_rows(fuse) == 0;
}

// One sum over all inner loops, and what is made of it.
static bool sums_columns(const Nest *nest) {
    const Stage *sum = &nest->stages[0];
    if (nest->stage_count < 2 || sum->kind != STAGE_SUM || sum->element != ELEMENT_F32 || has_bounds(nest) ||
        !sum->inner || sum->inner != inner_mask(nest) || nest->parallel != nest_outer_mask(nest))
        return false;
    for (int s = 1; s < nest->stage_count; s++)
        if (!stage_writes(&nest->stages[s]) || nest->stages[s].inner) return false;
    return true;
}

// Rows of one are what the other sums over, and the other way round.
static bool pair_loops(const Nest *rows, Sum *sum) {
    const Nest *columns = sum->item->nest;
    if (rows->loop_count != columns->loop_count || rows->loop_count != rows->outer_count + columns->outer_count)
        return false;
    for (int loop = 0; loop < columns->loop_count; loop++) {
        bool outer = loop < columns->outer_count;
        sum->loops[loop] = outer ? rows->outer_count + loop : loop - columns->outer_count;
        if (columns->loops[loop].dimension.extent != rows->loops[sum->loops[loop]].dimension.extent) return false;
    }
    return true;
}

static bool loads_address(const Item *item, const Address *address) {
    for (size_t f = 0; f < item->nest->formulas.count; f++) {
        const Formula *load = &item->nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        Address other = nest_address(item->nest, &item->launch, load->operand, load->index);
        if (address_equal(address, &other)) return true;
    }
    return false;
}

// Whether the launch of rows reads all that the sum walks, by rows that lie side by side, and writes nothing of it.
static bool reads_alike(const Fuse *fuse, const Item *rows, const Sum *sum) {
    const Item *columns = sum->item;
    bool any = false;
    for (size_t f = 0; f < columns->nest->formulas.count; f++) {
        const Formula *load = &columns->nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD || !(nest_formula_users(columns->nest, (uint32_t)f) & 1)) continue;
        Address there = nest_address(columns->nest, &columns->launch, load->operand, load->index), address = there;
        memset(address.coefficient, 0, sizeof address.coefficient);
        bool along = false, across = false;
        for (int loop = 0; loop < columns->nest->loop_count; loop++) {
            address.coefficient[sum->loops[loop]] = there.coefficient[loop];
            *(loop < columns->nest->outer_count ? &across : &along) |= there.coefficient[loop] != 0;
        }
        if (there.gathered || (along && across && !loads_address(rows, &address))) return false;
        any |= along && there.coefficient[columns->nest->outer_count - 1] == 1;
    }
    for (int i = 0; i < columns->launch.operand_count; i++)
        for (int j = 0; j < rows->launch.operand_count; j++)
            if (columns->launch.buffers[i] == rows->launch.buffers[j] &&
                (item_writes(fuse, columns, i) || item_writes(fuse, rows, j)))
                return false;
    return any;
}

// ---- Building ----

static uint32_t primitive(Nest *nest, Primitive primitive, Element element, uint32_t a, uint32_t b, uint32_t c) {
    return nest_formula(
        nest, (Formula){.kind = FORMULA_PRIMITIVE, .primitive = primitive, .element = element, .arguments = {a, b, c}});
}

// Loops of rows with the last cut in blocks, then those along them.
static void add_loops(Transplant *plant, const Nest *nest, Nest *to, int64_t block_rows) {
    int last = nest->outer_count - 1;
    for (int loop = 0; loop < nest->outer_count; loop++) transplant_loop(plant, loop);
    Affine block = plant->loop[last];
    to->loops[last].dimension.extent /= block_rows;
    transplant_loop(plant, last);
    if (plant->failed) return;
    to->loops[last + 1].dimension.extent = block_rows;
    for (int i = 0; i < LOOP_MAX; i++) plant->loop[last].scale[i] += block_rows * block.scale[i];
    to->outer_count = to->loop_count;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++) transplant_loop(plant, loop);
}

// parts = (q == 0 ? 0 : parts) + value
static bool add_fold(const Sum *sum, Nest *to, Launch *launch, const Transplant *rows, const Type *type) {
    const Nest *columns = sum->item->nest;
    Transplant plant = transplant_begin(columns, &sum->item->launch, to, launch);
    for (int loop = 0; loop < columns->loop_count; loop++) plant.loop[loop] = rows->loop[sum->loops[loop]];
    uint32_t value = transplant_formula(&plant, columns->stages[0].formula);
    if (plant.failed || to->operand_count == NEST_OPERAND_MAX || to->stage_count == STAGE_LIMIT) return false;
    int loops[LOOP_MAX], count = 0, q = to->outer_count - 1;
    for (int loop = 0; loop < to->loop_count; loop++)
        if (loop != q) loops[count++] = loop;
    Index *index = ARENA_ARRAY(to->ir->arena, Index, RANK_MAX);
    Stage fold = {.kind = STAGE_STORE, .element = ELEMENT_F32, .inner = inner_mask(to), .index = index};
    fold.place = columns->stages[0].place;
    fold.operand =
        fuse_add_parts(to, launch, sum->parts, type, loops, (NestOperand){.reads = true, .writes = true}, index);
    Formula row = {.kind = FORMULA_LOOP, .element = ELEMENT_I32};
    row.affine.scale[q] = 1;
    uint32_t first = primitive(to, PRIMITIVE_eq, ELEMENT_BOOL, nest_formula(to, row),
                               nest_formula(to, (Formula){.kind = FORMULA_CONSTANT, .element = ELEMENT_I32}), 0);
    uint32_t zero = nest_formula(to, (Formula){.kind = FORMULA_CONSTANT, .element = ELEMENT_F32});
    uint32_t before = nest_formula(to, (Formula){.kind = FORMULA_LOAD,
                                                 .element = ELEMENT_F32,
                                                 .operand = fold.operand,
                                                 .index = index,
                                                 .place = fold.place});
    uint32_t start = primitive(to, PRIMITIVE_select, ELEMENT_F32, first, zero, before);
    fold.formula = primitive(to, PRIMITIVE_add, ELEMENT_F32, start, value, 0);
    to->stages[to->stage_count++] = fold;
    return true;
}

static bool build_rows(const Join *join, const Type *type, Item *made) {
    const Item *item = join->rows;
    Nest *nest = nest_create(&join->fuse->ir, item->nest->name, item->nest->place);
    *made = (Item){.nest = nest, .launch = item->launch, .alive = true};
    made->launch.operand_count = 0;
    Transplant plant = transplant_begin(item->nest, &item->launch, nest, &made->launch);
    add_loops(&plant, item->nest, nest, block_rows(join->fuse));
    for (int i = 0; i < item->nest->stage_count && !plant.failed; i++) {
        Stage stage = item->nest->stages[i];
        transplant_forget(&plant);
        stage.inner = transplant_mask(&plant, stage.inner);
        stage.formula = transplant_formula(&plant, stage.formula);
        transplant_write(&plant, &stage);
        plant.stage[i] = (uint32_t)i;
        nest->stages[nest->stage_count++] = stage;
    }
    if (plant.failed) return false;
    for (int i = 0; i < join->count; i++)
        if (!add_fold(&join->sums[i], nest, &made->launch, &plant, type)) return false;
    nest_compact(nest);
    nest_mark_parallel(nest);
    return nest_operands_apart(join->fuse, made);
}

// The sum with the parts in place of the rows.
static bool build_columns(const Join *join, const Sum *sum, const Type *type, Item *made) {
    const Item *item = sum->item;
    const Nest *from = item->nest;
    Nest *nest = nest_create(&join->fuse->ir, from->name, from->place);
    *made = (Item){.nest = nest, .launch = item->launch, .alive = true};
    made->launch.operand_count = 0;
    Transplant plant = transplant_begin(from, &item->launch, nest, &made->launch);
    for (int loop = 0; loop < from->loop_count; loop++) transplant_loop(&plant, loop);
    nest->outer_count = from->outer_count;
    nest->loops[nest->loop_count - 1].dimension.extent /= block_rows(join->fuse);
    int loops[LOOP_MAX], count = 0;
    for (int loop = from->outer_count; loop < from->loop_count; loop++) loops[count++] = loop;
    for (int loop = 0; loop < from->outer_count; loop++) loops[count++] = loop;
    Index index[RANK_MAX];
    Formula load = {.kind = FORMULA_LOAD, .element = ELEMENT_F32, .index = index, .place = from->place};
    load.operand = fuse_add_parts(nest, &made->launch, sum->parts, type, loops, (NestOperand){.reads = true}, index);
    for (int i = 0; i < from->stage_count && !plant.failed; i++) {
        Stage stage = from->stages[i];
        stage.formula = i == 0 ? nest_formula(nest, load) : transplant_formula(&plant, stage.formula);
        transplant_write(&plant, &stage);
        plant.stage[i] = (uint32_t)i;
        nest->stages[nest->stage_count++] = stage;
    }
    if (plant.failed) return false;
    nest_compact(nest);
    nest_mark_parallel(nest);
    return true;
}

static const Type *parts_type(const Join *join) {
    const Nest *rows = join->rows->nest;
    Dimension dimensions[RANK_MAX];
    if (rows->loop_count > RANK_MAX) return NULL;
    for (int loop = 0; loop < rows->loop_count; loop++) dimensions[loop] = rows->loops[loop].dimension;
    dimensions[rows->outer_count - 1].extent /= block_rows(join->fuse);
    return type_make(join->fuse->program->ir, ELEMENT_F32, rows->loop_count, dimensions);
}

// Sums in front of the rows that may join them.
static void find_sums(Join *join, uint32_t r) {
    Fuse *fuse = join->fuse;
    for (uint32_t c = r < FUSE_WINDOW ? 0 : r - FUSE_WINDOW; c < r && join->count < SUMS_MOST; c++) {
        Sum sum = {.item = &fuse->items[c]};
        if (sum.item->alive && sum.item->nest && sums_columns(sum.item->nest) &&
            pair_loops(join->rows->nest, &sum) && reads_alike(fuse, join->rows, &sum) &&
            !fuse_conflict(fuse, sum.item, c, r))
            join->sums[join->count++] = sum;
    }
}

static bool is_room(const Join *join, uint32_t id) {
    const Item *item = &join->fuse->items[id];
    bool room = !item->alive || item == join->rows;
    for (int i = 0; i < join->count; i++) room |= item == join->sums[i].item;
    return room;
}

// Rooms from where the rows are upwards, with their own and those of the sums: for the rows, then for each sum.
static bool find_rooms(const Join *join, uint32_t r, uint32_t *rooms) {
    uint32_t room = r + 1;
    for (int i = join->count; i >= 0; i--) {
        do room--;
        while (room > 0 && !is_room(join, room));
        if (room == 0) return false;
        rooms[i] = room;
    }
    for (int i = 0; i < join->count; i++) {  // those further up move there as well
        const Item *sum = join->sums[i].item;
        if (fuse_conflict(join->fuse, sum, room, (uint32_t)(sum - join->fuse->items))) return false;
    }
    return !fuse_conflict(join->fuse, join->rows, room, r);
}

static void place_item(Fuse *fuse, uint32_t id, Item item) {
    fuse->items[id] = item;
    fuse_list_item(fuse, id);
}

static bool join_items(Join *join, uint32_t r) {
    Fuse *fuse = join->fuse;
    uint32_t rooms[SUMS_MOST + 1];
    const Type *type = parts_type(join);
    if (!type || !find_rooms(join, r, rooms)) return false;
    Item rows, columns[SUMS_MOST];
    for (int i = 0; i < join->count; i++) join->sums[i].parts = fuse_create_parts(fuse, type);
    if (!build_rows(join, type, &rows)) return false;
    for (int i = 0; i < join->count; i++)
        if (!build_columns(join, &join->sums[i], type, &columns[i])) return false;
    fuse_unlist_item(fuse, r);
    fuse->items[r].alive = false;
    for (int i = 0; i < join->count; i++) {
        uint32_t c = (uint32_t)(join->sums[i].item - fuse->items);
        fuse_unlist_item(fuse, c);
        fuse->items[c].alive = false;
    }
    place_item(fuse, rooms[0], rows);
    for (int i = 0; i < join->count; i++) place_item(fuse, rooms[i + 1], columns[i]);
    return true;
}

void fuse_rows(Fuse *fuse) {
    for (uint32_t r = 1; r < fuse->count; r++) {
        const Item *rows = &fuse->items[r];
        if (!rows->alive || !rows->nest || !walks_rows(fuse, rows->nest)) continue;
        Join join = {.fuse = fuse, .rows = rows};
        find_sums(&join, r);
        while (join.count && !join_items(&join, r)) join.count--;  // operands and stages have limits
    }
}
