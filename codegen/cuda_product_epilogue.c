// What cuBLASLt does behind a product: a factor, a bias, a matrix that is added, an activation.
#include <math.h>
#include <string.h>

#include "codegen/cuda_product.h"

// Whether an access is a matrix of the result's rows and columns that is not turned.
static bool describe_result(const CudaContraction *c, const Index *index, int64_t *lead, int64_t *step) {
    bool turned;
    return cuda_as_matrix(cuda_walk(c->nest, &c->row, index), cuda_walk(c->nest, &c->column, index),
                     cuda_walk(c->nest, &c->batch, index), &c->row, &c->column, &turned, lead, step) &&
           !turned;
}

// ---- Terms ----

static bool is_bias_aligned(const CudaUnit *unit, CudaPlace place, Element element) {
    int64_t alignment = unit->alignment[place.operand] | place.offset * element_bytes(element);
    return alignment % CUDA_BIAS_ALIGNMENT == 0;
}

// Adds one term of the sum that is stored. The library adds in f32 and rounds once.
static bool add_term(const CudaUnit *unit, const CudaContraction *c, const Stage *store, uint32_t id,
                     CudaProduct *product, bool *has_sum) {
    const Nest *nest = c->nest;
    const Formula *formula = &nest->formulas.items[id];
    while (formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_cast &&
           formula->element == ELEMENT_F32)
        formula = &nest->formulas.items[formula->arguments[0]];
    if (formula->kind == FORMULA_STAGE) {
        bool first = !*has_sum;
        *has_sum = true;
        return first;
    }
    if (formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_add &&
        formula->element == ELEMENT_F32)
        return add_term(unit, c, store, formula->arguments[0], product, has_sum) &&
               add_term(unit, c, store, formula->arguments[1], product, has_sum);
    if (formula->kind != FORMULA_LOAD || formula->element != product->element_d || access_may_miss(formula))
        return false;
    for (int d = 1; d < nest->operands[formula->operand].rank; d++)
        if (formula->index[d].gathered != FORMULA_NONE) return false;
    CudaPlace place = {(int32_t)formula->operand, formula->index[0].affine.offset};
    CudaWalk down = cuda_walk(nest, &c->row, formula->index), across = cuda_walk(nest, &c->column, formula->index);
    CudaWalk batch = cuda_walk(nest, &c->batch, formula->index);
    bool is_bias = down.regular && across.regular && batch.regular && !down.stride && !batch.stride &&
                   across.stride == 1;
    if (is_bias && product->bias.operand == CUDA_NONE && is_bias_aligned(unit, place, formula->element)) {
        product->bias = place;
        return true;
    }
    if (product->c.operand != CUDA_NONE ||
        !describe_result(c, formula->index, &product->lead_c, &product->step_c))
        return false;
    // In place only where it is the very place: the library writes while it reads.
    if (formula->operand == store->operand && memcmp(formula->index, store->index, sizeof *store->index) != 0)
        return false;
    product->c = place;
    product->beta = 1;
    return true;
}

// Takes a constant factor off; returns the formula under it.
static uint32_t take_factor(const Nest *nest, uint32_t id, double *alpha) {
    const Formula *formula = &nest->formulas.items[id];
    if (formula->kind != FORMULA_PRIMITIVE || formula->primitive != PRIMITIVE_mul ||
        formula->element != ELEMENT_F32)
        return id;
    for (int i = 0; i < 2; i++) {
        const Formula *factor = &nest->formulas.items[formula->arguments[i]];
        if (factor->kind != FORMULA_CONSTANT) continue;
        *alpha = factor->number;
        return formula->arguments[!i];
    }
    return id;
}

// Where a stage leaves its results, if that is a matrix as the library writes them.
static bool describe_store(const CudaContraction *c, const Stage *store, CudaPlace *place, int64_t *lead, int64_t *step) {
    for (int d = 1; d < c->nest->operands[store->operand].rank; d++)
        if (store->index[d].gathered != FORMULA_NONE) return false;
    *place = (CudaPlace){(int32_t)store->operand, store->index[0].affine.offset};
    return describe_result(c, store->index, lead, step);
}

bool cuda_product_describe_epilogue(const CudaUnit *unit, const CudaContraction *c, CudaProduct *product) {
    const Nest *nest = c->nest;
    const Stage *store = &nest->stages[1];
    if (nest->stages[0].element != ELEMENT_F32) return false;
    const NestOperand *operand = &nest->operands[store->operand];
    product->element_d = operand->element;
    if (operand->element != ELEMENT_F32 && operand->element != ELEMENT_BF16) return false;
    if (!describe_store(c, store, &product->d, &product->lead_d, &product->step_d)) return false;
    if (c->batch.extent > 1 && product->step_d == 0) return false;
    uint32_t id = store->formula;
    const Formula *formula = &nest->formulas.items[id];
    bool rounds = formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_cast &&
                  formula->element == operand->element;
    if (rounds) id = formula->arguments[0];
    if (nest->formulas.items[id].element != ELEMENT_F32) return false;  // rounded in between
    id = take_factor(nest, id, &product->alpha);
    bool has_sum = false;
    if (product->alpha != 1)
        has_sum = nest->formulas.items[id].kind == FORMULA_STAGE;
    else if (!add_term(unit, c, store, id, product, &has_sum))
        return false;
    if (!has_sum) return false;
    if (store->kind != STAGE_ADD) return true;
    // The sum is rounded before it is added to bf16: the library would not.
    if (product->c.operand != CUDA_NONE || product->bias.operand != CUDA_NONE ||
        operand->element != ELEMENT_F32)
        return false;
    product->c = product->d;
    product->lead_c = product->lead_d;
    product->step_c = product->step_d;
    product->beta = 1;
    return true;
}

