// General nests: points, rows and columns as cuda_plan.c cuts them.
//
//   const int i_time = ...;                     the point of this thread, warp or block
//   float s0 = Sum::start<float>();             a group of reductions
//   for (int i = lane; i < 768; i += 32) { ... s0 += x0 * x0; }
//   s0 = fold_warp<Sum>(s0);
//   for (int i = lane; i < 768; i += 32) { ... put(p1[...], ...); }
//
// Where points are too few to fill a GPU, group 0 is split: k_NAME_a leaves partial sums in the workspace,
// part-major, and k_NAME_b folds them in order and goes on.
#include <string.h>

#include "codegen/cuda_plan.h"

typedef struct Emit {
    CudaUnit *unit;
    const CudaPlan *plan;
    CudaPart part;
    CudaScope *scope;          // of the point
    const char *live;          // CUDA_COLUMNS: whether this thread's point exists; NULL: it does
    const char *first, *step;  // an inner loop runs i = first * vector; i += step * vector
} Emit;

static const char *fold_name(const Stage *stage) {
    if (stage->kind == STAGE_SUM) return "Sum";
    return element_is_float(stage->element) ? "Max" : "MaxInteger";
}

static const char *sum_type(const Stage *stage) {
    return stage->element == ELEMENT_BOOL ? "i32" : cuda_register_type(stage->element);
}

// ---- The body of a loop: stages [first, first + count) for one iteration, or for `vector` at once ----

static void hoist_stages(CudaScope *scope, int first, int count, uint32_t loops) {
    const Nest *nest = scope->nest;
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        cuda_hoist(scope, stage->formula, loops);
        for (int d = 1; !cuda_is_reduction(stage) && d < nest->operands[stage->operand].rank; d++)
            if (stage->index[d].gathered != FORMULA_NONE) cuda_hoist(scope, stage->index[d].gathered, loops);
    }
}

static void emit_stage(CudaScope *scope, int number) {
    CudaUnit *unit = scope->unit;
    const Stage *stage = &scope->nest->stages[number];
    const char *sum = cuda_text(unit, unit->packed_sums ? "s%d[e]" : "s%d", number);
    const char *value = cuda_formula(scope, stage->formula);
    cuda_note_place(unit, stage->place);
    if (!cuda_is_reduction(stage))
        cuda_write(scope, stage, value);
    else if (stage->kind == STAGE_SUM)
        cuda_line(unit, "%s += %s;", sum, value);
    else
        cuda_line(unit, "%s = %s::of(%s, %s);", sum, fold_name(stage), sum, value);
}

// Whether every stage of a group that uses a load comes behind the one that stores what it reads.
static bool is_stored_before(const CudaScope *scope, int first, int count, uint32_t load) {
    const Nest *nest = scope->nest;
    for (int s = first; s < first + count; s++) {
        bool *used = ARENA_ARRAY(scope->unit->arena, bool, nest->formulas.count + 1);
        cuda_mark_used(nest, s, 1, used);
        if (used[load]) return false;
        if (nest->stages[s].kind == STAGE_STORE && nest->stages[s].operand == nest->formulas.items[load].operand)
            return true;
    }
    return false;
}

// Packs of the loads that lie side by side along `loop`, before the loop over their elements.
static void load_packs(CudaScope *scope, CudaScope *element, int first, int count, int loop, int vector) {
    const Nest *nest = scope->nest;
    CudaUnit *unit = scope->unit;
    bool *used = ARENA_ARRAY(unit->arena, bool, nest->formulas.count + 1);
    cuda_mark_used(nest, first, count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (!used[i] || load->kind != FORMULA_LOAD || scope->value[i]) continue;
        if (access_may_miss(load) && !cuda_stays_inside(scope, load)) continue;
        if (!cuda_is_packed(unit, nest, load->operand, load->index, loop, vector)) continue;
        if (is_stored_before(scope, first, count, (uint32_t)i)) continue;
        cuda_note_place(unit, load->place);
        const char *test = cuda_guard(scope, load), *at = cuda_element(scope, load->operand, load->index);
        const CudaRow *row = cuda_find_row(unit->rows, load, first);
        int number = unit->variables++;
        if (row)
            cuda_load_row(unit, row, row->first == first, vector, at, number);
        else if (test)
            cuda_line(unit, "const auto x%d = %s ? load_pack<%d>(&%s) : pack<%s, %d>{};", number, test,
                      vector, at, cuda_memory_type(load->element), vector);
        else
            cuda_line(unit, "const auto x%d = load_pack<%d>(&%s);", number, vector, at);
        element->value[i] = cuda_text(unit, "value_of(x%d.at[e])", number);
    }
}

