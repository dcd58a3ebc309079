// fuse, third part: launches over common loops become one nest, whose stages are theirs in order.
//
//   s[b] = sum over e of x[b, e]^2;  y[b, e] = x[b, e] * rsqrt(s[b])
//   -> outer b { stage 0: sum over e { x^2 };  stage 1: store over e y { x * rsqrt(stage 0) } }
//
// A pair (P, C), P first, is merged when
//  - no launch between stands in the way of moving C up to P, or else P down to C;
//  - all outer loops of both are parallel, and they correspond: A) all of them; or B) C has more and no
//    reductions: its further loops become inner ones; or C) P has more and no reductions. In B and C the
//    loops that turn inner hold the contiguous one, and enough iterations are left outside;
//  - whatever one of them writes and the other touches is touched in the same outer iteration;
//  - C reads what P makes; or A) holds and they share a quarter of the bytes that the smaller one moves,
//    or a byte where both are small; or both are scalars.
//  - they are near, or moving one over to the other does not keep more memory for longer.
//  - what is computed again for the backward pass (a launch with a region) only joins its own region: it
//    must not go back to where the values were made first.
// C never is a contraction. Where P is one, A) holds, C has no reductions, and C becomes its epilogue.
// Where C loads what a stage of P stored in the same place, it takes the formula: always at one point of
// the iteration or where it does not move with the inner loops; else where it is small and the buffer is
// gone then. Otherwise the value is read back from the row just written.
#include <string.h>

#include "passes/fuse.h"

enum {
    CANDIDATES = 12,
    ENOUGH_ITERATIONS = 16, // outer iterations of a merged nest with much work in each
    MUCH_WORK = 1 << 15,
    LITTLE_WORK = 1 << 15,  // two reductions to scalars that may share one thread
    SMALL_FORMULA = 6,
    SMALL_BYTES = 1 << 15,
    FORMULA_LIMIT = 400,
    TRIES = 6               // ways to pair the loops of two launches
};

typedef struct Access {
    Address address;
    bool writes;
    uint32_t stages;  // that make it
    double bytes;
} Access;

typedef struct AccessList {
    Access *items;
    size_t count;
} AccessList;

typedef struct Merge {
    Fuse *fuse;
    uint32_t p, c;
    const Item *P, *C;
    AccessList p_access, c_access;
    bool is_contraction, feeds;     // of P; C reads what P makes
    int p_of_c[LOOP_MAX];           // the outer loop of P that is this outer loop of C, or -1
    Item built;
    Nest *nest;                     // built.nest while it grows
    Transplant p_plant, c_plant;
    int tried[TRIES][LOOP_MAX];     // pairings that did not work
    int tried_count;
    int p_stages;                   // stages [0, p_stages) of the merged nest are P's
    int trailing;                   // first of P's last stages without inner loops
    bool point;                     // all stages of C are without inner loops
    bool joined;                    // some took the place of one of P's
} Merge;

// ---- Accesses ----

static AccessList list_accesses(const Fuse *fuse, const Item *item) {
    const Nest *nest = item->nest;
    AccessList list = {ARENA_ARRAY(fuse->ir.arena, Access, nest->formulas.count + STAGE_LIMIT), 0};
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        uint32_t loops = nest_index_loops(nest, &nest->operands[load->operand], load->index);
        list.items[list.count++] =
            (Access){nest_address(nest, &item->launch, load->operand, load->index), false,
                     nest_formula_users(nest, (uint32_t)f), nest_iterations(nest, loops) * element_bytes(load->element)};
    }
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (!stage_writes(stage)) continue;
        uint32_t loops = nest_index_loops(nest, &nest->operands[stage->operand], stage->index);
        list.items[list.count++] =
            (Access){nest_address(nest, &item->launch, stage->operand, stage->index), true, 1u << i,
                     nest_iterations(nest, loops) * element_bytes(nest->operands[stage->operand].element)};
    }
    return list;
}

static bool loops_alike(const Item *a, int i, const Item *b, int j) {
    const Loop *x = &a->nest->loops[i], *y = &b->nest->loops[j];
    if (x->dimension.extent != y->dimension.extent) return false;
    bool x_bound = x->bound_operand != UINT32_MAX, y_bound = y->bound_operand != UINT32_MAX;
    if (x_bound != y_bound) return false;
    return !x_bound || a->launch.buffers[x->bound_operand] == b->launch.buffers[y->bound_operand];
}

