// Packing into panels: copies where neighbours of a panel are neighbours in memory, transposes in registers
// where neighbours in k are, else element by element. Where a panel holds pairs, the unit of all this is a step.
#include <string.h>

#include "codegen/cpu_contract.h"
#include "codegen/cpu_place.h"

enum {
    COPY_STEPS = 8,           // of k that are copied for one panel before the next: whole lines of both
    LINE_STEPS = 2,           // of panels that share lines: half a line of each
    CPU_TURN_STEPS = 4,
    TRANSPOSE_ROUND = 16,     // of k for all columns before the next: about a line of each
    PREFETCH_AHEAD = 64       // floats along k that transposing looks ahead
};

typedef struct Packing {
    LLVMValueRef to, from, valid, panel_stride, k_stride, width, panels, panel_size;
    LLVMValueRef steps, whole;  // of k: all, and those that are no half pair
    Element element;
    CpuPanel panel;
    int columns, lanes;      // width, as it was when the function was made; of the vectors
    LLVMValueRef in_panel;   // mask of the lanes that a panel narrower than a vector has, or NULL
} Packing;

CpuPack cpu_pack_kind(int64_t panel_stride, int64_t k_stride) {
    if (panel_stride == 1) return PACK_UNIT;
    return k_stride == 1 ? PACK_TRANSPOSE : PACK_STRIDED;
}

LLVMValueRef cpu_panel_load(CpuUnit *unit, Element element, CpuPanel panel, LLVMValueRef at, int lanes,
                            LLVMValueRef mask) {
    LLVMValueRef value = cpu_load(unit, element, at, lanes, mask);
    return panel != PANEL_F32 && element == ELEMENT_F32 ? cpu_round_bf16(unit, value) : value;
}

LLVMValueRef cpu_panel_load_pair(CpuUnit *unit, Element element, LLVMValueRef low, LLVMValueRef high, int lanes,
                                 LLVMValueRef mask) {
    LLVMValueRef first = cpu_load(unit, element, low, lanes, mask), second = cpu_load(unit, element, high, lanes, mask);
    return element == ELEMENT_F32 ? cpu_round_pair(unit, first, second) : cpu_pair(unit, first, second);
}

// `count` steps of one row whose neighbours in k are neighbours in memory.
static LLVMValueRef load_steps(CpuUnit *unit, Element element, CpuPanel panel, LLVMValueRef at, int count) {
    if (panel != PANEL_PAIRS) return cpu_panel_load(unit, element, panel, at, count, NULL);
    if (element == ELEMENT_BF16) return cpu_load(unit, ELEMENT_F32, at, count, NULL);  // as it lies
    return cpu_narrow_pairs(unit, cpu_load(unit, element, at, 2 * count, NULL));
}

