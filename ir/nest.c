// Loop nests: making, comparing and measuring them. Text is in nest_print.c and nest_read.c, rules in
// nest_verify.c, the reference interpreter in nest_evaluate.c.
#include "ir/nest.h"

#include <string.h>

#include "base/hash.h"

Nest *nest_create(Ir *ir, const char *name, Place place) {
    Nest *nest = ARENA_NEW(ir->arena, Nest);
    nest->ir = ir;
    nest->name = name;
    nest->place = place;
    return nest;
}

// ---- Identity of formulas and stages. Names and places never take part. ----

static uint64_t hash_number(uint64_t hash, double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);  // keeps -0 and 0 apart, and a NaN equal to itself
    return hash_word(hash, bits);
}

static bool same_number(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

static bool affine_equal(const Affine *a, const Affine *b) { return memcmp(a, b, sizeof *a) == 0; }

// Most scales are zero: the others with their places say it all.
static uint64_t hash_affine(uint64_t hash, const Affine *affine) {
    hash = hash_word(hash, (uint64_t)affine->offset);
    for (int loop = 0; loop < LOOP_MAX; loop++)
        if (affine->scale[loop]) hash = hash_word(hash + (uint64_t)loop, (uint64_t)affine->scale[loop]);
    return hash;
}

static uint64_t hash_index(uint64_t hash, const Index *index, int rank) {
    for (int i = 0; i < rank; i++) hash = hash_affine(hash_word(hash, index[i].gathered), &index[i].affine);
    return hash;
}

static bool index_equal(const Index *a, const Index *b, int rank) {
    for (int i = 0; i < rank; i++)
        if (a[i].gathered != b[i].gathered || !affine_equal(&a[i].affine, &b[i].affine)) return false;
    return true;
}

static uint64_t hash_formula(const Nest *nest, uint64_t hash, const Formula *formula) {
    hash = hash_word(hash, (uint64_t)formula->kind * ELEMENT_COUNT + formula->element);
    switch (formula->kind) {
        case FORMULA_CONSTANT:
            return hash_number(hash, formula->number);
        case FORMULA_LOOP:
            return hash_affine(hash, &formula->affine);
        case FORMULA_LOAD:
            return hash_index(hash_word(hash, formula->operand), formula->index,
                              nest->operands[formula->operand].rank);
        case FORMULA_STAGE:
            return hash_word(hash, formula->stage);
        case FORMULA_PRIMITIVE:
            hash = hash_word(hash, formula->primitive);
            for (int i = 0; i < primitive_arguments(formula->primitive); i++)
                hash = hash_word(hash, formula->arguments[i]);
            return hash;
    }
    INTERNAL_ERROR("formula kind %d", (int)formula->kind);
}

static bool formula_equal(const Nest *nest, const Formula *a, const Formula *b) {
    if (a->kind != b->kind || a->element != b->element) return false;
    switch (a->kind) {
        case FORMULA_CONSTANT:
            return same_number(a->number, b->number);
        case FORMULA_LOOP:
            return affine_equal(&a->affine, &b->affine);
        case FORMULA_LOAD:
            return a->operand == b->operand &&
                   index_equal(a->index, b->index, nest->operands[a->operand].rank);
        case FORMULA_STAGE:
            return a->stage == b->stage;
        case FORMULA_PRIMITIVE:
            if (a->primitive != b->primitive) return false;
            for (int i = 0; i < primitive_arguments(a->primitive); i++)
                if (a->arguments[i] != b->arguments[i]) return false;
            return true;
    }
    INTERNAL_ERROR("formula kind %d", (int)a->kind);
}

uint32_t nest_formula(Nest *nest, Formula formula) {
    for (size_t i = 0; i < nest->formulas.count; i++)
        if (formula_equal(nest, &nest->formulas.items[i], &formula)) return (uint32_t)i;
    if (formula.kind == FORMULA_LOAD) {  // the caller's index may live on its stack
        int rank = nest->operands[formula.operand].rank;
        Index *copy = ARENA_ARRAY(nest->ir->arena, Index, rank ? rank : 1);
        if (rank) memcpy(copy, formula.index, sizeof(Index) * (size_t)rank);
        formula.index = copy;
    }
    vector_push(nest->ir->arena, &nest->formulas, formula);
    return (uint32_t)nest->formulas.count - 1;
}

static bool writes(const Stage *stage) { return stage->kind == STAGE_STORE || stage->kind == STAGE_ADD; }

static uint64_t hash_stage(const Nest *nest, uint64_t hash, const Stage *stage) {
    hash = hash_word(hash, (uint64_t)stage->kind * ELEMENT_COUNT + stage->element);
    hash = hash_word(hash_word(hash, stage->inner), stage->formula);
    if (!writes(stage)) return hash;
    return hash_index(hash_word(hash, stage->operand), stage->index, nest->operands[stage->operand].rank);
}

static bool stage_equal(const Nest *nest, const Stage *a, const Stage *b) {
    if (a->kind != b->kind || a->element != b->element || a->inner != b->inner || a->formula != b->formula)
        return false;
    return !writes(a) ||
           (a->operand == b->operand && index_equal(a->index, b->index, nest->operands[a->operand].rank));
}

static bool operand_equal(const NestOperand *a, const NestOperand *b) {
    if (a->element != b->element || a->rank != b->rank || a->reads != b->reads || a->writes != b->writes)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->extent[i] != b->extent[i] || a->stride[i] != b->stride[i]) return false;
    return true;
}

