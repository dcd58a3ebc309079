// fuse, third part: launches over common loops become one nest, whose stages are theirs in order.
//
//   s[b] = sum over e of x[b, e]^2;  y[b, e] = x[b, e] * rsqrt(s[b])
//   -> outer b { stage 0: sum over e { x^2 };  stage 1: store over e y { x * rsqrt(stage 0) } }
//
// A pair (P, C), P first, is merged when
//  - no launch between stands in the way of moving C up to P, or else P down to C;
//  - all outer loops of both are parallel, and they correspond: A) all of them; or B) C has more and no
//    reductions: its further loops become inner ones; or C) P has more and no reductions. In B and C the
//    loops that turn inner take smaller steps than the others, and enough iterations are left outside;
//  - whatever one of them writes and the other touches is touched in the same outer iteration;
//  - C reads what P makes; or A) holds (for a GPU B or C will do: rows under way at once are more than its caches
//    hold) and they share a quarter of the bytes that the smaller one moves, or a byte where both are small; or both
//    are scalars.
//    Where C has one loop for what two of P walk (a key that P knows as halves of pairs), C takes those two.
//  - they are near, or moving one over to the other does not keep more memory for longer.
//  - what is computed again for the backward pass (a launch with a region) only joins its own region: it
//    must not go back to where the values were made first.
// C never is a contraction. Behind a GPU's library it is a launch of its own anyway, and joins what else reads P's
// result where that must be stored. Where P is one, A) holds, C has no reductions, and C becomes its epilogue. But
// products with one row, where they are sums like any other (a GPU's gate and up of one token): those join by A).
// Where C loads what a stage of P stored in the same place, it takes the formula: always at one point of
// the iteration or where it does not move with the inner loops; else where it is small and the buffer is
// gone then. Otherwise the value is read back from the row just written.
#include "passes/fuse_merge.h"

#include <string.h>

enum {
    CANDIDATES = 12,
    SMALL_BYTES = 1 << 15,
    FORMULA_LIMIT = 400,
};

// ---- Merging ----

static const char *merged_name(const Merge *merge) {
    const char *p = merge->P->nest->name, *c = merge->C->nest->name;
    if (strstr(p, c) || strlen(p) + strlen(c) > 32) return p;
    return names_format(merge->fuse->ir.names, "%s_%s", p, c);
}

static void begin_nest(Merge *merge) {
    // The place is that of the main work: the contraction, the reduction, else what comes last.
    bool p_leads = merge->is_contraction || (merge_reduces(merge->P->nest) && !merge_reduces(merge->C->nest));
    const Item *main = p_leads ? merge->P : merge->C;
    merge->nest = nest_create(&merge->fuse->trial, merged_name(merge), main->nest->place);
    merge->built = (Item){.nest = merge->nest, .launch = main->launch, .alive = true};
    merge->built.launch.operand_count = 0;
    merge->p_plant = transplant_begin(merge->P->nest, &merge->P->launch, merge->nest, &merge->built.launch);
    merge->c_plant = transplant_begin(merge->C->nest, &merge->C->launch, merge->nest, &merge->built.launch);
}