// ---- Outer loops ----

static bool reduces(const Nest *nest) {
    for (int i = 0; i < nest->stage_count; i++)
        if (!stage_writes(&nest->stages[i])) return true;
    return false;
}

// Pairs the outer loops of C with those of P by the steps they take in two accesses to one buffer, one
// of each; among several, and where neither moves, by name.
static void pair_outer_loops(Merge *merge, const Access *p, const Access *c) {
    uint32_t taken = 0;
    for (int j = 0; j < LOOP_MAX; j++) merge->p_of_c[j] = -1;
    for (int pass = 0; pass < 2; pass++)  // equal names first
        for (int j = 0; j < merge->C->nest->outer_count; j++)
            for (int i = 0; i < merge->P->nest->outer_count && merge->p_of_c[j] < 0; i++) {
                bool same_name = merge->P->nest->loops[i].dimension.name == merge->C->nest->loops[j].dimension.name;
                int64_t step = p->address.coefficient[i];
                if (taken >> i & 1 || !loops_alike(merge->P, i, merge->C, j)) continue;
                if (step != c->address.coefficient[j]) continue;
                if (!same_name && (pass == 0 || step == 0)) continue;
                merge->p_of_c[j] = i;
                taken |= 1u << i;
            }
}

static uint32_t paired_p(const Merge *merge) {
    uint32_t mask = 0;
    for (int j = 0; j < merge->C->nest->outer_count; j++)
        if (merge->p_of_c[j] >= 0) mask |= 1u << merge->p_of_c[j];
    return mask;
}

static uint32_t paired_c(const Merge *merge) {
    uint32_t mask = 0;
    for (int j = 0; j < merge->C->nest->outer_count; j++)
        if (merge->p_of_c[j] >= 0) mask |= 1u << j;
    return mask;
}

// The outer loop with the smallest step of every write is among `loops`.
static bool holds_contiguous(const Nest *nest, const AccessList *accesses, uint32_t loops) {
    for (size_t i = 0; i < accesses->count; i++) {
        int best = -1;
        int64_t least = INT64_MAX;
        if (!accesses->items[i].writes) continue;
        for (int loop = 0; loop < nest->outer_count; loop++) {
            int64_t step = accesses->items[i].address.coefficient[loop];
            if (step < 0) step = -step;
            if (step == 0 || step >= least || nest->loops[loop].dimension.extent == 1) continue;
            least = step;
            best = loop;
        }
        if (best >= 0 && !(loops >> best & 1)) return false;
    }
    return true;
}

static bool moves_inside(const Nest *nest, const Address *address) {
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++)
        if (address->coefficient[loop]) return true;
    return false;
}

// Some reduction walks its operands along an outer loop: bias gradients and the like.
static bool reduces_columns(const Nest *nest, const AccessList *accesses) {
    for (size_t i = 0; i < accesses->count; i++) {
        const Access *access = &accesses->items[i];
        int best = -1;
        int64_t least = INT64_MAX;
        bool in_reduction = false;
        for (int s = 0; s < nest->stage_count; s++)
            in_reduction |= (access->stages >> s & 1) && !stage_writes(&nest->stages[s]);
        if (!in_reduction || !moves_inside(nest, &access->address)) continue;
        for (int loop = 0; loop < nest->loop_count; loop++) {
            int64_t step = access->address.coefficient[loop];
            if (step < 0) step = -step;
            if (step == 0 || step >= least || nest->loops[loop].dimension.extent == 1) continue;
            least = step;
            best = loop;
        }
        if (best >= 0 && best < nest->outer_count && least == 1) return true;
    }
    return false;
}

static double most_work(const Nest *nest) {
    double most = 0;
    for (int i = 0; i < nest->stage_count; i++) {
        double work = nest_iterations(nest, nest_outer_mask(nest) | nest->stages[i].inner);
        if (work > most) most = work;
    }
    return most;
}

