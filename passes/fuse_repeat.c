// fuse, for a GPU, after the merges: a norm of one row is made again by every product that reads it.
//
//   n[e] = x[e] * rsqrt(sum over e of x[e]^2) * g[e];   y[c] = sum over e of n[e] * w[e, c]
//   -> stage 0: sum over e { x[e]^2 };   stage 1: sum over e { x[e] * rsqrt(stage 0) * g[e] * w[e, c] };   store y[c]
//
// A launch of one block takes as long as one of many. What each block of the product reads for it is a row, a part of
// the columns of the weight that it reads anyway, and comes from a cache; so products whose threads walk along rows
// of their weight, and have enough columns to fill a GPU. The launch goes where all that read the row are such.
#include "passes/fuse.h"

enum { LEAST_COLUMNS = 1 << 10, LONGEST_ROW = 1 << 13, PRODUCTS_MOST = 8 };

typedef struct Repeat {
    Fuse *fuse;
    const Item *row;  // the norm
    int store;        // its stage that writes what products read
    uint32_t buffer;  // that
    Nest *nest;       // under construction
    Transplant *plant;  // of the norm into it
} Repeat;

static bool runs_one_loop(const Nest *nest) {
    bool fits = nest->parallel == nest_outer_mask(nest) && nest->loop_count == nest->outer_count + 1;
    for (int loop = 0; loop < nest->loop_count; loop++) fits &= nest->loops[loop].bound_operand == UINT32_MAX;
    return fits;
}

// Sums over one row, then one store of it.
static bool is_row(const Nest *nest) {
    int last = nest->stage_count - 1;
    if (!runs_one_loop(nest) || last < 1 || nest_iterations(nest, nest_outer_mask(nest)) != 1) return false;
    for (int s = 0; s < last; s++)
        if (stage_writes(&nest->stages[s]) || !nest->stages[s].inner) return false;
    return nest->stages[last].kind == STAGE_STORE && nest->stages[last].inner &&
           nest->loops[nest->outer_count].dimension.extent <= LONGEST_ROW;
}

static bool moves_along(const Nest *nest, const Address *address, bool inner) {
    for (int loop = inner ? nest->outer_count : 0; loop < (inner ? nest->loop_count : nest->outer_count); loop++)
        if (nest->loops[loop].dimension.extent > 1 && address->coefficient[loop]) return true;
    return false;
}

// Sums over the loop that walks the row, then stores of single values; a weight lies along the columns.
static bool is_product(const Repeat *repeat, const Item *item) {
    const Nest *nest = item->nest;
    if (!nest || !runs_one_loop(nest) || nest_iterations(nest, nest_outer_mask(nest)) < LEAST_COLUMNS) return false;
    for (int s = 0; s < nest->stage_count; s++)
        if (stage_writes(&nest->stages[s]) == (nest->stages[s].inner != 0)) return false;
    bool along_columns = false;
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        Address address = nest_address(nest, &item->launch, load->operand, load->index);
        if (address.buffer == repeat->buffer && moves_along(nest, &address, false)) return false;
        for (int loop = 0; loop < nest->outer_count; loop++)
            along_columns |= address.coefficient[loop] == 1 && moves_along(nest, &address, true);
    }
    return along_columns;
}

// Whether nothing that the row is made of changes before the item.
static bool row_lasts(const Repeat *repeat, uint32_t item) {
    for (int o = 0; o < repeat->row->launch.operand_count; o++)
        if (item_reads(repeat->fuse, repeat->row, o) &&
            fuse_written(repeat->fuse, repeat->row->launch.buffers[o], item_span(repeat->fuse, repeat->row, o),
                         (uint32_t)(repeat->row - repeat->fuse->items), item))
            return false;
    return true;
}