// `count` steps of one row, then as many of another.
static LLVMValueRef load_two(CpuUnit *unit, Element element, CpuPanel panel, LLVMValueRef first, LLVMValueRef second,
                             int count) {
    static const int join[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (panel == PANEL_PAIRS && element == ELEMENT_F32)
        return cpu_narrow_two(unit, cpu_load(unit, element, first, 2 * count, NULL),
                              cpu_load(unit, element, second, 2 * count, NULL));
    return cpu_shuffle(unit, load_steps(unit, element, panel, first, count),
                       load_steps(unit, element, panel, second, count), join, 2 * count);
}

static int64_t step_size(const Packing *p) { return p->panel == PANEL_PAIRS ? 2 : 1; }  // of k

// One step of `lanes` neighbours in the panel; where it is a pair and not `whole`, the second is zero.
static LLVMValueRef load_step(CpuUnit *unit, const Packing *p, LLVMValueRef at, int lanes, LLVMValueRef mask,
                              bool whole) {
    LLVMValueRef next = cpu_at(unit, at, p->element, p->k_stride);
    if (p->panel == PANEL_PAIRS && whole) return cpu_panel_load_pair(unit, p->element, at, next, lanes, mask);
    LLVMValueRef step = cpu_panel_load(unit, p->element, p->panel, at, lanes, mask);
    return p->panel == PANEL_PAIRS ? cpu_pair(unit, step, NULL) : step;
}

// Where step `index` of a panel is in memory.
static LLVMValueRef step_at(CpuUnit *unit, const Packing *p, LLVMValueRef from, LLVMValueRef index) {
    LLVMValueRef k = multiply(unit, index, cpu_i64(unit, step_size(p)));
    return cpu_at(unit, from, p->element, multiply(unit, k, p->k_stride));
}

// Element by element, steps [begin, end) of one panel with `valid` columns at `from`, zeros behind them.
static void pack_strided_steps(CpuUnit *unit, const Packing *p, LLVMValueRef to, LLVMValueRef from, LLVMValueRef valid,
                               LLVMValueRef begin, LLVMValueRef end, bool whole) {
    CpuLoop steps, elements;
    cpu_loop_begin(unit, &steps, begin, end, 1, NULL, 0);
    LLVMValueRef to_row = cpu_at(unit, to, ELEMENT_F32, multiply(unit, steps.index, p->width));
    LLVMValueRef from_row = step_at(unit, p, from, steps.index);
    cpu_loop_begin(unit, &elements, cpu_i64(unit, 0), valid, 1, NULL, 0);
    LLVMValueRef at = cpu_at(unit, from_row, p->element, multiply(unit, elements.index, p->panel_stride));
    LLVMValueRef step = load_step(unit, p, at, 1, NULL, whole);
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, to_row, ELEMENT_F32, elements.index), step, NULL);
    cpu_loop_end(unit, &elements, NULL);
    cpu_loop_begin(unit, &elements, valid, p->width, 1, NULL, 0);
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, to_row, ELEMENT_F32, elements.index),
              cpu_number(unit, ELEMENT_F32, 0, 1), NULL);
    cpu_loop_end(unit, &elements, NULL);
    cpu_loop_end(unit, &steps, NULL);
}

static void pack_strided(CpuUnit *unit, const Packing *p, LLVMValueRef to, LLVMValueRef from, LLVMValueRef valid,
                         LLVMValueRef begin) {
    pack_strided_steps(unit, p, to, from, valid, begin, p->whole, true);
    if (p->panel == PANEL_PAIRS) pack_strided_steps(unit, p, to, from, valid, p->whole, p->steps, false);
}

// A vector of a panel, which may be narrower. Without masks in registers of their own, masked stores take up to seven
// times as long as the parts that the vector has.
static void store_step(CpuUnit *unit, const Packing *p, LLVMValueRef to, LLVMValueRef value) {
    int count = p->columns < p->lanes ? p->columns : p->lanes, from[] = {0, 1, 2, 3, 4, 5, 6, 7};
    if (count == p->lanes || unit->target->masks) {
        cpu_store(unit, ELEMENT_F32, to, value, p->in_panel);
        return;
    }
    for (int done = 0, part = p->lanes / 2; part; part /= 2) {
        if (!(count & part)) continue;
        LLVMValueRef some = cpu_shuffle(unit, value, NULL, &from[done], part);
        cpu_store(unit, ELEMENT_F32, cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, done)), some, NULL);
        done += part;
    }
}

// Copies `count` steps, which stand at `from`, of one panel at `to`. `valid` columns exist, or all where it is NULL.
// Asks for the steps behind them: rows lie far apart, where the machine does not look ahead by itself.
static void copy_steps(CpuUnit *unit, const Packing *p, LLVMValueRef to, LLVMValueRef from, LLVMValueRef valid, int count,
                       bool whole) {
    LLVMValueRef ahead = multiply(unit, p->k_stride, cpu_i64(unit, COPY_STEPS * step_size(p)));
    for (int step = 0; step < count; step++) {
        LLVMValueRef row = step_at(unit, p, from, cpu_i64(unit, step));
        for (int first = 0; first < p->columns; first += p->lanes) {
            LLVMValueRef mask = valid ? cpu_mask(unit, p->lanes, subtract(unit, valid, cpu_i64(unit, first))) : NULL;
            LLVMValueRef at = cpu_at(unit, row, p->element, cpu_i64(unit, first));
            LLVMValueRef value = load_step(unit, p, at, p->lanes, mask, whole);
            for (int i = 0; i < step_size(p); i++) {
                LLVMValueRef next = i ? add(unit, ahead, p->k_stride) : ahead;
                cpu_prefetch(unit, cpu_at(unit, at, p->element, next), false);
            }
            LLVMValueRef place = cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, step * p->columns + first));
            store_step(unit, p, place, value);
        }
    }
}

