// Packing into panels: copies where neighbours of a panel are neighbours in memory, transposes in registers
// where neighbours in k are, else element by element. Where a panel holds pairs, the unit of all this is a step.
#include "codegen/cpu_contract.h"

enum {
    PREFETCH_STEPS = 8,    // of k that copying looks ahead
    TRANSPOSE_STEPS = 4    // of k at a time
};

typedef struct Packing {
    LLVMValueRef to, from, valid, panel_stride, k_stride, width, panels, panel_size;
    LLVMValueRef steps, whole;  // of k: all, and those that are no half pair
    Element element;
    CpuPanel panel;
    int lanes;               // of the vectors
    LLVMValueRef in_panel;   // mask of the lanes that a panel narrower than a vector has, or NULL
} Packing;

static LLVMValueRef add(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildAdd(unit->builder, a, b, ""); }
static LLVMValueRef subtract(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildSub(unit->builder, a, b, ""); }
static LLVMValueRef multiply(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) { return LLVMBuildMul(unit->builder, a, b, ""); }

CpuPack cpu_pack_kind(int64_t panel_stride, int64_t k_stride) {
    if (panel_stride == 1) return PACK_UNIT;
    return k_stride == 1 ? PACK_TRANSPOSE : PACK_STRIDED;
}

LLVMValueRef cpu_panel_load(CpuUnit *unit, Element element, CpuPanel panel, LLVMValueRef at, int lanes,
                            LLVMValueRef mask) {
    LLVMValueRef value = cpu_load(unit, element, at, lanes, mask);
    return panel != PANEL_F32 && element == ELEMENT_F32 ? cpu_round_bf16(unit, value) : value;
}

static int64_t step_size(const Packing *p) { return p->panel == PANEL_PAIRS ? 2 : 1; }  // of k

// One step of `lanes` neighbours in the panel; where it is a pair and not `whole`, the second is zero.
static LLVMValueRef load_step(CpuUnit *unit, const Packing *p, LLVMValueRef at, int lanes, LLVMValueRef mask,
                              bool whole) {
    LLVMValueRef low = cpu_panel_load(unit, p->element, p->panel, at, lanes, mask), high = NULL;
    if (p->panel != PANEL_PAIRS) return low;
    if (whole) high = cpu_panel_load(unit, p->element, p->panel, cpu_at(unit, at, p->element, p->k_stride), lanes, mask);
    return cpu_pair(unit, low, high);
}