// Loads of what a stage stored into pack `number` have its value.
static void take_stored(CudaScope *element, const Stage *stage, int number) {
    const Nest *nest = element->nest;
    cuda_forget(element, stage->operand);
    for (size_t i = 0; i < nest->formulas.count; i++)
        if (nest->formulas.items[i].kind == FORMULA_LOAD && nest->formulas.items[i].operand == stage->operand)
            element->value[i] = cuda_text(element->unit, "value_of(y%d.at[e])", number);
}

static void emit_packed(CudaScope *scope, int first, int count, int loop, int vector) {
    CudaUnit *unit = scope->unit;
    const Nest *nest = scope->nest;
    int pack[STAGE_LIMIT];
    for (int s = first; s < first + count; s++)
        if (cuda_is_reduction(&nest->stages[s]) && !nest->stages[s].inner) scope->varying |= 1u << s;
    hoist_stages(scope, first, count, 1u << loop);
    CudaScope *element = cuda_inner_scope(scope);
    load_packs(scope, element, first, count, loop, vector);
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        if (cuda_is_reduction(stage)) continue;
        pack[s] = unit->variables++;
        if (stage->kind == STAGE_ADD)
            cuda_line(unit, "auto y%d = load_pack<%d>(&%s);", pack[s], vector,
                      cuda_element(scope, stage->operand, stage->index));
        else
            cuda_line(unit, "pack<%s, %d> y%d;", cuda_memory_type(nest->operands[stage->operand].element),
                      vector, pack[s]);
    }
    fprintf(unit->stream, "#pragma unroll\n");
    cuda_open(unit, "for (int e = 0; e < %d; e++)", vector);
    element->loop[loop] = cuda_text(unit, "(%s + e)", scope->loop[loop]);
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        if (cuda_is_reduction(stage) && stage->inner) {
            emit_stage(element, s);
            continue;
        }
        const char *value = cuda_formula(element, stage->formula), *sum = "";
        if (cuda_is_reduction(stage)) {  // over loops of one iteration
            bool narrow = stage->element == ELEMENT_BF16;
            element->stage[s] = narrow ? cuda_text(unit, "round_bf16(%s)", value)
                                       : cuda_text(unit, "(%s)(%s)", sum_type(stage), value);
            continue;
        }
        cuda_note_place(unit, stage->place);
        if (stage->kind == STAGE_ADD) sum = cuda_text(unit, "value_of(y%d.at[e]) + ", pack[s]);
        cuda_line(unit, "put(y%d.at[e], %s%s);", pack[s], sum, value);
        if (stage->kind == STAGE_STORE) take_stored(element, stage, pack[s]);
    }
    cuda_close(unit);
    for (int s = first; s < first + count; s++) {
        const Stage *stage = &nest->stages[s];
        if (cuda_is_reduction(stage)) continue;
        cuda_line(unit, "store_pack(&%s, y%d);", cuda_element(scope, stage->operand, stage->index), pack[s]);
        cuda_forget(scope, stage->operand);
    }
}

// ---- Groups ----

static void emit_team_sync(const Emit *emit) {
    if (emit->plan->team == 1) return;
    bool warp = emit->plan->shape == CUDA_ROWS && emit->plan->team == 32;
    cuda_line(emit->unit, warp ? "__syncwarp();" : "__syncthreads();");
}

// What a group that takes one iteration at once has of rows in shared memory.
static void load_rows(CudaScope *scope, const CudaGroup *group) {
    const Nest *nest = scope->nest;
    bool *used = ARENA_ARRAY(scope->unit->arena, bool, nest->formulas.count + 1);
    cuda_mark_used(nest, group->first, group->count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (!used[i] || load->kind != FORMULA_LOAD || scope->value[i]) continue;
        const CudaRow *row = cuda_find_row(scope->unit->rows, load, group->first);
        if (!row) continue;
        cuda_note_place(scope->unit, load->place);
        const char *from = cuda_element(scope, load->operand, load->index);
        int number = scope->unit->variables++;
        cuda_load_row(scope->unit, row, row->first == group->first, 1, from, number);
        scope->value[i] = cuda_text(scope->unit, "value_of(x%d.at[0])", number);
    }
}