// Cases A, B and C of the head of this file.
static bool structure_fits(const Merge *merge) {
    const Nest *p = merge->P->nest, *c = merge->C->nest;
    uint32_t more_p = nest_outer_mask(p) & ~paired_p(merge), more_c = nest_outer_mask(c) & ~paired_c(merge);
    if (merge->is_contraction && (more_p || more_c || reduces(c))) return false;
    if (reduces(p) && reduces(c) &&
        (reduces_columns(p, &merge->p_access) || reduces_columns(c, &merge->c_access)))
        return false;
    if (reduces(p) && reduces(c) && p->outer_count == 0 && most_work(p) + most_work(c) > LITTLE_WORK) return false;
    if (!more_p && !more_c) return true;
    if ((more_p && more_c) || !merge->feeds) return false;
    if (more_p ? reduces(p) : reduces(c)) return false;
    if (paired_p(merge) == 0) return false;
    if (!holds_contiguous(more_p ? p : c, more_p ? &merge->p_access : &merge->c_access, more_p ? more_p : more_c))
        return false;
    double work = most_work(more_p ? p : c);
    return work <= MUCH_WORK || nest_iterations(p, paired_p(merge)) >= ENOUGH_ITERATIONS;
}

// ---- The loops of the merged nest ----

static int loop_in_merged(const Transplant *plant, int loop) {
    for (int i = 0; i < LOOP_MAX; i++)
        if (plant->loop[loop].scale[i]) return i;
    return -1;
}

// An inner loop of the merged nest that can be loop `j` of C too: by its steps in the pair of accesses
// that were compared, else by name.
static int find_inner(const Merge *merge, const Access *p, const Access *c, int j) {
    int found = -1;
    for (int i = 0; i < merge->P->nest->loop_count; i++) {
        int loop = loop_in_merged(&merge->p_plant, i);
        bool taken = loop < merge->nest->outer_count;
        for (int other = 0; other < merge->C->nest->loop_count; other++)
            taken |= loop_in_merged(&merge->c_plant, other) == loop;
        if (taken || !loops_alike(merge->P, i, merge->C, j)) continue;
        bool same_name = merge->P->nest->loops[i].dimension.name == merge->C->nest->loops[j].dimension.name;
        int64_t step = p->address.coefficient[i];
        if (step != 0 && step == c->address.coefficient[j] && (found < 0 || same_name)) found = loop;
        else if (found < 0 && same_name) found = loop;
    }
    return found;
}

static void make_loops(Merge *merge, const Access *p, const Access *c) {
    const Nest *pn = merge->P->nest, *cn = merge->C->nest;
    uint32_t paired = paired_p(merge);
    bool c_order = paired != nest_outer_mask(pn);  // P's loops are turned: C has the order that stays
    for (int j = 0; c_order && j < cn->outer_count; j++) transplant_loop(&merge->p_plant, merge->p_of_c[j]);
    for (int i = 0; !c_order && i < pn->outer_count; i++) transplant_loop(&merge->p_plant, i);
    merge->nest->outer_count = merge->nest->loop_count;
    for (int i = 0; i < pn->loop_count; i++)
        if (loop_in_merged(&merge->p_plant, i) < 0) transplant_loop(&merge->p_plant, i);
    for (int j = 0; j < cn->outer_count; j++)
        if (merge->p_of_c[j] >= 0) merge->c_plant.loop[j] = merge->p_plant.loop[merge->p_of_c[j]];
    for (int j = 0; j < cn->loop_count; j++) {
        if (loop_in_merged(&merge->c_plant, j) >= 0) continue;
        int loop = find_inner(merge, p, c, j);
        if (loop >= 0) merge->c_plant.loop[j].scale[loop] = 1;
        else transplant_loop(&merge->c_plant, j);
    }
}

// A reduction keeps the order of its loops: its sum must not change.
static bool keeps_order(const Transplant *plant) {
    const Nest *nest = plant->from;
    for (int s = 0; s < nest->stage_count; s++) {
        int last = -1;
        for (int loop = 0; loop < nest->loop_count; loop++) {
            if (!(nest->stages[s].inner >> loop & 1) || stage_writes(&nest->stages[s])) continue;
            int at = loop_in_merged(plant, loop);
            if (at < last) return false;
            last = at;
        }
    }
    return true;
}

// ---- Dependences ----

static Address merged_address(const Transplant *plant, const Address *address) {
    Address result = *address;
    memset(result.coefficient, 0, sizeof result.coefficient);
    for (int loop = 0; loop < plant->from->loop_count; loop++)
        for (int i = 0; i < LOOP_MAX; i++)
            result.coefficient[i] += address->coefficient[loop] * plant->loop[loop].scale[i];
    return result;
}

static void inner_range(const Nest *nest, const Address *address, int64_t *low, int64_t *high) {
    int64_t least = address->offset, most = address->offset + address->gathered_span;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++) {
        int64_t last = address->coefficient[loop] * (nest->loops[loop].dimension.extent - 1);
        *(last < 0 ? &least : &most) += last;
    }
    if (least < *low) *low = least;
    if (most > *high) *high = most;
}

