// Decides how a nest is run. The order in which a sum is added must depend on nothing but the extents
// and the memory layout of the loops that it reduces:
// - a reduction that walks memory contiguously over a long enough inner loop is *lane-ordered*: that
//   loop runs lanes at a time into `unroll` vector accumulators, which fold at the end;
// - any other reduction is *sequential*: one accumulator for each result, in ascending order. Then lanes
//   may run along an outer loop, which changes no sum.
// A nest with a lane-ordered reduction therefore never takes an outer vector loop.
#include "codegen/cpu_plan.h"

#include <string.h>

enum {
    TASK_WORK = 1 << 15,   // a task should cost at least about this many element operations
    LANE_ORDER_EXTENT = 16
};

static int64_t extent(const Nest *nest, int loop) { return nest->loops[loop].dimension.extent; }

static bool is_reduction(const Stage *stage) { return stage->kind < STAGE_STORE; }

static int64_t extents(const Nest *nest, uint32_t mask) {
    int64_t product = 1;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (mask >> loop & 1) product *= extent(nest, loop);
    return product;
}

// ---- What a stage costs ----

// Cost in units of one vector instruction, for `lanes` iterations of `vector` (-1: for one iteration).
typedef struct Cost {
    const CpuPlan *plan;
    int vector;
    uint32_t inner;       // of the stage
    bool *seen;           // formulas
    double total;
    double contiguous, other;  // weights of accesses that walk memory along `vector`, and that jump
} Cost;

static double times_run(const Cost *cost, uint32_t loops) {
    return (double)extents(cost->plan->nest, loops & cost->inner & ~(cost->vector < 0 ? 0 : 1u << cost->vector));
}

static bool gathered_along(const Cost *cost, uint32_t operand, const Index *index) {
    const Nest *nest = cost->plan->nest;
    for (int d = 1; d < nest->operands[operand].rank; d++)
        if (index[d].gathered != FORMULA_NONE && cost->vector >= 0 &&
            (cost->plan->analysis->loops[index[d].gathered] >> cost->vector & 1))
            return true;
    return false;
}

static void add_access(Cost *cost, uint32_t operand, const Index *index, uint32_t loops) {
    double weight = times_run(cost, loops), lanes = cost->plan->lanes;
    int64_t stride = cost->vector < 0 ? 0 : access_stride(index, cost->vector);
    bool jumps = gathered_along(cost, operand, index) || stride < -1 || stride > 1;
    if (jumps) cost->other += weight;
    else if (stride) cost->contiguous += weight;
    cost->total += weight * (jumps ? lanes * 0.7 : stride < 0 ? 2 : stride ? 1 : 0.5);
}

static void add_formula(Cost *cost, uint32_t id) {
    if (cost->seen[id]) return;
    cost->seen[id] = true;
    const CpuPlan *plan = cost->plan;
    const Formula *formula = &plan->nest->formulas.items[id];
    uint32_t loops = plan->analysis->loops[id];
    if (formula->kind == FORMULA_LOAD) {
        add_access(cost, formula->operand, formula->index, loops);
        for (int d = 1; d < plan->nest->operands[formula->operand].rank; d++)
            if (formula->index[d].gathered != FORMULA_NONE) add_formula(cost, formula->index[d].gathered);
    }
    if (formula->kind != FORMULA_PRIMITIVE) return;
    cost->total += times_run(cost, loops) * (primitive_is_expensive(formula->primitive) ? 15 : 0.5);
    for (int a = 0; a < primitive_arguments(formula->primitive); a++) add_formula(cost, formula->arguments[a]);
}

