// Decides how a nest runs on a GPU, from extents and strides alone: the order of every sum is fixed by them.
// Neighbouring threads take the loop along which most accesses are contiguous: a parallel outer loop
// (points, columns) or, where a reduction walks memory, an inner loop (rows).
#include "codegen/cuda_plan.h"

#include <string.h>

enum {
    BLOCK = 256,            // threads of a block
    COLUMN_TEAM = 8,        // threads that share a column
    SHORT_REDUCTION = 16,   // iterations that one thread runs alone
    WARP_REDUCTION = 2048,  // iterations up to which a warp serves a point, unless points are few
    FILL_POINTS = 2048,     // warps that fill a large GPU
    FILL_THREADS = 1 << 17,
    SPLIT_LEAST = 16,  // iterations of one thread below which a sum is not split over blocks
    SPLIT_MOST = 256,
    PACKS_LEAST = 2,   // threads side by side that each take 16 bytes: a sector
    PACKS_MOST = 32,
    FILL_BLOCKS = 128,
    SHORT_WALK = 64    // iterations of one thread up to which its packs need no others' help
};

static int64_t extent(const Nest *nest, int loop) { return nest->loops[loop].dimension.extent; }
static bool is_bounded(const Nest *nest, int loop) { return nest->loops[loop].bound_operand != UINT32_MAX; }

// ---- What formulas touch ----

static void mark(const Nest *nest, uint32_t id, bool *used) {
    if (used[id]) return;
    used[id] = true;
    const Formula *formula = &nest->formulas.items[id];
    if (formula->kind == FORMULA_PRIMITIVE)
        for (int a = 0; a < primitive_arguments(formula->primitive); a++)
            mark(nest, formula->arguments[a], used);
    if (formula->kind == FORMULA_LOAD)
        for (int d = 1; d < nest->operands[formula->operand].rank; d++)
            if (formula->index[d].gathered != FORMULA_NONE) mark(nest, formula->index[d].gathered, used);
}

void cuda_mark_used(const Nest *nest, int first, int count, bool *used) {
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        mark(nest, stage->formula, used);
        for (int d = 1; !cuda_is_reduction(stage) && d < nest->operands[stage->operand].rank; d++)
            if (stage->index[d].gathered != FORMULA_NONE) mark(nest, stage->index[d].gathered, used);
    }
}

static uint32_t loaded(const CudaPlan *plan, const Stage *stage) {
    uint32_t mask = plan->analysis->operands[stage->formula];
    if (cuda_is_reduction(stage)) return mask;
    for (int d = 1; d < plan->nest->operands[stage->operand].rank; d++)
        if (stage->index[d].gathered != FORMULA_NONE)
            mask |= plan->analysis->operands[stage->index[d].gathered];
    return stage->kind == STAGE_ADD ? mask | 1u << stage->operand : mask;
}

bool cuda_same_place(const Nest *nest, uint32_t operand, const Index *a, const Index *b) {
    return memcmp(a, b, sizeof *a * (size_t)nest->operands[operand].rank) == 0;
}

// Whether every load of the stage's operand by stages [first, first + count) is of the place that it writes.
static bool loads_only_its_place(Arena *arena, const Nest *nest, const Stage *stage, int first, int count) {
    bool *used = ARENA_ARRAY(arena, bool, nest->formulas.count + 1);
    cuda_mark_used(nest, first, count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (used[i] && load->kind == FORMULA_LOAD && load->operand == stage->operand &&
            !cuda_same_place(nest, stage->operand, load->index, stage->index))
            return false;
    }
    return true;
}

static bool is_contiguous(const Index *index, int loop) {
    int64_t stride = access_stride(index, loop);
    return stride == 1 || stride == -1;
}

// Elements that an access reaches, gathered parts aside.
static double reach(const Nest *nest, const Index *index) {
    double elements = 1;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (access_stride(index, loop)) elements *= (double)extent(nest, loop);
    return elements;
}

