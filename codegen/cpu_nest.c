// Code for any nest. What runs when is decided in cpu_plan.c; here the loops and the lanes are written.
//
//   for tasks -> for points of the parallel loops -> for sequential loops ->
//       for vectors of the outer vector loop, or once: the groups of stages, each with its inner loops
#include <math.h>

#include "codegen/cpu_plan.h"

typedef struct NestEmitter {
    CpuUnit *unit;
    CpuBody *body;
    const CpuPlan *plan;
    LLVMValueRef extent[LOOP_MAX];
    LLVMValueRef vector_begin, vector_end;  // of this task
} NestEmitter;

enum { VECTORS_MAX = 16 };

static bool is_reduction(const Stage *stage) { return stage->kind < STAGE_STORE; }

static int64_t constant_of(LLVMValueRef value) {
    return LLVMIsAConstantInt(value) ? LLVMConstIntGetSExtValue(value) : -1;
}

// ---- Accumulators ----

static Element accumulator_element(const Stage *stage) {
    return stage->element == ELEMENT_BF16 ? ELEMENT_F32 : stage->element;
}

// What changes nothing: adding -0.0 is exact for every number, adding 0.0 is not for -0.0.
static LLVMValueRef neutral(CpuUnit *unit, const Stage *stage, int lanes) {
    Element element = accumulator_element(stage);
    double value = 0;
    if (element_is_float(element)) value = stage->kind == STAGE_SUM ? -0.0 : -INFINITY;
    else if (stage->kind == STAGE_MAX && element != ELEMENT_BOOL)
        value = element == ELEMENT_I32 ? -0x1p31 : -0x1p63;
    return cpu_number(unit, element, value, lanes);
}

static LLVMValueRef accumulate(CpuUnit *unit, const Stage *stage, LLVMValueRef sum, LLVMValueRef value) {
    Element element = accumulator_element(stage);
    LLVMBuilderRef b = unit->builder;
    if (element == ELEMENT_BOOL) return LLVMBuildOr(b, sum, value, "");
    if (stage->kind == STAGE_SUM)
        return element_is_float(element) ? LLVMBuildFAdd(b, sum, value, "") : LLVMBuildAdd(b, sum, value, "");
    if (!element_is_float(element)) return cpu_max(unit, sum, value);
    LLVMValueRef larger = LLVMBuildFCmp(b, LLVMRealOGT, value, sum, "");
    LLVMValueRef not_a_number = LLVMBuildFCmp(b, LLVMRealUNO, value, value, "");
    return cpu_select(unit, LLVMBuildOr(b, larger, not_a_number, ""), value, sum);
}

// The result of a reduction: -0.0 alone becomes 0.0, as in a sum that starts from 0.
static LLVMValueRef finish(CpuUnit *unit, const Stage *stage, LLVMValueRef sum) {
    if (stage->kind != STAGE_SUM || !element_is_float(accumulator_element(stage))) return sum;
    return LLVMBuildFAdd(unit->builder, sum, cpu_number_like(sum, 0), "");
}

static LLVMValueRef fold_lanes(CpuUnit *unit, const Stage *stage, LLVMValueRef vector) {
    int low[128], high[128];
    for (int lanes = cpu_lanes(vector); lanes > 1; lanes /= 2) {
        for (int i = 0; i < lanes / 2; i++) low[i] = i, high[i] = i + lanes / 2;
        LLVMValueRef a = cpu_shuffle(unit, vector, NULL, low, lanes / 2);
        LLVMValueRef b = cpu_shuffle(unit, vector, NULL, high, lanes / 2);
        vector = accumulate(unit, stage, a, b);
    }
    return LLVMBuildExtractElement(unit->builder, vector, cpu_i32(unit, 0), "");
}

// ---- A group of stages over its inner loops ----

// The loops of a mask, outermost first, but for `except`.
static int list_loops(const Nest *nest, uint32_t mask, int except, int *loops) {
    int count = 0;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if ((mask >> loop & 1) && loop != except) loops[count++] = loop;
    return count;
}

static uint32_t written_operands(const Nest *nest) {
    uint32_t mask = 0;
    for (int s = 0; s < nest->stage_count; s++)
        if (!is_reduction(&nest->stages[s])) mask |= 1u << nest->stages[s].operand;
    return mask;
}

