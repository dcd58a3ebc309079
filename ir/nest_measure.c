// What a nest is worth: recognising contractions, counting FLOPs and bytes.
#include "ir/nest.h"

// The load under a chain of casts, or FORMULA_NONE.
static uint32_t load_under_casts(const Nest *nest, uint32_t id) {
    const Formula *formula = &nest->formulas.items[id];
    while (formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_cast) {
        id = formula->arguments[0];
        formula = &nest->formulas.items[id];
    }
    return formula->kind == FORMULA_LOAD ? id : FORMULA_NONE;
}

// Loops that move the address of a load. False where the load is gathered.
static bool moving_loops(const Nest *nest, uint32_t load, uint32_t *mask) {
    const Formula *formula = &nest->formulas.items[load];
    const NestOperand *operand = &nest->operands[formula->operand];
    *mask = 0;
    for (int d = 0; d < operand->rank; d++)
        if (formula->index[d].gathered != FORMULA_NONE) return false;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        int64_t step = 0;
        for (int d = 0; d < operand->rank; d++)
            step += formula->index[d].affine.scale[loop] * operand->stride[d];
        if (step) *mask |= 1u << loop;
    }
    return true;
}

// Loops that run once.
static uint32_t single_loops(const Nest *nest) {
    uint32_t mask = 0;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (nest->loops[loop].dimension.extent == 1 && nest->loops[loop].bound_operand == UINT32_MAX)
            mask |= 1u << loop;
    return mask;
}

bool nest_contraction(const Nest *nest, Contraction *contraction) {
    if (nest->stage_count < 2 || nest->stages[0].kind != STAGE_SUM) return false;
    for (int i = 1; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if ((stage->kind != STAGE_STORE && stage->kind != STAGE_ADD) || stage->inner) return false;
    }
    const Formula *product = &nest->formulas.items[nest->stages[0].formula];
    if (product->kind != FORMULA_PRIMITIVE || product->primitive != PRIMITIVE_mul) return false;
    if (!element_is_float(product->element)) return false;
    uint32_t a = load_under_casts(nest, product->arguments[0]);
    uint32_t b = load_under_casts(nest, product->arguments[1]);
    uint32_t moves_a, moves_b;
    if (a == FORMULA_NONE || b == FORMULA_NONE) return false;
    if (!moving_loops(nest, a, &moves_a) || !moving_loops(nest, b, &moves_b)) return false;

    uint32_t outer = (1u << nest->outer_count) - 1, inner = nest->stages[0].inner;
    if ((nest->parallel & outer) != outer) return false;
    *contraction = (Contraction){.stage = 0,
                                 .load_a = a,
                                 .load_b = b,
                                 .batch = moves_a & moves_b & outer,
                                 .row = moves_a & ~moves_b & outer,
                                 .column = moves_b & ~moves_a & outer,
                                 .reduced = inner};
    uint32_t single = single_loops(nest);  // move an operand or not: it makes no difference
    bool covered = (contraction->batch | contraction->row | contraction->column | (single & outer)) == outer;
    bool reduces = ((moves_a & moves_b) | single | ~inner) == UINT32_MAX && inner != 0;
    return covered && reduces && contraction->row && contraction->column;
}

static double loop_product(const Nest *nest, uint32_t mask) {
    double product = 1;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (mask >> loop & 1) product *= (double)nest->loops[loop].dimension.extent;
    return product;
}

double nest_flops(const Nest *nest) {
    Contraction contraction;
    if (!nest_contraction(nest, &contraction)) return 0;
    return 2 * loop_product(nest, (1u << nest->outer_count) - 1) * loop_product(nest, contraction.reduced);
}

// Elements that one access touches: no more than the operand has, no more than there are iterations.
static double touched(const Nest *nest, const NestOperand *operand, const Index *index) {
    double all = 1;
    for (int d = 0; d < operand->rank; d++)
        if (operand->stride[d]) all *= (double)operand->extent[d];
    double visits = loop_product(nest, nest_index_loops(nest, operand, index));
    return all < visits ? all : visits;
}

void nest_operand_bytes(const Nest *nest, double *read, double *written) {
    for (int i = 0; i < nest->operand_count; i++) read[i] = written[i] = 0;
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *formula = &nest->formulas.items[i];
        if (formula->kind != FORMULA_LOAD) continue;
        double count = touched(nest, &nest->operands[formula->operand], formula->index);
        if (count > read[formula->operand]) read[formula->operand] = count;
    }
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (stage->kind != STAGE_STORE && stage->kind != STAGE_ADD) continue;
        double count = touched(nest, &nest->operands[stage->operand], stage->index);
        if (count > written[stage->operand]) written[stage->operand] = count;
        if (stage->kind == STAGE_ADD && count > read[stage->operand]) read[stage->operand] = count;
    }
    for (int i = 0; i < nest->operand_count; i++) {
        read[i] *= element_bytes(nest->operands[i].element);
        written[i] *= element_bytes(nest->operands[i].element);
    }
}

int64_t nest_bytes(const Nest *nest) {
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], bytes = 0;
    nest_operand_bytes(nest, read, written);
    for (int i = 0; i < nest->operand_count; i++) bytes += read[i] + written[i];
    return (int64_t)bytes;
}