// How many elements of memory stages [first, first + count) reach by accesses that are contiguous along a loop: a
// row that every point reads counts for little beside the matrix that each reads its own part of.
static double contiguous(Arena *arena, const Nest *nest, int first, int count, int loop) {
    bool *used = ARENA_ARRAY(arena, bool, nest->formulas.count + 1);
    double score = 0;
    cuda_mark_used(nest, first, count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (!used[i] || load->kind != FORMULA_LOAD) continue;
        if (is_contiguous(load->index, loop)) score += reach(nest, load->index);
    }
    for (int s = first; s < first + count; s++) {
        if (cuda_is_reduction(&nest->stages[s])) continue;
        const Index *index = nest->stages[s].index;
        if (is_contiguous(index, loop)) score += 2 * reach(nest, index);
    }
    return score;
}

// ---- Wide access ----

bool cuda_is_packed(const CudaUnit *unit, const Nest *nest, uint32_t operand, const Index *index, int loop,
                    int vector) {
    const NestOperand *to = &nest->operands[operand];
    if (access_stride(index, loop) != 1 || index[0].affine.offset % vector) return false;
    if (unit->alignment[operand] % ((int64_t)vector * element_bytes(to->element))) return false;
    for (int other = 0; other < nest->loop_count; other++)
        if (other != loop && index[0].affine.scale[other] % vector) return false;
    for (int d = 1; d < to->rank; d++)
        if (index[d].gathered != FORMULA_NONE && to->stride[d] % vector) return false;
    return true;
}

// How many iterations of `loop` one thread takes at once: as many as 16 bytes hold of the widest element,
// where every write is packed and stays apart from every load but those of its own place. `rest`: some may be left.
static int choose_vector(CudaUnit *unit, const CudaPlan *plan, int first, int count, int loop, bool rest) {
    const Nest *nest = plan->nest;
    int widest = 1;
    bool *used = ARENA_ARRAY(unit->arena, bool, nest->formulas.count + 1);
    cuda_mark_used(nest, first, count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (!used[i] || load->kind != FORMULA_LOAD || access_stride(load->index, loop) != 1) continue;
        int bytes = element_bytes(load->element);
        if (bytes > widest) widest = bytes;
        for (int d = 1; d < nest->operands[load->operand].rank; d++)  // gathered along the loop
            if (load->index[d].gathered != FORMULA_NONE &&
                plan->analysis->loops[load->index[d].gathered] >> loop & 1)
                return 1;
    }
    uint32_t added = 0;
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        if (loaded(plan, stage) & added) return 1;  // what was stored is at hand, a sum waits for its pack
        if (cuda_is_reduction(stage)) continue;
        if (stage->kind == STAGE_ADD) added |= 1u << stage->operand;
        int bytes = element_bytes(nest->operands[stage->operand].element);
        if (bytes > widest) widest = bytes;
        if (!loads_only_its_place(unit->arena, nest, stage, first, count)) return 1;
        for (int d = 1; d < nest->operands[stage->operand].rank; d++)
            if (stage->index[d].gathered != FORMULA_NONE &&
                plan->analysis->loops[stage->index[d].gathered] >> loop & 1)
                return 1;
    }
    int vector = widest > 1 ? 16 / widest : 1;
    if (vector < 2 || is_bounded(nest, loop) || (!rest && extent(nest, loop) % vector)) return 1;
    for (int s = first; s < first + count; s++)
        if (!cuda_is_reduction(&nest->stages[s]) &&
            !cuda_is_packed(unit, nest, nest->stages[s].operand, nest->stages[s].index, loop, vector))
            return 1;
    bool odd = extent(nest, loop) % vector != 0;  // its rows are seldom aligned
    for (size_t i = 0; odd && i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (used[i] && load->kind == FORMULA_LOAD && access_stride(load->index, loop) == 1 &&
            !cuda_is_packed(unit, nest, load->operand, load->index, loop, vector))
            return 1;
    }
    return vector;
}

// ---- Groups ----

// Whether lanes may share the inner iterations of a writing stage: every loop moves its place.
static bool is_serial(CudaUnit *unit, const CudaPlan *plan, int number) {
    const Nest *nest = plan->nest;
    const Stage *stage = &nest->stages[number];
    if (cuda_is_reduction(stage) || !stage->inner) return false;
    if (!loads_only_its_place(unit->arena, nest, stage, number, 1)) return true;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++) {
        if (!(stage->inner >> loop & 1)) continue;
        bool moves = access_stride(stage->index, loop) != 0, chosen = false;
        for (int d = 1; d < nest->operands[stage->operand].rank; d++)
            chosen |= stage->index[d].gathered != FORMULA_NONE &&
                      plan->analysis->loops[stage->index[d].gathered] >> loop & 1;
        if (stage->kind == STAGE_ADD ? !moves || chosen : !moves && !chosen) return true;
    }
    return false;
}