// Computes ahead what the group needs and what the frame knows already.
static void hoist(CpuFrame *frame, const StageGroup *group) {
    const Nest *nest = frame->nest;
    uint32_t written = written_operands(nest);
    for (int s = group->first; s < group->first + group->count; s++) {
        const Stage *stage = &nest->stages[s];
        cpu_frame_hoist(frame, stage->formula, written);
        if (is_reduction(stage)) continue;
        for (int d = 1; d < nest->operands[stage->operand].rank; d++)
            if (stage->index[d].gathered != FORMULA_NONE)
                cpu_frame_hoist(frame, stage->index[d].gathered, written);
        cpu_frame_hoist_address(frame, stage->operand, stage->index);
    }
}

// One vector of the group: all values first, then the writes. `sums` has an accumulator per reduction,
// `stride` apart.
static void run_vector(NestEmitter *e, const StageGroup *group, CpuFrame *frame, LLVMValueRef *sums, int stride) {
    const Nest *nest = e->plan->nest;
    LLVMValueRef values[CPU_STAGE_LIMIT];
    for (int i = 0; i < group->count; i++)
        values[i] = cpu_formula_vector(frame, nest->stages[group->first + i].formula);
    for (int i = 0; i < group->count; i++) {
        const Stage *stage = &nest->stages[group->first + i];
        cpu_set_place(e->unit, stage->place);
        if (!is_reduction(stage)) {
            cpu_store_stage(frame, stage, values[i]);
            continue;
        }
        if (frame->mask && group->vector >= 0)
            values[i] = cpu_select(e->unit, frame->mask, values[i], neutral(e->unit, stage, frame->lanes));
        *sums = accumulate(e->unit, stage, *sums, values[i]);
        sums += stride;
    }
}

// Sums of a group, accumulator u of reduction r at [r * vectors + u].
static int start_sums(NestEmitter *e, const StageGroup *group, int vectors, int lanes, LLVMValueRef *sums) {
    const Nest *nest = e->plan->nest;
    int count = 0;
    for (int s = group->first; s < group->first + group->count; s++)
        for (int u = 0; u < vectors && is_reduction(&nest->stages[s]); u++)
            sums[count++] = neutral(e->unit, &nest->stages[s], lanes);
    CHECK(count <= CPU_CARRY_MAX);
    return count;
}

typedef struct OpenLoops {
    CpuLoop loops[LOOP_MAX];
    int count, carried;
} OpenLoops;

// Opens loops one inside the other, with the sums carried through all of them. Returns the frame inside.
static CpuFrame *open_loops(NestEmitter *e, OpenLoops *open, CpuFrame *frame, const StageGroup *group,
                            const int *loops, int count, LLVMValueRef *sums, int carried) {
    open->count = count;
    open->carried = carried;
    for (int i = 0; i < count; i++) {
        hoist(frame, group);
        cpu_loop_begin(e->unit, &open->loops[i], cpu_i64(e->unit, 0), e->extent[loops[i]], 1, sums, carried);
        frame = cpu_frame_inside(frame);
        frame->loop[loops[i]] = open->loops[i].index;
        for (int c = 0; c < carried; c++) sums[c] = open->loops[i].carried[c];
    }
    return frame;
}

static void close_loops(NestEmitter *e, OpenLoops *open, LLVMValueRef *sums) {
    for (int i = open->count - 1; i >= 0; i--) {
        cpu_loop_end(e->unit, &open->loops[i], sums);
        for (int c = 0; c < open->carried; c++) sums[c] = open->loops[i].carried[c];
    }
}

// `count` vectors side by side along `loop` from iteration `at`; `left` iterations remain (NULL: enough).
static void run_vectors(NestEmitter *e, const StageGroup *group, const CpuFrame *frame, int loop,
                        LLVMValueRef at, int count, LLVMValueRef left, LLVMValueRef *sums) {
    int lanes = e->plan->lanes;
    for (int u = 0; u < count; u++) {
        CpuFrame *vector = cpu_frame_vector(frame, loop, lanes);
        LLVMValueRef skipped = cpu_i64(e->unit, (int64_t)u * lanes);
        vector->loop[loop] = LLVMBuildNSWAdd(e->unit->builder, at, skipped, "");
        if (left) vector->mask = cpu_mask(e->unit, lanes, LLVMBuildNSWSub(e->unit->builder, left, skipped, ""));
        run_vector(e, group, vector, sums + u, group->unroll);
    }
}