// Stores `count` steps of a vector that spans panels: panel after panel, so that lines are filled at once.
static void store_panels(CpuUnit *unit, const Packing *p, LLVMValueRef to, const LLVMValueRef *steps, int count) {
    static const int lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int first = 0; first < unit->target->lanes; first += p->columns) {
        for (int step = 0; step < count; step++) {
            LLVMValueRef at = cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, step * p->columns));
            cpu_store(unit, ELEMENT_F32, at, cpu_shuffle(unit, steps[step], NULL, &lanes[first], p->columns), NULL);
        }
        to = cpu_at(unit, to, ELEMENT_F32, p->panel_size);
    }
}

// As copy_steps, of `together` whole panels that share lines. Each line is read once: nothing evicts it meanwhile,
// however few places of the first cache the rows fall into, and so many are waited for at once that none is asked for.
static void copy_lines(CpuUnit *unit, const Packing *p, LLVMValueRef to, LLVMValueRef from, int count, int together,
                       bool whole) {
    int lanes = unit->target->lanes, some = count < LINE_STEPS ? count : LINE_STEPS;
    for (int step = 0; step < count; step += some)
        for (int first = 0; first < p->columns * together; first += lanes) {
            LLVMValueRef steps[LINE_STEPS], panel = scaled(unit, p->panel_size, first / p->columns);
            for (int i = 0; i < some; i++) {
                LLVMValueRef row = step_at(unit, p, from, cpu_i64(unit, step + i));
                steps[i] = load_step(unit, p, cpu_at(unit, row, p->element, cpu_i64(unit, first)), lanes, NULL, whole);
            }
            panel = add(unit, panel, cpu_i64(unit, step * p->columns));
            store_panels(unit, p, cpu_at(unit, to, ELEMENT_F32, panel), steps, some);
        }
}

// Panels that are copied at once: as many as a line of memory has columns of, where they are narrower than a vector.
static int panels_together(CpuUnit *unit, const Packing *p) {
    if (p->columns >= unit->target->lanes || unit->target->lanes % p->columns) return 1;
    return CPU_CACHE_LINE / (p->columns * (int)element_bytes(p->element));
}

// Steps [begin, end), `count` at a time, of panel after panel: neighbouring panels share lines of memory. The
// first `full` panels need no mask.
static void copy_panels(CpuUnit *unit, const Packing *p, LLVMValueRef full, LLVMValueRef begin, LLVMValueRef end,
                        int count, bool whole, bool masked) {
    CpuLoop steps, panels;
    int together = panels_together(unit, p);
    full = LLVMBuildAnd(unit->builder, full, cpu_i64(unit, -together), "");
    cpu_loop_begin(unit, &steps, begin, end, count, NULL, 0);
    LLVMValueRef first = multiply(unit, steps.index, cpu_i64(unit, p->columns));
    LLVMValueRef state[] = {cpu_at(unit, p->to, ELEMENT_F32, first), step_at(unit, p, p->from, steps.index)};
    for (int rest = 0; rest < (masked || together > 1 ? 2 : 1); rest++) {
        int some = rest ? 1 : together;
        cpu_loop_begin(unit, &panels, rest ? full : cpu_i64(unit, 0), rest ? p->panels : full, some, state, 2);
        LLVMValueRef columns = multiply(unit, panels.index, cpu_i64(unit, p->columns));
        LLVMValueRef valid = rest && masked ? subtract(unit, p->valid, columns) : NULL;
        if (some > 1) copy_lines(unit, p, panels.carried[0], panels.carried[1], count, some, whole);
        else copy_steps(unit, p, panels.carried[0], panels.carried[1], valid, count, whole);
        LLVMValueRef next[] = {cpu_at(unit, panels.carried[0], ELEMENT_F32, scaled(unit, p->panel_size, some)),
                               cpu_at(unit, panels.carried[1], p->element, cpu_i64(unit, p->columns * some))};
        cpu_loop_end(unit, &panels, next);
        memcpy(state, panels.carried, sizeof state);
    }
    cpu_loop_end(unit, &steps, NULL);
}