uint64_t nest_hash(const Nest *nest) {
    uint64_t hash = hash_word(HASH_START, (uint64_t)nest->loop_count << 32 | (uint32_t)nest->outer_count);
    hash = hash_word(hash, nest->parallel);
    for (int i = 0; i < nest->loop_count; i++)
        hash = hash_word(hash_word(hash, (uint64_t)nest->loops[i].dimension.extent),
                         nest->loops[i].bound_operand);
    for (int i = 0; i < nest->operand_count; i++) {
        const NestOperand *operand = &nest->operands[i];
        hash = hash_word(hash, (uint64_t)operand->element << 16 | (uint64_t)operand->rank << 8 |
                                   (uint64_t)operand->reads << 1 | operand->writes);
        for (int d = 0; d < operand->rank; d++)
            hash = hash_word(hash_word(hash, (uint64_t)operand->extent[d]), (uint64_t)operand->stride[d]);
    }
    for (size_t i = 0; i < nest->formulas.count; i++)
        hash = hash_formula(nest, hash, &nest->formulas.items[i]);
    for (int i = 0; i < nest->stage_count; i++) hash = hash_stage(nest, hash, &nest->stages[i]);
    return hash;
}

bool nest_equal(const Nest *a, const Nest *b) {
    if (a->loop_count != b->loop_count || a->outer_count != b->outer_count || a->parallel != b->parallel ||
        a->operand_count != b->operand_count || a->formulas.count != b->formulas.count ||
        a->stage_count != b->stage_count)
        return false;
    for (int i = 0; i < a->loop_count; i++)
        if (a->loops[i].dimension.extent != b->loops[i].dimension.extent ||
            a->loops[i].bound_operand != b->loops[i].bound_operand)
            return false;
    for (int i = 0; i < a->operand_count; i++)
        if (!operand_equal(&a->operands[i], &b->operands[i])) return false;
    for (size_t i = 0; i < a->formulas.count; i++)
        if (!formula_equal(a, &a->formulas.items[i], &b->formulas.items[i])) return false;
    for (int i = 0; i < a->stage_count; i++)
        if (!stage_equal(a, &a->stages[i], &b->stages[i])) return false;
    return true;
}

// ---- Loops that a formula depends on ----

static uint32_t affine_loops(const Affine *affine) {
    uint32_t mask = 0;
    for (int loop = 0; loop < LOOP_MAX; loop++)
        if (affine->scale[loop]) mask |= 1u << loop;
    return mask;
}

enum { USUAL_FORMULAS = 512 };  // as many need no memory of the arena

// Masks of all formulas before `count`, bottom up: arguments stand before users.
static void formula_masks(const Nest *nest, size_t count, uint32_t *mask) {
    memset(mask, 0, sizeof *mask * count);
    for (size_t i = 0; i < count; i++) {
        const Formula *formula = &nest->formulas.items[i];
        if (formula->kind == FORMULA_LOOP) mask[i] = affine_loops(&formula->affine);
        if (formula->kind == FORMULA_LOAD)
            for (int d = 0; d < nest->operands[formula->operand].rank; d++) {
                mask[i] |= affine_loops(&formula->index[d].affine);
                if (formula->index[d].gathered != FORMULA_NONE) mask[i] |= mask[formula->index[d].gathered];
            }
        if (formula->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(formula->primitive); a++)
                mask[i] |= mask[formula->arguments[a]];
        if (formula->kind == FORMULA_STAGE) mask[i] = (1u << nest->outer_count) - 1;
    }
}

uint32_t nest_formula_loops(const Nest *nest, uint32_t formula) {
    uint32_t usual[USUAL_FORMULAS], *mask = usual;
    if (formula >= USUAL_FORMULAS) mask = ARENA_ARRAY(nest->ir->arena, uint32_t, (size_t)formula + 1);
    formula_masks(nest, (size_t)formula + 1, mask);
    return mask[formula];
}