// The whole of `loop`, group->unroll vectors at a time; the rest behind it, masked at its end.
static void run_inner_vector_loop(NestEmitter *e, const StageGroup *group, CpuFrame *frame, LLVMValueRef *sums,
                                  int carried) {
    CpuUnit *unit = e->unit;
    int loop = group->vector, lanes = e->plan->lanes;
    int64_t step = (int64_t)lanes * group->unroll;
    LLVMValueRef extent = e->extent[loop];
    LLVMValueRef full = LLVMBuildAnd(unit->builder, extent, cpu_i64(unit, ~(step - 1)), "");
    hoist(frame, group);
    if (constant_of(full) != 0) {
        CpuLoop vectors;
        cpu_loop_begin(unit, &vectors, cpu_i64(unit, 0), full, step, sums, carried);
        for (int c = 0; c < carried; c++) sums[c] = vectors.carried[c];
        CpuFrame *inside = cpu_frame_inside(frame);
        run_vectors(e, group, inside, loop, vectors.index, group->unroll, NULL, sums);
        cpu_loop_end(unit, &vectors, sums);
        for (int c = 0; c < carried; c++) sums[c] = vectors.carried[c];
    }
    LLVMValueRef left = LLVMBuildNSWSub(unit->builder, extent, full, "");
    int64_t rest = constant_of(left);
    if (rest == 0) return;
    if (rest > 0) {
        run_vectors(e, group, frame, loop, full, (int)((rest + lanes - 1) / lanes), left, sums);
        return;
    }
    CpuLoop once;  // runs at most once
    cpu_loop_begin(unit, &once, full, extent, step, sums, carried);
    for (int c = 0; c < carried; c++) sums[c] = once.carried[c];
    CpuFrame *inside = cpu_frame_inside(frame);
    run_vectors(e, group, inside, loop, once.index, group->unroll, left, sums);
    cpu_loop_end(unit, &once, sums);
    for (int c = 0; c < carried; c++) sums[c] = once.carried[c];
}

// Accumulators fold pairwise, then lane by lane: the order depends on their number alone. Those that
// nothing was added to are left out, which changes no bit.
static LLVMValueRef fold_sums(NestEmitter *e, const Stage *stage, LLVMValueRef *sums, int count) {
    LLVMValueRef nothing = neutral(e->unit, stage, e->plan->lanes);
    for (; count > 1; count /= 2)
        for (int u = 0; u < count / 2; u++) {
            LLVMValueRef a = sums[2 * u], b = sums[2 * u + 1];
            sums[u] = b == nothing ? a : accumulate(e->unit, stage, a, b);
        }
    return finish(e->unit, stage, fold_lanes(e->unit, stage, sums[0]));
}

// A group in a scalar frame: along its own vector loop, or one iteration after the other.
static void run_group(NestEmitter *e, const StageGroup *group, CpuFrame *frame) {
    const Nest *nest = e->plan->nest;
    LLVMValueRef sums[CPU_CARRY_MAX];
    int loops[LOOP_MAX], count = list_loops(nest, group->inner, group->vector, loops);
    bool vector = group->vector >= 0;
    int vectors = vector ? group->unroll : 1;
    int carried = start_sums(e, group, vectors, vector ? e->plan->lanes : 1, sums);
    OpenLoops open;
    CpuFrame *inside = open_loops(e, &open, frame, group, loops, count, sums, carried);
    if (vector) run_inner_vector_loop(e, group, inside, sums, carried);
    else run_vector(e, group, inside, sums, 1);
    close_loops(e, &open, sums);
    LLVMValueRef *next = sums;
    for (int s = group->first; s < group->first + group->count; s++) {
        const Stage *stage = &nest->stages[s];
        if (!is_reduction(stage)) continue;
        frame->stage[s] = vector ? fold_sums(e, stage, next, vectors) : finish(e->unit, stage, next[0]);
        next += vectors;
    }
}

