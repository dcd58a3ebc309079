// Lowering: what an op's `lower` uses to turn its node into loop nests over buffers.
// A value is a View: a buffer seen through an offset and a stride per dimension. Shape ops only make
// views; the others make a buffer and a nest that fills it.
#ifndef CHERRY_IR_LOWER_H
#define CHERRY_IR_LOWER_H

#include "ir/graph.h"
#include "ir/nest.h"
#include "ir/program.h"

typedef struct View {
    uint32_t buffer;   // index into program->buffers
    const Type *type;
    int64_t offset;    // elements
    int64_t stride[RANK_MAX];  // elements, one per dimension of type; 0: broadcast
} View;

typedef struct Lowering {
    const Graph *graph;
    const Node *node;
    uint32_t node_id;
    Program *program;
    View *views;               // of every value so far: views[lowering_slot(value)]
    const uint32_t *slots;     // first slot of each node
    bool stores;               // the node accumulates where nothing was written yet: it stores
    Ir *scratch;               // where nests are built; its arena is reset after each node. NULL: program->ir
} Lowering;

View view_row_major(uint32_t buffer, const Type *type);

const View *lowering_view(const Lowering *lowering, Value value);
void lowering_set_view(Lowering *lowering, uint32_t result, View view);

// A fresh row-major buffer for result `result` of the node (or, where the pass so decided, the state
// buffer that this value replaces); sets the view and returns it.
const View *lowering_result(Lowering *lowering, uint32_t result);

// ---- Building a nest over views. Loops are found by name. ----
typedef struct NestBuilder {
    Lowering *lowering;
    Nest *nest;
    Launch launch;  // buffers and offsets of the operands so far
} NestBuilder;

NestBuilder nest_builder(Lowering *lowering, const char *name);
// Adds the dimensions of `type` (skipping `count` names of `except`) as loops; outer ones first.
void nest_builder_outer(NestBuilder *builder, const Type *type, const char *const *except, uint32_t count);
void nest_builder_inner(NestBuilder *builder, Dimension dimension);
// A load of `view` at the loops that have its dimensions' names.
uint32_t nest_builder_load(NestBuilder *builder, const View *view);
// A load with the dimension `along` indexed by formula `gathered`.
uint32_t nest_builder_load_at(NestBuilder *builder, const View *view, const char *along, uint32_t gathered);
uint32_t nest_builder_constant(NestBuilder *builder, Element element, double number);
uint32_t nest_builder_loop(NestBuilder *builder, const char *name);
uint32_t nest_builder_primitive(NestBuilder *builder, Primitive primitive, Element element, uint32_t a,
                                uint32_t b, uint32_t c);
uint32_t nest_builder_stage_value(NestBuilder *builder, uint32_t stage);
// A reduction over all inner loops so far; the number of its stage.
uint32_t nest_builder_reduce(NestBuilder *builder, StageKind kind, uint32_t formula);
// Writes `formula` at the loops that have the view's dimensions' names; runs the inner loops that it needs.
void nest_builder_store(NestBuilder *builder, StageKind kind, const View *view, uint32_t formula,
                        const char *gathered_along, uint32_t gathered);
// Finishes the nest and appends its launch to the program.
void nest_builder_finish(NestBuilder *builder);

#endif
