// fuse, merging: the stages of two launches in one nest. See the head of fuse_merge.c.
// Where C has no inner loops, all its loads mean the values from before the launch, or what P stored at
// the same point, which it takes as a formula; the trailing stages of P and those of C are sorted at the
// end, so that every load comes before a store to the same place. Elsewhere stages stay in order and a
// load may read back what an earlier stage stored.
#include <string.h>

#include "passes/fuse_merge.h"

enum { SMALL_FORMULA = 6 };

// ---- Stages ----

static void add_stages(Merge *merge, Transplant *plant, uint32_t turned) {
    for (int i = 0; i < plant->from->stage_count && !plant->failed; i++) {
        if (merge->nest->stage_count == STAGE_LIMIT) {
            plant->failed = true;
            return;
        }
        transplant_forget(plant);  // a formula may have to be made anew after a store
        Stage stage = plant->from->stages[i];
        stage.inner = transplant_mask(plant, stage.inner | turned);
        // The hook looks at the stage under construction: enter it first.
        merge->nest->stages[merge->nest->stage_count] = stage;
        stage.formula = transplant_formula(plant, stage.formula);
        transplant_write(plant, &stage);
        plant->stage[i] = (uint32_t)merge->nest->stage_count;
        merge->nest->stages[merge->nest->stage_count++] = stage;
    }
}

// Operands that a formula loads, as a mask.
static uint32_t loaded_operands(const Nest *nest, uint32_t formula) {
    uint32_t *mask = ARENA_ARRAY(nest->ir->arena, uint32_t, (size_t)formula + 1);
    for (uint32_t f = 0; f <= formula; f++) {
        const Formula *user = &nest->formulas.items[f];
        if (user->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(user->primitive); a++)
                mask[f] |= mask[user->arguments[a]];
        if (user->kind != FORMULA_LOAD) continue;
        mask[f] |= 1u << user->operand;
        for (int d = 0; d < nest->operands[user->operand].rank; d++)
            if (user->index[d].gathered != FORMULA_NONE) mask[f] |= mask[user->index[d].gathered];
    }
    return mask[formula];
}

// Does a stage in [begin, end) write to a buffer that the formula loads?
static bool loads_written(const Merge *merge, uint32_t formula, int begin, int end) {
    uint32_t loaded = loaded_operands(merge->nest, formula);
    const uint32_t *buffers = merge->built.launch.buffers;
    for (int s = begin; s < end; s++)
        for (int o = 0; o < merge->nest->operand_count && stage_writes(&merge->nest->stages[s]); o++)
            if ((loaded >> o & 1) && buffers[o] == buffers[merge->nest->stages[s].operand]) return true;
    return false;
}

static bool only_reader(const Merge *merge, uint32_t buffer) {
    const Fuse *fuse = merge->fuse;
    if (fuse->program->buffers.items[buffer].kind != BUFFER_TEMPORARY) return false;
    for (size_t i = 0; i < fuse->readers[buffer].count; i++)
        if (fuse->readers[buffer].items[i] != merge->c) return false;
    return true;
}

static bool worth_repeating(const Merge *merge, const Nest *nest, const Stage *store, const Stage *user) {
    uint32_t inner = ~nest_outer_mask(nest);
    if (store->inner == 0 && user->inner == 0) return true;
    if ((nest_formula_loops(nest, store->formula) & inner) == 0) return true;
    FormulaCost cost = nest_formula_cost(nest, store->formula);
    return !cost.expensive && !cost.gathers && cost.operations <= SMALL_FORMULA &&
           only_reader(merge, merge->built.launch.buffers[store->operand]);
}

// A load of C in terms of the merged nest; the mapped index keeps the operand's number in C.
static Address mapped_address(const Transplant *plant, const Formula *load, const Formula *mapped) {
    const NestOperand *operand = &plant->from->operands[load->operand];
    Address read = {.buffer = plant->from_launch->buffers[load->operand],
                    .offset = plant->from_launch->offsets[load->operand]};
    for (int d = 0; d < operand->rank; d++) {
        read.gathered |= mapped->index[d].gathered != FORMULA_NONE;
        read.offset += mapped->index[d].affine.offset * operand->stride[d];
        for (int loop = 0; loop < LOOP_MAX; loop++)
            read.coefficient[loop] += mapped->index[d].affine.scale[loop] * operand->stride[d];
    }
    return read;
}

