// fuse, first part: elementwise launches go into the formulas of the launches that read their result.
//
//   t[b, e] = mul(x[b, e], g[e]);  y[b, e] = add(t[b, e], x[b, e])
//   -> y[b, e] = add(mul(x[b, e], g[e]), x[b, e])
//
// All readers of a result take its formula, and then the launch and its buffer are gone, or none does (but
// constants and the like are taken by those who can, where a named kernel needs the buffer).
// First it is decided for every producer, in order, what becomes of it; then every launch that is left is
// built once, with the formulas of all producers below it.
//
// When is it worth it? `repeats` is how often an element is computed afterwards, `bytes` are what is
// read and written.
//  - once: always (nothing is computed twice, and the buffer is saved);
//  - more often: never where the formula is expensive or gathers; else where the readers together then
//    move no more bytes than before, and the formula is small: 12 operations up to 4 repeats, 2 above;
//  - constants, indices and scalars: always, up to 8 operations.
// On a GPU a sum of products is not one formula behind the last of them: each adds what the one before made.
// Rounding to fewer bytes is there for what is stored: a float that is made narrower out of a temporary is kept so.
// The two factors of a contraction take only casts of state and inputs: its fast path wants plain loads.
#include <string.h>

#include "passes/fuse.h"

enum { SMALL_BYTES = 64, FREE_OPERATIONS = 8, FEW_REPEATS = 4, FEW_OPERATIONS = 12, MANY_OPERATIONS = 2 };

// What the formula of an inlined producer reads in the end.
typedef struct Leaf {
    uint32_t buffer, reader;  // the launch that had this load at first
    Span span;
    double bytes;
} Leaf;
typedef VECTOR(Leaf) LeafList;

typedef struct Producer {
    bool inlined, refused;
    FormulaCost cost;
    LeafList leaves;
} Producer;

typedef struct Inline {
    Fuse *fuse;
    Producer *producers;  // per item
    uint32_t *maker;      // per buffer: the inlined item that makes it, or UINT32_MAX
} Inline;

// ---- Which loop values of the producer an access of a consumer means ----

typedef struct Inverse {
    Affine loop[LOOP_MAX];  // over the loops of the consumer
    uint32_t gathered[LOOP_MAX];
} Inverse;

// The common case: the consumer sees the buffer as the producer does, dimension by dimension.
static bool invert_by_dimension(const Item *producer, const NestOperand *seen, int64_t offset,
                                const Index *index, Inverse *inverse) {
    const Stage *store = &producer->nest->stages[0];
    const NestOperand *operand = &producer->nest->operands[store->operand];
    uint32_t found = 0;
    if (offset != producer->launch.offsets[store->operand] || operand->rank != seen->rank) return false;
    for (int d = 0; d < operand->rank; d++) {
        if (operand->extent[d] != seen->extent[d] || operand->stride[d] != seen->stride[d]) return false;
        const Affine *affine = &store->index[d].affine;
        int loop = -1;
        for (int i = 0; i < producer->nest->loop_count; i++) {
            if (!affine->scale[i]) continue;
            if (affine->scale[i] != 1 || loop >= 0) return false;
            loop = i;
        }
        if (loop < 0 || affine->offset || (found >> loop & 1)) return false;
        found |= 1u << loop;
        inverse->loop[loop] = index[d].affine;
        inverse->gathered[loop] = index[d].gathered;
    }
    return found == nest_outer_mask(producer->nest);
}

// The general case works on addresses: the producer writes base + sum of step[loop] * loop, where the
// steps are a mixed radix; every coefficient of the consumer's address is written in that radix.
typedef struct Radix {
    int count, loop[LOOP_MAX];  // loops of extent above 1, the largest step first
    int64_t step[LOOP_MAX], extent[LOOP_MAX];
} Radix;

static bool make_radix(const Nest *nest, const Address *written, Radix *radix) {
    radix->count = 0;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        int64_t extent = nest->loops[loop].dimension.extent, step = written->coefficient[loop];
        if (extent == 1) continue;
        if (step <= 0) return false;
        int at = radix->count++;
        for (; at > 0 && radix->step[at - 1] < step; at--) {
            radix->step[at] = radix->step[at - 1];
            radix->extent[at] = radix->extent[at - 1];
            radix->loop[at] = radix->loop[at - 1];
        }
        radix->step[at] = step;
        radix->extent[at] = extent;
        radix->loop[at] = loop;
    }
    for (int i = 0; i + 1 < radix->count; i++)
        if (radix->step[i] < radix->step[i + 1] * radix->extent[i + 1]) return false;
    return true;
}