typedef struct Meeting {
    int count;
    int64_t step[LOOP_MAX], last[LOOP_MAX];  // of the outer loops, the largest step first
} Meeting;

// Is there a choice of distances, one per loop from `at` on and not all zero (unless `moved`), that brings
// the sum of step * distance into [low, high]?
static bool can_meet(const Meeting *meeting, int at, int64_t low, int64_t high, bool moved) {
    if (at == meeting->count) return moved && low <= 0 && 0 <= high;
    int64_t rest = 0, step = meeting->step[at];
    for (int i = at + 1; i < meeting->count; i++) rest += meeting->step[i] * meeting->last[i];
    for (int64_t distance = -meeting->last[at]; distance <= meeting->last[at]; distance++) {
        int64_t least = low - rest, most = high + rest;
        if (step > 0 && distance * step < least) {  // skip to the first that can reach
            int64_t first = least >= 0 ? (least + step - 1) / step : -((-least) / step);
            if (first > meeting->last[at]) return false;
            distance = first;
        }
        if (distance * step > most) return false;
        if (can_meet(meeting, at + 1, low - distance * step, high - distance * step, moved || distance != 0)) return true;
    }
    return false;
}

// Do the two accesses meet in the same outer iteration only? They must move alike with the outer loops.
static bool same_iteration(const Nest *nest, const Address *a, const Address *b) {
    Meeting meeting = {.count = 0};
    int64_t a_low = INT64_MAX, a_high = INT64_MIN, b_low = INT64_MAX, b_high = INT64_MIN;
    inner_range(nest, a, &a_low, &a_high);
    inner_range(nest, b, &b_low, &b_high);
    for (int loop = 0; loop < nest->outer_count; loop++) {
        int64_t last = nest->loops[loop].dimension.extent - 1, step = a->coefficient[loop];
        if (last == 0) continue;
        if (step != b->coefficient[loop] || step == 0) return false;
        if (step < 0) step = -step;  // distances go both ways
        int at = meeting.count++;
        for (; at > 0 && meeting.step[at - 1] < step; at--) {
            meeting.step[at] = meeting.step[at - 1];
            meeting.last[at] = meeting.last[at - 1];
        }
        meeting.step[at] = step;
        meeting.last[at] = last;
    }
    return !can_meet(&meeting, 0, b_low - a_high, b_high - a_low, false);
}

static bool dependences_hold(const Merge *merge) {
    for (size_t i = 0; i < merge->p_access.count; i++)
        for (size_t j = 0; j < merge->c_access.count; j++) {
            const Access *p = &merge->p_access.items[i], *c = &merge->c_access.items[j];
            if (p->address.buffer != c->address.buffer || (!p->writes && !c->writes)) continue;
            Address a = merged_address(&merge->p_plant, &p->address), b = merged_address(&merge->c_plant, &c->address);
            if (!same_iteration(merge->nest, &a, &b)) return false;
        }
    return true;
}

// Bytes that both touch at the same places: what the merged launch touches once instead of twice.
static double shared_bytes(const Merge *merge) {
    double shared = 0;
    for (size_t j = 0; j < merge->c_access.count; j++)
        for (size_t i = 0; i < merge->p_access.count; i++) {
            Address a = merged_address(&merge->p_plant, &merge->p_access.items[i].address);
            Address b = merged_address(&merge->c_plant, &merge->c_access.items[j].address);
            if (!address_equal(&a, &b)) continue;
            shared += merge->c_access.items[j].bytes;
            break;
        }
    return shared;
}

static double all_bytes(const AccessList *list) {
    double bytes = 0;
    for (size_t i = 0; i < list->count; i++) bytes += list->items[i].bytes;
    return bytes;
}

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
        if (stage_writes(&stage)) {
            Index *index = ARENA_ARRAY(merge->nest->ir->arena, Index, RANK_MAX);
            transplant_index(plant, stage.operand, stage.index, index);
            stage.index = index;
            stage.operand = transplant_operand(plant, stage.operand, stage.kind == STAGE_ADD, true);
        }
        plant->stage[i] = (uint32_t)merge->nest->stage_count;
        merge->nest->stages[merge->nest->stage_count++] = stage;
    }
}

