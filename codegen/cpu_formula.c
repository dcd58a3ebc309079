// Formulas as code: frames, addresses, loads, stores. See CpuFrame in cpu_emit.h.
#include <string.h>

#include "codegen/cpu_emit.h"

// An address as far as it was computed in some frame: the affine part over `loops`.
typedef struct CpuBase {
    const Index *index;
    uint32_t loops;
    LLVMValueRef pointer;
    struct CpuBase *next;
} CpuBase;

// ---- Frames ----

CpuFrame *cpu_frame(CpuBody *body, const Nest *nest) {
    Arena *arena = body->unit->arena;
    CpuFrame *frame = ARENA_NEW(arena, CpuFrame);
    frame->body = body;
    frame->nest = nest;
    frame->analysis = analyse_nest(arena, nest);
    frame->vector_loop = -1;
    frame->lanes = 1;
    frame->values = ARENA_ARRAY(arena, LLVMValueRef, nest->formulas.count + 1);
    return frame;
}

CpuFrame *cpu_frame_inside(const CpuFrame *parent) {
    Arena *arena = parent->body->unit->arena;
    CpuFrame *frame = ARENA_NEW(arena, CpuFrame);
    *frame = *parent;
    frame->parent = parent;
    frame->also = NULL;
    frame->bases = NULL;
    frame->values = ARENA_ARRAY(arena, LLVMValueRef, parent->nest->formulas.count + 1);
    return frame;
}

CpuFrame *cpu_frame_vector(const CpuFrame *parent, int loop, int lanes) {
    CpuFrame *frame = cpu_frame_inside(parent);
    frame->vector_loop = lanes > 1 ? loop : -1;
    frame->lanes = lanes;
    return frame;
}

static LLVMValueRef lane_zero(const CpuFrame *frame) {
    return frame->vector_loop < 0 ? NULL : frame->loop[frame->vector_loop];
}

static bool same_lanes(const CpuFrame *a, const CpuFrame *b) {
    return a->vector_loop == b->vector_loop && a->lanes == b->lanes && lane_zero(a) == lane_zero(b);
}

static LLVMValueRef find_value(const CpuFrame *from, const CpuFrame *frame, uint32_t id) {
    for (; frame; frame = frame->parent) {
        LLVMValueRef value = frame->values[id];
        if (value && (cpu_lanes(value) == 1 || same_lanes(from, frame))) return value;
        if (frame->also && (value = find_value(from, frame->also, id))) return value;
    }
    return NULL;
}

LLVMValueRef cpu_extent(CpuBody *body, const Nest *nest, int loop) {
    uint32_t bound = nest->loops[loop].bound_operand;
    if (bound == UINT32_MAX) return cpu_i64(body->unit, nest->loops[loop].dimension.extent);
    return cpu_load(body->unit, ELEMENT_I64, body->operand[bound], 1, NULL);
}

// ---- Addresses ----

static bool base_fits(const CpuFrame *frame, const CpuFrame *owner, const CpuBase *base, const Index *index) {
    if (base->index != index) return false;
    for (int loop = 0; loop < frame->nest->loop_count; loop++)
        if ((base->loops >> loop & 1) && owner->loop[loop] != frame->loop[loop]) return false;
    return true;
}

static const CpuBase *find_base(const CpuFrame *from, const CpuFrame *frame, const Index *index) {
    for (; frame; frame = frame->parent) {
        for (const CpuBase *base = frame->bases; base; base = base->next)
            if (base_fits(from, frame, base, index)) return base;
        const CpuBase *found = frame->also ? find_base(from, frame->also, index) : NULL;
        if (found) return found;
    }
    return NULL;
}