static bool digits_of(const Radix *radix, int64_t value, int64_t *digits) {
    for (int i = 0; i < radix->count; i++) {
        digits[i] = value / radix->step[i];
        value -= digits[i] * radix->step[i];
    }
    return value == 0;
}

// No digit may leave its range, else it would carry into the next loop.
static bool digits_fit(const Radix *radix, const Nest *consumer, const Inverse *inverse) {
    for (int i = 0; i < radix->count; i++) {
        const Affine *affine = &inverse->loop[radix->loop[i]];
        int64_t low = affine->offset, high = affine->offset;
        for (int loop = 0; loop < consumer->loop_count; loop++) {
            int64_t last = affine->scale[loop] * (consumer->loops[loop].dimension.extent - 1);
            *(last < 0 ? &low : &high) += last;
        }
        if (low < 0 || high >= radix->extent[i]) return false;
    }
    return true;
}

static bool invert_by_address(const Item *producer, const Nest *consumer, const NestOperand *seen,
                              int64_t offset, const Index *index, Inverse *inverse) {
    const Nest *nest = producer->nest;
    const Stage *store = &nest->stages[0];
    Address written = nest_address(nest, &producer->launch, store->operand, store->index);
    Radix radix;
    int64_t digits[LOOP_MAX], constant = offset - written.offset, coefficient[LOOP_MAX] = {0};
    if (!make_radix(nest, &written, &radix)) return false;
    for (int d = 0; d < seen->rank; d++) {
        constant += index[d].affine.offset * seen->stride[d];
        for (int loop = 0; loop < consumer->loop_count; loop++)
            coefficient[loop] += index[d].affine.scale[loop] * seen->stride[d];
        if (index[d].gathered == FORMULA_NONE) continue;
        int at = 0;  // a gathered dimension must be one loop, and nothing else may move that loop
        while (at < radix.count && (radix.step[at] != seen->stride[d] || radix.extent[at] != seen->extent[d]))
            at++;
        if (at == radix.count || inverse->gathered[radix.loop[at]] != FORMULA_NONE) return false;
        inverse->gathered[radix.loop[at]] = index[d].gathered;
    }
    if (constant < 0 || !digits_of(&radix, constant, digits)) return false;
    for (int i = 0; i < radix.count; i++) inverse->loop[radix.loop[i]].offset = digits[i];
    for (int loop = 0; loop < consumer->loop_count; loop++) {
        if (!digits_of(&radix, coefficient[loop], digits)) {
            if (consumer->loops[loop].dimension.extent > 1) return false;
            continue;
        }
        for (int i = 0; i < radix.count; i++) inverse->loop[radix.loop[i]].scale[loop] = digits[i];
    }
    for (int i = 0; i < radix.count; i++) {
        static const Affine zero;
        if (inverse->gathered[radix.loop[i]] != FORMULA_NONE &&
            memcmp(&inverse->loop[radix.loop[i]], &zero, sizeof zero) != 0)
            return false;
    }
    return digits_fit(&radix, consumer, inverse);
}

static bool invert(const Item *producer, const Nest *consumer, const NestOperand *seen, int64_t offset,
                   const Index *index, Inverse *inverse) {
    memset(inverse, 0, sizeof *inverse);
    for (int i = 0; i < LOOP_MAX; i++) inverse->gathered[i] = FORMULA_NONE;
    if (invert_by_dimension(producer, seen, offset, index, inverse)) return true;
    memset(inverse->loop, 0, sizeof inverse->loop);
    for (int i = 0; i < LOOP_MAX; i++) inverse->gathered[i] = FORMULA_NONE;
    return invert_by_address(producer, consumer, seen, offset, index, inverse);
}

// ---- Deciding ----

static bool is_elementwise(const Item *item) {
    const Nest *nest = item->nest;
    if (!item->alive || !nest || nest->stage_count != 1 || nest->loop_count != nest->outer_count)
        return false;
    const Stage *store = &nest->stages[0];
    if (store->kind != STAGE_STORE) return false;
    for (int d = 0; d < nest->operands[store->operand].rank; d++)
        if (store->index[d].gathered != FORMULA_NONE) return false;
    return true;
}