static void pack_unit(CpuUnit *unit, const Packing *p, bool masked) {
    LLVMValueRef zero = cpu_i64(unit, 0), full = p->panels;
    if (masked) {  // vectors of the last panel may reach beyond what there is
        int reach = (p->columns + p->lanes - 1) / p->lanes * p->lanes;
        LLVMValueRef rest = subtract(unit, p->valid, cpu_i64(unit, reach - p->columns));
        full = LLVMBuildSDiv(unit->builder, rest, cpu_i64(unit, p->columns), "");
        full = LLVMBuildSelect(unit->builder, LLVMBuildICmp(unit->builder, LLVMIntSGT, rest, zero, ""), full, zero, "");
    }
    LLVMValueRef together = LLVMBuildAnd(unit->builder, p->whole, cpu_i64(unit, -COPY_STEPS), "");
    copy_panels(unit, p, full, zero, together, COPY_STEPS, true, masked);
    copy_panels(unit, p, full, together, p->whole, 1, true, masked);
    if (p->panel == PANEL_PAIRS) copy_panels(unit, p, full, p->whole, p->steps, 1, false, masked);
}

// Result block i of four lanes: lanes pattern[0..3] of block i of a (0..3) and of b (4..7).
static LLVMValueRef shuffle_blocks(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, const int *pattern) {
    int from[16], lanes = cpu_lanes(a);
    for (int i = 0; i < lanes; i++) {
        int lane = pattern[i % 4];
        from[i] = i / 4 * 4 + lane % 4 + (lane >= 4 ? lanes : 0);
    }
    return cpu_shuffle(unit, a, b, from, lanes);
}

// Blocks of CPU_TURN_STEPS lanes are matrices, one row each: transposes every one.
static void turn(CpuUnit *unit, LLVMValueRef rows[CPU_TURN_STEPS]) {
    static const int low[] = {0, 4, 1, 5}, high[] = {2, 6, 3, 7}, pair[] = {0, 1, 4, 5}, rest[] = {2, 3, 6, 7};
    LLVMValueRef half[] = {shuffle_blocks(unit, rows[0], rows[1], low), shuffle_blocks(unit, rows[2], rows[3], low),
                           shuffle_blocks(unit, rows[0], rows[1], high), shuffle_blocks(unit, rows[2], rows[3], high)};
    for (int i = 0; i < 4; i++)
        rows[i] = shuffle_blocks(unit, half[i / 2 * 2], half[i / 2 * 2 + 1], i % 2 ? rest : pair);
}

// Half a vector of two columns.
static LLVMValueRef load_halves(CpuUnit *unit, Element element, CpuPanel panel, const LLVMValueRef *columns, int half) {
    int count = unit->target->lanes / 2, step = panel == PANEL_PAIRS ? 2 : 1;
    LLVMValueRef offset = cpu_i64(unit, half * count * step);
    return load_two(unit, element, panel, cpu_at(unit, columns[0], element, offset),
                    cpu_at(unit, columns[4], element, offset), count);
}

// A part of every fourth column: steps[0] holds the first four steps of them all, steps[4] what is behind.
static void load_blocks(CpuUnit *unit, Element element, CpuPanel panel, const LLVMValueRef *columns, int part,
                        LLVMValueRef *steps) {
    static const int even[] = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    static const int odd[] = {4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31};
    int lanes = unit->target->lanes;
    if (lanes == 4) {
        steps[0] = load_steps(unit, element, panel, columns[0], lanes);
        return;
    }
    steps[0] = load_halves(unit, element, panel, columns, part);
    if (lanes == 8) return;
    LLVMValueRef low = steps[0], high = load_halves(unit, element, panel, &columns[8], part);
    steps[0] = cpu_shuffle(unit, low, high, even, lanes);
    steps[4] = cpu_shuffle(unit, low, high, odd, lanes);
}

int cpu_panel_part(const CpuTarget *target) { return target->lanes > 4 ? target->lanes / 2 : 4; }

void cpu_panel_load_along(CpuUnit *unit, Element element, CpuPanel panel, const LLVMValueRef *columns, int part,
                          LLVMValueRef *steps) {
    for (int i = 0; i < CPU_TURN_STEPS; i++) load_blocks(unit, element, panel, &columns[i], part, &steps[i]);
    for (int step = 0; step < cpu_panel_part(unit->target); step += CPU_TURN_STEPS) turn(unit, &steps[step]);
}

