// Emission that the forward and the gradient generator of attention share.
#include "codegen/cpu_attention.h"
#include "codegen/cpu_place.h"

LLVMValueRef cpu_attention_extent(const AttentionTask *task, int64_t extent, uint32_t bound) {
    if (bound == UINT32_MAX) return cpu_i64(task->unit, extent);
    return cpu_load(task->unit, ELEMENT_I64, task->body->operand[bound], 1, NULL);
}

LLVMValueRef cpu_attention_split(const AttentionTask *task, LLVMValueRef number, const int64_t *extents,
                                 const uint32_t *bounds, int count, LLVMValueRef *indices) {
    CpuUnit *unit = task->unit;
    LLVMValueRef inside = LLVMConstInt(unit->i1, 1, false);
    for (int i = count - 1; i >= 0; i--) {
        cpu_divide(unit, number, cpu_i64(unit, extents[i]), &number, &indices[i]);
        if (bounds[i] == UINT32_MAX) continue;
        LLVMValueRef extent = cpu_attention_extent(task, extents[i], bounds[i]);
        inside = LLVMBuildAnd(unit->builder, inside, compare(unit, LLVMIntSLT, indices[i], extent), "");
    }
    return inside;
}

LLVMValueRef cpu_attention_base(const AttentionTask *task, int operand) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    const AttentionSide *side = &plan->side[operand];
    LLVMValueRef at = cpu_i64(unit, 0);
    for (int i = 0; i < plan->shared_count; i++)
        if (side->shared[i]) at = add(unit, at, scaled(unit, task->shared[i], side->shared[i]));
    for (int i = 0; i < plan->group_count; i++)
        if (side->group[i]) at = add(unit, at, scaled(unit, task->group[i], side->group[i]));
    return cpu_at(unit, task->body->operand[operand], side->element, at);
}

// ---- Positions and masks ----

enum { POSITIONS = 3 };  // the operand

LLVMValueRef cpu_attention_position(const AttentionTask *task, LLVMValueRef index) {
    CpuUnit *unit = task->unit;
    const AttentionSide *side = &task->plan->side[POSITIONS];
    LLVMValueRef at =
        cpu_at(unit, task->body->operand[POSITIONS], side->element, scaled(unit, index, side->time));
    LLVMValueRef value = cpu_load(unit, side->element, at, 1, NULL);
    return side->element == ELEMENT_I64 ? value : LLVMBuildSExt(unit->builder, value, unit->i64, "");
}

void cpu_attention_range(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last,
                         LLVMValueRef *begin, LLVMValueRef *end) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    LLVMValueRef zero = cpu_i64(unit, 0);
    *begin = zero;
    *end = task->past;
    if (plan->causal) *end = cpu_max(unit, zero, cpu_min(unit, *end, add(unit, last, cpu_i64(unit, 1))));
    if (plan->window > 0) {
        LLVMValueRef oldest = cpu_max(unit, zero, add(unit, first, cpu_i64(unit, 1 - plan->window)));
        LLVMValueRef block = LLVMBuildUDiv(unit->builder, oldest, cpu_i64(unit, plan->key_block), "");
        *begin = scaled(unit, block, plan->key_block);
    }
}

LLVMValueRef cpu_attention_last_position(const AttentionTask *task, LLVMValueRef row, int64_t count) {
    CpuUnit *unit = task->unit;
    LLVMValueRef last = cpu_min(unit, add(unit, row, cpu_i64(unit, count - 1)),
                                    add(unit, task->valid, cpu_i64(unit, -1)));
    LLVMValueRef position =
        cpu_load(unit, ELEMENT_I32, cpu_at(unit, task->positions, ELEMENT_I32, last), 1, NULL);
    return LLVMBuildSExt(unit->builder, position, unit->i64, "");
}

void cpu_attention_positions(AttentionTask *task, LLVMValueRef query0, LLVMValueRef valid) {
    task->valid = valid;
    CpuLoop loop;
    CpuUnit *unit = task->unit;
    cpu_loop_begin(unit, &loop, cpu_i64(unit, 0), cpu_i64(unit, task->plan->queries), 1, NULL, 0);
    LLVMValueRef exists = compare(unit, LLVMIntSLT, loop.index, valid);
    LLVMValueRef index =
        add(unit, query0,
            cpu_min(unit, loop.index, LLVMBuildSub(unit->builder, valid, cpu_i64(unit, 1), "")));
    LLVMValueRef position = LLVMBuildTrunc(unit->builder, cpu_attention_position(task, index), unit->i32, "");
    position = cpu_select(unit, exists, position, cpu_i32(unit, -1));
    cpu_store(unit, ELEMENT_I32, cpu_at(unit, task->positions, ELEMENT_I32, loop.index), position, NULL);
    cpu_loop_end(unit, &loop, NULL);
}