static Cost stage_cost(Arena *arena, const CpuPlan *plan, const Stage *stage, int vector) {
    const Nest *nest = plan->nest;
    Cost cost = {.plan = plan, .vector = vector, .inner = stage->inner,
                 .seen = ARENA_ARRAY(arena, bool, nest->formulas.count + 1)};
    add_formula(&cost, stage->formula);
    if (is_reduction(stage)) {
        cost.total += times_run(&cost, stage->inner);
        return cost;
    }
    uint32_t loops = stage->inner;
    add_access(&cost, stage->operand, stage->index, loops);
    for (int d = 1; d < nest->operands[stage->operand].rank; d++)
        if (stage->index[d].gathered != FORMULA_NONE) add_formula(&cost, stage->index[d].gathered);
    return cost;
}

// ---- Which loops may run lanes at a time ----

// Lanes of a write must not meet in one place: the affine part moves, or a store's chosen places differ.
static bool write_allows(const CpuPlan *plan, const Stage *stage, int loop) {
    if (is_reduction(stage)) return true;
    Cost cost = {.plan = plan, .vector = loop};
    bool chosen = gathered_along(&cost, stage->operand, stage->index);
    if (stage->kind == STAGE_ADD && chosen) return false;
    return chosen || access_stride(stage->index, loop) != 0;
}

static bool outer_allows(const CpuPlan *plan, int loop) {
    const Nest *nest = plan->nest;
    if (!(nest->parallel >> loop & 1)) return false;
    for (int s = 0; s < nest->stage_count; s++)
        if (!write_allows(plan, &nest->stages[s], loop)) return false;
    return true;
}

// The inner loop that makes a reduction lane-ordered, or -1.
static int lane_order_loop(Arena *arena, const CpuPlan *plan, const Stage *stage) {
    const Nest *nest = plan->nest;
    int best = -1;
    double best_share = 0.5;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++) {
        if (!(stage->inner >> loop & 1) || extent(nest, loop) < LANE_ORDER_EXTENT) continue;
        Cost cost = stage_cost(arena, plan, stage, loop);
        double all = cost.contiguous + cost.other;
        double share = all > 0 ? cost.contiguous / all : best < 0 ? 1 : 0;
        if (share > best_share) best = loop, best_share = share;
    }
    return best;
}

// The inner loop along which a writing stage is cheapest, or -1; and, where it is asked for, what a point costs then.
static int write_loop(Arena *arena, const CpuPlan *plan, const Stage *stage, double *cost_of_point) {
    const Nest *nest = plan->nest;
    int best = -1;
    double best_cost = stage_cost(arena, plan, stage, -1).total;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++) {
        if (!(stage->inner >> loop & 1) || !write_allows(plan, stage, loop)) continue;
        int64_t vectors = (extent(nest, loop) + plan->lanes - 1) / plan->lanes;
        double cost = stage_cost(arena, plan, stage, loop).total * (double)vectors;
        if (cost < best_cost) best = loop, best_cost = cost;
    }
    if (cost_of_point) *cost_of_point = best_cost;
    return best;
}

// What a point costs where no outer loop runs lanes at a time; there are no lane-ordered reductions.
static double inner_cost(Arena *arena, const CpuPlan *plan) {
    double sum = 0, cost;
    for (int s = 0; s < plan->nest->stage_count; s++) {
        const Stage *stage = &plan->nest->stages[s];
        if (is_reduction(stage)) cost = stage_cost(arena, plan, stage, -1).total;
        else write_loop(arena, plan, stage, &cost);
        sum += cost;
    }
    return sum;
}

// The outer loop that should run lanes at a time, or -1.
static int choose_outer(Arena *arena, const CpuPlan *plan) {
    const Nest *nest = plan->nest;
    int best = -1;
    double best_cost = inner_cost(arena, plan);
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (!outer_allows(plan, loop)) continue;
        double cost = 0;
        for (int s = 0; s < nest->stage_count; s++)
            cost += stage_cost(arena, plan, &nest->stages[s], loop).total;
        int64_t vectors = (extent(nest, loop) + plan->lanes - 1) / plan->lanes;
        cost *= (double)vectors / (double)extent(nest, loop);
        if (cost < best_cost) best = loop, best_cost = cost;
    }
    return best;
}