static bool loads_written(const Merge *merge, uint32_t formula, int begin, int end) {
    const Nest *nest = merge->nest;
    for (int s = begin; s < end; s++) {
        if (!stage_writes(&nest->stages[s])) continue;
        for (size_t f = 0; f <= formula; f++) {
            const Formula *load = &nest->formulas.items[f];
            if (load->kind != FORMULA_LOAD ||
                merge->built.launch.buffers[load->operand] != merge->built.launch.buffers[nest->stages[s].operand])
                continue;
            // Does `formula` use this load? Ask whether the load is below it.
            bool *below = ARENA_ARRAY(nest->ir->arena, bool, (size_t)formula + 1);
            below[f] = true;
            for (size_t g = f + 1; g <= formula; g++) {
                const Formula *user = &nest->formulas.items[g];
                if (user->kind == FORMULA_PRIMITIVE)
                    for (int a = 0; a < primitive_arguments(user->primitive); a++) below[g] |= below[user->arguments[a]];
                if (user->kind == FORMULA_LOAD)
                    for (int d = 0; d < nest->operands[user->operand].rank; d++)
                        if (user->index[d].gathered != FORMULA_NONE) below[g] |= below[user->index[d].gathered];
            }
            if (below[formula]) return true;
        }
    }
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
    return nest_formula(nest, (Formula){.kind = FORMULA_PRIMITIVE, .primitive = PRIMITIVE_add, .element = element,
                                        .arguments = {a, b}, .place = place});
}