LLVMValueRef cpu_attention_partly(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last,
                                  LLVMValueRef begin, LLVMValueRef end) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    LLVMValueRef partly = NULL;
    if (plan->causal) partly = compare(unit, LLVMIntSGT, end, add(unit, first, cpu_i64(unit, 1)));
    if (plan->window > 0) {
        LLVMValueRef old = compare(unit, LLVMIntSLE, begin, add(unit, last, cpu_i64(unit, -plan->window)));
        partly = partly ? LLVMBuildOr(unit->builder, partly, old, "") : old;
    }
    return partly;
}

// i1 lanes of queries (vector v of the block) that see key `key`.
static LLVMValueRef visible_lanes(const AttentionTask *task, int v, LLVMValueRef key) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    int lanes = (int)plan->lanes;
    LLVMValueRef at = cpu_at(unit, task->positions, ELEMENT_I32, cpu_i64(unit, v * plan->lanes));
    LLVMValueRef positions = cpu_load(unit, ELEMENT_I32, at, lanes, NULL);
    LLVMValueRef number = cpu_splat(unit, LLVMBuildTrunc(unit->builder, key, unit->i32, ""), lanes),
                 visible = NULL;
    if (plan->causal) visible = compare(unit, LLVMIntSLE, number, positions);
    if (plan->window > 0) {
        LLVMValueRef distance = LLVMBuildSub(unit->builder, positions, number, "");
        LLVMValueRef near =
            compare(unit, LLVMIntSLT, distance, cpu_number_like(distance, (double)plan->window));
        visible = visible ? LLVMBuildAnd(unit->builder, visible, near, "") : near;
    }
    return visible;
}

void cpu_attention_mask(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef key0, LLVMValueRef rows,
                        LLVMValueRef partly) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    if (!partly) return;
    CpuIf some;
    CpuLoop keys;
    cpu_if_begin(unit, &some, partly);
    LLVMValueRef begin = cpu_i64(unit, 0);
    if (plan->causal && plan->window <= 0) {  // all queries see what the first one sees
        LLVMValueRef first = cpu_attention_last_position(task, begin, 1);
        begin = cpu_max(unit, begin, LLVMBuildSub(unit->builder, add(unit, first, cpu_i64(unit, 1)), key0, ""));
    }
    cpu_loop_begin(unit, &keys, begin, rows, 1, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at =
            add(unit, scaled(unit, keys.index, plan->queries), cpu_i64(unit, v * plan->lanes));
        at = cpu_at(unit, scores, ELEMENT_F32, at);
        LLVMValueRef score = cpu_load(unit, ELEMENT_F32, at, (int)plan->lanes, NULL);
        LLVMValueRef visible = visible_lanes(task, v, add(unit, key0, keys.index));
        score = cpu_select(unit, visible, score, cpu_number_like(score, ATTENTION_HIDDEN));
        cpu_store(unit, ELEMENT_F32, at, score, NULL);
    }
    cpu_loop_end(unit, &keys, NULL);
    cpu_if_end(unit, &some);
}

// ---- Moving data ----

int64_t cpu_attention_step(const CpuAttention *plan) { return plan->pairs ? 2 : 1; }

// Packs into panels `width` wide, `panel_size` floats apart, as they are laid out in cpu_contract.h.
static void pack(CpuUnit *unit, Element element, CpuPanel panel, int64_t column_stride, int64_t k_stride, int64_t width,
                 LLVMValueRef to, LLVMValueRef from, LLVMValueRef columns, LLVMValueRef k, int64_t panel_size) {
    CpuPack kind = cpu_pack_kind(column_stride, k_stride);
    LLVMValueRef w = cpu_i64(unit, width);
    LLVMValueRef arguments[] = {to,
                                from,
                                columns,
                                k,
                                cpu_i64(unit, column_stride),
                                cpu_i64(unit, k_stride),
                                w,
                                cpu_blocks(unit, columns, w),
                                cpu_i64(unit, panel_size)};
    cpu_helper_call(unit, cpu_pack_function(unit, kind, element, panel, (int)width), arguments, 9);
}