// ---- Groups of stages ----

// Stages may share their loops when the later one reads neither a result nor a buffer of an earlier one.
static bool may_join(const CpuPlan *plan, const StageGroup *group, const Stage *stage, int vector) {
    const Nest *nest = plan->nest;
    if (stage->inner != group->inner || vector != group->vector) return false;
    for (int s = group->first; s < group->first + group->count; s++) {
        const Stage *earlier = &nest->stages[s];
        if (plan->analysis->stages[stage->formula] >> s & 1) return false;
        if (is_reduction(earlier)) continue;
        if (plan->analysis->operands[stage->formula] >> earlier->operand & 1) return false;
        if (!is_reduction(stage) && stage->operand == earlier->operand) return false;
    }
    return true;
}

// Number of distinct operations under a formula; transcendental ones count as ten.
static int formula_size(const CpuPlan *plan, uint32_t id, bool *seen) {
    if (seen[id]) return 0;
    seen[id] = true;
    const Formula *formula = &plan->nest->formulas.items[id];
    if (formula->kind != FORMULA_PRIMITIVE) return 1;
    int size = primitive_is_expensive(formula->primitive) ? 10 : 1;
    for (int a = 0; a < primitive_arguments(formula->primitive); a++)
        size += formula_size(plan, formula->arguments[a], seen);
    return size;
}

static int stage_size(Arena *arena, const CpuPlan *plan, int first, int count) {
    bool *seen = ARENA_ARRAY(arena, bool, plan->nest->formulas.count + 1);
    int size = 0;
    for (int s = first; s < first + count; s++) size += formula_size(plan, plan->nest->stages[s].formula, seen) + 1;
    return size;
}

static void make_groups(Arena *arena, CpuPlan *plan) {
    const Nest *nest = plan->nest;
    for (int s = 0; s < nest->stage_count; s++) {
        const Stage *stage = &nest->stages[s];
        int vector = plan->vector >= 0    ? -1
                     : is_reduction(stage) ? lane_order_loop(arena, plan, stage)
                                           : write_loop(arena, plan, stage, NULL);
        StageGroup *last = plan->group_count ? &plan->groups[plan->group_count - 1] : NULL;
        if (last && may_join(plan, last, stage, vector)) {
            last->count++;
            continue;
        }
        plan->groups[plan->group_count++] =
            (StageGroup){.first = s, .count = 1, .inner = stage->inner, .vector = vector, .unroll = 1};
    }
    // The number of accumulators is part of the order of a sum: it depends on the formula alone.
    for (int g = 0; g < plan->group_count; g++) {
        StageGroup *group = &plan->groups[g];
        if (group->vector < 0) continue;
        group->unroll = 1;
        for (int s = group->first; s < group->first + group->count; s++)
            if (is_reduction(&nest->stages[s])) group->unroll = 4;
        if (group->unroll == 1 && stage_size(arena, plan, group->first, group->count) <= 12) group->unroll = 2;
    }
}

// ---- Tasks ----

static void split_loops(CpuPlan *plan) {
    const Nest *nest = plan->nest;
    plan->points = 1;
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (loop == plan->vector) continue;
        if (!(nest->parallel >> loop & 1)) {
            plan->sequential[plan->sequential_count++] = loop;
            continue;
        }
        plan->spread[plan->spread_count++] = loop;
        plan->points *= extent(nest, loop);
    }
}

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Spread loops that every task runs as a whole become ordinary loops: no division to find one's place,
// and addresses are computed once per loop.
static void nest_last_loops(CpuPlan *plan) {
    while (plan->spread_count) {
        int last = plan->spread[plan->spread_count - 1];
        int64_t length = extent(plan->nest, last);
        if (length > plan->points_a_task) return;
        memmove(plan->sequential + 1, plan->sequential, sizeof *plan->sequential * (size_t)plan->sequential_count);
        plan->sequential[0] = last;
        plan->sequential_count++;
        plan->spread_count--;
        plan->points /= length;
        plan->points_a_task /= length;
    }
}