uint32_t nest_index_loops(const Nest *nest, const NestOperand *operand, const Index *index) {
    uint32_t mask = 0;
    for (int d = 0; d < operand->rank; d++) {
        mask |= affine_loops(&index[d].affine);
        if (index[d].gathered != FORMULA_NONE) mask |= nest_formula_loops(nest, index[d].gathered);
    }
    return mask;
}

// ---- Canonical form ----

// Copies formula `id` of `from` into `to` after its arguments; `map` holds what is there already.
static uint32_t copy_formula(const Nest *from, Nest *to, uint32_t id, uint32_t *map) {
    if (map[id] != FORMULA_NONE) return map[id];
    Formula formula = from->formulas.items[id];
    Index index[RANK_MAX];
    if (formula.kind == FORMULA_LOAD) {
        int rank = from->operands[formula.operand].rank;
        for (int d = 0; d < rank; d++) {
            index[d] = formula.index[d];
            if (index[d].gathered != FORMULA_NONE)
                index[d].gathered = copy_formula(from, to, index[d].gathered, map);
        }
        formula.index = index;
    } else if (formula.kind == FORMULA_PRIMITIVE) {
        for (int a = 0; a < primitive_arguments(formula.primitive); a++)
            formula.arguments[a] = copy_formula(from, to, formula.arguments[a], map);
    }
    return map[id] = nest_formula(to, formula);
}

void nest_compact(Nest *nest) {
    Nest old = *nest;
    uint32_t *map = ARENA_ARRAY(nest->ir->arena, uint32_t, old.formulas.count + 1);
    memset(map, 0xff, sizeof(uint32_t) * (old.formulas.count + 1));
    memset(&nest->formulas, 0, sizeof nest->formulas);
    for (int i = 0; i < nest->stage_count; i++) {
        Stage *stage = &nest->stages[i];
        stage->formula = copy_formula(&old, nest, stage->formula, map);
        if (!writes(stage)) continue;
        int rank = nest->operands[stage->operand].rank;
        Index *index = ARENA_ARRAY(nest->ir->arena, Index, rank ? rank : 1);
        for (int d = 0; d < rank; d++) {
            index[d] = stage->index[d];
            if (index[d].gathered != FORMULA_NONE)
                index[d].gathered = copy_formula(&old, nest, index[d].gathered, map);
        }
        stage->index = index;
    }
}

static const Index *copy_index(Ir *ir, const Index *index, int rank) {
    Index *copy = ARENA_ARRAY(ir->arena, Index, rank ? rank : 1);
    if (rank) memcpy(copy, index, sizeof(Index) * (size_t)rank);
    return copy;
}

Nest *nest_copy(Ir *ir, const Nest *nest) {
    Nest *copy = nest_create(ir, nest->name, nest->place);
    *copy = *nest;
    copy->ir = ir;
    memset(&copy->formulas, 0, sizeof copy->formulas);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        Formula formula = nest->formulas.items[i];
        if (formula.kind == FORMULA_LOAD)
            formula.index = copy_index(ir, formula.index, nest->operands[formula.operand].rank);
        vector_push(ir->arena, &copy->formulas, formula);
    }
    for (int i = 0; i < nest->stage_count; i++)
        if (writes(&nest->stages[i]))
            copy->stages[i].index =
                copy_index(ir, nest->stages[i].index, nest->operands[nest->stages[i].operand].rank);
    return copy;
}

// Iterations of an outer loop may run apart when no two of them write to one place: the loop moves the
// address of every write through the affine part, or it chooses the place of a `scatter`, whose indices
// are distinct by definition.
static bool loop_is_parallel(const Nest *nest, int loop) {
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (!writes(stage)) continue;
        const NestOperand *operand = &nest->operands[stage->operand];
        int64_t step = 0;
        bool chosen = false;
        for (int d = 0; d < operand->rank; d++) {
            step += stage->index[d].affine.scale[loop] * operand->stride[d];
            uint32_t gathered = stage->index[d].gathered;
            if (gathered != FORMULA_NONE && stage->kind == STAGE_STORE)
                chosen |= nest_formula_loops(nest, gathered) >> loop & 1;
        }
        if (step == 0 && !chosen) return false;
    }
    return true;
}

void nest_mark_parallel(Nest *nest) {
    nest->parallel = 0;
    for (int loop = 0; loop < nest->outer_count; loop++)
        if (loop_is_parallel(nest, loop)) nest->parallel |= 1u << loop;
}