// `count` steps of one row whose neighbours in k are neighbours in memory.
static LLVMValueRef load_steps(CpuUnit *unit, const Packing *p, LLVMValueRef at, int count) {
    if (p->panel != PANEL_PAIRS) return cpu_panel_load(unit, p->element, p->panel, at, count, NULL);
    if (p->element == ELEMENT_BF16) return cpu_load(unit, ELEMENT_F32, at, count, NULL);  // as it lies
    static const int even[] = {0, 2, 4, 6}, odd[] = {1, 3, 5, 7};
    LLVMValueRef row = cpu_panel_load(unit, p->element, p->panel, at, 2 * count, NULL);
    return cpu_pair(unit, cpu_shuffle(unit, row, NULL, even, count), cpu_shuffle(unit, row, NULL, odd, count));
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

// Copies steps [begin, end) of all panels together, one after the other: neighbouring panels share lines of
// memory. Rows lie far apart, where the machine does not look ahead by itself.
static void pack_unit_steps(CpuUnit *unit, const Packing *p, bool masked, LLVMValueRef begin, LLVMValueRef end,
                            bool whole) {
    CpuLoop steps, panels, groups;
    LLVMValueRef stride = multiply(unit, p->k_stride, cpu_i64(unit, step_size(p)));
    LLVMValueRef ahead = multiply(unit, p->k_stride, cpu_i64(unit, PREFETCH_STEPS));
    LLVMValueRef first = cpu_at(unit, p->to, ELEMENT_F32, multiply(unit, begin, p->width));
    LLVMValueRef state[] = {first, step_at(unit, p, p->from, begin)};
    cpu_loop_begin(unit, &steps, begin, end, 1, state, 2);
    LLVMValueRef to_row = steps.carried[0], from_row = steps.carried[1];
    LLVMValueRef inner[] = {to_row, from_row, p->valid};
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), p->panels, 1, inner, 3);
    LLVMValueRef to = panels.carried[0], from = panels.carried[1], valid = panels.carried[2];
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), p->width, p->lanes, NULL, 0);
    LLVMValueRef mask = masked ? cpu_mask(unit, p->lanes, subtract(unit, valid, groups.index)) : NULL;
    LLVMValueRef at = cpu_at(unit, from, p->element, groups.index);
    LLVMValueRef row = load_step(unit, p, at, p->lanes, mask, whole);
    for (int i = 0; i < step_size(p); i++) {
        LLVMValueRef next = i ? add(unit, ahead, p->k_stride) : ahead;
        cpu_prefetch(unit, cpu_at(unit, at, p->element, next), false);
    }
    cpu_store(unit, ELEMENT_F32, cpu_at(unit, to, ELEMENT_F32, groups.index), row, p->in_panel);
    cpu_loop_end(unit, &groups, NULL);
    LLVMValueRef next[] = {cpu_at(unit, to, ELEMENT_F32, p->panel_size), cpu_at(unit, from, p->element, p->width),
                           subtract(unit, valid, p->width)};
    cpu_loop_end(unit, &panels, next);
    LLVMValueRef below[] = {cpu_at(unit, to_row, ELEMENT_F32, p->width), cpu_at(unit, from_row, p->element, stride)};
    cpu_loop_end(unit, &steps, below);
}