// Whether a stage loads nothing of what an earlier one of its iteration writes, or the very element that it stored.
static bool takes_value(CudaUnit *unit, const CudaPlan *plan, int earlier, int number) {
    const Stage *written = &plan->nest->stages[earlier];
    if (!(loaded(plan, &plan->nest->stages[number]) >> written->operand & 1)) return true;
    return written->kind == STAGE_STORE && loads_only_its_place(unit->arena, plan->nest, written, number, 1);
}

static bool may_join(CudaUnit *unit, const CudaPlan *plan, const CudaGroup *group, int number) {
    const Nest *nest = plan->nest;
    const Stage *stage = &nest->stages[number];
    bool reduces = cuda_is_reduction(stage);
    if (stage->inner != group->inner || group->serial || is_serial(unit, plan, number) ||
        (plan->folds >> number & 1) != (plan->folds >> group->first & 1) || reduces != group->reduces)
        return false;
    for (int s = group->first; s < group->first + group->count; s++) {
        const Stage *earlier = &nest->stages[s];
        if (plan->analysis->stages[stage->formula] >> s & 1) return false;
        if (!reduces && (stage->operand == earlier->operand || !takes_value(unit, plan, s, number))) return false;
        if (!reduces && loaded(plan, earlier) >> stage->operand & 1 &&
            !loads_only_its_place(unit->arena, nest, stage, s, 1))
            return false;
    }
    return true;
}

// Bounded loops go first, so that only the first bound is a test in the loop; the fastest loop is the one
// along which most accesses are contiguous. One thread alone keeps the nest's order.
static void order_loops(CudaUnit *unit, const CudaPlan *plan, CudaGroup *group) {
    const Nest *nest = plan->nest;
    int fastest = -1;
    double best = -1;
    for (int loop = nest->outer_count; loop < nest->loop_count && !group->serial; loop++) {
        if (!(group->inner >> loop & 1) || is_bounded(nest, loop)) continue;
        double score = contiguous(unit->arena, nest, group->first, group->count, loop);
        if (score >= best) best = score, fastest = loop;
    }
    for (int round = 0; round < 2; round++)
        for (int loop = nest->outer_count; loop < nest->loop_count; loop++)
            if ((group->inner >> loop & 1) && loop != fastest &&
                (group->serial ? round == 0 : is_bounded(nest, loop) == !round))
                group->order[group->order_count++] = loop;
    if (fastest >= 0) group->order[group->order_count++] = fastest;
}

static void make_groups(CudaUnit *unit, CudaPlan *plan) {
    const Nest *nest = plan->nest;
    for (int s = 0; s < nest->stage_count; s++) {
        CudaGroup *last = plan->group_count ? &plan->groups[plan->group_count - 1] : NULL;
        if (last && may_join(unit, plan, last, s)) {
            last->count++;
            continue;
        }
        plan->groups[plan->group_count++] = (CudaGroup){.first = s,
                                                        .count = 1,
                                                        .inner = nest->stages[s].inner,
                                                        .serial = is_serial(unit, plan, s),
                                                        .reduces = cuda_is_reduction(&nest->stages[s]),
                                                        .vector = 1};
    }
    for (int g = 0; g < plan->group_count; g++) {
        CudaGroup *group = &plan->groups[g];
        order_loops(unit, plan, group);
        if (group->order_count && !group->serial)
            group->vector = choose_vector(unit, plan, group->first, group->count,
                                          group->order[group->order_count - 1], group->order_count == 1);
        uint32_t written = 0;
        for (int s = group->first; s < group->first + group->count && !group->reduces; s++)
            written |= 1u << nest->stages[s].operand;
        for (int s = 0; s < nest->stage_count; s++) {
            const Stage *other = &nest->stages[s];
            if (s >= group->first && s < group->first + group->count) continue;
            uint32_t touched = loaded(plan, other) | (cuda_is_reduction(other) ? 0 : 1u << other->operand);
            group->sync |= (touched & written) != 0;
        }
        group->sync |= written && plan->sequential_count;
    }
}

