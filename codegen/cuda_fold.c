// Folds: stages that add up the rows of a block, as passes/fuse_rows.c leaves them.
//
//   store parts[p, e] = (q == 0 ? 0 : parts[p, e]) + value      q in order, rows and all else apart
//   -> warps of a block take the rows q side by side, and behind a barrier its threads share out the columns:
//      for (int i = ...) { for (int row = 0; row < 8; row++) s[e] += value; parts[...] = s; }
//
// Loop q need not run in order then; the sum keeps its order. A nest that does not fit has q run in order.
#include "codegen/cuda_plan.h"

// The formula that stands for what the rows before have added, and the loop over them; FORMULA_NONE: no fold.
static uint32_t find_start(const Nest *nest, const Stage *stage, int *loop) {
    const Formula *formulas = nest->formulas.items, *sum = &formulas[stage->formula];
    if (stage->kind != STAGE_STORE || !stage->inner || sum->kind != FORMULA_PRIMITIVE ||
        sum->primitive != PRIMITIVE_add || sum->element != ELEMENT_F32)
        return FORMULA_NONE;
    const Formula *start = &formulas[sum->arguments[0]];
    if (start->kind != FORMULA_PRIMITIVE || start->primitive != PRIMITIVE_select) return FORMULA_NONE;
    const Formula *test = &formulas[start->arguments[0]], *zero = &formulas[start->arguments[1]],
                  *load = &formulas[start->arguments[2]];
    if (test->kind != FORMULA_PRIMITIVE || test->primitive != PRIMITIVE_eq || zero->kind != FORMULA_CONSTANT ||
        zero->number != 0 || load->kind != FORMULA_LOAD || load->operand != stage->operand ||
        !cuda_same_place(nest, load->operand, load->index, stage->index))
        return FORMULA_NONE;
    const Formula *row = &formulas[test->arguments[0]], *first = &formulas[test->arguments[1]];
    if (row->kind != FORMULA_LOOP || row->affine.offset || first->kind != FORMULA_CONSTANT || first->number != 0)
        return FORMULA_NONE;
    for (*loop = 0; *loop < nest->loop_count && affine_loops(&row->affine) != 1u << *loop;) ++*loop;
    return *loop < nest->outer_count && row->affine.scale[*loop] == 1 ? sum->arguments[0] : FORMULA_NONE;
}

uint32_t cuda_fold_start(const Nest *nest, const Stage *stage) {
    int loop;
    return find_start(nest, stage, &loop);
}

// Whether all but the folds may run with the loop in any order, and folds read nothing that is written.
static bool stands_apart(const CudaPlan *plan) {
    const Nest *nest = plan->nest;
    uint32_t written = 0;
    for (int s = 0; s < nest->stage_count; s++)
        if (!cuda_is_reduction(&nest->stages[s])) written |= 1u << nest->stages[s].operand;
    for (int s = 0; s < nest->stage_count; s++) {
        const Stage *stage = &nest->stages[s];
        const Formula *formula = &nest->formulas.items[stage->formula];
        bool folds = plan->folds >> s & 1;
        if (s > 0 && !folds && (plan->folds >> (s - 1) & 1)) return false;
        if (folds && (plan->analysis->operands[formula->arguments[1]] & written)) return false;
        if (!folds && !cuda_is_reduction(stage) && !access_stride(stage->index, plan->fold_loop)) return false;
    }
    return true;
}

void cuda_find_folds(CudaPlan *plan) {
    const Nest *nest = plan->nest;
    uint32_t outer = (1u << nest->outer_count) - 1;
    bool fits = true;
    for (int s = 0; s < nest->stage_count; s++) {
        int loop;
        if (find_start(nest, &nest->stages[s], &loop) == FORMULA_NONE) continue;
        fits &= !plan->folds || loop == plan->fold_loop;
        plan->folds |= 1u << s;
        plan->fold_loop = loop;
    }
    for (int loop = 0; loop < nest->loop_count; loop++) fits &= nest->loops[loop].bound_operand == UINT32_MAX;
    if (!plan->folds || !fits || (nest->parallel | 1u << plan->fold_loop) != outer || !stands_apart(plan))
        cuda_forget_folds(plan);
}

void cuda_forget_folds(CudaPlan *plan) {
    plan->folds = 0;
    plan->fold_loop = -1;
}

bool cuda_may_fold(const CudaPlan *plan) {
    const CudaGroup *last = &plan->groups[plan->group_count - 1];
    return plan->shape == CUDA_ROWS && plan->width > 1 &&
           plan->nest->loops[plan->fold_loop].dimension.extent == plan->width &&
           plan->folds == ((1u << last->count) - 1) << last->first && last->order_count == 1;
}