// What is there after a stage without inner loops.
static uint32_t written_value(Nest *nest, const Stage *store) {
    if (store->kind == STAGE_STORE) return store->formula;
    Formula old = {.kind = FORMULA_LOAD, .element = store->element, .operand = store->operand,
                   .index = store->index, .place = store->place};
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
        if (earlier < merge->trailing || nest->stages[earlier].operand != stage->operand || written.gathered) continue;
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
static void drop_dead_stores(Merge *merge) {
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

// C computes a temporary that P has made as well: it was cloned so that the value need not be kept, and
// must stay where it is.
static bool stores_twice(const Merge *merge) {
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

// ---- Merging ----

static const char *merged_name(const Merge *merge) {
    const char *p = merge->P->nest->name, *c = merge->C->nest->name;
    if (strstr(p, c) || strlen(p) + strlen(c) > 32) return p;
    return names_format(merge->fuse->ir.names, "%s_%s", p, c);
}

static void begin_nest(Merge *merge) {
    // The place is that of the main work: the contraction, the reduction, else what comes last.
    bool p_leads = merge->is_contraction || (reduces(merge->P->nest) && !reduces(merge->C->nest));
    const Item *main = p_leads ? merge->P : merge->C;
    merge->nest = nest_create(&merge->fuse->ir, merged_name(merge), main->nest->place);
    merge->built = (Item){.nest = merge->nest, .launch = main->launch, .alive = true};
    merge->built.launch.operand_count = 0;
    merge->p_plant = transplant_begin(merge->P->nest, &merge->P->launch, merge->nest, &merge->built.launch);
    merge->c_plant = transplant_begin(merge->C->nest, &merge->C->launch, merge->nest, &merge->built.launch);
    merge->c_plant.replace = stored_formula;
    merge->c_plant.context = merge;
}

static bool fill_nest(Merge *merge) {
    const Nest *p = merge->P->nest, *c = merge->C->nest;
    merge->point = true;
    for (int i = 0; i < c->stage_count; i++) merge->point &= stage_writes(&c->stages[i]) && c->stages[i].inner == 0;
    if (nest_outer_mask(c) & ~paired_c(merge)) merge->point = false;
    add_stages(merge, &merge->p_plant, nest_outer_mask(p) & ~paired_p(merge));
    if (merge->p_plant.failed) return false;
    merge->p_stages = merge->trailing = merge->nest->stage_count;
    while (merge->trailing > 0 && merge->nest->stages[merge->trailing - 1].inner == 0 &&
           stage_writes(&merge->nest->stages[merge->trailing - 1]))
        merge->trailing--;
    add_stages(merge, &merge->c_plant, nest_outer_mask(c) & ~paired_c(merge));
    if (merge->c_plant.failed) return false;
    if (!merge->point) return true;
    merge->joined = join_writes(merge);
    return sort_point_stages(merge->nest, merge->trailing);
}

// Builds the merged nest for loops paired by these two accesses.
static bool build(Merge *merge, const Access *p, const Access *c) {
    pair_outer_loops(merge, p, c);
    for (int i = 0; i < merge->tried_count; i++)
        if (memcmp(merge->tried[i], merge->p_of_c, sizeof merge->p_of_c) == 0) return false;
    if (merge->tried_count == TRIES) return false;
    memcpy(merge->tried[merge->tried_count++], merge->p_of_c, sizeof merge->p_of_c);
    if (!structure_fits(merge)) return false;
    begin_nest(merge);
    make_loops(merge, p, c);
    if (merge->p_plant.failed || merge->c_plant.failed) return false;
    if (!keeps_order(&merge->p_plant) || !keeps_order(&merge->c_plant) || !dependences_hold(merge)) return false;
    if (!merge->feeds) {
        double a = all_bytes(&merge->p_access), b = all_bytes(&merge->c_access);
        bool small = a <= SMALL_BYTES && b <= SMALL_BYTES;
        if (!small && shared_bytes(merge) * 4 < (a < b ? a : b)) return false;
    }
    if (!fill_nest(merge) || stores_twice(merge) || merge->nest->formulas.count > FORMULA_LIMIT) return false;
    drop_dead_stores(merge);
    nest_compact(merge->nest);
    nest_mark_parallel(merge->nest);
    Contraction contraction;
    if (merge->is_contraction && !nest_contraction(merge->nest, &contraction)) return false;
    return nest_operands_apart(merge->fuse, &merge->built);
}

static bool all_parallel(const Nest *nest) { return nest->parallel == nest_outer_mask(nest); }

// Tries the pairs of accesses to one buffer, those where C reads what P wrote first.
static bool try_pair(Merge *merge) {
    if (merge->P->nest->outer_count == 0 && merge->C->nest->outer_count == 0)  // nothing to pair
        return build(merge, &merge->p_access.items[0], &merge->c_access.items[0]);
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < merge->p_access.count; i++)
            for (size_t j = 0; j < merge->c_access.count; j++) {
                const Access *p = &merge->p_access.items[i], *c = &merge->c_access.items[j];
                if (p->address.buffer != c->address.buffer || p->address.gathered || c->address.gathered) continue;
                bool feeds = p->writes && !c->writes;
                if (feeds != (round == 0)) continue;
                if (build(merge, p, c)) return true;
            }
    return false;
}

static bool feeds(const Fuse *fuse, const Item *p, const Item *c) {
    for (int i = 0; i < p->launch.operand_count; i++)
        for (int j = 0; j < c->launch.operand_count; j++)
            if (p->launch.buffers[i] == c->launch.buffers[j] && item_writes(fuse, p, i) && item_reads(fuse, c, j))
                return true;
    return false;
}

static int64_t temporary_bytes(const Fuse *fuse, uint32_t buffer) {
    const Buffer *b = &fuse->program->buffers.items[buffer];
    return b->kind == BUFFER_TEMPORARY ? b->bytes : 0;
}

// Bytes that live longer when C moves up to P, less those that then never live.
static int64_t kept_when_up(const Fuse *fuse, const Item *P, const Item *C, uint32_t c) {
    int64_t bytes = 0;
    for (int i = 0; i < C->launch.operand_count; i++)
        if (item_writes(fuse, C, i)) bytes += temporary_bytes(fuse, C->launch.buffers[i]);
    for (int i = 0; i < P->launch.operand_count; i++) {
        uint32_t buffer = P->launch.buffers[i];
        const ItemList *readers = &fuse->readers[buffer];
        if (item_writes(fuse, P, i) && readers->count == 1 && readers->items[0] == c)
            bytes -= temporary_bytes(fuse, buffer);
    }
    return bytes;
}

// The same when P moves down: what it reads is kept, what it makes is not.
static int64_t kept_when_down(const Fuse *fuse, const Item *P) {
    int64_t bytes = 0;
    for (int i = 0; i < P->launch.operand_count; i++)
        bytes += (item_writes(fuse, P, i) ? -1 : 1) * temporary_bytes(fuse, P->launch.buffers[i]);
    return bytes;
}

// Merges items p < c; returns where the merged one is, or UINT32_MAX.
static uint32_t merge_items(Fuse *fuse, uint32_t p, uint32_t c) {
    const Item *P = &fuse->items[p], *C = &fuse->items[c];
    Contraction contraction;
    if (!P->nest || !C->nest || !all_parallel(P->nest) || !all_parallel(C->nest)) return UINT32_MAX;
    if (nest_contraction(C->nest, &contraction)) return UINT32_MAX;
    if (C->launch.region != P->launch.region && C->launch.region != 0) return UINT32_MAX;
    Merge merge = {.fuse = fuse, .p = p, .c = c, .P = P, .C = C};
    merge.is_contraction = nest_contraction(P->nest, &contraction);
    merge.feeds = feeds(fuse, P, C);
    if (!merge.feeds && merge.is_contraction) return UINT32_MAX;
    bool up = !fuse_conflict(fuse, C, p, c) && (c - p <= FUSE_WINDOW || kept_when_up(fuse, P, C, c) <= 0);
    if (!up && (fuse_conflict(fuse, P, p, c) || (c - p > FUSE_WINDOW && kept_when_down(fuse, P) > 0))) return UINT32_MAX;
    merge.p_access = list_accesses(fuse, P);
    merge.c_access = list_accesses(fuse, C);
    if (!try_pair(&merge)) return UINT32_MAX;
    uint32_t slot = up ? p : c;
    fuse_unlist_item(fuse, p);
    fuse_unlist_item(fuse, c);
    fuse->items[p].alive = fuse->items[c].alive = false;
    merge.built.launch.region = C->launch.region;
    fuse->items[slot] = merge.built;
    fuse_list_item(fuse, slot);
    return slot;
}

// ---- Who with whom ----

typedef struct Candidates {
    uint32_t items[CANDIDATES];
    int count;
} Candidates;

static void add_candidates(const ItemList *list, uint32_t before, size_t limit, Candidates *candidates) {
    size_t at = list->count;
    while (at > 0 && list->items[at - 1] >= before) at--;
    for (size_t n = 0; n < limit && at > 0; n++) {
        uint32_t item = list->items[--at];
        bool known = candidates->count == CANDIDATES;
        for (int i = 0; i < candidates->count; i++) known |= candidates->items[i] == item;
        if (!known) candidates->items[candidates->count++] = item;
    }
}

static void sort_latest_first(Candidates *candidates, int begin) {
    for (int i = begin + 1; i < candidates->count; i++)
        for (int j = i; j > begin && candidates->items[j] > candidates->items[j - 1]; j--) {
            uint32_t item = candidates->items[j];
            candidates->items[j] = candidates->items[j - 1];
            candidates->items[j - 1] = item;
        }
}

// Producers of what the item reads, then those that touch the same buffers, the latest first.
static Candidates find_candidates(const Fuse *fuse, uint32_t item) {
    const Item *it = &fuse->items[item];
    Candidates candidates = {.count = 0};
    for (int i = 0; i < it->launch.operand_count; i++)
        if (item_reads(fuse, it, i)) add_candidates(&fuse->writers[it->launch.buffers[i]], item, 1, &candidates);
    sort_latest_first(&candidates, 0);
    int producers = candidates.count;
    for (int i = 0; i < it->launch.operand_count; i++) {
        uint32_t buffer = it->launch.buffers[i];
        if (fuse->program->buffers.items[buffer].bytes <= 64) continue;  // scalars bring nobody together
        add_candidates(&fuse->readers[buffer], item, 2, &candidates);
        add_candidates(&fuse->writers[buffer], item, 1, &candidates);
    }
    sort_latest_first(&candidates, producers);
    bool is_scalar = it->nest && it->nest->loop_count == 0 && candidates.count < CANDIDATES;
    if (is_scalar && fuse->last_scalar != UINT32_MAX && fuse->last_scalar < item && fuse->items[fuse->last_scalar].alive)
        candidates.items[candidates.count++] = fuse->last_scalar;
    return candidates;
}

void fuse_merge(Fuse *fuse) {
    fuse->last_scalar = UINT32_MAX;
    for (uint32_t c = 0; c < fuse->count; c++) {
        uint32_t at = c;
        bool merged = fuse->items[c].alive;
        while (merged) {
            merged = false;
            Candidates candidates = find_candidates(fuse, at);
            for (int i = 0; i < candidates.count && !merged; i++) {
                uint32_t slot = merge_items(fuse, candidates.items[i], at);
                merged = slot != UINT32_MAX;
                if (merged) at = slot;
            }
        }
        if (fuse->items[at].alive && fuse->items[at].nest && fuse->items[at].nest->outer_count == 0) fuse->last_scalar = at;
    }
}