// ---- Shape ----

static void split_loops(CudaUnit *unit, CudaPlan *plan) {
    const Nest *nest = plan->nest;
    int fastest = -1;
    double best = -1;
    plan->points = 1;
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (!(nest->parallel >> loop & 1)) continue;
        double score = contiguous(unit->arena, nest, 0, nest->stage_count, loop);
        if (score >= best) best = score, fastest = loop;
    }
    if (plan->folds) fastest = plan->fold_loop;
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (!(nest->parallel >> loop & 1) && loop != plan->fold_loop)
            plan->sequential[plan->sequential_count++] = loop;
        else if (loop != fastest)
            plan->spread[plan->spread_count++] = loop;
    }
    if (fastest >= 0) plan->spread[plan->spread_count++] = fastest;
    for (int i = 0; i < plan->spread_count; i++) plan->points *= extent(nest, plan->spread[i]);
}

// Whether neighbouring points may be neighbouring threads that go on where there is no point: their loads
// must stay inside. A point beyond a bounded extent holds anything, a gathered index too.
static bool may_run_beyond(const CudaPlan *plan) {
    bool bounded = false, gathers = false;
    for (int i = 0; i < plan->spread_count; i++) bounded |= is_bounded(plan->nest, plan->spread[i]);
    for (int i = 0; i < plan->nest->operand_count; i++) gathers |= plan->nest->operands[i].rank > 1;
    return !bounded || !gathers;
}

// Elements of memory that a group's loads reach.
static double group_reach(CudaUnit *unit, const Nest *nest, const CudaGroup *group) {
    bool *used = ARENA_ARRAY(unit->arena, bool, nest->formulas.count + 1);
    double elements = 0;
    cuda_mark_used(nest, group->first, group->count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (used[i] && load->kind == FORMULA_LOAD) elements += reach(nest, load->index);
    }
    return elements;
}

static void choose_shape(CudaUnit *unit, CudaPlan *plan) {
    const Nest *nest = plan->nest;
    int64_t longest = 1;
    const CudaGroup *main_group = NULL;
    double most = 0;  // of equally long ones the one that reaches most memory weighs
    for (int g = 0; g < plan->group_count; g++) {
        const CudaGroup *group = &plan->groups[g];
        int64_t count = group->serial ? 1 : cuda_points(nest, group->inner);
        double reached = count < longest || count == 1 ? 0 : group_reach(unit, nest, group);
        if (count < longest || count == 1 || (count == longest && reached <= most)) continue;
        longest = count;
        most = reached;
        main_group = group;
    }
    plan->shape = CUDA_POINTS;
    plan->team = 1;
    plan->width = BLOCK;
    if (!main_group || (longest <= SHORT_REDUCTION && plan->points >= BLOCK)) return;
    double inner = contiguous(unit->arena, nest, main_group->first, main_group->count,
                           main_group->order[main_group->order_count - 1]);
    int last = plan->spread_count ? plan->spread[plan->spread_count - 1] : -1;
    double outer = last < 0 ? 0 : contiguous(unit->arena, nest, main_group->first, main_group->count, last);
    if (outer > inner && extent(nest, last) >= 8 && may_run_beyond(plan)) {
        plan->shape = CUDA_COLUMNS;
        plan->team = COLUMN_TEAM;
        plan->width = 32;
        return;
    }
    plan->shape = CUDA_ROWS;
    bool warp = longest <= 64 || (longest <= WARP_REDUCTION && plan->points >= FILL_POINTS);
    plan->team = warp ? 32 : BLOCK;
    plan->width = BLOCK / plan->team;
}

// Whether all columns have the same sums: a norm that a token's product makes again.
static bool is_uniform(const CudaPlan *plan, const CudaGroup *group, int column) {
    for (int s = group->first; s < group->first + group->count; s++)
        if (plan->analysis->loops[plan->nest->stages[s].formula] >> column & 1) return false;
    return true;
}