// How often a value that moves with `loops` is computed in a stage: loops further in than the innermost
// of them do not count, the value is kept over those.
static double visits(const Nest *nest, const Stage *stage, uint32_t loops) {
    uint32_t all = nest_outer_mask(nest) | stage->inner, counted = 0;
    loops &= all;
    for (int loop = 0; loop < nest->loop_count && loops >> loop; loop++) counted |= 1u << loop;
    return nest_iterations(nest, counted & all);
}

static bool is_factor(const Nest *nest, uint32_t load) {
    Contraction contraction;
    return nest_contraction(nest, &contraction) && (load == contraction.load_a || load == contraction.load_b);
}

// A cast, or several, of state or an input: what a factor of a contraction may take.
static bool is_stored_cast(const Inline *inl, const Producer *producer) {
    if (producer->cost.operations || producer->cost.gathers || producer->leaves.count != 1) return false;
    return inl->fuse->program->buffers.items[producer->leaves.items[0].buffer].kind < BUFFER_OUTPUT;
}

// A float that is stored in fewer bytes than what it is made of.
static bool narrows(const Inline *inl, const Item *item, const Producer *about) {
    const Nest *nest = item->nest;
    const Formula *value = &nest->formulas.items[nest->stages[0].formula];
    if (value->kind != FORMULA_PRIMITIVE || value->primitive != PRIMITIVE_cast) return false;
    Element from = nest->formulas.items[value->arguments[0]].element;
    if (!element_is_float(from) || !element_is_float(value->element)) return false;
    bool temporary = false;
    for (size_t i = 0; i < about->leaves.count; i++)
        temporary |= inl->fuse->program->buffers.items[about->leaves.items[i].buffer].kind == BUFFER_TEMPORARY;
    return temporary && element_bytes(value->element) < element_bytes(from);
}

// A launch that only writes where it reads may take loads of what it writes, in the same place; whether
// the places are the same shows when it is built.
static bool may_read_own_target(const Item *item) { return is_elementwise(item); }

static bool leaf_survives(const Inline *inl, const Leaf *leaf, uint32_t reader) {
    const Fuse *fuse = inl->fuse;
    uint32_t high = may_read_own_target(&fuse->items[reader]) ? reader - 1 : reader;
    return !fuse_written(fuse, leaf->buffer, leaf->span, leaf->reader, high);
}

static bool reads_already(const Item *item, const Leaf *leaf) {
    for (int i = 0; i < item->launch.operand_count; i++)
        if (item->launch.buffers[i] == leaf->buffer) return true;
    return false;
}

// One reader: can it take the formula? Adds up how often it computes it and what it reads for it.
static bool reader_accepts(const Inline *inl, uint32_t id, uint32_t reader, double *repeats, double *bytes) {
    const Fuse *fuse = inl->fuse;
    const Item *producer = &fuse->items[id], *item = &fuse->items[reader];
    const Producer *about = &inl->producers[id];
    uint32_t buffer = producer->launch.buffers[producer->nest->stages[0].operand];
    double elements = nest_iterations(producer->nest, nest_outer_mask(producer->nest));
    for (size_t f = 0; f < item->nest->formulas.count; f++) {
        const Formula *load = &item->nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD || item->launch.buffers[load->operand] != buffer) continue;
        const NestOperand *seen = &item->nest->operands[load->operand];
        Inverse inverse;
        bool packed = is_factor(item->nest, (uint32_t)f);  // read once, and converted on the way
        if (packed && !is_stored_cast(inl, about)) return false;
        if (!invert(producer, item->nest, seen, item->launch.offsets[load->operand], load->index, &inverse))
            return false;
        if (packed) continue;
        uint32_t loops = nest_index_loops(item->nest, seen, load->index);
        uint32_t users = nest_formula_users(item->nest, (uint32_t)f);
        for (int s = 0; s < item->nest->stage_count; s++)
            if (users >> s & 1) *repeats += visits(item->nest, &item->nest->stages[s], loops) / elements;
    }
    for (size_t i = 0; i < about->leaves.count; i++) {
        const Leaf *leaf = &about->leaves.items[i];
        if (!leaf_survives(inl, leaf, reader)) return false;
        if (!reads_already(item, leaf)) *bytes += leaf->bytes;
    }
    return true;
}