// What the norm stores stands for a load of it, where both walk alike.
static uint32_t repeat_row(Transplant *plant, const Formula *load, const Formula *mapped) {
    const Repeat *repeat = plant->context;
    const Nest *row = repeat->row->nest;
    if (plant->from_launch->buffers[load->operand] != repeat->buffer) return FORMULA_NONE;
    const Stage *store = &row->stages[repeat->store];
    Address there = nest_address(row, &repeat->row->launch, store->operand, store->index);
    Address here = nest_address(plant->from, plant->from_launch, load->operand, load->index);
    (void)mapped;
    plant->failed |= there.gathered || here.gathered || there.offset != here.offset ||
                     there.coefficient[row->outer_count] != here.coefficient[plant->from->outer_count];
    return plant->failed ? FORMULA_NONE : transplant_formula(repeat->plant, store->formula);
}

static bool build(Repeat *repeat, const Item *item, Item *made) {
    const Nest *row = repeat->row->nest, *product = item->nest;
    int inner = product->outer_count;
    if (row->loops[row->outer_count].dimension.extent != product->loops[inner].dimension.extent) return false;
    Nest *nest = repeat->nest = nest_create(&repeat->fuse->ir, product->name, product->place);
    *made = (Item){.nest = nest, .launch = item->launch, .alive = true};
    made->launch.operand_count = 0;
    Transplant plant = transplant_begin(product, &item->launch, nest, &made->launch);
    Transplant row_plant = transplant_begin(row, &repeat->row->launch, nest, &made->launch);
    for (int loop = 0; loop < product->loop_count; loop++) transplant_loop(&plant, loop);
    nest->outer_count = product->outer_count;
    row_plant.loop[row->outer_count] = plant.loop[inner];  // the others stand still
    repeat->plant = &row_plant;
    plant.replace = repeat_row;
    plant.context = repeat;
    for (int s = 0; s < repeat->store + product->stage_count; s++) {
        bool first = s < repeat->store;
        Transplant *from = first ? &row_plant : &plant;
        int number = first ? s : s - repeat->store;
        if (s == STAGE_LIMIT) return false;
        transplant_forget(from);
        Stage stage = from->from->stages[number];
        stage.inner = stage.inner ? 1u << inner : 0;
        stage.formula = transplant_formula(from, stage.formula);
        transplant_write(from, &stage);
        from->stage[number] = (uint32_t)s;
        if (row_plant.failed || plant.failed) return false;
        nest->stages[nest->stage_count++] = stage;
    }
    nest_compact(nest);
    nest_mark_parallel(nest);
    return nest_operands_apart(repeat->fuse, made);
}

static void repeat_in_readers(Fuse *fuse, uint32_t r) {
    const Item *item = &fuse->items[r];
    int store = item->nest->stage_count - 1;
    uint32_t buffer = item->launch.buffers[item->nest->stages[store].operand];
    const ItemList *readers = &fuse->readers[buffer];
    if (fuse->program->buffers.items[buffer].kind != BUFFER_TEMPORARY || fuse->writers[buffer].count != 1 ||
        !readers->count || readers->count > PRODUCTS_MOST)
        return;
    Repeat repeat = {.fuse = fuse, .row = item, .store = store, .buffer = buffer};
    Item made[PRODUCTS_MOST];
    uint32_t products[PRODUCTS_MOST], count = (uint32_t)readers->count;
    for (uint32_t i = 0; i < count; i++) {
        products[i] = readers->items[i];
        if (!is_product(&repeat, &fuse->items[products[i]]) || !row_lasts(&repeat, products[i]) ||
            !build(&repeat, &fuse->items[products[i]], &made[i]))
            return;
    }
    for (uint32_t i = 0; i < count; i++) {
        fuse_unlist_item(fuse, products[i]);
        fuse->items[products[i]] = made[i];
        fuse->items[products[i]].nest = fuse_keep_nest(fuse, made[i].nest);
        fuse_list_item(fuse, products[i]);
    }
    fuse_unlist_item(fuse, r);
    fuse->items[r].alive = false;
}

void fuse_repeat(Fuse *fuse) {
    for (uint32_t r = 0; r < fuse->count; r++)
        if (fuse->items[r].alive && fuse->items[r].nest && is_row(fuse->items[r].nest)) repeat_in_readers(fuse, r);
}