// A group for several vectors of the outer vector loop at once; `shared` knows all other loops.
static void run_group_outer(NestEmitter *e, const StageGroup *group, CpuFrame *shared, CpuFrame **frames,
                            int vectors) {
    const Nest *nest = e->plan->nest;
    LLVMValueRef sums[CPU_CARRY_MAX];
    int loops[LOOP_MAX], count = list_loops(nest, group->inner, -1, loops);
    int carried = start_sums(e, group, vectors, e->plan->lanes, sums);
    OpenLoops open;
    for (int u = 0; u < vectors && count; u++) hoist(frames[u], group);
    CpuFrame *inside = open_loops(e, &open, shared, group, loops, count, sums, carried);
    for (int u = 0; u < vectors; u++) {
        CpuFrame *frame = frames[u];
        if (count) {
            hoist(inside, group);
            frame = cpu_frame_inside(frames[u]);
            frame->also = inside;
            for (int i = 0; i < count; i++) frame->loop[loops[i]] = inside->loop[loops[i]];
        }
        run_vector(e, group, frame, sums + u, vectors);
    }
    close_loops(e, &open, sums);
    LLVMValueRef *next = sums;
    for (int s = group->first; s < group->first + group->count; s++) {
        if (!is_reduction(&nest->stages[s])) continue;
        for (int u = 0; u < vectors; u++) frames[u]->stage[s] = finish(e->unit, &nest->stages[s], *next++);
    }
}

// ---- The outer loops ----

// `count` vectors of the outer vector loop from iteration `at`, of which `left` iterations exist.
static void run_outer_vectors(NestEmitter *e, CpuFrame *shared, LLVMValueRef at, int count, LLVMValueRef left) {
    const CpuPlan *plan = e->plan;
    CpuFrame *frames[VECTORS_MAX];
    for (int u = 0; u < count; u++) {
        frames[u] = cpu_frame_vector(shared, plan->vector, plan->lanes);
        LLVMValueRef skipped = cpu_i64(e->unit, (int64_t)u * plan->lanes);
        frames[u]->loop[plan->vector] = LLVMBuildNSWAdd(e->unit->builder, at, skipped, "");
        if (left)
            frames[u]->mask = cpu_mask(e->unit, plan->lanes, LLVMBuildNSWSub(e->unit->builder, left, skipped, ""));
    }
    for (int g = 0; g < plan->group_count; g++) {
        if (plan->groups[g].inner) {
            run_group_outer(e, &plan->groups[g], shared, frames, count);
            continue;
        }
        // Without loops, stages that follow each other are done vector by vector.
        int last = g;
        while (last + 1 < plan->group_count && !plan->groups[last + 1].inner) last++;
        for (int u = 0; u < count; u++)
            for (int i = g; i <= last; i++) run_group_outer(e, &plan->groups[i], shared, &frames[u], 1);
        g = last;
    }
}

static void hoist_all(NestEmitter *e, CpuFrame *frame) {
    for (int g = 0; g < e->plan->group_count; g++) hoist(frame, &e->plan->groups[g]);
}

// Steps of `count` vectors along the outer vector loop from `begin` on, as many as fit before its end. Returns where
// they stop.
static LLVMValueRef run_whole_steps(NestEmitter *e, CpuFrame *frame, LLVMValueRef begin, int count) {
    CpuUnit *unit = e->unit;
    int64_t step = (int64_t)e->plan->lanes * count, whole = constant_of(e->extent[e->plan->vector]);
    if (whole >= 0 && whole < step) return begin;
    LLVMValueRef length = LLVMBuildNSWSub(unit->builder, e->vector_end, begin, "");
    LLVMValueRef full = LLVMBuildAnd(unit->builder, length, cpu_i64(unit, ~(step - 1)), "");
    LLVMValueRef end = LLVMBuildNSWAdd(unit->builder, begin, full, "");
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, begin, end, step, NULL, 0);
    run_outer_vectors(e, cpu_frame_inside(frame), loop.index, count, NULL);
    cpu_loop_end(unit, &loop, NULL);
    return end;
}

// [begin, end) of the outer vector loop; only the last block of it may end in a part of a step. Long runs of columns
// are what memory gives fastest, so a sum over rows takes many at once.
static void run_outer_vector_loop(NestEmitter *e, CpuFrame *frame) {
    CpuUnit *unit = e->unit;
    const CpuPlan *plan = e->plan;
    int64_t step = (int64_t)plan->lanes * plan->unroll;
    int64_t whole = constant_of(e->extent[plan->vector]), rest = whole < 0 ? -1 : whole % step;
    hoist_all(e, frame);
    LLVMValueRef at = e->vector_begin;
    if (plan->wide > plan->unroll) at = run_whole_steps(e, frame, at, plan->wide);
    at = run_whole_steps(e, frame, at, plan->unroll);
    if (rest == 0) return;
    CpuLoop once;
    cpu_loop_begin(unit, &once, at, e->vector_end, step, NULL, 0);
    LLVMValueRef left = rest > 0 ? cpu_i64(unit, rest) : LLVMBuildNSWSub(unit->builder, e->vector_end, at, "");
    int vectors = rest > 0 ? (int)((rest + plan->lanes - 1) / plan->lanes) : plan->unroll;
    run_outer_vectors(e, cpu_frame_inside(frame), once.index, vectors, left);
    cpu_loop_end(unit, &once, NULL);
}