// Adds the loops of `wanted` that the nearest base lacks, and keeps the result as a base of this frame.
static LLVMValueRef affine_address(CpuFrame *frame, uint32_t operand, const Index *index, uint32_t wanted) {
    CpuUnit *unit = frame->body->unit;
    LLVMBuilderRef b = unit->builder;
    const Affine *affine = &index[0].affine;
    const CpuBase *base = find_base(frame, frame, index);
    uint32_t missing = affine_loops(affine) & wanted & ~(base ? base->loops : 0);
    if (base && !missing) return base->pointer;
    LLVMValueRef pointer = base ? base->pointer : frame->body->operand[operand];
    Element element = frame->nest->operands[operand].element;
    for (int loop = 0; loop < frame->nest->loop_count; loop++) {
        if (!(missing >> loop & 1)) continue;
        CHECK(frame->loop[loop]);
        LLVMValueRef step = frame->loop[loop];
        if (affine->scale[loop] != 1) step = LLVMBuildMul(b, step, cpu_i64(unit, affine->scale[loop]), "");
        pointer = cpu_at(unit, pointer, element, step);
    }
    if (!base && affine->offset) pointer = cpu_at(unit, pointer, element, cpu_i64(unit, affine->offset));
    CpuBase *kept = ARENA_NEW(unit->arena, CpuBase);
    *kept = (CpuBase){index, missing | (base ? base->loops : 0), pointer, frame->bases};
    frame->bases = kept;
    return pointer;
}

LLVMValueRef cpu_starts_on_lines(CpuBody *body, uint32_t operands) {
    CpuUnit *unit = body->unit;
    LLVMValueRef bits = cpu_i64(unit, 0);
    for (int i = 0; operands >> i; i++) {
        if (!(operands >> i & 1)) continue;
        LLVMValueRef address = LLVMBuildPtrToInt(unit->builder, body->operand[i], unit->i64, "");
        bits = LLVMBuildOr(unit->builder, bits, address, "");
    }
    bits = LLVMBuildAnd(unit->builder, bits, cpu_i64(unit, CPU_CACHE_LINE - 1), "");
    return LLVMBuildICmp(unit->builder, LLVMIntEQ, bits, cpu_i64(unit, 0), "");
}

// Widens an integer index, scalar or vector, to i64.
static LLVMValueRef wide_index(CpuUnit *unit, LLVMValueRef value) {
    return LLVMBuildSExt(unit->builder, value, cpu_vector_of(unit->i64, cpu_lanes(value)), "");
}

// The sum of gathered indices times their strides: `uniform` in elements as i64, `lanes` as a vector.
typedef struct Gathered {
    LLVMValueRef uniform, lanes;  // NULL: none
} Gathered;

static Gathered gathered_parts(CpuFrame *frame, uint32_t number, const Index *index) {
    CpuUnit *unit = frame->body->unit;
    const NestOperand *operand = &frame->nest->operands[number];
    Gathered parts = {0};
    for (int d = 1; d < operand->rank; d++) {
        if (index[d].gathered == FORMULA_NONE) continue;
        LLVMValueRef value = cpu_formula(frame, index[d].gathered);
        bool uniform = cpu_lanes(value) == 1;
        bool is_wide = frame->nest->formulas.items[index[d].gathered].element == ELEMENT_I64;
        if (!is_wide) value = wide_index(unit, value);
        value = LLVMBuildMul(unit->builder, value, cpu_number_like(value, (double)operand->stride[d]), "");
        LLVMValueRef *sum = uniform ? &parts.uniform : &parts.lanes;
        *sum = *sum ? LLVMBuildAdd(unit->builder, *sum, value, "") : value;
    }
    return parts;
}

LLVMValueRef cpu_address(CpuFrame *frame, uint32_t operand, const Index *index) {
    LLVMValueRef pointer = affine_address(frame, operand, index, ~0u);
    LLVMValueRef uniform = gathered_parts(frame, operand, index).uniform;
    if (!uniform) return pointer;
    return cpu_at(frame->body->unit, pointer, frame->nest->operands[operand].element, uniform);
}

