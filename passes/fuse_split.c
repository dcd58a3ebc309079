// fuse, second and last part: a large reduction to one scalar, then one to a row of them, becomes two launches, so that
// it has iterations to share between threads, each of which reads memory from end to end.
//
//   s = sum over i of x[i]          (i = 2^20)
//   -> parts[p] = sum over q of x[p * 2^14 + q];  s = sum over p of parts[p]
//
//   s[c] = sum over r of x[r, c]    (r = 2048, c = 512)
//   -> parts[p, c] = sum over q of x[p * 32 + q, c];  s[c] = sum over p of parts[p, c]
//
// The split depends on the extents alone, never on threads, so the sum has one order everywhere.
#include "passes/fuse.h"

#include <string.h>

enum {
    LARGE = 1 << 14, PARTS = 64, FEWEST_PARTS = 8, MOST_PARTS = 1024,
    LARGE_ROWS = 1 << 18,  // elements of all rows
    LONGEST_ROW = 1 << 12  // longer ones have columns enough to share
};

typedef struct Split {
    uint32_t outer;  // inner loops that become the parts
    int loop;        // a loop that is cut, or -1
    int64_t cut;     // into that many pieces
} Split;

// The divisor of `extent` that comes closest to `wanted` from above, else the largest below; 1: none.
static int64_t pieces(int64_t extent, int64_t wanted) {
    for (int64_t d = wanted; d <= MOST_PARTS && d < extent; d++)
        if (extent % d == 0) return d;
    for (int64_t d = wanted; d > 1; d--)
        if (extent % d == 0) return d;
    return 1;
}

static bool choose_split(const Nest *nest, uint32_t inner, Split *split) {
    int64_t parts = 1;
    *split = (Split){.loop = -1, .cut = 1};
    for (int loop = 0; loop < nest->loop_count && parts < PARTS; loop++) {
        if (!(inner >> loop & 1)) continue;
        int64_t extent = nest->loops[loop].dimension.extent;
        if (inner >> loop > 1) {
            split->outer |= 1u << loop;
            parts *= extent;
        } else if (nest->loops[loop].bound_operand == UINT32_MAX) {
            split->cut = pieces(extent, (PARTS + parts - 1) / parts);
            if (split->cut > 1) split->loop = loop;
            parts *= split->cut;
        }
    }
    return parts >= FEWEST_PARTS;
}

static int64_t step_along(const NestOperand *operand, const Index *index, int loop) {
    int64_t step = 0;
    for (int d = 0; d < operand->rank; d++) step += index[d].affine.scale[loop] * operand->stride[d];
    return step;
}

// Whether what lies side by side in memory belongs to different sums, as in a row of columns. Loads that all sums share
// do not matter.
static bool sums_columns(const Nest *nest) {
    bool columns = false;
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *load = &nest->formulas.items[i];
        bool moves = false, inside = false;
        for (int loop = 0; load->kind == FORMULA_LOAD && loop < nest->loop_count; loop++) {
            int64_t step = step_along(&nest->operands[load->operand], load->index, loop);
            if (loop >= nest->outer_count) inside |= step == 1;
            else moves |= step != 0, columns |= step == 1;
        }
        if (moves && inside) return false;
    }
    return columns;
}

static bool is_large(const Nest *nest, const Stage *stage, FuseSplit which) {
    double sums = nest_iterations(nest, nest_outer_mask(nest)), terms = nest_iterations(nest, stage->inner);
    if (which == SPLIT_TOTALS) return !nest->outer_count && terms >= LARGE;
    Contraction contraction;  // has a plan of its own
    return nest->outer_count && sums <= LONGEST_ROW && sums * terms >= LARGE_ROWS && sums_columns(nest) &&
           !nest_contraction(nest, &contraction);
}

// The one reduction that is worth it, or -1.
static int find_large(const Nest *nest, FuseSplit which) {
    int found = -1;
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (stage_writes(stage) || !is_large(nest, stage, which)) continue;
        if (found >= 0 || stage->element == ELEMENT_BF16) return -1;  // parts would be rounded
        found = i;
    }
    for (int i = 0; i < found; i++)  // it must not need the value of an earlier stage
        if (!stage_writes(&nest->stages[i])) return -1;
    return found;
}