void cpu_attention_pack_steps(const AttentionTask *task, AttentionMatrix m, int64_t width, LLVMValueRef to) {
    CpuPanel panel = task->plan->pairs ? PANEL_PAIRS : PANEL_F32;
    pack(task->unit, m.element, panel, m.column_stride, m.row_stride, width, to, m.from, m.columns, m.rows, 0);
}

AttentionMatrix cpu_attention_turned(AttentionMatrix m) {
    return (AttentionMatrix){.element = m.element, .from = m.from, .rows = m.columns, .columns = m.rows,
                             .row_stride = m.column_stride, .column_stride = m.row_stride};
}

// Pairs that lie side by side are copied as if they were floats; others are panels of one row, whose steps they are.
void cpu_attention_pack_rows(const AttentionTask *task, AttentionMatrix m, int64_t room, LLVMValueRef to) {
    CpuUnit *unit = task->unit;
    bool even = LLVMIsAConstantInt(m.columns) && LLVMConstIntGetSExtValue(m.columns) % 2 == 0 && m.row_stride % 2 == 0;
    if (!task->plan->pairs) {
        cpu_attention_pack_steps(task, m, room, to);
    } else if (even && m.column_stride == 1) {
        pack(unit, ELEMENT_F32, PANEL_F32, 1, m.row_stride / 2, room, to, m.from,
             cpu_i64(unit, LLVMConstIntGetSExtValue(m.columns) / 2), m.rows, 0);
    } else {
        pack(unit, m.element, PANEL_PAIRS, m.row_stride, m.column_stride, 1, to, m.from, m.rows, m.columns, room);
    }
}

// Rows [first, end) of K or V, whose columns are `stride` apart.
static AttentionMatrix rows_of(const AttentionTask *task, int operand, int64_t stride, int64_t columns, LLVMValueRef first,
                               LLVMValueRef end) {
    CpuUnit *unit = task->unit;
    const AttentionSide *side = &task->plan->side[operand];
    LLVMValueRef from = cpu_at(unit, cpu_attention_base(task, operand), side->element, scaled(unit, first, side->past));
    return (AttentionMatrix){.element = side->element, .from = from, .rows = subtract(unit, end, first),
                             .columns = cpu_i64(unit, columns), .row_stride = side->past, .column_stride = stride};
}

static void copy_matrix(const AttentionTask *task, AttentionMatrix matrix, LLVMValueRef row, LLVMValueRef rows,
                        int64_t room, LLVMValueRef steps, int64_t columns) {
    CpuUnit *unit = task->unit;
    int64_t step = columns / cpu_attention_step(task->plan);
    if (rows) cpu_attention_pack_rows(task, matrix, room, cpu_at(unit, rows, ELEMENT_F32, scaled(unit, row, room)));
    if (steps) cpu_attention_pack_steps(task, matrix, columns, cpu_at(unit, steps, ELEMENT_F32, scaled(unit, row, step)));
}

void cpu_attention_copy_keys(const AttentionTask *task, LLVMValueRef first, LLVMValueRef end, LLVMValueRef row,
                             AttentionCopies to) {
    enum { K = 1, V };
    const CpuAttention *plan = task->plan;
    copy_matrix(task, rows_of(task, K, plan->side[K].key, plan->keys, first, end), row, to.key_rows, plan->key_room,
                to.key_steps, plan->key_columns);
    copy_matrix(task, rows_of(task, V, plan->side[V].feature, plan->features, first, end), row, to.value_rows,
                plan->feature_room, to.value_steps, plan->feature_columns);
}

// Of an odd number of rows the last is copied again, with the one behind it.
void cpu_attention_copy(const AttentionTask *task, LLVMValueRef end, AttentionCopies to) {
    CpuUnit *unit = task->unit;
    LLVMValueRef first = LLVMBuildLoad2(unit->builder, unit->i64, task->copied, "");
    CpuIf some;
    cpu_if_begin(unit, &some, compare(unit, LLVMIntSLT, first, end));
    cpu_attention_copy_keys(task, first, end, first, to);
    LLVMValueRef copied = LLVMBuildAnd(unit->builder, end, cpu_i64(unit, -cpu_attention_step(task->plan)), "");
    LLVMBuildStore(unit->builder, copied, task->copied);
    cpu_if_end(unit, &some);
}

// ---- Bringing nearer ----

