// The rules of loop nests. Codes: E0410.
#include "ir/nest.h"

typedef struct Check {
    Ir *ir;
    const Nest *nest;
} Check;

#define BROKEN(check, ...) broken((check), arena_format((check)->ir->arena, __VA_ARGS__))

static bool broken(const Check *check, const char *text) {
    return report_error(check->ir->diagnostics, check->nest->place, "E0410", "loop nest %s: %s",
                        check->nest->name, text);
}

// Smallest and largest value of an affine expression over the loops at capacity.
static void affine_range(const Nest *nest, const Affine *affine, int64_t *low, int64_t *high) {
    *low = *high = affine->offset;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        int64_t last = affine->scale[loop] * (nest->loops[loop].dimension.extent - 1);
        *(last < 0 ? low : high) += last;
    }
}

static bool check_affine(const Check *check, const Affine *affine) {
    for (int loop = check->nest->loop_count; loop < LOOP_MAX; loop++)
        if (affine->scale[loop])
            return BROKEN(check, "an index uses loop %d of %d", loop, check->nest->loop_count);
    return true;
}

static bool check_index(const Check *check, uint32_t number, const Index *index, uint32_t limit) {
    if (number >= (uint32_t)check->nest->operand_count)
        return BROKEN(check, "operand %u does not exist", number);
    const NestOperand *operand = &check->nest->operands[number];
    for (int d = 0; d < operand->rank; d++) {
        if (!check_affine(check, &index[d].affine)) return false;
        uint32_t gathered = index[d].gathered;
        if (gathered != FORMULA_NONE) {
            if (gathered >= limit)
                return BROKEN(check, "a gathered index uses formula %u before it is there", gathered);
            if (!element_is_integer(check->nest->formulas.items[gathered].element))
                return BROKEN(check, "a gathered index is not an integer");
            continue;
        }
        int64_t low, high;
        affine_range(check->nest, &index[d].affine, &low, &high);
        if (low < 0 || high >= operand->extent[d])
            return BROKEN(check, "operand %u, dimension %d: indices %lld to %lld, extent %lld", number, d,
                          (long long)low, (long long)high, (long long)operand->extent[d]);
    }
    return true;
}

// The element that a primitive over these arguments has; false where they do not fit.
static bool primitive_fits(const Nest *nest, const Formula *formula) {
    const Formula *items = nest->formulas.items;
    int count = primitive_arguments(formula->primitive);
    Element first = items[formula->arguments[0]].element;
    if (formula->primitive == PRIMITIVE_cast) return true;
    if (formula->primitive == PRIMITIVE_select)
        return first == ELEMENT_BOOL && items[formula->arguments[1]].element == formula->element &&
               items[formula->arguments[2]].element == formula->element;
    for (int i = 1; i < count; i++)
        if (items[formula->arguments[i]].element != first) return false;
    if (primitive_is_comparison(formula->primitive)) return formula->element == ELEMENT_BOOL;
    return formula->element == first && primitive_accepts(formula->primitive, first);
}

static bool check_formula(const Check *check, uint32_t id) {
    const Nest *nest = check->nest;
    const Formula *formula = &nest->formulas.items[id];
    switch (formula->kind) {
        case FORMULA_CONSTANT:
            return true;
        case FORMULA_LOOP:
            if (!element_is_integer(formula->element))
                return BROKEN(check, "formula %u: a loop value is an integer", id);
            return check_affine(check, &formula->affine);
        case FORMULA_LOAD:
            if (!check_index(check, formula->operand, formula->index, id)) return false;
            if (!nest->operands[formula->operand].reads)
                return BROKEN(check, "operand %u is loaded but not marked as read", formula->operand);
            if (nest->operands[formula->operand].element != formula->element)
                return BROKEN(check, "formula %u: a load of another element type", id);
            return true;
        case FORMULA_STAGE:
            if (formula->stage >= (uint32_t)nest->stage_count ||
                nest->stages[formula->stage].kind > STAGE_MAX)
                return BROKEN(check, "formula %u: stage %u has no value", id, formula->stage);
            if (nest->stages[formula->stage].element != formula->element)
                return BROKEN(check, "formula %u: a stage value of another element type", id);
            return true;
        case FORMULA_PRIMITIVE:
            break;
    }
    for (int i = 0; i < primitive_arguments(formula->primitive); i++)
        if (formula->arguments[i] >= id) return BROKEN(check, "formula %u stands before its argument", id);
    if (!primitive_fits(nest, formula))
        return BROKEN(check, "formula %u: %s of wrong element types", id, primitive_name(formula->primitive));
    return true;
}