// At one point of the parallel loops.
static void run_point(NestEmitter *e, CpuFrame *frame) {
    const CpuPlan *plan = e->plan;
    CpuLoop loops[LOOP_MAX];
    for (int i = 0; i < plan->sequential_count; i++) {
        hoist_all(e, frame);
        cpu_loop_begin(e->unit, &loops[i], cpu_i64(e->unit, 0), e->extent[plan->sequential[i]], 1, NULL, 0);
        frame = cpu_frame_inside(frame);
        frame->loop[plan->sequential[i]] = loops[i].index;
    }
    if (plan->vector >= 0) run_outer_vector_loop(e, frame);
    else
        for (int g = 0; g < plan->group_count; g++) run_group(e, &plan->groups[g], frame);
    for (int i = plan->sequential_count - 1; i >= 0; i--) cpu_loop_end(e->unit, &loops[i], NULL);
}

// Points [begin, end) of the parallel loops, numbered row-major.
static void run_points(NestEmitter *e, CpuFrame *frame, LLVMValueRef begin, LLVMValueRef end) {
    const CpuPlan *plan = e->plan;
    if (!plan->spread_count) {
        run_point(e, frame);
        return;
    }
    CpuLoop points;
    hoist_all(e, frame);
    cpu_loop_begin(e->unit, &points, begin, end, 1, NULL, 0);
    frame = cpu_frame_inside(frame);
    LLVMValueRef rest = points.index;
    for (int i = plan->spread_count - 1; i > 0; i--)
        cpu_divide(e->unit, rest, e->extent[plan->spread[i]], &rest, &frame->loop[plan->spread[i]]);
    frame->loop[plan->spread[0]] = rest;
    run_point(e, frame);
    cpu_loop_end(e->unit, &points, NULL);
}

// The point at which task `task` of the spread loops begins.
static LLVMValueRef first_point(NestEmitter *e, LLVMValueRef task) {
    CpuUnit *unit = e->unit;
    const CpuPlan *plan = e->plan;
    LLVMBuilderRef b = unit->builder;
    if (!plan->bounded) {
        LLVMValueRef point = LLVMBuildNSWMul(b, task, cpu_i64(unit, plan->points_a_task), "");
        return plan->points % plan->points_a_task ? cpu_min(unit, point, cpu_i64(unit, plan->points)) : point;
    }
    LLVMValueRef points = cpu_i64(unit, 1);
    for (int i = 0; i < plan->spread_count; i++)
        points = LLVMBuildNSWMul(b, points, e->extent[plan->spread[i]], "");
    LLVMValueRef share = LLVMBuildNSWMul(b, points, task, "");
    return LLVMBuildUDiv(b, share, cpu_i64(unit, plan->tasks / plan->blocks), "");
}

static void set_vector_range(NestEmitter *e, LLVMValueRef first, LLVMValueRef last) {
    const CpuPlan *plan = e->plan;
    if (plan->vector < 0) return;
    LLVMValueRef block = cpu_i64(e->unit, plan->block), extent = e->extent[plan->vector];
    if (plan->blocks == 1) {
        e->vector_begin = cpu_i64(e->unit, 0), e->vector_end = extent;
        return;
    }
    e->vector_begin = LLVMBuildNSWMul(e->unit->builder, first, block, "");
    e->vector_end = LLVMBuildNSWMul(e->unit->builder, last, block, "");
    e->vector_end = cpu_min(e->unit, e->vector_end, extent);
    // Blocks behind the extent, and an empty share behind the last block, must come out as nothing.
    e->vector_begin = cpu_min(e->unit, e->vector_begin, e->vector_end);
}