enum { LINE = 64 };

// Reads go to the second cache: they are wanted a while later.
static void ask_for(CpuUnit *unit, LLVMValueRef pointer, bool write) {
    LLVMValueRef arguments[] = {pointer, cpu_i32(unit, write), cpu_i32(unit, write ? 3 : 2),
                                cpu_i32(unit, 1)};
    cpu_intrinsic(unit, "llvm.prefetch", &unit->pointer, 1, arguments, 4);
}

void cpu_attention_next(AttentionTask *task) {
    task->stream_count = 0;
    LLVMBuildStore(task->unit->builder, cpu_i64(task->unit, 0), task->brought);
}

void cpu_attention_stream(AttentionTask *task, AttentionNext next, int operand, int64_t row_stride,
                          int64_t column_stride, int64_t count, LLVMValueRef row, bool write) {
    CpuUnit *unit = task->unit;
    Element element = task->plan->side[operand].element;
    if (column_stride != 1) return;
    CHECK(task->stream_count < ATTENTION_STREAMS);
    LLVMValueRef here =
        cpu_at(unit, cpu_attention_base(task, operand), element, scaled(unit, row, row_stride));
    LLVMValueRef there = cpu_attention_base(next.task, operand);
    task->streams[task->stream_count++] = (AttentionStream){.at = cpu_select(unit, next.over, there, here),
                                                            .row_bytes = row_stride * element_bytes(element),
                                                            .bytes = count * element_bytes(element),
                                                            .write = write};
}

void cpu_attention_bring(const AttentionTask *task) {
    CpuUnit *unit = task->unit;
    CpuIf left;
    LLVMValueRef row = LLVMBuildLoad2(unit->builder, unit->i64, task->brought, "");
    cpu_if_begin(unit, &left, compare(unit, LLVMIntSLT, row, cpu_i64(unit, task->bring_limit)));
    for (int s = 0; s < task->stream_count; s++) {
        const AttentionStream *stream = &task->streams[s];
        LLVMValueRef at = cpu_at_bytes(unit, stream->at, scaled(unit, row, stream->row_bytes));
        for (int64_t i = 0; i < task->bring_rows; i++)
            for (int64_t byte = 0; byte < stream->bytes; byte += LINE)
                ask_for(unit, cpu_at_bytes(unit, at, cpu_i64(unit, i * stream->row_bytes + byte)),
                        stream->write);
    }
    LLVMBuildStore(unit->builder, add(unit, row, cpu_i64(unit, task->bring_rows)), task->brought);
    cpu_if_end(unit, &left);
}

void cpu_attention_bring_rest(const AttentionTask *task) {
    CpuUnit *unit = task->unit;
    CpuLoop calls;
    cpu_loop_begin(unit, &calls, LLVMBuildLoad2(unit->builder, unit->i64, task->brought, ""),
                   cpu_i64(unit, task->bring_limit), (int)task->bring_rows, NULL, 0);
    cpu_attention_bring(task);
    cpu_loop_end(unit, &calls, NULL);
}

// Columns [begin, end) of a row, `lanes` at a time; those that are not there are masked, where some may not be.
static void write_columns(CpuUnit *unit, Element element, LLVMValueRef to, LLVMValueRef column_stride, LLVMValueRef from,
                          LLVMValueRef factor, LLVMValueRef begin, LLVMValueRef end, bool masked) {
    int lanes = cpu_lanes(factor);
    CpuLoop column;
    cpu_loop_begin(unit, &column, begin, end, lanes, NULL, 0);
    LLVMValueRef value = cpu_load(unit, ELEMENT_F32, cpu_at(unit, from, ELEMENT_F32, column.index), lanes, NULL);
    value = LLVMBuildFMul(unit->builder, value, factor, "");
    if (element == ELEMENT_BF16) value = cpu_round_bf16(unit, value);
    LLVMValueRef at = column_stride ? LLVMBuildMul(unit->builder, column.index, column_stride, "") : column.index;
    LLVMValueRef mask = masked ? cpu_mask(unit, lanes, LLVMBuildSub(unit->builder, end, column.index, "")) : NULL;
    cpu_store(unit, element, cpu_at(unit, to, element, at), value, mask);
    cpu_loop_end(unit, &column, NULL);
}