// Joining a producer to a reader far away keeps its leaves, where nothing else does, instead of its result.
static bool keeps_little(const Inline *inl, uint32_t id, double own) {
    const Fuse *fuse = inl->fuse;
    uint32_t buffer = fuse->items[id].launch.buffers[fuse->items[id].nest->stages[0].operand];
    uint32_t last = fuse_last_reader(fuse, buffer);
    double kept = 0;
    for (size_t i = 0; i < inl->producers[id].leaves.count; i++) {
        const Leaf *leaf = &inl->producers[id].leaves.items[i];
        if (fuse->program->buffers.items[leaf->buffer].kind == BUFFER_TEMPORARY &&
            fuse_last_reader(fuse, leaf->buffer) < last)
            kept += leaf->bytes;
    }
    return last < id + FUSE_WINDOW || kept <= own;
}

// Bytes of leaves that only this producer reads and that a reduction makes: with the producer as its
// epilogue (fuse_merge) they are never written.
static double epilogue_bytes(const Inline *inl, uint32_t id) {
    const Fuse *fuse = inl->fuse;
    double bytes = 0;
    for (size_t i = 0; i < inl->producers[id].leaves.count; i++) {
        const Leaf *leaf = &inl->producers[id].leaves.items[i];
        if (leaf->reader != id || fuse->program->buffers.items[leaf->buffer].kind != BUFFER_TEMPORARY)
            continue;
        if (fuse->readers[leaf->buffer].count != 1 || fuse->writers[leaf->buffer].count != 1) continue;
        const Item *maker = &fuse->items[fuse->writers[leaf->buffer].items[0]];
        if (maker->nest && maker->nest->stage_count > 1) bytes += 2 * leaf->bytes;
    }
    return bytes;
}

// The buffer of a library's product that only this item reads, of those that its formula adds up; UINT32_MAX: none.
static uint32_t added_product(const Fuse *fuse, uint32_t id) {
    const Item *item = &fuse->items[id];
    if (!is_elementwise(item)) return UINT32_MAX;
    const Nest *nest = item->nest;
    const Formula *sum = &nest->formulas.items[nest->stages[0].formula];
    for (int a = 0; sum->kind == FORMULA_PRIMITIVE && sum->primitive == PRIMITIVE_add && a < 2; a++) {
        const Formula *load = &nest->formulas.items[sum->arguments[a]];
        if (load->kind != FORMULA_LOAD) continue;
        uint32_t buffer = item->launch.buffers[load->operand];
        if (fuse->readers[buffer].count == 1 && fuse->writers[buffer].count == 1 &&
            item_is_library_product(fuse, &fuse->items[fuse->writers[buffer].items[0]]))
            return buffer;
    }
    return UINT32_MAX;
}

// Whether the item and its one reader each add a product.
static bool chains_products(const Fuse *fuse, uint32_t id, const ItemList *readers) {
    return readers->count == 1 && added_product(fuse, id) != UINT32_MAX &&
           added_product(fuse, readers->items[0]) != UINT32_MAX;
}

// Constants, indices and what little comes of them.
static bool is_free(const Producer *about) {
    double own = 0;
    for (size_t i = 0; i < about->leaves.count; i++) own += about->leaves.items[i].bytes;
    return own <= SMALL_BYTES && about->cost.operations <= FREE_OPERATIONS && !about->cost.expensive &&
           !about->cost.gathers;
}

static bool is_worth_it(const Producer *about, double repeats, double bytes_before, double bytes_after) {
    bool hard = about->cost.expensive || about->cost.gathers;
    if (repeats <= 1 || is_free(about)) return true;
    if (hard) return false;
    int limit = repeats <= FEW_REPEATS ? FEW_OPERATIONS : MANY_OPERATIONS;
    return about->cost.operations <= limit && bytes_after <= bytes_before;
}