// Iterations [begin, end) of the group's loops as one loop, shared by the team, `vector` of them at once.
static void emit_walk(const Emit *emit, const CudaGroup *group, int64_t begin, const char *end, int vector) {
    CudaUnit *unit = emit->unit;
    const Nest *nest = emit->plan->nest;
    CudaScope *inner = cuda_inner_scope(emit->scope);
    const char *type = cuda_points(nest, group->inner) > INT32_MAX / 2 ? "i64" : "int";
    const char *live = emit->live ? cuda_text(unit, "%s && ", emit->live) : "";
    const char *times = vector > 1 ? cuda_text(unit, " * %d", vector) : "";
    const char *start = begin ? cuda_text(unit, "%lld + ", (long long)begin) : "";
    if (group->serial || emit->plan->team == 1)
        cuda_open(unit, "for (%s i = %lld; %si < %s; i += %d)", type, (long long)begin, live, end, vector);
    else
        cuda_open(unit, "for (%s i = %s%s%s; %si < %s; i += %s%s)", type, start, emit->first, times, live, end,
                  emit->step, times);
    cuda_split_index(inner, "i", group->order, group->order_count);
    for (int i = 1; i < group->order_count; i++)
        if (nest->loops[group->order[i]].bound_operand != UINT32_MAX)
            cuda_line(unit, "if (%s >= %s) continue;", inner->loop[group->order[i]],
                      cuda_extent(inner, group->order[i]));
    if (unit->packed_sums) {
        emit_packed(inner, group->first, group->count, emit->plan->spread[emit->plan->spread_count - 1],
                    emit->plan->vector);
    } else if (vector > 1) {
        emit_packed(inner, group->first, group->count, group->order[group->order_count - 1], vector);
    } else {
        load_rows(inner, group);
        for (int s = group->first; s < group->first + group->count; s++) emit_stage(inner, s);
    }
    cuda_close(unit);
}

static void emit_group_loop(const Emit *emit, const CudaGroup *group) {
    CudaUnit *unit = emit->unit;
    const Nest *nest = emit->plan->nest;
    int64_t all = cuda_points(nest, group->inner), below = all / nest->loops[group->order[0]].dimension.extent;
    int64_t whole = all / group->vector * group->vector;
    const char *end = cuda_text(unit, below > 1 ? "%s * %lld" : "%s", cuda_extent(emit->scope, group->order[0]),
                                (long long)below);
    // Blocks that keep rows are few on a multiprocessor: each thread has several loads under way.
    if (unit->rows && group->reduces) fprintf(unit->stream, "#pragma unroll 4\n");
    // What all columns share comes from a cache, and the block waits for it.
    if (group < &emit->plan->groups[emit->plan->packed_group]) fprintf(unit->stream, "#pragma unroll 8\n");
    emit_walk(emit, group, 0, whole < all ? cuda_text(unit, "%lld", (long long)whole) : end, group->vector);
    if (whole < all) emit_walk(emit, group, whole, end, 1);
}

static void emit_fold(const Emit *emit, int number) {
    const CudaPlan *plan = emit->plan;
    const char *fold = fold_name(&plan->nest->stages[number]);
    if (emit->unit->packed_sums)
        cuda_line(emit->unit, "fold_packs<%s, %d>(s%d);", fold, plan->width, number);
    else if (plan->shape == CUDA_COLUMNS && plan->vector > 1)
        cuda_line(emit->unit, "s%d = fold_pack<%s, %d>(s%d);", number, fold, plan->width, number);
    else if (plan->shape == CUDA_ROWS && plan->team == 32)
        cuda_line(emit->unit, "s%d = fold_warp<%s>(s%d);", number, fold, number);
    else if (plan->shape == CUDA_ROWS)
        cuda_line(emit->unit, "s%d = fold_block<%s, %d>(s%d);", number, fold, plan->team, number);
    else if (plan->shape == CUDA_COLUMNS)
        cuda_line(emit->unit, "s%d = fold_columns<%s, %d>(s%d);", number, fold, plan->team, number);
}

