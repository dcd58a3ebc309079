// Brings a nest to the form that code is generated from (see normalise.h), and says what formulas depend on:
//   outer batch=8, time=256, one=1 / operand f32 [8:131072, 256:512, 512:1], y[batch, time, embed]
//   -> outer time=2048             / operand f32 [1], y[512*time + embed]
#include "codegen/normalise.h"

#include <string.h>

typedef struct Normaliser {
    const Nest *from;
    Nest *to;
    Arena *arena;
    uint32_t gathered_dimensions[NEST_OPERAND_MAX];  // mask over the dimensions of each operand of `from`
    Affine **affine;                                 // every affine of `to`, to be rewritten when loops go
    size_t affine_count;
} Normaliser;

// ---- Accesses ----

static void add_scaled(Affine *sum, const Affine *part, int64_t factor) {
    sum->offset += factor * part->offset;
    for (int loop = 0; loop < LOOP_MAX; loop++) sum->scale[loop] += factor * part->scale[loop];
}

// The formula as an affine expression of loops: x[index(time) - 1] needs no gathering.
static bool as_affine(const Nest *nest, uint32_t id, Affine *result) {
    const Formula *formula = &nest->formulas.items[id];
    *result = (Affine){0};
    if (!element_is_integer(formula->element)) return false;
    if (formula->kind == FORMULA_CONSTANT) {
        result->offset = (int64_t)formula->number;
        return true;
    }
    if (formula->kind == FORMULA_LOOP) {
        *result = formula->affine;
        return true;
    }
    if (formula->kind != FORMULA_PRIMITIVE) return false;
    Affine a, b;
    switch (formula->primitive) {
        case PRIMITIVE_add:
        case PRIMITIVE_sub:
            if (!as_affine(nest, formula->arguments[0], &a) || !as_affine(nest, formula->arguments[1], &b))
                return false;
            *result = a;
            add_scaled(result, &b, formula->primitive == PRIMITIVE_add ? 1 : -1);
            return true;
        case PRIMITIVE_mul:
            if (!as_affine(nest, formula->arguments[0], &a)) return false;
            if (nest->formulas.items[formula->arguments[1]].kind != FORMULA_CONSTANT) return false;
            add_scaled(result, &a, (int64_t)nest->formulas.items[formula->arguments[1]].number);
            return true;
        case PRIMITIVE_cast:
            return as_affine(nest, formula->arguments[0], result);
        default:
            return false;
    }
}

static bool is_gathered(const Nest *nest, const Index *index) {
    Affine unused;
    return index->gathered != FORMULA_NONE && !as_affine(nest, index->gathered, &unused);
}

static Affine affine_part(const Nest *nest, const Index *index) {
    Affine sum = index->affine, part;
    if (index->gathered != FORMULA_NONE && as_affine(nest, index->gathered, &part))
        add_scaled(&sum, &part, 1);
    return sum;
}

static void note_gathered(Normaliser *n, uint32_t operand, const Index *index) {
    for (int d = 0; d < n->from->operands[operand].rank; d++)
        if (is_gathered(n->from, &index[d])) n->gathered_dimensions[operand] |= 1u << d;
}

static bool may_miss(const Nest *nest, uint32_t number, const Index *index) {
    const NestOperand *operand = &nest->operands[number];
    for (int d = 0; d < operand->rank; d++) {
        if (is_gathered(nest, &index[d])) return true;
        Affine affine = affine_part(nest, &index[d]);
        int64_t low = affine.offset, high = affine.offset;
        for (int loop = 0; loop < nest->loop_count; loop++) {
            int64_t last = affine.scale[loop] * (nest->loops[loop].dimension.extent - 1);
            *(last < 0 ? &low : &high) += last;
        }
        if (low < 0 || high >= operand->extent[d]) return true;
    }
    return false;
}

static void note_affine(Normaliser *n, Affine *affine) { n->affine[n->affine_count++] = affine; }

