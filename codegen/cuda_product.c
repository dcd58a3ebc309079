// Contractions as products for cuBLASLt.
//
//   store C { sum }                              ->  D = A B
//   store C { cast(add(sum, residual[m, n])) }   ->  D = A B + C
//   store C { add(sum, bias[n]) }                ->  D = A B + bias
//   add C { 0.5 sum }                            ->  C = 0.5 A B + C
//   anything else                                ->  workspace = A B, then a kernel for the other stages
//
// Rows, columns and k must each walk an operand with one stride, batches too, and no extent may vary.
#include <string.h>

#include "codegen/cuda_contract.h"

typedef struct Walk {
    int64_t stride;
    bool regular;
} Walk;

// The stride with which an access walks several loops as one.
static Walk walk(const Nest *nest, const CudaLoops *loops, const Index *index) {
    Walk result = {.regular = true};
    int64_t expected = 0;
    for (int i = loops->count - 1; i >= 0; i--) {
        int64_t stride = access_stride(index, loops->loop[i]);
        if (i == loops->count - 1)
            result.stride = stride;
        else
            result.regular &= stride == expected;
        expected = stride * nest->loops[loops->loop[i]].dimension.extent;
    }
    return result;
}

// A matrix: `down` from row to row, `across` from column to column. True where one of them is 1.
static bool as_matrix(Walk down, Walk across, Walk batch, const CudaLoops *rows, const CudaLoops *columns,
                      bool *turned, int64_t *lead, int64_t *step) {
    if (!down.regular || !across.regular || !batch.regular) return false;
    *step = batch.stride;
    *turned = !(across.stride == 1 || columns->extent == 1) ||
              (down.stride == 1 && columns->extent == 1 && rows->extent > 1);
    *lead = *turned ? across.stride : down.stride;
    int64_t width = *turned ? rows->extent : columns->extent,
            height = *turned ? columns->extent : rows->extent;
    if (*turned && down.stride != 1 && rows->extent > 1) return false;
    if (height == 1 && *lead < width) *lead = width;
    return *lead >= width && *step >= 0;
}

static bool describe_operands(const CudaContraction *c, CudaProduct *product) {
    const Nest *nest = c->nest;
    const Index *a = c->a->index, *b = c->b->index;
    if (!as_matrix(walk(nest, &c->row, a), walk(nest, &c->k, a), walk(nest, &c->batch, a), &c->row, &c->k,
                   &product->turned_a, &product->lead_a, &product->step_a) ||
        !as_matrix(walk(nest, &c->k, b), walk(nest, &c->column, b), walk(nest, &c->batch, b), &c->k,
                   &c->column, &product->turned_b, &product->lead_b, &product->step_b))
        return false;
    product->a = (CudaPlace){(int32_t)c->a->operand, a[0].affine.offset};
    product->b = (CudaPlace){(int32_t)c->b->operand, b[0].affine.offset};
    product->element_ab = c->a->element;
    product->m = c->row.extent;
    product->n = c->column.extent;
    product->k = c->k.extent;
    product->batch = c->batch.extent;
    product->alpha = 1;
    product->c = product->bias = (CudaPlace){.operand = CUDA_NONE};
    return c->a->element == c->b->element && c->half_a == c->half_b &&
           c->half_a == (c->a->element == ELEMENT_BF16) &&
           (c->a->element == ELEMENT_F32 || c->a->element == ELEMENT_BF16);
}

// Whether an access is a matrix of the result's rows and columns that is not turned.
static bool describe_result(const CudaContraction *c, const Index *index, int64_t *lead, int64_t *step) {
    bool turned;
    return as_matrix(walk(c->nest, &c->row, index), walk(c->nest, &c->column, index),
                     walk(c->nest, &c->batch, index), &c->row, &c->column, &turned, lead, step) &&
           !turned;
}

// ---- What the library does behind the product ----

// Adds one term of the sum that is stored. The library adds in f32 and rounds once.
static bool add_term(const CudaContraction *c, const Stage *store, uint32_t id, CudaProduct *product,
                     bool *has_sum) {
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
        return add_term(c, store, formula->arguments[0], product, has_sum) &&
               add_term(c, store, formula->arguments[1], product, has_sum);
    if (formula->kind != FORMULA_LOAD || formula->element != product->element_d || access_may_miss(formula))
        return false;
    for (int d = 1; d < nest->operands[formula->operand].rank; d++)
        if (formula->index[d].gathered != FORMULA_NONE) return false;
    CudaPlace place = {(int32_t)formula->operand, formula->index[0].affine.offset};
    Walk down = walk(nest, &c->row, formula->index), across = walk(nest, &c->column, formula->index);
    Walk batch = walk(nest, &c->batch, formula->index);
    bool is_bias = down.regular && across.regular && batch.regular && !down.stride && !batch.stride &&
                   across.stride == 1;
    if (is_bias && product->bias.operand == CUDA_NONE) {
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

static bool describe_epilogue(const CudaContraction *c, CudaProduct *product) {
    const Nest *nest = c->nest;
    const Stage *store = &nest->stages[1];
    if (nest->stage_count != 2 || nest->stages[0].element != ELEMENT_F32) return false;
    const NestOperand *operand = &nest->operands[store->operand];
    product->element_d = operand->element;
    if (operand->element != ELEMENT_F32 && operand->element != ELEMENT_BF16) return false;
    for (int d = 1; d < operand->rank; d++)
        if (store->index[d].gathered != FORMULA_NONE) return false;
    product->d = (CudaPlace){(int32_t)store->operand, store->index[0].affine.offset};
    if (!describe_result(c, store->index, &product->lead_d, &product->step_d)) return false;
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
    else if (!add_term(c, store, id, product, &has_sum))
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

// ---- With a kernel behind it ----

static void add_epilogue_kernel(CudaUnit *unit, const CudaContraction *c, CudaProduct *product) {
    int spread[LOOP_MAX], count = 0;
    const CudaLoops *parts[] = {&c->batch, &c->row, &c->column};
    for (int part = 0; part < 3; part++)
        for (int i = 0; i < parts[part]->count; i++) spread[count++] = parts[part]->loop[i];
    product->c = product->bias = (CudaPlace){.operand = CUDA_NONE};
    product->d = (CudaPlace){.operand = CUDA_WORKSPACE};
    product->element_d = ELEMENT_F32;
    product->lead_d = product->n;
    product->step_d = product->m * product->n;
    product->alpha = 1;
    product->beta = 0;
    unit->out->workspace_bytes = product->batch * product->step_d * 4;
    CudaPlan plan = cuda_plan_epilogue(unit, c->original, c->nest, spread, count);
    cuda_emit_function(unit, &plan, CUDA_WHOLE, "_epilogue");
}

bool cuda_product_emit(CudaUnit *unit, const CudaContraction *contraction) {
    CudaProduct product = {0};
    if (contraction->bounded || !describe_operands(contraction, &product)) return false;
    bool whole = describe_epilogue(contraction, &product);
    CudaPhase *phase = &unit->out->phases[unit->out->phase_count++];
    if (!whole) add_epilogue_kernel(unit, contraction, &product);
    *phase = (CudaPhase){.product = product};
    return true;
}