static void pack_unit(CpuUnit *unit, const Packing *p, bool masked) {
    pack_unit_steps(unit, p, masked, cpu_i64(unit, 0), p->whole, true);
    if (p->panel == PANEL_PAIRS) pack_unit_steps(unit, p, masked, p->whole, p->steps, false);
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

// Vectors whose blocks of four lanes are 4 x 4 matrices, one row each: transposes every matrix.
static void transpose_blocks(CpuUnit *unit, LLVMValueRef rows[4]) {
    static const int low[] = {0, 4, 1, 5}, high[] = {2, 6, 3, 7}, pair[] = {0, 1, 4, 5}, rest[] = {2, 3, 6, 7};
    LLVMValueRef half[] = {shuffle_blocks(unit, rows[0], rows[1], low), shuffle_blocks(unit, rows[2], rows[3], low),
                           shuffle_blocks(unit, rows[0], rows[1], high), shuffle_blocks(unit, rows[2], rows[3], high)};
    for (int i = 0; i < 4; i++)
        rows[i] = shuffle_blocks(unit, half[i / 2 * 2], half[i / 2 * 2 + 1], i % 2 ? rest : pair);
}

// Whole blocks of steps of one full panel, transposed in registers, `lanes` columns at a time.
static void pack_transpose(CpuUnit *unit, const Packing *p, LLVMValueRef panel, LLVMValueRef from, LLVMValueRef whole) {
    static const int join[] = {0, 1, 2, 3, 4, 5, 6, 7};
    CpuLoop groups, steps;
    LLVMValueRef last = subtract(unit, p->width, cpu_i64(unit, 1)), size = cpu_i64(unit, step_size(p)), at[16], rows[16];
    cpu_loop_begin(unit, &groups, cpu_i64(unit, 0), p->width, p->lanes, NULL, 0);
    LLVMValueRef to = cpu_at(unit, panel, ELEMENT_F32, groups.index);
    for (int i = 0; i < p->lanes; i++) {
        LLVMValueRef column = cpu_minimum(unit, add(unit, groups.index, cpu_i64(unit, i)), last);
        at[i] = cpu_at(unit, from, p->element, multiply(unit, column, p->panel_stride));
    }
    cpu_loop_begin(unit, &steps, cpu_i64(unit, 0), whole, TRANSPOSE_STEPS, &to, 1);
    for (int i = 0; i < p->lanes; i++)
        rows[i] = load_steps(unit, p, cpu_at(unit, at[i], p->element, multiply(unit, steps.index, size)), TRANSPOSE_STEPS);
    if (p->lanes == 8)
        for (int i = 0; i < 4; i++) rows[i] = cpu_shuffle(unit, rows[i], rows[4 + i], join, 8);
    transpose_blocks(unit, rows);
    LLVMValueRef place = steps.carried[0];
    for (int i = 0; i < TRANSPOSE_STEPS; i++) {
        cpu_store(unit, ELEMENT_F32, place, rows[i], p->in_panel);
        place = cpu_at(unit, place, ELEMENT_F32, p->width);
    }
    cpu_loop_end(unit, &steps, &place);
    cpu_loop_end(unit, &groups, NULL);
}

// Panel after panel: transposed where the panel is full, else element by element.
static void pack_panels(CpuUnit *unit, const Packing *p, bool transpose) {
    CpuLoop panels;
    LLVMValueRef state[] = {p->to, p->from, p->valid}, begin = cpu_i64(unit, 0);
    cpu_loop_begin(unit, &panels, cpu_i64(unit, 0), p->panels, 1, state, 3);
    LLVMValueRef to = panels.carried[0], from = panels.carried[1], left = panels.carried[2];
    LLVMValueRef valid = cpu_minimum(unit, left, p->width);
    if (transpose) {
        LLVMValueRef full = LLVMBuildICmp(unit->builder, LLVMIntEQ, valid, p->width, "");
        begin = LLVMBuildAnd(unit->builder, p->whole, cpu_i64(unit, -TRANSPOSE_STEPS), "");
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
    if (kind == PACK_STRIDED || width <= 4) return 0;
    int lanes = kind == PACK_TRANSPOSE && target->lanes > 8 ? 8 : target->lanes;
    while (lanes / 2 >= width) lanes /= 2;
    if (width % lanes && !target->masks && !target->avx2) return 0;
    return width > lanes && width % lanes ? 4 : lanes;
}

LLVMValueRef cpu_pack_function(CpuUnit *unit, CpuPack kind, Element element, CpuPanel panel, int width) {
    static const char *const names[] = {"unit", "transpose", "strided"};
    static const char *const panels[] = {[PANEL_F32] = "", [PANEL_ROUNDED] = "_rounded", [PANEL_PAIRS] = "_pairs"};
    const CpuTarget *target = unit->target;
    int lanes = pack_lanes(target, kind, width);
    if (!lanes) kind = PACK_STRIDED;
    int some = lanes > width ? width : lanes;
    const char *name = arena_format(unit->arena, "cherry_pack_%s_%s%s_%d_%d", names[kind], element_name(element),
                                    panels[panel], lanes, some);
    CpuHelper helper = cpu_helper_begin(unit, name, cpu_pack_type(unit));
    if (!helper.fresh) return helper.function;
    LLVMValueRef f = helper.function;
    Packing p = {.to = LLVMGetParam(f, 0), .from = LLVMGetParam(f, 1), .valid = LLVMGetParam(f, 2),
                 .steps = LLVMGetParam(f, 3), .panel_stride = LLVMGetParam(f, 4), .k_stride = LLVMGetParam(f, 5),
                 .width = LLVMGetParam(f, 6), .panels = LLVMGetParam(f, 7), .panel_size = LLVMGetParam(f, 8),
                 .element = element, .panel = panel, .lanes = lanes};
    p.whole = p.steps;
    if (panel == PANEL_PAIRS) {
        p.whole = LLVMBuildLShr(unit->builder, p.steps, cpu_i64(unit, 1), "");
        p.steps = cpu_blocks(unit, p.steps, cpu_i64(unit, 2));
    }
    if (lanes) p.in_panel = cpu_mask(unit, lanes, cpu_i64(unit, some));
    // Masked loads are single instructions with AVX-512, and with AVX2 for f32 alone.
    bool masked = target->masks || (target->avx2 && element == ELEMENT_F32);
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