static const Type *parts_type(const Fuse *fuse, const Nest *nest, const Split *split, Element element) {
    Dimension dimensions[RANK_MAX];
    int rank = 0;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        if (!(split->outer >> loop & 1) && loop != split->loop) continue;
        if (rank == RANK_MAX) return NULL;
        dimensions[rank] = nest->loops[loop].dimension;
        if (loop == split->loop) dimensions[rank].extent = split->cut;
        rank++;
    }
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (rank == RANK_MAX) return NULL;
        dimensions[rank++] = nest->loops[loop].dimension;
    }
    return type_make(fuse->program->ir, element, rank, dimensions);
}

uint32_t fuse_create_parts(Fuse *fuse, const Type *type) {
    size_t before = fuse->program->buffers.count;
    uint32_t buffer = program_add_buffer(fuse->program, (Buffer){.kind = BUFFER_TEMPORARY,
                                                                 .name = "parts",
                                                                 .type = type,
                                                                 .bytes = type_bytes(type),
                                                                 .offset = -1});
    fuse_add_buffers(fuse, before);
    return buffer;
}

uint32_t fuse_add_parts(Nest *nest, Launch *launch, uint32_t buffer, const Type *type, const int *loops,
                        NestOperand operand, Index *index) {
    operand.element = type->element;
    operand.rank = type->rank;
    int64_t stride = 1;
    for (int d = type->rank - 1; d >= 0; d--) {
        operand.extent[d] = type->dimensions[d].extent;
        operand.stride[d] = stride;
        stride *= operand.extent[d];
        index[d] = (Index){.gathered = FORMULA_NONE};
        index[d].affine.scale[loops[d]] = 1;
    }
    launch->buffers[nest->operand_count] = buffer;
    launch->offsets[nest->operand_count] = 0;
    nest->operands[nest->operand_count++] = operand;
    launch->operand_count = nest->operand_count;
    return (uint32_t)nest->operand_count - 1;
}

// Adds a loop for each dimension of the parts that stems from a loop of `mask`; their numbers go to `loops`.
static int add_part_loops(Transplant *plant, uint32_t mask, const Split *split, int *loops) {
    int count = 0;
    for (int loop = 0; loop < plant->from->loop_count; loop++) {
        if (!(mask >> loop & 1)) continue;
        loops[count++] = plant->to->loop_count;
        transplant_loop(plant, loop);
        if (loop == split->loop && !plant->failed)
            plant->to->loops[plant->to->loop_count - 1].dimension.extent = split->cut;
    }
    return count;
}

static uint32_t part_mask(const Split *split) { return split->outer | (split->loop < 0 ? 0 : 1u << split->loop); }

// parts[p] = reduction over the rest.
static bool make_first(Fuse *fuse, const Item *item, int number, const Split *split, uint32_t buffer,
                       const Type *type, Item *made) {
    const Nest *nest = item->nest;
    const Stage *stage = &nest->stages[number];
    Nest *first = nest_create(&fuse->ir, names_format(fuse->ir.names, "%s_parts", nest->name), nest->place);
    *made = (Item){.nest = first, .launch = item->launch, .alive = true};
    made->launch.operand_count = 0;
    Transplant plant = transplant_begin(nest, &item->launch, first, &made->launch);
    int loops[2 * LOOP_MAX], count = add_part_loops(&plant, part_mask(split), split, loops);
    add_part_loops(&plant, nest_outer_mask(nest), split, loops + count);
    first->outer_count = first->loop_count;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        if (!(stage->inner >> loop & 1) || (split->outer >> loop & 1)) continue;
        Affine part = plant.loop[loop];
        transplant_loop(&plant, loop);
        if (plant.failed || loop != split->loop) continue;
        int64_t length = nest->loops[loop].dimension.extent / split->cut;  // loop = part * length + rest
        first->loops[first->loop_count - 1].dimension.extent = length;
        for (int i = 0; i < LOOP_MAX; i++) plant.loop[loop].scale[i] += length * part.scale[i];
    }
    Stage sum = *stage, store = {.kind = STAGE_STORE, .element = stage->element, .place = stage->place};
    sum.inner = ((1u << first->loop_count) - 1) & ~nest_outer_mask(first);
    sum.formula = transplant_formula(&plant, stage->formula);
    if (plant.failed || first->operand_count == NEST_OPERAND_MAX) return false;
    Index *index = ARENA_ARRAY(fuse->ir.arena, Index, RANK_MAX);
    store.operand = fuse_add_parts(first, &made->launch, buffer, type, loops, (NestOperand){.writes = true}, index);
    store.index = index;
    store.formula =
        nest_formula(first, (Formula){.kind = FORMULA_STAGE, .stage = 0, .element = stage->element});
    first->stages[first->stage_count++] = sum;
    first->stages[first->stage_count++] = store;
    nest_compact(first);
    nest_mark_parallel(first);
    return true;
}