// The last stage so far that may have written what is read, or -1. At one point of the iteration, two
// addresses that move alike but start apart are never one (dependences_hold saw to other iterations), and
// the stages of C do not count: there all loads mean the values from before.
static int find_writer(const Merge *merge, const Stage *user, const Address *read) {
    const Nest *nest = merge->nest;
    for (int s = (merge->point ? merge->p_stages : nest->stage_count) - 1; s >= 0; s--) {
        const Stage *store = &nest->stages[s];
        if (!stage_writes(store) || merge->built.launch.buffers[store->operand] != read->buffer) continue;
        Address written = nest_address(nest, &merge->built.launch, store->operand, store->index);
        bool alike = memcmp(written.coefficient, read->coefficient, sizeof written.coefficient) == 0;
        if (store->inner == 0 && user->inner == 0 && alike && !read->gathered && !written.gathered &&
            read->offset != written.offset)
            continue;
        return s;
    }
    return -1;
}

static uint32_t add_formulas(Nest *nest, Element element, uint32_t a, uint32_t b, Place place) {
    return nest_formula(nest, (Formula){.kind = FORMULA_PRIMITIVE,
                                        .primitive = PRIMITIVE_add,
                                        .element = element,
                                        .arguments = {a, b},
                                        .place = place});
}

// What is there after a stage without inner loops.
static uint32_t written_value(Nest *nest, const Stage *store) {
    if (store->kind == STAGE_STORE) return store->formula;
    Formula old = {.kind = FORMULA_LOAD,
                   .element = store->element,
                   .operand = store->operand,
                   .index = store->index,
                   .place = store->place};
    return add_formulas(nest, store->element, nest_formula(nest, old), store->formula, store->place);
}

// What stands for a load of C: the formula that P stored there, or the load itself.
static uint32_t stored_formula(Transplant *plant, const Formula *load, const Formula *mapped) {
    Merge *merge = plant->context;
    Nest *nest = merge->nest;
    const Stage *user = &nest->stages[nest->stage_count];
    Address read = mapped_address(plant, load, mapped);
    int writer = find_writer(merge, user, &read);
    if (writer < 0 || writer >= merge->p_stages) return FORMULA_NONE;
    const Stage *store = &nest->stages[writer];
    Address written = nest_address(nest, &merge->built.launch, store->operand, store->index);
    bool same_place = address_equal(&read, &written);
    bool value_mode = merge->point && writer >= merge->trailing;  // stages are sorted afterwards
    if (same_place && (value_mode || (worth_repeating(merge, nest, store, user) &&
                                      !loads_written(merge, store->formula, writer, nest->stage_count)))) {
        if (store->kind != STAGE_STORE && !value_mode) plant->failed = true;
        return plant->failed ? FORMULA_NONE : written_value(nest, store);
    }
    // Read back: not at one point, where a back end may still hold the old value in a register.
    uint32_t moves = 0;
    for (int loop = 0; loop < LOOP_MAX; loop++)
        if (read.coefficient[loop]) moves |= 1u << loop;
    if (value_mode || ((moves & ~nest_outer_mask(nest)) == 0 && !read.gathered)) plant->failed = true;
    return FORMULA_NONE;
}

// At one point the last write to a place is the one that counts: a stage of C that writes where one of P
// did takes that one's place, and an addition adds to its value.
static bool join_writes(Merge *merge) {
    Nest *nest = merge->nest;
    bool any = false;
    for (int s = merge->p_stages; s < nest->stage_count; s++) {
        Stage *stage = &nest->stages[s];
        Address written = nest_address(nest, &merge->built.launch, stage->operand, stage->index);
        int earlier = find_writer(merge, stage, &written);
        if (earlier < merge->trailing || nest->stages[earlier].operand != stage->operand || written.gathered)
            continue;
        if (stage->kind == STAGE_ADD)
            stage->formula = add_formulas(nest, stage->element, written_value(nest, &nest->stages[earlier]),
                                          stage->formula, stage->place);
        stage->kind = STAGE_STORE;
        memmove(&nest->stages[earlier], &nest->stages[earlier + 1],
                sizeof(Stage) * (size_t)(nest->stage_count - earlier - 1));
        nest->stage_count--;
        merge->p_stages--;
        s--;
        any = true;
    }
    return any;
}

static bool stage_loads(const Nest *nest, int number, uint32_t operand) {
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind == FORMULA_LOAD && load->operand == operand &&
            (nest_formula_users(nest, (uint32_t)f) >> number & 1))
            return true;
    }
    return false;
}