// Tasks are points, or blocks of the vector loop, or both; only then is a loop over tasks needed.
static void run_tasks(NestEmitter *e, CpuFrame *frame) {
    CpuUnit *unit = e->unit;
    const CpuPlan *plan = e->plan;
    LLVMValueRef begin = e->body->begin, end = e->body->end;
    if (plan->blocks == 1) {
        set_vector_range(e, NULL, NULL);
        CpuIf any;  // with nothing to count off, an empty range must be asked for
        if (!plan->spread_count) cpu_if_begin(unit, &any, LLVMBuildICmp(unit->builder, LLVMIntSLT, begin, end, ""));
        run_points(e, frame, first_point(e, begin), first_point(e, end));
        if (!plan->spread_count) cpu_if_end(unit, &any);
        return;
    }
    if (!plan->spread_count) {
        set_vector_range(e, begin, end);
        run_point(e, frame);
        return;
    }
    CpuLoop tasks;
    cpu_loop_begin(unit, &tasks, begin, end, 1, NULL, 0);
    LLVMValueRef point_task, block, one = cpu_i64(unit, 1);
    cpu_divide(unit, tasks.index, cpu_i64(unit, plan->blocks), &point_task, &block);
    set_vector_range(e, block, LLVMBuildNSWAdd(unit->builder, block, one, ""));
    LLVMValueRef next_task = LLVMBuildNSWAdd(unit->builder, point_task, one, "");
    run_points(e, cpu_frame_inside(frame), first_point(e, point_task), first_point(e, next_task));
    cpu_loop_end(unit, &tasks, NULL);
}

// ---- Results past the caches ----

// Whether each vector that a stage stores is a line of its own, where the operand starts on one.
static bool stores_lines(const CpuPlan *plan, const Stage *stage) {
    const NestOperand *operand = &plan->nest->operands[stage->operand];
    int64_t bytes = element_bytes(operand->element);
    if (stage->kind != STAGE_STORE || operand->reads || stage->inner || plan->lanes * bytes != CPU_CACHE_LINE) return false;
    for (int d = 1; d < operand->rank; d++)
        if (stage->index[d].gathered != FORMULA_NONE) return false;
    const Affine *affine = &stage->index[0].affine;
    if (affine->scale[plan->vector] != 1 || affine->offset * bytes % CPU_CACHE_LINE) return false;
    for (int loop = 0; loop < plan->nest->loop_count; loop++)
        if (loop != plan->vector && affine->scale[loop] * bytes % CPU_CACHE_LINE) return false;
    return true;
}

// Whole lines of results so large that none stays near until it is read: they need not come before they are written.
static uint32_t streamed_operands(const NestEmitter *e) {
    const CpuPlan *plan = e->plan;
    uint32_t streamed = 0, others = 0;
    int64_t bytes = 0, elements = 1;
    if (plan->vector < 0 || constant_of(e->extent[plan->vector]) % ((int64_t)plan->lanes * plan->unroll)) return 0;
    for (int loop = 0; loop < plan->nest->outer_count; loop++) elements *= plan->nest->loops[loop].dimension.extent;
    for (int s = 0; s < plan->nest->stage_count; s++) {
        const Stage *stage = &plan->nest->stages[s];
        if (is_reduction(stage)) continue;
        *(stores_lines(plan, stage) ? &streamed : &others) |= 1u << stage->operand;
        bytes += elements * element_bytes(plan->nest->operands[stage->operand].element);
    }
    return bytes < CPU_STREAM_BYTES ? 0 : streamed & ~others;
}

// In two versions where results are streamed.
static void run_all(NestEmitter *e) {
    CpuUnit *unit = e->unit;
    uint32_t streamed = streamed_operands(e);
    CpuIf lines;
    if (streamed) {
        cpu_if_begin(unit, &lines, cpu_starts_on_lines(e->body, streamed));
        CpuFrame *frame = cpu_frame(e->body, e->plan->nest);
        frame->streamed = streamed;
        run_tasks(e, frame);
        cpu_fence(unit);
        cpu_if_else(unit, &lines);
    }
    run_tasks(e, cpu_frame(e->body, e->plan->nest));
    if (streamed) cpu_if_end(unit, &lines);
}

bool cpu_nest_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    const Nest *nest = normalise_nest(unit->arena, kernel->nest);
    CpuPlan plan = cpu_plan(unit->arena, unit->target, nest);
    NestEmitter e = {.unit = unit, .plan = &plan, .body = cpu_body_begin(unit, kernel, 0)};
    for (int loop = 0; loop < nest->loop_count; loop++) e.extent[loop] = cpu_extent(e.body, nest, loop);
    run_all(&e);
    cpu_body_end(e.body);
    out->phase_count = 1;
    out->tasks[0] = plan.tasks;
    return true;
}