// What the producer's formula costs and reads when all inlined producers below it are part of it.
static void gather_leaves(Inline *inl, uint32_t id) {
    const Item *item = &inl->fuse->items[id];
    Producer *about = &inl->producers[id];
    const Nest *nest = item->nest;
    about->cost = nest_formula_cost(nest, nest->stages[0].formula);
    about->leaves.count = 0;
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        uint32_t buffer = item->launch.buffers[load->operand], maker = inl->maker[buffer];
        if (maker == UINT32_MAX) {
            double count =
                nest_iterations(nest, nest_index_loops(nest, &nest->operands[load->operand], load->index));
            Leaf leaf = {buffer, id, item_span(inl->fuse, item, (int)load->operand),
                         count * element_bytes(load->element)};
            vector_push(inl->fuse->ir.arena, &about->leaves, leaf);
            continue;
        }
        const Producer *below = &inl->producers[maker];
        about->cost.operations += below->cost.operations;
        about->cost.expensive |= below->cost.expensive;
        about->cost.gathers |= below->cost.gathers;
        for (size_t i = 0; i < below->leaves.count; i++)
            vector_push(inl->fuse->ir.arena, &about->leaves, below->leaves.items[i]);
    }
}

static void decide(Inline *inl, uint32_t id) {
    Fuse *fuse = inl->fuse;
    const Item *item = &fuse->items[id];
    Producer *about = &inl->producers[id];
    if (!is_elementwise(item)) return;
    gather_leaves(inl, id);
    uint32_t buffer = item->launch.buffers[item->nest->stages[0].operand];
    const ItemList *readers = &fuse->readers[buffer], *writers = &fuse->writers[buffer];
    if (about->refused || fuse->program->buffers.items[buffer].kind != BUFFER_TEMPORARY) return;
    if (narrows(inl, item, about)) return;
    if (writers->count != 1 || (readers->count && readers->items[0] <= id)) return;
    double before = 0, after = 0, repeats = 0;
    uint32_t named = 0;  // kernels that need the buffer whatever others do
    double own = nest_iterations(item->nest, nest_outer_mask(item->nest)) *
                 element_bytes(item->nest->stages[0].element);
    for (size_t i = 0; i < readers->count; i++) {
        if (!fuse->items[readers->items[i]].nest)
            named++;
        else if (!reader_accepts(inl, id, readers->items[i], &repeats, &after))
            return;
    }
    if (named && (named == readers->count || !is_free(about))) return;
    for (size_t i = 0; i < about->leaves.count; i++) before += about->leaves.items[i].bytes;
    if (chains_products(fuse, id, readers)) return;
    // On a GPU what reads the leaves makes the result on the way, and only others read it.
    before += own * (double)(readers->count + !fuse->for_gpu) - epilogue_bytes(inl, id);
    if (!is_worth_it(about, repeats, before, after) || !keeps_little(inl, id, own)) return;
    about->inlined = named == 0;
    inl->maker[buffer] = id;
}

// ---- Building ----

static uint32_t replace_load(Transplant *transplant, const Formula *load, const Formula *mapped) {
    Inline *inl = transplant->context;
    uint32_t maker = inl->maker[transplant->from_launch->buffers[load->operand]];
    if (maker == UINT32_MAX) return FORMULA_NONE;
    const Item *producer = &inl->fuse->items[maker];
    Inverse inverse;
    if (!invert(producer, transplant->to, &transplant->from->operands[load->operand],
                transplant->from_launch->offsets[load->operand], mapped->index, &inverse)) {
        transplant->failed = true;
        return FORMULA_NONE;
    }
    Transplant below =
        transplant_begin(producer->nest, &producer->launch, transplant->to, transplant->launch);
    memcpy(below.loop, inverse.loop, sizeof below.loop);
    memcpy(below.gathered, inverse.gathered, sizeof below.gathered);
    below.replace = replace_load;
    below.context = inl;
    uint32_t formula = transplant_formula(&below, producer->nest->stages[0].formula);
    transplant->failed |= below.failed;
    return formula;
}

static void append_name(const Ir *ir, Nest *nest, const Inline *inl, const Item *item) {
    // The names of the launches that went in, in their order, as far as they are short.
    const char *name = nest->name;
    for (int i = 0; i < item->launch.operand_count; i++) {
        uint32_t maker = inl->maker[item->launch.buffers[i]];
        if (maker == UINT32_MAX || !item_reads(inl->fuse, item, i)) continue;
        const char *part = inl->fuse->items[maker].nest->name;
        if (strlen(name) + strlen(part) < 32 && !strstr(name, part))
            name = names_format(ir->names, "%s_%s", part, name);
    }
    nest->name = name;
}