// The nest with the reduction over the parts in place of the large one.
static bool make_second(Fuse *fuse, const Item *item, int number, const Split *split, uint32_t buffer,
                        const Type *type, Item *made) {
    const Nest *nest = item->nest;
    Nest *second = nest_create(&fuse->ir, nest->name, nest->place);
    *made = (Item){.nest = second, .launch = item->launch, .alive = true};
    made->launch.operand_count = 0;
    Transplant plant = transplant_begin(nest, &item->launch, second, &made->launch);
    int outer[LOOP_MAX], loops[2 * LOOP_MAX], outer_count = add_part_loops(&plant, nest_outer_mask(nest), split, outer);
    second->outer_count = second->loop_count;
    int count = add_part_loops(&plant, part_mask(split), split, loops);
    memcpy(loops + count, outer, sizeof *outer * (size_t)outer_count);
    uint32_t parts = ((1u << second->loop_count) - 1) & ~nest_outer_mask(second), used = 0;
    for (int i = 0; i < nest->stage_count; i++) used |= i == number ? 0 : nest->stages[i].inner;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (used >> loop & 1) transplant_loop(&plant, loop);  // other stages have loops of their own
    Index index[RANK_MAX];
    uint32_t operand = fuse_add_parts(second, &made->launch, buffer, type, loops, (NestOperand){.reads = true}, index);
    Formula load = {.kind = FORMULA_LOAD, .element = type->element, .operand = operand, .index = index};
    for (int i = 0; i < nest->stage_count && !plant.failed; i++) {
        Stage stage = nest->stages[i];
        if (i == number) {
            stage.inner = parts;
            stage.formula = nest_formula(second, load);
        } else {
            stage.inner = transplant_mask(&plant, stage.inner);
            stage.formula = transplant_formula(&plant, stage.formula);
        }
        transplant_write(&plant, &stage);
        plant.stage[i] = (uint32_t)i;
        second->stages[second->stage_count++] = stage;
    }
    if (plant.failed) return false;
    nest_compact(second);
    nest_mark_parallel(second);
    return true;
}

static void split_item(Fuse *fuse, uint32_t id, int number) {
    Item *item = &fuse->items[id], first, second;
    Split split;
    if (!choose_split(item->nest, item->nest->stages[number].inner, &split)) return;
    const Type *type = parts_type(fuse, item->nest, &split, item->nest->stages[number].element);
    if (!type) return;
    uint32_t buffer = fuse_create_parts(fuse, type);
    if (!make_first(fuse, item, number, &split, buffer, type, &first) ||
        !make_second(fuse, item, number, &split, buffer, type, &second))
        return;
    fuse_unlist_item(fuse, id);
    fuse->items[id - 1] = first;
    fuse->items[id] = second;
    fuse_list_item(fuse, id - 1);
    fuse_list_item(fuse, id);
}

void fuse_split(Fuse *fuse, FuseSplit which) {
    for (uint32_t i = 1; i < fuse->count; i++) {
        if (!fuse->items[i].alive || !fuse->items[i].nest || fuse->items[i - 1].alive) continue;
        int number = find_large(fuse->items[i].nest, which);
        if (number >= 0) split_item(fuse, i, number);
    }
}