static const Index *rewrite_index(Normaliser *n, uint32_t number, const Index *index) {
    const NestOperand *operand = &n->from->operands[number];
    Index *result = ARENA_ARRAY(n->arena, Index, 1 + operand->rank);
    result[0].gathered = FORMULA_NONE;
    int gathered = 1;
    for (int d = 0; d < operand->rank; d++) {
        Affine affine = affine_part(n->from, &index[d]);
        add_scaled(&result[0].affine, &affine, operand->stride[d]);
        if (!(n->gathered_dimensions[number] >> d & 1)) continue;
        result[gathered++].gathered = is_gathered(n->from, &index[d]) ? index[d].gathered : FORMULA_NONE;
    }
    note_affine(n, &result[0].affine);
    return result;
}

static NestOperand rewrite_operand(const Normaliser *n, int number) {
    const NestOperand *from = &n->from->operands[number];
    NestOperand to = {.element = from->element, .rank = 1, .reads = from->reads, .writes = from->writes};
    to.extent[0] = 1;
    to.stride[0] = 1;
    for (int d = 0; d < from->rank; d++) {
        int64_t stride = from->stride[d] < 0 ? -from->stride[d] : from->stride[d];
        to.extent[0] += (from->extent[d] - 1) * stride;
        if (!(n->gathered_dimensions[number] >> d & 1)) continue;
        to.extent[to.rank] = from->extent[d];
        to.stride[to.rank++] = from->stride[d];
    }
    return to;
}

static void rewrite_accesses(Normaliser *n) {
    const Nest *from = n->from;
    Nest *to = n->to;
    size_t count = from->formulas.count;
    n->affine = ARENA_ARRAY(n->arena, Affine *, count + STAGE_LIMIT);
    for (size_t i = 0; i < count; i++)
        if (from->formulas.items[i].kind == FORMULA_LOAD)
            note_gathered(n, from->formulas.items[i].operand, from->formulas.items[i].index);
    for (int s = 0; s < from->stage_count; s++)
        if (from->stages[s].kind >= STAGE_STORE)
            note_gathered(n, from->stages[s].operand, from->stages[s].index);
    for (int i = 0; i < from->operand_count; i++) to->operands[i] = rewrite_operand(n, i);
    to->formulas.items = ARENA_ARRAY(n->arena, Formula, count + 1);
    for (size_t i = 0; i < count; i++) {
        Formula *formula = &to->formulas.items[i];
        *formula = from->formulas.items[i];
        if (formula->kind == FORMULA_LOOP) note_affine(n, &formula->affine);
        if (formula->kind != FORMULA_LOAD) continue;
        formula->number = may_miss(from, formula->operand, formula->index);
        formula->index = rewrite_index(n, formula->operand, formula->index);
    }
    for (int s = 0; s < from->stage_count; s++)
        if (from->stages[s].kind >= STAGE_STORE)
            to->stages[s].index = rewrite_index(n, from->stages[s].operand, from->stages[s].index);
}

// ---- Loops ----

static uint32_t without_bit(uint32_t mask, int bit) {
    uint32_t low = mask & ((1u << bit) - 1);
    return low | (mask >> 1 & ~((1u << bit) - 1));
}

static void remove_loop(Normaliser *n, int loop) {
    Nest *nest = n->to;
    for (size_t i = 0; i < n->affine_count; i++) {
        int64_t *scale = n->affine[i]->scale;
        memmove(&scale[loop], &scale[loop + 1], sizeof *scale * (size_t)(LOOP_MAX - 1 - loop));
        scale[LOOP_MAX - 1] = 0;
    }
    memmove(&nest->loops[loop], &nest->loops[loop + 1], sizeof *nest->loops * (size_t)(LOOP_MAX - 1 - loop));
    nest->parallel = without_bit(nest->parallel, loop);
    for (int s = 0; s < nest->stage_count; s++)
        nest->stages[s].inner = without_bit(nest->stages[s].inner, loop);
    nest->loop_count--;
    if (loop < nest->outer_count) nest->outer_count--;
}

// Loop `high` then loop `low` of a stage or of the outer loops, with none of `mask` between them.
static bool adjacent(uint32_t mask, int high, int low) {
    if (high > low) return false;
    uint32_t between = ((1u << low) - 1) & ~((2u << high) - 1);
    return !(mask & between);
}