// Whether a later group gives an element that this one reads to another lane, or one that all lanes read to one of them.
// It may write what is read here: memory is reused where no other element is touched, and the nest sees two operands.
static bool lanes_differ(const CudaPlan *plan, const CudaGroup *group) {
    for (const CudaGroup *later = group + 1; later < plan->groups + plan->group_count; later++)
        if (!later->reduces &&
            (!later->inner || later->vector != group->vector || later->order_count != group->order_count ||
             memcmp(later->order, group->order, sizeof *group->order * (size_t)group->order_count) != 0))
            return true;
    return false;
}

// Where part `part` of stage `number` lies in the workspace: slots of 8 bytes, part-major.
static const char *partial(const Emit *emit, int number, const char *part) {
    const CudaPlan *plan = emit->plan;
    return cuda_text(emit->unit, "((%s *)(workspace + %lldll))[%s * (i64)%lld + point]",
                     sum_type(&plan->nest->stages[number]),
                     (long long)(number * plan->splits * plan->points * 8), part, (long long)plan->points);
}

static void take_result(const Emit *emit, int number) {
    const Stage *stage = &emit->plan->nest->stages[number];
    const char *sum = cuda_text(emit->unit, emit->unit->packed_sums ? "s%d[e]" : "s%d", number);
    emit->scope->stage[number] = stage->element == ELEMENT_BF16 ? cuda_text(emit->unit, "round_bf16(%s)", sum) : sum;
    if (emit->unit->packed_sums) emit->scope->varying |= 1u << number;
    for (size_t i = 0; i < emit->plan->nest->formulas.count; i++)  // what was made of an older value
        if (emit->plan->analysis->stages[i] >> number & 1) emit->scope->value[i] = NULL;
}

static void emit_reductions(const Emit *emit, const CudaGroup *group) {
    CudaUnit *unit = emit->unit;
    const CudaPlan *plan = emit->plan;
    bool packs = unit->packed_sums;
    unit->packed_sums &= group == &plan->groups[plan->packed_group];
    bool folds_parts = emit->part == CUDA_REST && group == &plan->groups[0];
    if (!folds_parts) hoist_stages(emit->scope, group->first, group->count, group->inner);
    for (int s = group->first; s < group->first + group->count; s++) {
        const Stage *stage = &plan->nest->stages[s];
        if (!group->inner) {  // one iteration
            cuda_line(unit, "const %s s%d = %s;", sum_type(stage), s,
                      cuda_formula(emit->scope, stage->formula));
            continue;
        }
        const char *type = sum_type(stage), *fold = fold_name(stage);
        if (unit->packed_sums)
            cuda_line(unit, "%s s%d[%d];\n    start_packs<%s>(s%d);", type, s, plan->vector, fold, s);
        else
            cuda_line(unit, "%s s%d = %s::start<%s>();", type, s, fold, type);
    }
    if (folds_parts) {
        cuda_open(unit, "for (int part = %s; part < %lld; part += %s)", emit->first, (long long)plan->splits,
                  emit->step);
        for (int s = group->first; s < group->first + group->count; s++)
            cuda_line(unit, "s%d = %s::of(s%d, %s);", s, fold_name(&plan->nest->stages[s]), s,
                      partial(emit, s, "part"));
        cuda_close(unit);
    } else if (group->inner) {
        emit_group_loop(emit, group);
    }
    for (int s = group->first; s < group->first + group->count; s++) {
        if (group->inner) emit_fold(emit, s);
        take_result(emit, s);
    }
    // A fold over a block waits for all that was read, one over a warp only for what it adds up.
    if (group->inner && plan->shape == CUDA_ROWS && plan->team == 32 && lanes_differ(plan, group)) emit_team_sync(emit);
    unit->packed_sums = packs;
    if (emit->part != CUDA_PARTIAL_SUMS) return;
    cuda_open(unit, emit->live ? "if (lane == 0 && live)" : "if (lane == 0)");
    for (int s = group->first; s < group->first + group->count; s++)
        cuda_line(unit, "%s = s%d;", partial(emit, s, "blockIdx.y"), s);
    cuda_close(unit);
}