// Largest stage whose value the formula uses, -1: none.
static int newest_stage(const Nest *nest, uint32_t id) {
    const Formula *formula = &nest->formulas.items[id];
    int newest = formula->kind == FORMULA_STAGE ? (int)formula->stage : -1;
    if (formula->kind == FORMULA_PRIMITIVE)
        for (int i = 0; i < primitive_arguments(formula->primitive); i++) {
            const Formula *argument = &nest->formulas.items[formula->arguments[i]];
            if (argument->kind == FORMULA_STAGE && (int)argument->stage > newest)
                newest = (int)argument->stage;
        }
    return newest;
}

static bool check_stage(const Check *check, int number) {
    const Nest *nest = check->nest;
    const Stage *stage = &nest->stages[number];
    uint32_t inner = ((1u << nest->loop_count) - 1) & ~((1u << nest->outer_count) - 1);
    if (stage->formula >= nest->formulas.count) return BROKEN(check, "stage %d has no formula", number);
    if (stage->inner & ~inner) return BROKEN(check, "stage %d runs a loop that is not inner", number);
    if (nest->formulas.items[stage->formula].element != stage->element)
        return BROKEN(check, "stage %d has another element type than its formula", number);
    uint32_t used = nest_formula_loops(nest, stage->formula);
    if (stage->kind == STAGE_STORE || stage->kind == STAGE_ADD) {
        if (!check_index(check, stage->operand, stage->index, (uint32_t)nest->formulas.count)) return false;
        const NestOperand *operand = &nest->operands[stage->operand];
        if (!operand->writes) return BROKEN(check, "operand %u is written but not marked so", stage->operand);
        if (stage->kind == STAGE_ADD && !operand->reads)
            return BROKEN(check, "operand %u is added to but not marked as read", stage->operand);
        if (operand->element != stage->element)
            return BROKEN(check, "stage %d stores another element type", number);
        used |= nest_index_loops(nest, operand, stage->index);
    }
    if (used & inner & ~stage->inner)
        return BROKEN(check, "stage %d uses an inner loop that it does not run", number);
    return true;
}

bool nest_verify(Ir *ir, const Nest *nest) {
    Check check = {ir, nest};
    if (nest->loop_count > LOOP_MAX || nest->outer_count > nest->loop_count || nest->outer_count < 0)
        return BROKEN(&check, "%d loops, %d of them outer", nest->loop_count, nest->outer_count);
    if (nest->operand_count > NEST_OPERAND_MAX || nest->stage_count > STAGE_LIMIT)
        return BROKEN(&check, "%d operands, %d stages", nest->operand_count, nest->stage_count);
    if (nest->stage_count == 0) return BROKEN(&check, "no stage");
    for (int i = 0; i < nest->loop_count; i++) {
        uint32_t bound = nest->loops[i].bound_operand;
        for (int other = 0; other < i; other++)
            if (nest->loops[other].dimension.name == nest->loops[i].dimension.name)
                return BROKEN(&check, "two loops are called %s", nest->loops[i].dimension.name);
        if (bound == UINT32_MAX) continue;
        if (bound >= (uint32_t)nest->operand_count || nest->operands[bound].rank != 0 ||
            nest->operands[bound].element != ELEMENT_I64 || !nest->operands[bound].reads)
            return BROKEN(&check, "loop %d: its extent is not an i64 scalar", i);
    }
    for (size_t i = 0; i < nest->formulas.count; i++)
        if (!check_formula(&check, (uint32_t)i)) return false;
    // A formula may use the values of earlier stages only; formulas are shared, so look at each stage.
    int *newest = ARENA_ARRAY(ir->arena, int, nest->formulas.count + 1);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *formula = &nest->formulas.items[i];
        newest[i] = newest_stage(nest, (uint32_t)i);
        if (formula->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(formula->primitive); a++)
                if (newest[formula->arguments[a]] > newest[i]) newest[i] = newest[formula->arguments[a]];
    }
    for (int i = 0; i < nest->stage_count; i++) {
        if (!check_stage(&check, i)) return false;
        if (newest[nest->stages[i].formula] >= i) return BROKEN(&check, "stage %d uses a later stage", i);
    }
    return true;
}