// ---- An activation ----

enum { ACTIVATION_FORMULAS = 64 };  // in the nest, at most

// The formula at `argument` = x, NAN where anything else is read.
static double value_at(const Nest *nest, uint32_t id, uint32_t argument, double x) {
    double values[ACTIVATION_FORMULAS];
    for (uint32_t i = 0; i <= id; i++) {  // arguments stand before users
        const Formula *formula = &nest->formulas.items[i];
        double arguments[3] = {0};
        for (int a = 0; formula->kind == FORMULA_PRIMITIVE && a < primitive_arguments(formula->primitive); a++)
            arguments[a] = values[formula->arguments[a]];
        values[i] = i == argument                         ? x
                    : formula->kind == FORMULA_CONSTANT   ? formula->number
                    : formula->kind == FORMULA_PRIMITIVE && element_is_float(formula->element)
                        ? primitive_evaluate(formula->primitive, formula->element, arguments)
                        : NAN;
    }
    return values[id];
}

// However it was written: what counts is what it gives.
static bool is_gelu(const Nest *nest, uint32_t id, uint32_t argument) {
    for (double x = -7.93; x < 8; x += 0.31) {
        double gelu = 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
        if (!(fabs(value_at(nest, id, argument, x) - gelu) < 1e-6)) return false;
    }
    return true;
}

// The formula that a stage rounds to bf16 as it stores it; FORMULA_NONE: it does something else.
static uint32_t rounded_formula(const Nest *nest, const Stage *stage) {
    const Formula *formula = &nest->formulas.items[stage->formula];
    bool rounds = stage->kind == STAGE_STORE && formula->kind == FORMULA_PRIMITIVE &&
                  formula->primitive == PRIMITIVE_cast && formula->element == ELEMENT_BF16 &&
                  nest->operands[stage->operand].element == ELEMENT_BF16;
    return rounds ? formula->arguments[0] : FORMULA_NONE;
}

static bool describe_before(const CudaUnit *unit, const CudaContraction *c, const Stage *stage, uint32_t sum,
                            CudaProduct *product) {
    enum { PIECE = 8 };  // elements: the library wants rows of whole pieces of 16 bytes
    int64_t step;
    return rounded_formula(c->nest, stage) == sum &&
           describe_store(c, stage, &product->before, &product->lead_before, &step) &&
           (product->lead_before | product->before.offset) % PIECE == 0 &&
           unit->alignment[stage->operand] % (PIECE * 2) == 0;
}

// Stage `number` stores GELU of a sum that is not rounded; the other one, if there is one, the sum itself.
static bool describe_gelu(const CudaUnit *unit, const CudaContraction *c, int number, CudaProduct *product) {
    const Nest *nest = c->nest;
    uint32_t result = rounded_formula(nest, &nest->stages[number]);
    for (uint32_t sum = 0; result != FORMULA_NONE && sum < result; sum++) {
        if (nest->formulas.items[sum].element != ELEMENT_F32 || !is_gelu(nest, result, sum)) continue;
        CudaProduct found = *product;
        bool has_sum = false;
        found.element_d = ELEMENT_BF16;
        found.activation = CUDA_GELU;
        found.before.operand = CUDA_NONE;
        if (!add_term(unit, c, &nest->stages[number], sum, &found, &has_sum) || !has_sum ||
            found.c.operand != CUDA_NONE ||
            !describe_store(c, &nest->stages[number], &found.d, &found.lead_d, &found.step_d) ||
            (nest->stage_count == 3 && !describe_before(unit, c, &nest->stages[3 - number], sum, &found)))
            return false;
        *product = found;
        return true;
    }
    return false;
}

bool cuda_product_describe_activation(const CudaUnit *unit, const CudaContraction *c, CudaProduct *product) {
    const Nest *nest = c->nest;
    if (nest->stages[0].element != ELEMENT_F32 || product->element_ab != ELEMENT_BF16 || product->batch > 1 ||
        nest->stage_count > 3 || nest->formulas.count > ACTIVATION_FORMULAS)
        return false;
    for (int number = 1; number < nest->stage_count; number++)
        if (describe_gelu(unit, c, number, product)) return true;
    return false;
}