// `count` steps from `step` on of one full panel, transposed in registers, `lanes` columns at a time.
static void transpose_steps(CpuUnit *unit, const Packing *p, LLVMValueRef panel, LLVMValueRef from, LLVMValueRef step,
                            int count) {
    CpuLoop groups;
    LLVMValueRef place = cpu_at(unit, panel, ELEMENT_F32, multiply(unit, step, cpu_i64(unit, p->columns)));
    LLVMValueRef state[] = {place, step_at(unit, p, from, step)};
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), cpu_i64(unit, p->columns), p->lanes, state, 2);
    LLVMValueRef to = groups.carried[0], at[16] = {groups.carried[1]};
    for (int i = 1; i < p->lanes; i++)  // columns beyond the panel are its last one again
        at[i] = i < p->columns ? cpu_at(unit, at[i - 1], p->element, p->panel_stride) : at[i - 1];
    if (count == TRANSPOSE_ROUND)
        for (int i = 0; i < p->lanes && i < p->columns; i++)
            cpu_prefetch(unit, cpu_at(unit, at[i], p->element, cpu_i64(unit, PREFETCH_AHEAD * step_size(p))), false);
    for (int done = 0; done < count; done += CPU_TURN_STEPS) {
        LLVMValueRef rows[CPU_TURN_STEPS];
        for (int i = 0; i < CPU_TURN_STEPS; i++) {
            LLVMValueRef offset = cpu_i64(unit, done * step_size(p)), column = cpu_at(unit, at[i], p->element, offset);
            rows[i] = p->lanes == 4 ? load_steps(unit, p->element, p->panel, column, CPU_TURN_STEPS)
                                    : load_two(unit, p->element, p->panel, column,
                                               cpu_at(unit, at[4 + i], p->element, offset), CPU_TURN_STEPS);
        }
        turn(unit, rows);
        for (int i = 0; i < CPU_TURN_STEPS; i++)
            store_step(unit, p, cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, (done + i) * p->columns)), rows[i]);
    }
    LLVMValueRef beside = multiply(unit, p->panel_stride, cpu_i64(unit, p->lanes));
    LLVMValueRef next[] = {cpu_at(unit, to, ELEMENT_F32, cpu_i64(unit, p->lanes)), cpu_at(unit, at[0], p->element, beside)};
    cpu_loop_end(unit, &groups, next);
}

// Steps [0, whole) of one full panel: rounds, then what is left of whole blocks.
static void pack_transpose(CpuUnit *unit, const Packing *p, LLVMValueRef panel, LLVMValueRef from, LLVMValueRef whole) {
    CpuLoop steps;
    LLVMValueRef rounds = LLVMBuildAnd(unit->builder, whole, cpu_i64(unit, -TRANSPOSE_ROUND), "");
    cpu_loop_begin(unit, &steps, cpu_i64(unit, 0), rounds, TRANSPOSE_ROUND, NULL, 0);
    transpose_steps(unit, p, panel, from, steps.index, TRANSPOSE_ROUND);
    cpu_loop_end(unit, &steps, NULL);
    cpu_loop_begin(unit, &steps, rounds, whole, CPU_TURN_STEPS, NULL, 0);
    transpose_steps(unit, p, panel, from, steps.index, CPU_TURN_STEPS);
    cpu_loop_end(unit, &steps, NULL);
}

// Panel after panel: transposed where the panel is full, else element by element.
static void pack_panels(CpuUnit *unit, const Packing *p, bool transpose) {
    CpuLoop panels;
    LLVMValueRef state[] = {p->to, p->from, p->valid}, begin = cpu_i64(unit, 0);
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), p->panels, 1, state, 3);
    LLVMValueRef to = panels.carried[0], from = panels.carried[1], left = panels.carried[2];
    LLVMValueRef valid = cpu_min(unit, left, p->width);
    if (transpose) {
        LLVMValueRef full = LLVMBuildICmp(unit->builder, LLVMIntEQ, valid, p->width, "");
        begin = LLVMBuildAnd(unit->builder, p->whole, cpu_i64(unit, -CPU_TURN_STEPS), "");
        begin = LLVMBuildSelect(unit->builder, full, begin, cpu_i64(unit, 0), "");
        pack_transpose(unit, p, to, from, begin);
    }
    pack_strided(unit, p, to, from, valid, begin);
    LLVMValueRef columns = multiply(unit, p->width, p->panel_stride);
    LLVMValueRef next[] = {cpu_at(unit, to, ELEMENT_F32, p->panel_size), cpu_at(unit, from, p->element, columns),
                           subtract(unit, left, p->width)};
    cpu_loop_end(unit, &panels, next);
}