// The item with the formulas of all inlined producers that it reads; false where a limit stands in the way.
static bool build(Inline *inl, const Item *item, Item *built) {
    Fuse *fuse = inl->fuse;
    Nest *nest = nest_create(&fuse->trial, item->nest->name, item->nest->place);
    *built = (Item){.nest = nest, .launch = item->launch, .alive = true};
    built->launch.operand_count = 0;
    Transplant transplant = transplant_begin(item->nest, &item->launch, nest, &built->launch);
    transplant.replace = replace_load;
    transplant.context = inl;
    for (int i = 0; i < item->nest->loop_count; i++) transplant_loop(&transplant, i);
    nest->outer_count = item->nest->outer_count;
    for (int i = 0; i < item->nest->stage_count && !transplant.failed; i++) {
        Stage stage = item->nest->stages[i];
        stage.formula = transplant_formula(&transplant, stage.formula);
        transplant_write(&transplant, &stage);
        transplant.stage[i] = (uint32_t)i;
        nest->stages[nest->stage_count++] = stage;
    }
    if (transplant.failed || !nest_operands_apart(fuse, built)) return false;
    nest_compact(nest);
    nest_mark_parallel(nest);
    append_name(&fuse->ir, nest, inl, item);
    return true;
}

// Loads of what the launch itself writes must be loads of the very element that is written.
static bool reads_own_target_in_place(const Item *built) {
    const Stage *store = &built->nest->stages[0];
    if (!stage_writes(store)) return true;
    Address target = nest_address(built->nest, &built->launch, store->operand, store->index);
    for (size_t f = 0; f < built->nest->formulas.count; f++) {
        const Formula *load = &built->nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD || load->operand != store->operand) continue;
        Address address = nest_address(built->nest, &built->launch, load->operand, load->index);
        if (!address_equal(&address, &target)) return false;
    }
    return true;
}

static bool reads_inlined(const Inline *inl, const Item *item) {
    for (int i = 0; i < item->launch.operand_count; i++)
        if (item_reads(inl->fuse, item, i) && inl->maker[item->launch.buffers[i]] != UINT32_MAX) return true;
    return false;
}

// Builds all launches that are left; built[i] stays NULL where the item stays as it is. False where one
// cannot be built: its producers stay then.
static bool build_all(Inline *inl, Item **built) {
    Fuse *fuse = inl->fuse;
    bool ok = true;
    for (uint32_t i = 0; i < fuse->count; i++) {
        const Item *item = &fuse->items[i];
        built[i] = NULL;
        if (!item->alive || inl->producers[i].inlined || !item->nest || !reads_inlined(inl, item)) continue;
        Item made;
        bool fits = build(inl, item, &made) && (!may_read_own_target(item) || reads_own_target_in_place(&made));
        if (fits) {
            built[i] = ARENA_NEW(fuse->ir.arena, Item);
            *built[i] = made;
            built[i]->nest = fuse_keep_nest(fuse, made.nest);
        }
        fuse_end_trial(fuse);
        if (fits) continue;
        ok = false;
        for (int o = 0; o < item->launch.operand_count; o++) {
            uint32_t maker = inl->maker[item->launch.buffers[o]];
            if (maker != UINT32_MAX) inl->producers[maker].refused = true;
        }
    }
    return ok;
}

void fuse_inline(Fuse *fuse) {
    Inline inl = {.fuse = fuse, .producers = ARENA_ARRAY(fuse->ir.arena, Producer, fuse->count + 1)};
    size_t buffers = fuse->program->buffers.count;
    inl.maker = ARENA_ARRAY(fuse->ir.arena, uint32_t, buffers + 1);
    Item **built = ARENA_ARRAY(fuse->ir.arena, Item *, fuse->count + 1);
    do {
        memset(inl.maker, 0xff, sizeof(uint32_t) * (buffers + 1));
        for (uint32_t i = 0; i < fuse->count; i++) {
            inl.producers[i].inlined = false;
            decide(&inl, i);
        }
    } while (!build_all(&inl, built));
    for (uint32_t i = 0; i < fuse->count; i++) {
        if (!fuse->items[i].alive || (!built[i] && !inl.producers[i].inlined)) continue;
        fuse_unlist_item(fuse, i);
        if (inl.producers[i].inlined) {
            fuse->items[i].alive = false;
            continue;
        }
        fuse->items[i] = *built[i];
        fuse_list_item(fuse, i);
    }
}