static void emit_writes(const Emit *emit, const CudaGroup *group) {
    CudaUnit *unit = emit->unit;
    if (group->sync) emit_team_sync(emit);
    bool one = emit->plan->team > 1 && (!group->inner || group->serial);
    if (group->inner && !group->serial) hoist_stages(emit->scope, group->first, group->count, group->inner);
    if (one) cuda_open(unit, emit->live ? "if (lane == 0 && live)" : "if (lane == 0)");
    if (group->inner) {
        emit_group_loop(emit, group);
    } else {
        CudaScope *scope = one ? cuda_inner_scope(emit->scope) : emit->scope;
        if (unit->packed_sums)
            emit_packed(scope, group->first, group->count, emit->plan->spread[emit->plan->spread_count - 1],
                        emit->plan->vector);
        for (int s = group->first; s < group->first + group->count && !unit->packed_sums; s++) emit_stage(scope, s);
    }
    if (one) cuda_close(unit);
    if (group->sync) emit_team_sync(emit);
}

// Columns of the block's rows, shared out among its threads, added up row by row.
static void emit_folds(const Emit *emit, const CudaGroup *group) {
    CudaUnit *unit = emit->unit;
    const CudaPlan *plan = emit->plan;
    const Nest *nest = plan->nest;
    int loop = group->order[0], vector = group->vector, end = group->first + group->count;
    int64_t length = nest->loops[loop].dimension.extent;
    if (length % vector) vector = 1;
    CudaScope *scope = cuda_scope(unit, plan->original, nest, plan->analysis);
    memcpy(scope->loop, emit->scope->loop, sizeof scope->loop);
    scope->loop[loop] = "i";
    cuda_line(unit, "__syncthreads();");
    cuda_open(unit, "for (int i = (int)threadIdx.x * %d; i < %lld; i += %d)", vector, (long long)length,
              plan->width * plan->team * vector);
    for (int s = group->first; s < end; s++) cuda_line(unit, "float s%d[%d] = {};", s, vector);
    fprintf(unit->stream, "#pragma unroll 4\n");  // eight of them take more registers than full occupancy leaves
    cuda_open(unit, "for (int row = 0; row < %d; row++)", plan->width);
    cuda_declare_rows(unit, plan, "row");
    CudaScope *row = cuda_inner_scope(scope);
    row->loop[plan->fold_loop] = "row";
    for (int s = group->first; s < end; s++) {  // nothing of the sum before is loaded
        uint32_t start = cuda_fold_start(nest, &nest->stages[s]);
        row->value[start] = row->value[nest->formulas.items[start].arguments[2]] = cuda_text(unit, "s%d[e]", s);
    }
    hoist_stages(row, group->first, group->count, 1u << loop);
    CudaScope *element = cuda_inner_scope(row);
    load_packs(row, element, group->first, group->count, loop, vector);
    fprintf(unit->stream, "#pragma unroll\n");
    cuda_open(unit, "for (int e = 0; e < %d; e++)", vector);
    element->loop[loop] = "(i + e)";
    for (int s = group->first; s < end; s++) {
        const char *value = cuda_formula(element, nest->stages[s].formula);
        cuda_note_place(unit, nest->stages[s].place);
        cuda_line(unit, "s%d[e] = %s;", s, value);
    }
    cuda_close(unit);
    cuda_close(unit);
    for (int s = group->first; s < end; s++) {
        const Stage *stage = &nest->stages[s];
        cuda_line(unit, "pack<float, %d> y%d;", vector, s);
        cuda_line(unit, "for (int e = 0; e < %d; e++) y%d.at[e] = s%d[e];", vector, s, s);
        cuda_line(unit, "store_pack(&%s, y%d);", cuda_element(scope, stage->operand, stage->index), s);
    }
    cuda_close(unit);
}

// ---- The point ----