// Whether low + extent(low) * high may be one loop: every access must walk them as one, and running them
// as one must keep the order of what has one.
static bool can_merge(const Normaliser *n, int high, int low) {
    const Nest *nest = n->to;
    const Loop *a = &nest->loops[high], *b = &nest->loops[low];
    if (a->bound_operand != UINT32_MAX || b->bound_operand != UINT32_MAX) return false;
    bool outer = high < nest->outer_count;
    if (outer != (low < nest->outer_count)) return false;
    bool parallel = nest->parallel >> high & 1;
    if (outer && parallel != (nest->parallel >> low & 1)) return false;
    uint32_t sequential = ((1u << nest->outer_count) - 1) & ~nest->parallel;
    if (outer && !parallel && !adjacent(sequential, high, low)) return false;
    for (int s = 0; s < nest->stage_count && !outer; s++) {
        uint32_t inner = nest->stages[s].inner;
        if ((inner >> high & 1) != (inner >> low & 1)) return false;
        if ((inner >> high & 1) && !adjacent(inner, high, low)) return false;
    }
    for (size_t i = 0; i < n->affine_count; i++)
        if (n->affine[i]->scale[high] != n->affine[i]->scale[low] * b->dimension.extent) return false;
    return true;
}

static bool merge_one_pair(Normaliser *n) {
    Nest *nest = n->to;
    for (int low = 0; low < nest->loop_count; low++)
        for (int high = 0; high < nest->loop_count; high++) {
            if (high == low || !can_merge(n, high, low)) continue;
            nest->loops[low].dimension.extent *= nest->loops[high].dimension.extent;
            remove_loop(n, high);
            return true;
        }
    return false;
}

const Nest *normalise_nest(Arena *arena, const Nest *nest) {
    Nest *to = ARENA_NEW(arena, Nest);
    Normaliser n = {.from = nest, .to = to, .arena = arena};
    *to = *nest;
    to->ir = ARENA_NEW(arena, Ir);
    to->ir->arena = arena;
    rewrite_accesses(&n);
    to->formulas.capacity = to->formulas.count;
    for (int loop = to->loop_count - 1; loop >= 0; loop--)
        if (to->loops[loop].dimension.extent == 1 && to->loops[loop].bound_operand == UINT32_MAX)
            remove_loop(&n, loop);
    while (merge_one_pair(&n)) {
    }
    return to;
}

// ---- What formulas depend on ----

static void analyse_argument(const NestAnalysis *analysis, size_t id, uint32_t argument) {
    analysis->loops[id] |= analysis->loops[argument];
    analysis->stages[id] |= analysis->stages[argument];
    analysis->may_miss[id] |= analysis->may_miss[argument];
    analysis->operands[id] |= analysis->operands[argument];
}

const NestAnalysis *analyse_nest(Arena *arena, const Nest *nest) {
    size_t count = nest->formulas.count + 1;
    NestAnalysis *analysis = ARENA_NEW(arena, NestAnalysis);
    *analysis = (NestAnalysis){ARENA_ARRAY(arena, uint32_t, count), ARENA_ARRAY(arena, uint32_t, count),
                               ARENA_ARRAY(arena, bool, count), ARENA_ARRAY(arena, uint32_t, count)};
    for (size_t id = 0; id < nest->formulas.count; id++) {
        const Formula *formula = &nest->formulas.items[id];
        if (formula->kind == FORMULA_LOOP) analysis->loops[id] = affine_loops(&formula->affine);
        if (formula->kind == FORMULA_STAGE) analysis->stages[id] = 1u << formula->stage;
        if (formula->kind == FORMULA_LOAD) {
            analysis->may_miss[id] = access_may_miss(formula);
            analysis->operands[id] = 1u << formula->operand;
            for (int d = 0; d < nest->operands[formula->operand].rank; d++) {
                analysis->loops[id] |= affine_loops(&formula->index[d].affine);
                if (formula->index[d].gathered != FORMULA_NONE)
                    analyse_argument(analysis, id, formula->index[d].gathered);
            }
        }
        if (formula->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(formula->primitive); a++)
                analyse_argument(analysis, id, formula->arguments[a]);
    }
    return analysis;
}