LLVMTypeRef cpu_pack_type(CpuUnit *unit) {
    LLVMTypeRef i64 = unit->i64, parameters[] = {unit->pointer, unit->pointer, i64, i64, i64, i64, i64, i64, i64};
    return LLVMFunctionType(unit->void_type, parameters, 9, false);
}

// The vectors that panels `width` wide are packed with; 0: elements.
static int pack_lanes(const CpuTarget *target, CpuPack kind, int width) {
    if (kind == PACK_STRIDED || width < 4) return 0;
    int lanes = kind == PACK_TRANSPOSE && target->lanes > 8 ? 8 : target->lanes;
    while (lanes / 2 >= width) lanes /= 2;
    if (width % lanes && !target->masks && !target->avx2) return 0;
    if (width > lanes && width % lanes) return width % 4 ? 0 : 4;
    return lanes;
}

LLVMValueRef cpu_pack_function(CpuUnit *unit, CpuPack kind, Element element, CpuPanel panel, int width) {
    static const char *const names[] = {"unit", "transpose", "strided"};
    static const char *const panels[] = {[PANEL_F32] = "", [PANEL_ROUNDED] = "_rounded", [PANEL_PAIRS] = "_pairs"};
    const CpuTarget *target = unit->target;
    int lanes = pack_lanes(target, kind, width);
    // Masked loads are single instructions with AVX-512, and with AVX2 for f32 alone.
    bool masked = target->masks || (target->avx2 && element == ELEMENT_F32);
    if (kind == PACK_UNIT && !masked && lanes && width % lanes) lanes = 0;  // vectors would reach beyond a row
    if (!lanes) kind = PACK_STRIDED;
    int some = lanes > width ? width : lanes;
    const char *name = arena_format(unit->arena, "cherry_pack_%s_%s%s_%d_%d", names[kind], element_name(element),
                                    panels[panel], lanes, lanes ? width : 0);
    CpuHelper helper = cpu_helper_begin(unit, name, cpu_pack_type(unit));
    if (!helper.fresh) return helper.function;
    LLVMValueRef f = helper.function;
    Packing p = {.to = LLVMGetParam(f, 0), .from = LLVMGetParam(f, 1), .valid = LLVMGetParam(f, 2),
                 .steps = LLVMGetParam(f, 3), .panel_stride = LLVMGetParam(f, 4), .k_stride = LLVMGetParam(f, 5),
                 .width = LLVMGetParam(f, 6), .panels = LLVMGetParam(f, 7), .panel_size = LLVMGetParam(f, 8),
                 .element = element, .panel = panel, .columns = width, .lanes = lanes};
    p.whole = p.steps;
    if (panel == PANEL_PAIRS) {
        p.whole = LLVMBuildLShr(unit->builder, p.steps, cpu_i64(unit, 1), "");
        p.steps = cpu_blocks(unit, p.steps, cpu_i64(unit, 2));
    }
    if (some < lanes) p.in_panel = cpu_mask(unit, lanes, cpu_i64(unit, some));
    if (kind == PACK_UNIT && masked) {
        pack_unit(unit, &p, true);
    } else if (kind == PACK_UNIT) {
        CpuIf full;
        LLVMValueRef all = multiply(unit, p.width, p.panels);
        cpu_if_begin(unit, &full, LLVMBuildICmp(unit->builder, LLVMIntEQ, p.valid, all, ""));
        pack_unit(unit, &p, false);
        cpu_if_else(unit, &full);
        pack_panels(unit, &p, false);
        cpu_if_end(unit, &full);
    } else {
        pack_panels(unit, &p, kind == PACK_TRANSPOSE);
    }
    cpu_helper_end(unit, &helper);
    return helper.function;
}