// An access as seen along the vector loop.
typedef struct Access {
    Element element;
    LLVMValueRef pointer;  // lane 0
    LLVMValueRef index;    // i64 vector, elements from `pointer`; NULL: consecutive lanes are `stride` apart
    int64_t stride;
} Access;

static Access access_of(CpuFrame *frame, uint32_t number, const Index *index) {
    CpuUnit *unit = frame->body->unit;
    Gathered parts = gathered_parts(frame, number, index);
    Access access = {.element = frame->nest->operands[number].element,
                     .pointer = affine_address(frame, number, index, ~0u)};
    if (parts.uniform) access.pointer = cpu_at(unit, access.pointer, access.element, parts.uniform);
    if (frame->vector_loop >= 0) access.stride = access_stride(index, frame->vector_loop);
    bool scattered = access.stride < -1 || access.stride > 1;
    if (!parts.lanes && !scattered) return access;
    access.index = cpu_iota(unit, unit->i64, frame->lanes, access.stride);
    if (parts.lanes) access.index = LLVMBuildAdd(unit->builder, access.index, parts.lanes, "");
    return access;
}

// ---- Loads and stores ----

static LLVMValueRef both(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b) {
    if (!a || !b) return a ? a : b;
    int lanes = cpu_lanes(a) > cpu_lanes(b) ? cpu_lanes(a) : cpu_lanes(b);
    return LLVMBuildAnd(unit->builder, cpu_splat(unit, a, lanes), cpu_splat(unit, b, lanes), "");
}

static LLVMValueRef any_lane(CpuUnit *unit, LLVMValueRef mask) {
    int lanes = cpu_lanes(mask);
    if (lanes == 1) return mask;
    LLVMTypeRef bits = LLVMIntTypeInContext(unit->context, (unsigned)lanes);
    LLVMValueRef word = LLVMBuildBitCast(unit->builder, mask, bits, "");
    return LLVMBuildICmp(unit->builder, LLVMIntNE, word, cpu_zero(bits), "");
}

static LLVMValueRef reversed(CpuUnit *unit, LLVMValueRef vector) {
    int from[256], lanes = cpu_lanes(vector);
    for (int i = 0; i < lanes; i++) from[i] = lanes - 1 - i;
    return cpu_shuffle(unit, vector, NULL, from, lanes);
}

static LLVMValueRef load_access(CpuFrame *frame, const Access *access, LLVMValueRef mask) {
    CpuUnit *unit = frame->body->unit;
    if (mask) mask = cpu_splat(unit, mask, frame->lanes);
    if (access->index) return cpu_gather(unit, access->element, access->pointer, access->index, mask);
    if (access->stride == 1) return cpu_load(unit, access->element, access->pointer, frame->lanes, mask);
    LLVMValueRef last = cpu_at(unit, access->pointer, access->element, cpu_i64(unit, 1 - frame->lanes));
    if (mask) mask = reversed(unit, mask);
    return reversed(unit, cpu_load(unit, access->element, last, frame->lanes, mask));
}

static LLVMValueRef emit_load(CpuFrame *frame, const Formula *formula) {
    CpuUnit *unit = frame->body->unit;
    Access access = access_of(frame, formula->operand, formula->index);
    LLVMValueRef guard = access_may_miss(formula) ? frame->guard : NULL;
    if (access.index || access.stride) return load_access(frame, &access, both(unit, frame->mask, guard));
    if (guard) {  // one element for all lanes: read the operand's first one where no lane wants it
        LLVMValueRef wanted = any_lane(unit, both(unit, cpu_lanes(guard) > 1 ? frame->mask : NULL, guard));
        access.pointer = cpu_select(unit, wanted, access.pointer, frame->body->operand[formula->operand]);
    }
    return cpu_load(unit, access.element, access.pointer, 1, NULL);
}