// Builds the merged nest for loops paired by these two accesses.
static bool build(Merge *merge, const Access *p, const Access *c) {
    merge_pair_loops(merge, p, c);
    for (int i = 0; i < merge->tried_count; i++)
        if (memcmp(merge->tried[i], merge->p_of_c, sizeof merge->p_of_c) == 0) return false;
    if (merge->tried_count == MERGE_TRIES) return false;
    memcpy(merge->tried[merge->tried_count++], merge->p_of_c, sizeof merge->p_of_c);
    if (!merge_structure_fits(merge)) return false;
    begin_nest(merge);
    merge_make_loops(merge, p, c);
    if (merge->p_plant.failed || merge->c_plant.failed) return false;
    if (!merge_keeps_order(&merge->p_plant) || !merge_keeps_order(&merge->c_plant) ||
        !merge_dependences_hold(merge))
        return false;
    if (!merge->feeds) {
        double a = merge_all_bytes(&merge->p_access), b = merge_all_bytes(&merge->c_access);
        bool small = a <= SMALL_BYTES && b <= SMALL_BYTES;
        if (!small && merge_shared_bytes(merge) * 4 < (a < b ? a : b)) return false;
    }
    if (!merge_fill(merge) || merge_stores_twice(merge) || merge->nest->formulas.count > FORMULA_LIMIT)
        return false;
    merge_drop_dead_stores(merge);
    nest_compact(merge->nest);
    nest_mark_parallel(merge->nest);
    if (merge_reads_back_at_point(merge)) return false;
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
                if (p->address.buffer != c->address.buffer || p->address.gathered || c->address.gathered)
                    continue;
                bool feeds = p->writes && !c->writes;
                if (feeds != (round == 0)) continue;
                if (build(merge, p, c)) return true;
            }
    return false;
}

static bool feeds(const Fuse *fuse, const Item *p, const Item *c) {
    for (int i = 0; i < p->launch.operand_count; i++)
        for (int j = 0; j < c->launch.operand_count; j++)
            if (p->launch.buffers[i] == c->launch.buffers[j] && item_writes(fuse, p, i) &&
                item_reads(fuse, c, j))
                return true;
    return false;
}

// Of the part of a temporary that an operand touches.
static int64_t temporary_bytes(const Fuse *fuse, const Item *item, int operand) {
    const Buffer *buffer = &fuse->program->buffers.items[item->launch.buffers[operand]];
    Span span = item_span(fuse, item, operand);
    return buffer->kind == BUFFER_TEMPORARY
               ? (span.high - span.low + 1) * element_bytes(buffer->type->element)
               : 0;
}

// Bytes that live longer when C moves up to P, less those that then never live.
static int64_t kept_when_up(const Fuse *fuse, const Item *P, const Item *C, uint32_t c) {
    int64_t bytes = 0;
    for (int i = 0; i < C->launch.operand_count; i++)
        if (item_writes(fuse, C, i)) bytes += temporary_bytes(fuse, C, i);
    for (int i = 0; i < P->launch.operand_count; i++) {
        uint32_t buffer = P->launch.buffers[i];
        const ItemList *readers = &fuse->readers[buffer];
        if (item_writes(fuse, P, i) && readers->count == 1 && readers->items[0] == c)
            bytes -= temporary_bytes(fuse, P, i);
    }
    return bytes;
}

// The same when P moves down: what it reads is kept, what it makes is not.
static int64_t kept_when_down(const Fuse *fuse, const Item *P) {
    int64_t bytes = 0;
    for (int i = 0; i < P->launch.operand_count; i++)
        bytes += (item_writes(fuse, P, i) ? -1 : 1) * temporary_bytes(fuse, P, i);
    return bytes;
}

// Whether the merged nest can be within its limits: operands but for what P makes for C alone, stages.
static bool fits(const Fuse *fuse, const Item *P, const Item *C, uint32_t c) {
    int operands = C->launch.operand_count;
    if (P->nest->stage_count + C->nest->stage_count > STAGE_LIMIT) return false;
    for (int i = 0; i < P->launch.operand_count; i++) {
        uint32_t buffer = P->launch.buffers[i];
        bool shared = false, goes = item_writes(fuse, P, i) && fuse->readers[buffer].count == 1 &&
                                    fuse->readers[buffer].items[0] == c;
        for (int j = 0; j < C->launch.operand_count && !shared; j++)
            shared = C->launch.buffers[j] == buffer && C->launch.offsets[j] == P->launch.offsets[i];
        operands += goes ? -shared : !shared;
    }
    return operands <= NEST_OPERAND_MAX;
}

// Products with one row, the second of which needs the first's result behind its sum.
static bool are_row_products(const Fuse *fuse, const Item *P, const Item *C) {
    Contraction p, c;
    return fuse->for_gpu && nest_contraction(P->nest, &p) && nest_contraction(C->nest, &c) &&
           nest_iterations(P->nest, p.batch | p.row) == 1 && nest_iterations(C->nest, c.batch | c.row) == 1 &&
           feeds(fuse, P, C);
}