// Columns as packs: few points and a short walk, such as a token's product with a weight, are done in one go by
// threads that each read 16 bytes of a row. Wide enough for whole sectors, narrow enough to fill a GPU.
static bool choose_packs(CudaUnit *unit, CudaPlan *plan) {
    const Nest *nest = plan->nest;
    if (plan->shape != CUDA_COLUMNS || plan->sequential_count || !plan->groups[0].reduces) return false;
    int column = plan->spread[plan->spread_count - 1], packed = 0;
    while (packed + 1 < plan->group_count && plan->groups[packed + 1].reduces)
        if (!is_uniform(plan, &plan->groups[packed++], column)) return false;
    for (int g = packed + 1; g < plan->group_count; g++)
        if (plan->groups[g].inner || plan->groups[g].reduces) return false;
    int vector = choose_vector(unit, plan, 0, nest->stage_count, plan->spread[plan->spread_count - 1], false);
    if (vector < 2) return false;
    int width = PACKS_MOST;
    while (width > PACKS_LEAST && plan->points < (int64_t)FILL_BLOCKS * width * vector) width /= 2;
    int team = BLOCK / width;
    if (plan->points * 2 < (int64_t)FILL_BLOCKS * width * vector) return false;
    if (cuda_points(nest, plan->groups[packed].inner) > (int64_t)team * SHORT_WALK) return false;
    plan->vector = vector;
    plan->width = width;
    plan->team = team;
    plan->packed_group = packed;
    for (int g = 0; g <= packed; g++) plan->groups[g].vector = 1;
    return true;
}

static void choose_splits(CudaPlan *plan) {
    const CudaGroup *first = &plan->groups[0];
    plan->splits = 1;
    if (plan->shape == CUDA_POINTS || plan->folds || !first->reduces || !first->inner || plan->sequential_count) return;
    int64_t wanted = FILL_THREADS / (plan->points * plan->team);
    int64_t most = cuda_points(plan->nest, first->inner) / ((int64_t)plan->team * SPLIT_LEAST);
    if (wanted > most) wanted = most;
    if (wanted > SPLIT_MOST) wanted = SPLIT_MOST;
    if (wanted > 1) plan->splits = wanted;
}

static CudaPlan make_plan(CudaUnit *unit, const Nest *original, const Nest *nest, bool folds) {
    CudaPlan plan = {.original = original,
                     .nest = nest,
                     .analysis = analyse_nest(unit->arena, nest),
                     .vector = 1,
                     .splits = 1,
                     .fold_loop = -1};
    if (folds) cuda_find_folds(&plan);
    split_loops(unit, &plan);
    make_groups(unit, &plan);
    choose_shape(unit, &plan);
    if (!choose_packs(unit, &plan)) choose_splits(&plan);
    cuda_choose_rows(unit, &plan);
    bool flat = plan.shape == CUDA_POINTS && plan.spread_count && !plan.sequential_count;
    for (int g = 0; g < plan.group_count; g++) flat &= !plan.groups[g].inner;
    if (flat)
        plan.vector =
            choose_vector(unit, &plan, 0, nest->stage_count, plan.spread[plan.spread_count - 1], false);
    return plan;
}

CudaPlan cuda_plan(CudaUnit *unit, const Nest *original, const Nest *nest) {
    CudaPlan plan = make_plan(unit, original, nest, true);
    return plan.folds && !cuda_may_fold(&plan) ? make_plan(unit, original, nest, false) : plan;
}

CudaPlan cuda_plan_epilogue(CudaUnit *unit, const Nest *original, const Nest *nest, const int *spread,
                            int count) {
    CudaPlan plan = {.original = original,
                     .nest = nest,
                     .analysis = analyse_nest(unit->arena, nest),
                     .vector = 1,
                     .splits = 1,
                     .shape = CUDA_POINTS,
                     .team = 1,
                     .width = BLOCK,
                     .points = 1,
                     .fold_loop = -1,
                     .spread_count = count};
    memcpy(plan.spread, spread, sizeof *spread * (size_t)count);
    for (int i = 0; i < count; i++) plan.points *= extent(nest, spread[i]);
    make_groups(unit, &plan);
    int vector = choose_vector(unit, &plan, 1, nest->stage_count - 1, spread[count - 1], false);
    plan.vector = vector > 4 ? 4 : vector;  // the sums, f32, are read as widely
    plan.splits = 0;                        // marks the epilogue
    return plan;
}