static LLVMValueRef sum_of(CpuUnit *unit, Element element, LLVMValueRef a, LLVMValueRef b) {
    Primitive primitive = element == ELEMENT_BOOL ? PRIMITIVE_or : PRIMITIVE_add;
    return cpu_primitive(unit, primitive, element, element, (LLVMValueRef[]){a, b});
}

void cpu_store_stage(CpuFrame *frame, const Stage *stage, LLVMValueRef value) {
    CpuUnit *unit = frame->body->unit;
    Access access = access_of(frame, stage->operand, stage->index);
    bool adds = stage->kind == STAGE_ADD;
    if (frame->vector_loop < 0) {
        if (adds) value = sum_of(unit, access.element, cpu_load(unit, access.element, access.pointer, 1, NULL), value);
        cpu_store(unit, access.element, access.pointer, value, NULL);
        return;
    }
    CHECK(access.index || access.stride);
    LLVMValueRef mask = frame->mask;
    value = cpu_splat(unit, value, frame->lanes);
    if (adds) value = sum_of(unit, access.element, load_access(frame, &access, mask), value);
    if (access.index) {
        cpu_scatter(unit, access.element, access.pointer, access.index, value, mask);
        return;
    }
    if (frame->streamed >> stage->operand & 1) {
        CHECK(access.stride == 1 && !mask);
        cpu_stream(unit, access.element, access.pointer, value);
        return;
    }
    if (access.stride == -1) {
        access.pointer = cpu_at(unit, access.pointer, access.element, cpu_i64(unit, 1 - frame->lanes));
        value = reversed(unit, value);
        if (mask) mask = reversed(unit, mask);
    }
    cpu_store(unit, access.element, access.pointer, value, mask);
}

void cpu_emit_stages(CpuFrame *frame, int first) {
    for (int s = first; s < frame->nest->stage_count; s++) {
        const Stage *stage = &frame->nest->stages[s];
        CHECK(stage->kind >= STAGE_STORE && !stage->inner);
        cpu_store_stage(frame, stage, cpu_formula(frame, stage->formula));
    }
}

// ---- Formulas ----

static LLVMValueRef loop_value(CpuFrame *frame, const Formula *formula) {
    CpuUnit *unit = frame->body->unit;
    LLVMBuilderRef b = unit->builder;
    LLVMTypeRef type = cpu_register_type(unit, formula->element, 1);
    LLVMValueRef sum = LLVMConstInt(type, (unsigned long long)formula->affine.offset, true);
    for (int loop = 0; loop < frame->nest->loop_count; loop++) {
        int64_t scale = formula->affine.scale[loop];
        if (!scale) continue;
        CHECK(frame->loop[loop]);
        LLVMValueRef index = frame->loop[loop];
        if (formula->element == ELEMENT_I32) index = LLVMBuildTrunc(b, index, type, "");
        index = LLVMBuildMul(b, index, LLVMConstInt(type, (unsigned long long)scale, true), "");
        sum = LLVMBuildAdd(b, sum, index, "");
    }
    int64_t step = frame->vector_loop < 0 ? 0 : formula->affine.scale[frame->vector_loop];
    if (!step) return sum;
    return LLVMBuildAdd(b, cpu_splat(unit, sum, frame->lanes), cpu_iota(unit, type, frame->lanes, step), "");
}

// An arm that holds loads which may miss is computed in a frame of its own, under the condition.
static LLVMValueRef guarded(CpuFrame *frame, uint32_t id, LLVMValueRef condition, bool negate) {
    if (!frame->analysis->may_miss[id]) return cpu_formula(frame, id);
    CpuUnit *unit = frame->body->unit;
    CpuFrame *arm = cpu_frame_inside(frame);
    if (negate) condition = LLVMBuildXor(unit->builder, condition, cpu_number_like(condition, 1), "");
    arm->guard = both(unit, frame->guard, condition);
    return cpu_formula(arm, id);
}