// Whether some other launch needs what C reads of P whole: one that is no point for point work, which might join too.
static bool is_stored_anyway(const Fuse *fuse, const Item *P, uint32_t c) {
    for (int i = 0; i < P->launch.operand_count; i++) {
        const ItemList *readers = &fuse->readers[P->launch.buffers[i]];
        bool read = false, kept = false;
        if (!item_writes(fuse, P, i)) continue;
        for (size_t r = 0; r < readers->count; r++) {
            const Nest *nest = fuse->items[readers->items[r]].nest;
            if (readers->items[r] == c)
                read = true;
            else
                kept |= !nest || nest->loop_count != nest->outer_count;
        }
        if (read && !kept) return false;
    }
    return true;
}

// Merges items p < c; returns where the merged one is, or UINT32_MAX.
static uint32_t merge_items(Fuse *fuse, uint32_t p, uint32_t c) {
    const Item *P = &fuse->items[p], *C = &fuse->items[c];
    Contraction contraction;
    if (!P->nest || !C->nest || !all_parallel(P->nest) || !all_parallel(C->nest)) return UINT32_MAX;
    bool row_products = are_row_products(fuse, P, C);
    if (!fits(fuse, P, C, c) || (!row_products && nest_contraction(C->nest, &contraction))) return UINT32_MAX;
    if (C->launch.region != P->launch.region && C->launch.region != 0) return UINT32_MAX;
    Merge merge = {.fuse = fuse, .p = p, .c = c, .P = P, .C = C, .row_products = row_products};
    merge.is_contraction = !row_products && nest_contraction(P->nest, &contraction);
    merge.feeds = feeds(fuse, P, C);
    if (!merge.feeds && merge.is_contraction) return UINT32_MAX;
    if (item_is_library_product(fuse, P) && is_stored_anyway(fuse, P, c)) return UINT32_MAX;
    bool up = !fuse_conflict(fuse, C, p, c) && (c - p <= FUSE_WINDOW || kept_when_up(fuse, P, C, c) <= 0);
    if (!up && (fuse_conflict(fuse, P, p, c) || (c - p > FUSE_WINDOW && kept_when_down(fuse, P) > 0)))
        return UINT32_MAX;
    merge.p_access = merge_accesses(fuse, P);
    merge.c_access = merge_accesses(fuse, C);
    bool found = try_pair(&merge);
    Item divided;
    if (!found && merge_divide_loop(&merge, &divided)) {
        merge.C = &divided;
        merge.c_access = merge_accesses(fuse, &divided);
        merge.tried_count = 0;
        found = try_pair(&merge);
    }
    if (found) merge.built.nest = fuse_keep_nest(fuse, merge.built.nest);
    fuse_end_trial(fuse);
    if (!found) return UINT32_MAX;
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
        if (item_reads(fuse, it, i))
            add_candidates(&fuse->writers[it->launch.buffers[i]], item, 1, &candidates);
    sort_latest_first(&candidates, 0);
    int producers = candidates.count;
    for (int i = 0; i < it->launch.operand_count; i++) {
        uint32_t buffer = it->launch.buffers[i];
        if (fuse->program->buffers.items[buffer].bytes <= 8) continue;  // scalars bring nobody together
        add_candidates(&fuse->readers[buffer], item, 2, &candidates);
        add_candidates(&fuse->writers[buffer], item, 1, &candidates);
    }
    sort_latest_first(&candidates, producers);
    bool is_scalar = it->nest && it->nest->loop_count == 0 && candidates.count < CANDIDATES;
    if (is_scalar && fuse->last_scalar != UINT32_MAX && fuse->last_scalar < item &&
        fuse->items[fuse->last_scalar].alive)
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
        if (fuse->items[at].alive && fuse->items[at].nest && fuse->items[at].nest->outer_count == 0)
            fuse->last_scalar = at;
    }
}