static bool any_bounded(const Nest *nest, const int *loops, int count) {
    for (int i = 0; i < count; i++)
        if (nest->loops[loops[i]].bound_operand != UINT32_MAX) return true;
    return false;
}

static void split_tasks(Arena *arena, CpuPlan *plan) {
    const Nest *nest = plan->nest;
    double work = 0;  // of one point and one iteration of the outer vector loop
    for (int s = 0; s < nest->stage_count; s++) work += stage_cost(arena, plan, &nest->stages[s], -1).total;
    for (int i = 0; i < plan->sequential_count; i++) work *= (double)extent(nest, plan->sequential[i]);
    if (work < 1) work = 1;
    plan->blocks = 1;
    if (plan->vector >= 0) {
        int64_t whole = extent(nest, plan->vector), step = (int64_t)plan->lanes * plan->unroll;
        int64_t block = divide_up((int64_t)(TASK_WORK / work) + 1, step) * step;
        plan->block = block < whole ? block : divide_up(whole, step) * step;
        plan->blocks = divide_up(whole, plan->block);
        work *= (double)(whole < plan->block ? whole : plan->block);
    }
    plan->points_a_task = plan->blocks > 1 ? 1 : (int64_t)(TASK_WORK / work) + 1;
    if (plan->points_a_task > plan->points) plan->points_a_task = plan->points;
    nest_last_loops(plan);
    plan->bounded = any_bounded(nest, plan->spread, plan->spread_count);
    plan->tasks = divide_up(plan->points, plan->points_a_task) * plan->blocks;
}

CpuPlan cpu_plan(Arena *arena, const CpuTarget *target, const Nest *nest) {
    CpuPlan plan = {.nest = nest, .analysis = analyse_nest(arena, nest), .lanes = target->lanes, .vector = -1,
                    .unroll = 1};
    bool lane_ordered = false, reduces = false;
    for (int s = 0; s < nest->stage_count; s++) {
        if (!is_reduction(&nest->stages[s])) continue;
        reduces = true;
        lane_ordered |= lane_order_loop(arena, &plan, &nest->stages[s]) >= 0;
    }
    if (!lane_ordered) plan.vector = choose_outer(arena, &plan);
    make_groups(arena, &plan);
    if (plan.vector >= 0) {
        int size = stage_size(arena, &plan, 0, nest->stage_count);
        plan.unroll = reduces ? (size <= 16 ? 4 : 2) : size <= 12 ? 2 : 1;
        plan.wide = reduces && size <= 8 ? target->registers / 2 : plan.unroll;
    }
    split_loops(&plan);
    split_tasks(arena, &plan);
    return plan;
}

// ---- What all of it costs ----

double cpu_stage_instructions(Arena *arena, const CpuTarget *target, const Nest *nest, int column) {
    CpuPlan plan = {.nest = nest, .analysis = analyse_nest(arena, nest), .lanes = target->lanes};
    double total = 0;
    for (int s = 1; s < nest->stage_count; s++) total += stage_cost(arena, &plan, &nest->stages[s], column).total;
    return total;
}

double cpu_plan_instructions(Arena *arena, const CpuPlan *plan) {
    const Nest *nest = plan->nest;
    double total = 0;
    for (int g = 0; g < plan->group_count; g++) {
        const StageGroup *group = &plan->groups[g];
        int vector = plan->vector >= 0 ? plan->vector : group->vector;
        double times = vector < 0 ? 1 : (double)divide_up(extent(nest, vector), plan->lanes);
        for (int loop = 0; loop < nest->outer_count; loop++)
            if (loop != vector) times *= (double)extent(nest, loop);
        for (int s = group->first; s < group->first + group->count; s++)
            total += times * stage_cost(arena, plan, &nest->stages[s], vector).total;
    }
    return total;
}