// At one point all loads mean the values from before: a stage that loads what another stores goes first.
static bool sort_point_stages(Nest *nest, int begin) {
    Stage sorted[STAGE_LIMIT];
    bool done[STAGE_LIMIT] = {false};
    for (int at = begin; at < nest->stage_count; at++) {
        int next = -1;
        for (int s = begin; s < nest->stage_count && next < 0; s++) {
            bool ready = !done[s];
            for (int other = begin; other < nest->stage_count && ready; other++) {
                if (other == s || done[other]) continue;
                ready = !stage_loads(nest, other, nest->stages[s].operand);
                if (other < s && nest->stages[other].operand == nest->stages[s].operand) ready = false;
            }
            if (ready) next = s;
        }
        if (next < 0) return false;
        sorted[at] = nest->stages[next];
        done[next] = true;
    }
    memcpy(&nest->stages[begin], &sorted[begin], sizeof(Stage) * (size_t)(nest->stage_count - begin));
    return true;
}

// Stores to temporaries that nothing reads any more go.
void merge_drop_dead_stores(Merge *merge) {
    bool dropped[STAGE_LIMIT] = {false}, any = false, all = true;
    const Nest *nest = merge->nest;
    for (int s = 0; s < nest->stage_count; s++) {
        if (nest->stages[s].kind != STAGE_STORE) continue;
        uint32_t buffer = merge->built.launch.buffers[nest->stages[s].operand];
        bool read = !only_reader(merge, buffer);
        for (int i = 0; i < nest->operand_count && !read; i++)
            read = merge->built.launch.buffers[i] == buffer && nest->operands[i].reads;
        dropped[s] = !read;
        any |= !read;
    }
    for (int s = 0; s < nest->stage_count; s++) all &= dropped[s] || !stage_writes(&nest->stages[s]);
    if (all) memset(dropped, 0, sizeof dropped);
    if ((!any || all) && !merge->joined) return;
    Launch launch;
    merge->built.nest = merge->nest = nest_without_stages(nest, &merge->built.launch, dropped, &launch);
    merge->built.launch = launch;
}

// A load that does not move with the inner loops comes after a store to its buffer: a back end may still
// hold the value from before in a register.
bool merge_reads_back_at_point(const Merge *merge) {
    const Nest *nest = merge->nest;
    const uint32_t *buffers = merge->built.launch.buffers;
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        uint32_t loops = nest_index_loops(nest, &nest->operands[load->operand], load->index);
        uint32_t users = nest_formula_users(nest, (uint32_t)f);
        for (int s = 0; s < nest->stage_count && !(loops & ~nest_outer_mask(nest)); s++)
            if (stage_writes(&nest->stages[s]) &&
                buffers[nest->stages[s].operand] == buffers[load->operand] && users >> s > 1)
                return true;
    }
    return false;
}

// C computes a temporary that P has made as well: it was cloned so that the value need not be kept, and
// must stay where it is.
bool merge_stores_twice(const Merge *merge) {
    const Nest *nest = merge->nest;
    const Buffer *buffers = merge->fuse->program->buffers.items;
    for (int s = merge->p_stages; s < nest->stage_count; s++)
        for (int other = 0; other < merge->p_stages; other++) {
            const Stage *a = &nest->stages[s], *b = &nest->stages[other];
            if (stage_writes(a) && stage_writes(b) && a->formula == b->formula && a->inner == b->inner &&
                nest->formulas.items[a->formula].kind != FORMULA_CONSTANT &&
                buffers[merge->built.launch.buffers[a->operand]].kind == BUFFER_TEMPORARY &&
                buffers[merge->built.launch.buffers[b->operand]].kind == BUFFER_TEMPORARY)
                return true;
        }
    return false;
}

bool merge_fill(Merge *merge) {
    const Nest *p = merge->P->nest, *c = merge->C->nest;
    merge->c_plant.replace = stored_formula;
    merge->c_plant.context = merge;
    merge->point = true;
    for (int i = 0; i < c->stage_count; i++)
        merge->point &= stage_writes(&c->stages[i]) && c->stages[i].inner == 0;
    if (nest_outer_mask(c) & ~merge_paired_c(merge)) merge->point = false;
    add_stages(merge, &merge->p_plant, nest_outer_mask(p) & ~merge_paired_p(merge));
    if (merge->p_plant.failed) return false;
    merge->p_stages = merge->trailing = merge->nest->stage_count;
    while (merge->trailing > 0 && merge->nest->stages[merge->trailing - 1].inner == 0 &&
           stage_writes(&merge->nest->stages[merge->trailing - 1]))
        merge->trailing--;
    add_stages(merge, &merge->c_plant, nest_outer_mask(c) & ~merge_paired_c(merge));
    if (merge->c_plant.failed) return false;
    if (!merge->point) return true;
    merge->joined = join_writes(merge);
    return sort_point_stages(merge->nest, merge->trailing);
}