static LLVMValueRef emit_primitive(CpuFrame *frame, const Formula *formula) {
    CpuUnit *unit = frame->body->unit;
    LLVMValueRef arguments[3];
    int count = primitive_arguments(formula->primitive), lanes = 1;
    bool selects = formula->primitive == PRIMITIVE_select;
    for (int a = 0; a < count; a++) {
        arguments[a] = selects && a > 0 ? guarded(frame, formula->arguments[a], arguments[0], a == 2)
                                        : cpu_formula(frame, formula->arguments[a]);
        if (cpu_lanes(arguments[a]) > lanes) lanes = cpu_lanes(arguments[a]);
    }
    for (int a = 0; a < count; a++) arguments[a] = cpu_splat(unit, arguments[a], lanes);
    Element from = frame->nest->formulas.items[formula->arguments[0]].element;
    return cpu_primitive(unit, formula->primitive, formula->element, from, arguments);
}

LLVMValueRef cpu_formula(CpuFrame *frame, uint32_t id) {
    LLVMValueRef value = find_value(frame, frame, id);
    if (value) return value;
    CpuUnit *unit = frame->body->unit;
    const Formula *formula = &frame->nest->formulas.items[id];
    cpu_set_place(unit, formula->place);
    switch (formula->kind) {
        case FORMULA_CONSTANT: value = cpu_number(unit, formula->element, formula->number, 1); break;
        case FORMULA_LOOP: value = loop_value(frame, formula); break;
        case FORMULA_LOAD: value = emit_load(frame, formula); break;
        case FORMULA_PRIMITIVE: value = emit_primitive(frame, formula); break;
        case FORMULA_STAGE:
            value = frame->stage[formula->stage];
            CHECK(value);
            if (formula->element == ELEMENT_BF16) value = cpu_round_bf16(unit, value);
            break;
    }
    return frame->values[id] = value;
}

LLVMValueRef cpu_formula_vector(CpuFrame *frame, uint32_t id) {
    return cpu_splat(frame->body->unit, cpu_formula(frame, id), frame->lanes);
}

// ---- Computing ahead ----

static bool is_ready(const CpuFrame *frame, uint32_t id, uint32_t written) {
    const NestAnalysis *analysis = frame->analysis;
    if (analysis->operands[id] & written || analysis->may_miss[id]) return false;
    for (int loop = 0; loop < frame->nest->loop_count; loop++)
        if ((analysis->loops[id] >> loop & 1) && !frame->loop[loop]) return false;
    for (int s = 0; s < frame->nest->stage_count; s++)
        if ((analysis->stages[id] >> s & 1) && !frame->stage[s]) return false;
    return true;
}

void cpu_frame_hoist_address(CpuFrame *frame, uint32_t operand, const Index *index) {
    uint32_t known = 0;
    for (int loop = 0; loop < frame->nest->loop_count; loop++)
        if (frame->loop[loop] && loop != frame->vector_loop) known |= 1u << loop;
    if (affine_loops(&index[0].affine) & known) affine_address(frame, operand, index, known);
}

void cpu_frame_hoist(CpuFrame *frame, uint32_t id, uint32_t written) {
    const Formula *formula = &frame->nest->formulas.items[id];
    if (formula->kind == FORMULA_CONSTANT || find_value(frame, frame, id)) return;
    if (is_ready(frame, id, written)) {
        cpu_formula(frame, id);
        return;
    }
    if (formula->kind == FORMULA_PRIMITIVE)
        for (int a = 0; a < primitive_arguments(formula->primitive); a++)
            cpu_frame_hoist(frame, formula->arguments[a], written);
    if (formula->kind != FORMULA_LOAD) return;
    for (int d = 1; d < frame->nest->operands[formula->operand].rank; d++)
        if (formula->index[d].gathered != FORMULA_NONE)
            cpu_frame_hoist(frame, formula->index[d].gathered, written);
    cpu_frame_hoist_address(frame, formula->operand, formula->index);
}