static void emit_point(Emit *emit) {
    CudaUnit *unit = emit->unit;
    const CudaPlan *plan = emit->plan;
    const char *type = plan->points > INT32_MAX / 2 ? "i64" : "int";
    long long points = (long long)plan->points;
    if (plan->shape == CUDA_POINTS) {
        const char *times = plan->vector > 1 ? cuda_text(unit, " * %d", plan->vector) : "";
        cuda_line(unit, "const %s point = ((%s)blockIdx.x * %d + threadIdx.x)%s;", type, type, plan->width,
                  times);
    } else if (plan->shape == CUDA_COLUMNS) {
        const char *times = plan->vector > 1 ? cuda_text(unit, " * %d", plan->vector) : "";
        cuda_line(unit, "const int lane = threadIdx.x / %d;", plan->width);
        cuda_line(unit, plan->vector > 1 ? "const %s column = ((%s)blockIdx.x * %d + threadIdx.x %% %d)%s;"
                                         : "const %s column = (%s)blockIdx.x * %d + threadIdx.x %% %d;",
                  type, type, plan->width, plan->width, times);
        cuda_line(unit, "const %s point = column < %lld ? column : %lld;", type, points, points - plan->vector);
        cuda_line(unit, "bool live = column < %lld;", points);
        emit->live = "live";
    } else {
        cuda_line(unit, "const int lane = threadIdx.x %% %d;", plan->team);
        cuda_line(unit, "const %s point = (%s)blockIdx.x * %d + threadIdx.x / %d;", type, type, plan->width,
                  plan->team);
    }
    if (plan->shape != CUDA_COLUMNS) cuda_line(unit, "if (point >= %lld) return;", points);
    cuda_split_index(emit->scope, "point", plan->spread, plan->spread_count);
    for (int i = 0; i < plan->spread_count; i++) {
        int loop = plan->spread[i];
        if (plan->nest->loops[loop].bound_operand == UINT32_MAX) continue;
        const char *test =
            cuda_text(unit, "%s >= %s", emit->scope->loop[loop], cuda_extent(emit->scope, loop));
        cuda_line(unit, plan->shape == CUDA_COLUMNS ? "live = live && !(%s);" : "if (%s) return;", test);
    }
}

static void emit_groups(const Emit *emit) {
    const CudaPlan *plan = emit->plan;
    for (int g = 0; g < plan->group_count; g++) {
        if (emit->part == CUDA_PARTIAL_SUMS && g > 0) break;
        if (plan->folds >> plan->groups[g].first & 1)
            emit_folds(emit, &plan->groups[g]);
        else if (plan->groups[g].reduces)
            emit_reductions(emit, &plan->groups[g]);
        else
            emit_writes(emit, &plan->groups[g]);
    }
}

// The epilogue of a product: its sums lie in the workspace, in the order of the points.
static void emit_epilogue(const Emit *emit) {
    const CudaPlan *plan = emit->plan;
    CudaUnit *unit = emit->unit;
    const char *round = plan->nest->stages[0].element == ELEMENT_BF16 ? "round_bf16" : "";
    if (plan->vector > 1) {
        cuda_line(unit, "const auto s0 = load_pack<%d>(%s + point);", plan->vector, plan->sums);
        emit->scope->stage[0] = cuda_text(unit, "%s(value_of(s0.at[e]))", round);
        emit->scope->varying = 1;
        emit_packed(emit->scope, 1, plan->nest->stage_count - 1, plan->spread[plan->spread_count - 1],
                    plan->vector);
        return;
    }
    cuda_line(unit, "const float s0 = %s(value_of(%s[point]));", round, plan->sums);
    emit->scope->stage[0] = "s0";
    for (int s = 1; s < plan->nest->stage_count; s++) emit_stage(emit->scope, s);
}

// Whether a point and what it walks are known without reading an extent.
static bool is_fixed(const CudaPlan *plan, const CudaGroup *group) {
    bool fixed = true;
    for (int i = 0; i < plan->spread_count; i++)
        fixed &= plan->nest->loops[plan->spread[i]].bound_operand == UINT32_MAX;
    for (int i = 0; i < group->order_count; i++)
        fixed &= plan->nest->loops[group->order[i]].bound_operand == UINT32_MAX;
    return fixed;
}

// Whether a load is of weights that lie side by side along the columns, and walks with the group.
static bool is_prefetched(const CudaPlan *plan, const CudaUnit *unit, const CudaGroup *group, const Formula *load) {
    const Nest *nest = plan->nest;
    return load->kind == FORMULA_LOAD && unit->lasts[load->operand] && nest->operands[load->operand].rank <= 1 &&
           !access_may_miss(load) && (affine_loops(&load->index[0].affine) & group->inner) &&
           cuda_is_packed(unit, nest, load->operand, load->index, plan->spread[plan->spread_count - 1], plan->vector);
}

