// Helpers for the `lower` functions of ops: views of values, and building a nest over views.
#include "ir/lower.h"

#include <string.h>

const View *lowering_view(const Lowering *lowering, Value value) {
    const View *view = &lowering->views[lowering->slots[value.node] + value.result];
    CHECK(view->type);
    return view;
}

void lowering_set_view(Lowering *lowering, uint32_t result, View view) {
    lowering->views[lowering->slots[lowering->node_id] + result] = view;
}

View view_row_major(uint32_t buffer, const Type *type) {
    View view = {.buffer = buffer, .type = type};
    int64_t stride = 1;
    for (int i = type->rank - 1; i >= 0; i--) {
        view.stride[i] = stride;
        stride *= type->dimensions[i].extent;
    }
    return view;
}

// The pass may have set the view of a result already: then that is where the result goes.
const View *lowering_result(Lowering *lowering, uint32_t result) {
    View *view = &lowering->views[lowering->slots[lowering->node_id] + result];
    if (view->type) return view;
    const Type *type = lowering->node->types[result];
    const char *name = op_name(lowering->node->op);
    if (lowering->node->op == OP_call && attribute_text(lowering->node, ATTRIBUTE_kernel))
        name = attribute_text(lowering->node, ATTRIBUTE_kernel);
    Buffer buffer = {
        .kind = BUFFER_TEMPORARY, .name = name, .type = type, .bytes = type_bytes(type), .offset = -1};
    *view = view_row_major(program_add_buffer(lowering->program, buffer), type);
    return view;
}

NestBuilder nest_builder(Lowering *lowering, const char *name) {
    NestBuilder builder = {.lowering = lowering};
    builder.nest = nest_create(lowering->scratch ? lowering->scratch : lowering->program->ir, name,
                               lowering->node ? lowering->node->place : NO_PLACE);
    for (int i = 0; i < WORKSPACE_MAX; i++) builder.launch.workspaces[i] = UINT32_MAX;
    builder.launch.node = lowering->node_id;
    builder.launch.place = builder.nest->place;
    if (lowering->node) builder.launch.region = attribute_integer(lowering->node, ATTRIBUTE_region, 0);
    return builder;
}

static int find_loop(const Nest *nest, const char *name) {
    for (int i = 0; i < nest->loop_count; i++)
        if (nest->loops[i].dimension.name == name) return i;
    return -1;
}

// The operand for this part of this buffer; the same part seen the same way is one operand.
static uint32_t add_operand(NestBuilder *builder, uint32_t buffer, int64_t offset, NestOperand operand) {
    Nest *nest = builder->nest;
    for (int i = 0; i < nest->operand_count; i++) {
        NestOperand *old = &nest->operands[i];
        if (builder->launch.buffers[i] != buffer || builder->launch.offsets[i] != offset ||
            old->rank != operand.rank || memcmp(old->extent, operand.extent, sizeof old->extent) != 0 ||
            memcmp(old->stride, operand.stride, sizeof old->stride) != 0)
            continue;
        old->reads |= operand.reads;
        old->writes |= operand.writes;
        return (uint32_t)i;
    }
    if (nest->operand_count == NEST_OPERAND_MAX)
        INTERNAL_ERROR("nest %s: more than %d operands", nest->name, NEST_OPERAND_MAX);
    uint32_t number = (uint32_t)nest->operand_count++;
    nest->operands[number] = operand;
    builder->launch.buffers[number] = buffer;
    builder->launch.offsets[number] = offset;
    builder->launch.operand_count = nest->operand_count;
    return number;
}

static uint32_t bound_operand(NestBuilder *builder, const Dimension *dimension) {
    if (!dimension->bound) return UINT32_MAX;
    uint32_t buffer = program_find_buffer(builder->lowering->program, dimension->bound, ROLE_SCALAR);
    if (buffer == UINT32_MAX)
        INTERNAL_ERROR("no scalar %s for dimension %s", dimension->bound, dimension->name);
    return add_operand(builder, buffer, 0, (NestOperand){.element = ELEMENT_I64, .reads = true});
}

static void add_loop(NestBuilder *builder, const Dimension *dimension) {
    Nest *nest = builder->nest;
    if (find_loop(nest, dimension->name) >= 0) return;
    if (nest->loop_count == LOOP_MAX) INTERNAL_ERROR("nest %s: more than %d loops", nest->name, LOOP_MAX);
    uint32_t bound = bound_operand(builder, dimension);
    nest->loops[nest->loop_count++] = (Loop){.dimension = *dimension, .bound_operand = bound};
}

void nest_builder_outer(NestBuilder *builder, const Type *type, const char *const *except, uint32_t count) {
    for (int i = 0; i < type->rank; i++) {
        bool skipped = false;
        for (uint32_t e = 0; e < count; e++) skipped |= except[e] == type->dimensions[i].name;
        if (!skipped) add_loop(builder, &type->dimensions[i]);
    }
    builder->nest->outer_count = builder->nest->loop_count;
}

void nest_builder_inner(NestBuilder *builder, Dimension dimension) { add_loop(builder, &dimension); }

