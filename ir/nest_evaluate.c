// The reference interpreter of nests: doubles, one iteration after the other.
#include <math.h>
#include <string.h>

#include "ir/nest.h"

typedef struct Run {
    const Nest *nest;
    double *const *buffers;
    int64_t extent[LOOP_MAX], at[LOOP_MAX];
    double stage_value[STAGE_LIMIT];
    double *value;    // per formula
    uint64_t *stamp;  // iteration in which `value` was computed
    uint64_t iteration;
} Run;

static double evaluate(Run *run, uint32_t id);

static int64_t affine_value(const Run *run, const Affine *affine) {
    int64_t value = affine->offset;
    for (int loop = 0; loop < run->nest->loop_count; loop++) value += affine->scale[loop] * run->at[loop];
    return value;
}

static double *element_at(Run *run, uint32_t number, const Index *index) {
    const NestOperand *operand = &run->nest->operands[number];
    int64_t offset = 0;
    for (int d = 0; d < operand->rank; d++) {
        int64_t at = affine_value(run, &index[d].affine);
        if (index[d].gathered != FORMULA_NONE) at += (int64_t)evaluate(run, index[d].gathered);
        if (at < 0 || at >= operand->extent[d])
            INTERNAL_ERROR("nest %s: index %lld of operand %u, dimension %d, extent %lld", run->nest->name,
                           (long long)at, number, d, (long long)operand->extent[d]);
        offset += at * operand->stride[d];
    }
    return &run->buffers[number][offset];
}

static double evaluate_primitive(Run *run, const Formula *formula) {
    double arguments[3] = {0};
    int count = primitive_arguments(formula->primitive);
    if (formula->primitive == PRIMITIVE_select)  // the arm that is not chosen may load out of range
        return evaluate(run, formula->arguments[evaluate(run, formula->arguments[0]) != 0 ? 1 : 2]);
    for (int i = 0; i < count; i++) arguments[i] = evaluate(run, formula->arguments[i]);
    Element element = formula->element;
    if (primitive_is_comparison(formula->primitive))
        element = run->nest->formulas.items[formula->arguments[0]].element;
    return primitive_evaluate(formula->primitive, element, arguments);
}

static double evaluate(Run *run, uint32_t id) {
    if (run->stamp[id] == run->iteration) return run->value[id];
    const Formula *formula = &run->nest->formulas.items[id];
    double value = 0;
    switch (formula->kind) {
        case FORMULA_CONSTANT:
            value = formula->number;
            break;
        case FORMULA_LOOP:
            value = (double)affine_value(run, &formula->affine);
            break;
        case FORMULA_LOAD:
            value = *element_at(run, formula->operand, formula->index);
            break;
        case FORMULA_STAGE:
            value = run->stage_value[formula->stage];
            break;
        case FORMULA_PRIMITIVE:
            value = evaluate_primitive(run, formula);
            break;
    }
    run->stamp[id] = run->iteration;
    return run->value[id] = value;
}

static bool mask_is_empty(const Run *run, uint32_t mask) {
    for (int loop = 0; loop < run->nest->loop_count; loop++)
        if ((mask >> loop & 1) && run->extent[loop] <= 0) return true;
    return false;
}

// Advances the loops of `mask`, the last one fastest. False when all are back at 0.
static bool advance(Run *run, uint32_t mask) {
    for (int loop = run->nest->loop_count - 1; loop >= 0; loop--) {
        if (!(mask >> loop & 1)) continue;
        if (++run->at[loop] < run->extent[loop]) return true;
        run->at[loop] = 0;
    }
    return false;
}

static void run_stage(Run *run, int number) {
    const Stage *stage = &run->nest->stages[number];
    double result = stage->kind == STAGE_MAX ? -INFINITY : 0;
    if (!mask_is_empty(run, stage->inner)) {
        do {
            run->iteration++;
            double value = evaluate(run, stage->formula);
            if (stage->kind == STAGE_SUM)
                result += value;
            else if (stage->kind == STAGE_MAX)
                result = value > result || isnan(value) ? value : result;
            else if (stage->kind == STAGE_STORE)
                *element_at(run, stage->operand, stage->index) = value;
            else
                *element_at(run, stage->operand, stage->index) += value;
        } while (advance(run, stage->inner));
    }
    run->stage_value[number] = result;
}

void nest_evaluate(const Nest *nest, double *const *buffers) {
    Run run = {.nest = nest, .buffers = buffers};
    Arena *arena = arena_create();
    run.value = ARENA_ARRAY(arena, double, nest->formulas.count + 1);
    run.stamp = ARENA_ARRAY(arena, uint64_t, nest->formulas.count + 1);
    for (int loop = 0; loop < nest->loop_count; loop++) {
        uint32_t bound = nest->loops[loop].bound_operand;
        run.extent[loop] =
            bound == UINT32_MAX ? nest->loops[loop].dimension.extent : (int64_t)buffers[bound][0];
    }
    uint32_t outer = (1u << nest->outer_count) - 1;
    if (!mask_is_empty(&run, outer)) {
        do
            for (int i = 0; i < nest->stage_count; i++) run_stage(&run, i);
        while (advance(&run, outer));
    }
    arena_destroy(arena);
}