// Packs read a matrix once, a token's product its weights: they are on their way while the launch before this one ends.
// What that one may still write has nothing to come.
static void emit_prefetch(const Emit *emit, const CudaGroup *group) {
    CudaUnit *unit = emit->unit;
    const CudaPlan *plan = emit->plan;
    const Nest *nest = plan->nest;
    bool *used = ARENA_ARRAY(unit->arena, bool, nest->formulas.count + 1), any = false;
    cuda_mark_used(nest, group->first, group->count, used);
    for (size_t i = 0; i < nest->formulas.count; i++)
        any |= used[i] &= is_prefetched(plan, unit, group, &nest->formulas.items[i]);
    if (!any) return;
    cuda_open(unit, "for (int i = %s; i < %lld; i += %s)", emit->first, (long long)cuda_points(nest, group->inner),
              emit->step);
    CudaScope *inner = cuda_inner_scope(emit->scope);
    cuda_split_index(inner, "i", group->order, group->order_count);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        if (used[i]) cuda_line(unit, "prefetch(&%s);", cuda_element(inner, load->operand, load->index));
    }
    cuda_close(unit);
}

static void emit_body(Emit *emit) {
    const CudaPlan *plan = emit->plan;
    CudaUnit *unit = emit->unit;
    emit->scope = cuda_scope(unit, plan->original, plan->nest, plan->analysis);
    const CudaGroup *packed = &plan->groups[plan->packed_group];
    bool early = unit->packed_sums && is_fixed(plan, packed);
    if (early) {
        emit_point(emit);
        emit_prefetch(emit, packed);
    }
    cuda_line(unit, "begin_launch();");
    cuda_declare_bounds(emit->scope);
    if (plan->row_count) cuda_line(unit, "SHARED_MEMORY;");
    cuda_declare_rows(unit, plan, cuda_text(unit, "(int)threadIdx.x / %d", plan->team));
    if (!early) emit_point(emit);
    if (plan->splits == 0) {
        emit_epilogue(emit);
        return;
    }
    if (plan->shape == CUDA_POINTS && plan->vector > 1) {
        emit_packed(emit->scope, 0, plan->nest->stage_count, plan->spread[plan->spread_count - 1],
                    plan->vector);
        return;
    }
    for (int i = 0; i < plan->sequential_count; i++) {
        int loop = plan->sequential[i];
        const char *name = cuda_text(unit, "i_%s", cuda_loop_name(emit->scope, loop));
        cuda_open(unit, "for (int %s = 0; %s < %s; %s++)", name, name, cuda_extent(emit->scope, loop), name);
        emit->scope->loop[loop] = name;
    }
    emit_groups(emit);
    for (int i = 0; i < plan->sequential_count; i++) cuda_close(unit);
}

void cuda_emit_function(CudaUnit *unit, const CudaPlan *plan, CudaPart part, const char *suffix) {
    CudaPhase *phase = cuda_open_function(unit, suffix, plan->width * plan->team);
    Emit emit = {.unit = unit, .plan = plan, .part = part, .first = "lane"};
    unit->packed_sums = plan->shape == CUDA_COLUMNS && plan->vector > 1;
    unit->rows = plan->row_count ? plan : NULL;
    phase->shared_bytes = plan->row_bytes;
    emit.step = cuda_text(unit, "%d", plan->team);
    phase->grid[0] = cuda_divide_up(plan->points, (int64_t)plan->width * plan->vector);
    if (part == CUDA_PARTIAL_SUMS) {
        phase->grid[1] = plan->splits;
        emit.first = cuda_text(unit, "((int)blockIdx.y * %d + lane)", plan->team);
        emit.step = cuda_text(unit, "%lld", (long long)(plan->team * plan->splits));
    }
    emit_body(&emit);
    cuda_close(unit);
}

bool cuda_nest_emit(CudaUnit *unit) {
    const Nest *original = unit->kernel->nest, *nest = normalise_nest(unit->arena, original);
    bool taken = false;
    if (!cuda_contract_emit(unit, nest, &taken)) return false;
    if (!taken && !cuda_scatter_emit(unit, nest, &taken)) return false;
    if (taken) return true;
    CudaPlan plan = cuda_plan(unit, original, nest);
    if (plan.splits <= 1) {
        cuda_emit_function(unit, &plan, CUDA_WHOLE, "");
        unit->out->joins = plan.row_count == 0;  // blocks of others would have its shared memory too
        return true;
    }
    cuda_emit_function(unit, &plan, CUDA_PARTIAL_SUMS, "_a");
    cuda_emit_function(unit, &plan, CUDA_REST, "_b");
    unit->out->workspace_bytes = plan.groups[0].count * plan.splits * plan.points * 8;
    unit->out->joins = true;
    return true;
}