// void (to, from, i64 rows, i64 columns, i64 row_stride, i64 column_stride, i64 from_stride, factors,
// i64 factor_stride); with `unit_columns` as vectors.
static LLVMValueRef write_function(CpuUnit *unit, Element element, bool unit_columns) {
    LLVMTypeRef i64 = unit->i64, pointer = unit->pointer,
                parameters[] = {pointer, pointer, i64, i64, i64, i64, i64, pointer, i64};
    const char *name = arena_format(unit->arena, "cherry_write_%s_%d", element_name(element), unit_columns);
    CpuHelper helper = cpu_helper_begin(unit, name, LLVMFunctionType(unit->void_type, parameters, 9, false));
    if (!helper.fresh) return helper.function;
    LLVMValueRef f = helper.function, columns = LLVMGetParam(f, 3), zero = cpu_i64(unit, 0);
    LLVMValueRef state[] = {LLVMGetParam(f, 0), LLVMGetParam(f, 1), LLVMGetParam(f, 7)};
    int lanes = unit_columns ? unit->target->lanes : 1;
    LLVMValueRef stride = unit_columns ? NULL : LLVMGetParam(f, 5);
    LLVMValueRef whole = LLVMBuildAnd(unit->builder, columns, cpu_i64(unit, -lanes), "");
    CpuLoop row;
    cpu_loop_begin(unit, &row, zero, LLVMGetParam(f, 2), 1, state, 3);
    LLVMValueRef *at = row.carried, factor = cpu_splat(unit, cpu_load(unit, ELEMENT_F32, at[2], 1, NULL), lanes);
    write_columns(unit, element, at[0], stride, at[1], factor, zero, whole, false);
    if (unit_columns) write_columns(unit, element, at[0], stride, at[1], factor, whole, columns, true);
    LLVMValueRef next[] = {cpu_at(unit, at[0], element, LLVMGetParam(f, 4)),
                           cpu_at(unit, at[1], ELEMENT_F32, LLVMGetParam(f, 6)),
                           cpu_at(unit, at[2], ELEMENT_F32, LLVMGetParam(f, 8))};
    cpu_loop_end(unit, &row, next);
    cpu_helper_end(unit, &helper);
    return f;
}

void cpu_attention_write(CpuUnit *unit, AttentionWrite write, LLVMValueRef to, LLVMValueRef from,
                         LLVMValueRef rows, LLVMValueRef factors) {
    LLVMValueRef arguments[] = {to,
                                from,
                                rows,
                                cpu_i64(unit, write.columns),
                                cpu_i64(unit, write.row_stride),
                                cpu_i64(unit, write.column_stride),
                                cpu_i64(unit, write.from_stride),
                                factors,
                                cpu_i64(unit, write.factor_stride)};
    cpu_helper_call(unit, write_function(unit, write.element, write.column_stride == 1), arguments, 9);
}

void cpu_attention_clear(CpuUnit *unit, LLVMValueRef at, int64_t count) {
    int lanes = unit->target->lanes;
    CpuLoop loop;
    cpu_loop_begin(unit, &loop, cpu_i64(unit, 0), cpu_i64(unit, count), lanes, NULL, 0);
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, at, ELEMENT_F32, loop.index),
              cpu_number(unit, ELEMENT_F32, 0, lanes), NULL);
    cpu_loop_end(unit, &loop, NULL);
}

void cpu_attention_fill(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows, double value) {
    CpuUnit *unit = task->unit;
    const CpuAttention *plan = task->plan;
    CpuLoop keys;
    LLVMValueRef up = scaled(unit, cpu_blocks(unit, rows, cpu_i64(unit, plan->rows)), plan->rows);
    cpu_loop_begin(unit, &keys, rows, up, 1, NULL, 0);
    for (int v = 0; v < plan->vectors; v++) {
        LLVMValueRef at =
            add(unit, scaled(unit, keys.index, plan->queries), cpu_i64(unit, v * plan->lanes));
        cpu_store(unit, ELEMENT_F32, cpu_at(unit, scores, ELEMENT_F32, at),
                  cpu_number(unit, ELEMENT_F32, value, (int)plan->lanes), NULL);
    }
    cpu_loop_end(unit, &keys, NULL);
}

LLVMValueRef cpu_attention_take(CpuUnit *unit, LLVMValueRef scratch, int64_t *used, int64_t floats) {
    LLVMValueRef at = cpu_at_bytes(unit, scratch, cpu_i64(unit, *used));
    *used += (floats * 4 + 191) & ~(int64_t)63;
    return at;
}