// The operand of a view and its index at the loops. Broadcast dimensions (stride 0) drop out, so that
// equal accesses look alike however they came about. `along` NULL: no dimension is gathered.
static uint32_t access(NestBuilder *builder, const View *view, const char *along, uint32_t gathered,
                       bool writes, Index *index) {
    NestOperand operand = {.element = view->type->element, .reads = !writes, .writes = writes};
    for (int d = 0; d < view->type->rank; d++) {
        const Dimension *dimension = &view->type->dimensions[d];
        bool is_gathered = along && dimension->name == along;
        if (view->stride[d] == 0 && !writes) continue;
        Index *at = &index[operand.rank];
        *at = (Index){.gathered = FORMULA_NONE};
        if (is_gathered) {
            at->gathered = gathered;
        } else {
            int loop = find_loop(builder->nest, dimension->name);
            if (loop < 0) INTERNAL_ERROR("nest %s has no loop %s", builder->nest->name, dimension->name);
            at->affine.scale[loop] = 1;
        }
        operand.extent[operand.rank] = dimension->extent;
        operand.stride[operand.rank++] = view->stride[d];
    }
    return add_operand(builder, view->buffer, view->offset, operand);
}

static uint32_t add_formula(NestBuilder *builder, Formula formula) {
    formula.place = builder->nest->place;
    return nest_formula(builder->nest, formula);
}

uint32_t nest_builder_load(NestBuilder *builder, const View *view) {
    return nest_builder_load_at(builder, view, NULL, FORMULA_NONE);
}

uint32_t nest_builder_load_at(NestBuilder *builder, const View *view, const char *along, uint32_t gathered) {
    Index index[RANK_MAX];
    uint32_t operand = access(builder, view, along, gathered, false, index);
    return add_formula(
        builder,
        (Formula){.kind = FORMULA_LOAD, .element = view->type->element, .operand = operand, .index = index});
}

uint32_t nest_builder_constant(NestBuilder *builder, Element element, double number) {
    return add_formula(builder, (Formula){.kind = FORMULA_CONSTANT, .element = element, .number = number});
}

uint32_t nest_builder_loop(NestBuilder *builder, const char *name) {
    int loop = find_loop(builder->nest, name);
    if (loop < 0) INTERNAL_ERROR("nest %s has no loop %s", builder->nest->name, name);
    Formula formula = {.kind = FORMULA_LOOP, .element = ELEMENT_I32};
    formula.affine.scale[loop] = 1;
    return add_formula(builder, formula);
}

uint32_t nest_builder_primitive(NestBuilder *builder, Primitive primitive, Element element, uint32_t a,
                                uint32_t b, uint32_t c) {
    int count = primitive_arguments(primitive);
    Formula formula = {.kind = FORMULA_PRIMITIVE, .element = element, .primitive = primitive};
    if (primitive_is_comparison(primitive)) formula.element = ELEMENT_BOOL;
    if (count > 0) formula.arguments[0] = a;
    if (count > 1) formula.arguments[1] = b;
    if (count > 2) formula.arguments[2] = c;
    return add_formula(builder, formula);
}

uint32_t nest_builder_stage_value(NestBuilder *builder, uint32_t stage) {
    return add_formula(
        builder,
        (Formula){.kind = FORMULA_STAGE, .stage = stage, .element = builder->nest->stages[stage].element});
}

static uint32_t add_stage(NestBuilder *builder, Stage stage) {
    Nest *nest = builder->nest;
    if (nest->stage_count == STAGE_LIMIT)
        INTERNAL_ERROR("nest %s: more than %d stages", nest->name, STAGE_LIMIT);
    stage.element = nest->formulas.items[stage.formula].element;
    stage.place = nest->place;
    nest->stages[nest->stage_count] = stage;
    return (uint32_t)nest->stage_count++;
}

static uint32_t inner_loops(const Nest *nest) {
    return ((1u << nest->loop_count) - 1) & ~((1u << nest->outer_count) - 1);
}

uint32_t nest_builder_reduce(NestBuilder *builder, StageKind kind, uint32_t formula) {
    return add_stage(builder, (Stage){.kind = kind, .formula = formula, .inner = inner_loops(builder->nest)});
}

// The stage runs those inner loops on which the place or the formula depends.
void nest_builder_store(NestBuilder *builder, StageKind kind, const View *view, uint32_t formula,
                        const char *gathered_along, uint32_t gathered) {
    Nest *nest = builder->nest;
    Index *index = ARENA_ARRAY(nest->ir->arena, Index, RANK_MAX);
    uint32_t operand = access(builder, view, gathered_along, gathered, true, index);
    if (kind == STAGE_ADD) nest->operands[operand].reads = true;
    uint32_t used =
        nest_formula_loops(nest, formula) | nest_index_loops(nest, &nest->operands[operand], index);
    add_stage(builder, (Stage){.kind = kind,
                               .formula = formula,
                               .operand = operand,
                               .index = index,
                               .inner = used & inner_loops(nest)});
}

void nest_builder_finish(NestBuilder *builder) {
    nest_compact(builder->nest);
    nest_mark_parallel(builder->nest);
    Program *program = builder->lowering->program;
    builder->launch.kernel = program_keep_nest(program, builder->nest);
    vector_push(program->ir->arena, &program->launches, builder->launch);
}
