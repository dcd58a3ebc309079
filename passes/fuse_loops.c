// fuse, merging: the loops of two launches, and what they touch. See the head of fuse_merge.c.
#include <string.h>

#include "passes/fuse_merge.h"

enum {
    ENOUGH_ITERATIONS = 16,  // outer iterations of a merged nest with much work in each
    MUCH_WORK = 1 << 15,
    LITTLE_WORK = 1 << 15,  // two reductions to scalars that may share one thread
};

// ---- Accesses ----

AccessList merge_accesses(const Fuse *fuse, const Item *item) {
    const Nest *nest = item->nest;
    AccessList list = {ARENA_ARRAY(fuse->trial.arena, Access, nest->formulas.count + STAGE_LIMIT), 0};
    for (size_t f = 0; f < nest->formulas.count; f++) {
        const Formula *load = &nest->formulas.items[f];
        if (load->kind != FORMULA_LOAD) continue;
        uint32_t loops = nest_index_loops(nest, &nest->operands[load->operand], load->index);
        list.items[list.count++] = (Access){nest_address(nest, &item->launch, load->operand, load->index),
                                            false, nest_formula_users(nest, (uint32_t)f),
                                            nest_iterations(nest, loops) * element_bytes(load->element)};
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

bool merge_reduces(const Nest *nest) {
    for (int i = 0; i < nest->stage_count; i++)
        if (!stage_writes(&nest->stages[i])) return true;
    return false;
}

void merge_pair_loops(Merge *merge, const Access *p, const Access *c) {
    uint32_t taken = 0;
    for (int j = 0; j < LOOP_MAX; j++) merge->p_of_c[j] = -1;
    for (int pass = 0; pass < 2; pass++)  // equal names first
        for (int j = 0; j < merge->C->nest->outer_count; j++)
            for (int i = 0; i < merge->P->nest->outer_count && merge->p_of_c[j] < 0; i++) {
                bool same_name =
                    merge->P->nest->loops[i].dimension.name == merge->C->nest->loops[j].dimension.name;
                int64_t step = p->address.coefficient[i];
                if (taken >> i & 1 || !loops_alike(merge->P, i, merge->C, j)) continue;
                if (step != c->address.coefficient[j]) continue;
                if (!same_name && (pass == 0 || step == 0)) continue;
                merge->p_of_c[j] = i;
                taken |= 1u << i;
            }
}

uint32_t merge_paired_p(const Merge *merge) {
    uint32_t mask = 0;
    for (int j = 0; j < merge->C->nest->outer_count; j++)
        if (merge->p_of_c[j] >= 0) mask |= 1u << merge->p_of_c[j];
    return mask;
}

uint32_t merge_paired_c(const Merge *merge) {
    uint32_t mask = 0;
    for (int j = 0; j < merge->C->nest->outer_count; j++)
        if (merge->p_of_c[j] >= 0) mask |= 1u << j;
    return mask;
}

static int64_t size_of(int64_t step) { return step < 0 ? -step : step; }

// In every write, the outer loops `turned` lie inside of the other outer loops: they take smaller steps.
// Else turning them would walk memory out of order.
static bool lie_inside(const Nest *nest, const AccessList *accesses, uint32_t turned) {
    for (size_t i = 0; i < accesses->count; i++) {
        const int64_t *step = accesses->items[i].address.coefficient;
        int64_t largest = 0, smallest = INT64_MAX;
        if (!accesses->items[i].writes) continue;
        for (int loop = 0; loop < nest->outer_count; loop++) {
            if (step[loop] == 0 || nest->loops[loop].dimension.extent == 1) continue;
            bool turns = turned >> loop & 1;
            if (turns && size_of(step[loop]) > largest) largest = size_of(step[loop]);
            if (!turns && size_of(step[loop]) < smallest) smallest = size_of(step[loop]);
        }
        if (largest >= smallest) return false;
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
bool merge_structure_fits(const Merge *merge) {
    const Nest *p = merge->P->nest, *c = merge->C->nest;
    uint32_t more_p = nest_outer_mask(p) & ~merge_paired_p(merge),
             more_c = nest_outer_mask(c) & ~merge_paired_c(merge);
    if (merge->row_products) return !more_p && !more_c;
    if (merge->is_contraction && (more_p || more_c || merge_reduces(c))) return false;
    if (merge_reduces(p) && merge_reduces(c) &&
        (reduces_columns(p, &merge->p_access) || reduces_columns(c, &merge->c_access)))
        return false;
    if (merge_reduces(p) && merge_reduces(c) && p->outer_count == 0 &&
        most_work(p) + most_work(c) > LITTLE_WORK)
        return false;
    if (!more_p && !more_c) return true;
    if ((more_p && more_c) || (!merge->feeds && !merge->fuse->for_gpu)) return false;
    if (more_p ? merge_reduces(p) : merge_reduces(c)) return false;
    if (merge_paired_p(merge) == 0) return false;
    if (!lie_inside(more_p ? p : c, more_p ? &merge->p_access : &merge->c_access, more_p ? more_p : more_c))
        return false;
    double work = most_work(more_p ? p : c);
    return work <= MUCH_WORK || nest_iterations(p, merge_paired_p(merge)) >= ENOUGH_ITERATIONS;
}

// ---- One loop as two ----

// The loops of P that walk what loop `j` of C walks: `a` by blocks, `b` within one.
static bool find_division(const Merge *merge, const Access *p, const Access *c, int j, int *a, int *b) {
    const Nest *pn = merge->P->nest;
    const Loop *loop = &merge->C->nest->loops[j];
    int64_t step = c->address.coefficient[j];
    if (loop->bound_operand != UINT32_MAX || step == 0) return false;
    for (*a = 0; *a < pn->outer_count; ++*a)
        for (*b = 0; *b < pn->outer_count; ++*b) {
            const Loop *outside = &pn->loops[*a], *inside = &pn->loops[*b];
            int64_t block = inside->dimension.extent;
            if (outside->bound_operand != UINT32_MAX || inside->bound_operand != UINT32_MAX) continue;
            if (block == 1 || outside->dimension.extent == 1) continue;
            if (loop->dimension.extent == outside->dimension.extent * block &&
                p->address.coefficient[*b] == step && p->address.coefficient[*a] == step * block)
                return true;
        }
    return false;
}

static Item divide(const Merge *merge, int j, const Dimension *outside, const Dimension *inside) {
    const Nest *from = merge->C->nest;
    Nest *nest = nest_create(&merge->fuse->trial, from->name, from->place);
    Item result = {.nest = nest, .launch = merge->C->launch, .alive = true};
    result.launch.operand_count = 0;
    Transplant plant = transplant_begin(from, &merge->C->launch, nest, &result.launch);
    for (int i = 0; i < from->loop_count; i++) {
        transplant_loop(&plant, i);
        if (i != j || plant.failed) continue;
        Loop *first = &nest->loops[nest->loop_count - 1], second = *first;
        first->dimension = *outside;
        second.dimension = *inside;
        if (nest->loop_count == LOOP_MAX) {
            plant.failed = true;
            break;
        }
        plant.loop[j].scale[nest->loop_count - 1] = inside->extent;
        plant.loop[j].scale[nest->loop_count] = 1;
        nest->loops[nest->loop_count++] = second;
    }
    nest->outer_count = nest->loop_count;
    for (int i = 0; i < from->stage_count && !plant.failed; i++) {
        Stage stage = from->stages[i];
        transplant_forget(&plant);
        stage.formula = transplant_formula(&plant, stage.formula);
        transplant_write(&plant, &stage);
        nest->stages[nest->stage_count++] = stage;
    }
    nest_mark_parallel(nest);
    result.alive = !plant.failed;
    return result;
}

bool merge_divide_loop(const Merge *merge, Item *divided) {
    const Nest *nest = merge->C->nest;
    if (!merge->feeds || nest->loop_count != nest->outer_count || merge_reduces(nest)) return false;
    for (size_t i = 0; i < merge->p_access.count; i++)
        for (size_t k = 0; k < merge->c_access.count; k++) {
            const Access *p = &merge->p_access.items[i], *c = &merge->c_access.items[k];
            if (!p->writes || c->writes || p->address.buffer != c->address.buffer) continue;
            if (p->address.gathered || c->address.gathered) continue;
            for (int j = 0, a, b; j < nest->outer_count; j++) {
                if (!find_division(merge, p, c, j, &a, &b)) continue;
                *divided = divide(merge, j, &merge->P->nest->loops[a].dimension, &merge->P->nest->loops[b].dimension);
                return divided->alive;
            }
        }
    return false;
}

// ---- The loops of the merged nest ----

static int loop_in_merged(const Transplant *plant, int loop) {
    for (int i = 0; i < LOOP_MAX; i++)
        if (plant->loop[loop].scale[i]) return i;
    return -1;
}

// An inner loop of the merged nest that can be loop `j` of C too: by its steps in the pair of accesses
// that were compared, else by name. It comes after loop `after`: C's loops keep their order.
static int find_inner(const Merge *merge, const Access *p, const Access *c, int j, int after) {
    int found = -1;
    for (int i = 0; i < merge->P->nest->loop_count; i++) {
        int loop = loop_in_merged(&merge->p_plant, i);
        bool taken = loop < merge->nest->outer_count || loop <= after;
        for (int other = 0; other < merge->C->nest->loop_count; other++)
            taken |= loop_in_merged(&merge->c_plant, other) == loop;
        if (taken || !loops_alike(merge->P, i, merge->C, j)) continue;
        bool same_name = merge->P->nest->loops[i].dimension.name == merge->C->nest->loops[j].dimension.name;
        int64_t step = p->address.coefficient[i];
        if (step != 0 && step == c->address.coefficient[j] && (found < 0 || same_name))
            found = loop;
        else if (found < 0 && same_name)
            found = loop;
    }
    return found;
}

void merge_make_loops(Merge *merge, const Access *p, const Access *c) {
    const Nest *pn = merge->P->nest, *cn = merge->C->nest;
    uint32_t paired = merge_paired_p(merge);
    bool c_order = paired != nest_outer_mask(pn);  // P's loops are turned: C has the order that stays
    for (int j = 0; c_order && j < cn->outer_count; j++) transplant_loop(&merge->p_plant, merge->p_of_c[j]);
    for (int i = 0; !c_order && i < pn->outer_count; i++) transplant_loop(&merge->p_plant, i);
    merge->nest->outer_count = merge->nest->loop_count;
    for (int i = 0; i < pn->loop_count; i++)
        if (loop_in_merged(&merge->p_plant, i) < 0) transplant_loop(&merge->p_plant, i);
    for (int j = 0; j < cn->outer_count; j++)
        if (merge->p_of_c[j] >= 0) merge->c_plant.loop[j] = merge->p_plant.loop[merge->p_of_c[j]];
    for (int j = 0, last = -1; j < cn->loop_count; j++) {
        if (loop_in_merged(&merge->c_plant, j) >= 0) continue;
        int loop = find_inner(merge, p, c, j, last);
        if (loop >= 0)
            merge->c_plant.loop[j].scale[loop] = 1;
        else
            transplant_loop(&merge->c_plant, j);
        last = loop_in_merged(&merge->c_plant, j);
    }
}

// A reduction keeps the order of its loops: its sum must not change.
bool merge_keeps_order(const Transplant *plant) {
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

// Do the two accesses meet in the same outer iteration only? They must move alike with the outer loops.
static bool same_iteration(const Nest *nest, const Address *a, const Address *b) {
    Meeting meeting = {.count = 0};
    int64_t a_low = INT64_MAX, a_high = INT64_MIN, b_low = INT64_MAX, b_high = INT64_MIN;
    inner_range(nest, a, &a_low, &a_high);
    inner_range(nest, b, &b_low, &b_high);
    for (int loop = 0; loop < nest->outer_count; loop++) {
        int64_t extent = nest->loops[loop].dimension.extent, step = a->coefficient[loop];
        if (extent == 1) continue;
        if (step != b->coefficient[loop] || step == 0) return false;
        meeting_add(&meeting, step, extent);
    }
    return !meeting_reaches(&meeting, b_low - a_high, b_high - a_low, false);
}

bool merge_dependences_hold(const Merge *merge) {
    for (size_t i = 0; i < merge->p_access.count; i++)
        for (size_t j = 0; j < merge->c_access.count; j++) {
            const Access *p = &merge->p_access.items[i], *c = &merge->c_access.items[j];
            if (p->address.buffer != c->address.buffer || (!p->writes && !c->writes)) continue;
            Address a = merged_address(&merge->p_plant, &p->address),
                    b = merged_address(&merge->c_plant, &c->address);
            if (!same_iteration(merge->nest, &a, &b)) return false;
        }
    return true;
}

// Bytes that both touch at the same places: what the merged launch touches once instead of twice.
double merge_shared_bytes(const Merge *merge) {
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

double merge_all_bytes(const AccessList *list) {
    double bytes = 0;
    for (size_t i = 0; i < list->count; i++) bytes += list->items[i].bytes;
    return bytes;
}
