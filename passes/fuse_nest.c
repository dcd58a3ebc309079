// fuse, its tools: spans and hazards of launches, addresses, moving formulas between nests.
#include <string.h>

#include "passes/fuse.h"

// ---- Launches and buffers ----

bool item_reads(const Fuse *fuse, const Item *item, int operand) {
    return item->nest ? item->nest->operands[operand].reads
                      : launch_reads(fuse->program, &item->launch, operand);
}

bool item_writes(const Fuse *fuse, const Item *item, int operand) {
    return item->nest ? item->nest->operands[operand].writes
                      : launch_writes(fuse->program, &item->launch, operand);
}

Span item_span(const Fuse *fuse, const Item *item, int operand) {
    Span span = {item->launch.offsets[operand], item->launch.offsets[operand]};
    const NamedKernel *named = item->nest ? NULL : fuse->program->kernels.items[item->launch.kernel].named;
    int rank = named ? named->types[operand]->rank : item->nest->operands[operand].rank;
    for (int d = 0; d < rank; d++) {
        int64_t extent =
            named ? named->types[operand]->dimensions[d].extent : item->nest->operands[operand].extent[d];
        int64_t stride = named ? named->strides[operand][d] : item->nest->operands[operand].stride[d];
        *(stride < 0 ? &span.low : &span.high) += (extent - 1) * stride;
    }
    return span;
}

static bool overlap(Span a, Span b) { return a.low <= b.high && b.low <= a.high; }

// Index of the first entry that is not below `item`.
static size_t list_position(const ItemList *list, uint32_t item) {
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (list->items[middle] < item)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void list_insert(Fuse *fuse, ItemList *list, uint32_t item) {
    size_t at = list_position(list, item);
    if (at < list->count && list->items[at] == item) return;
    vector_push(fuse->ir.arena, list, item);
    memmove(&list->items[at + 1], &list->items[at], sizeof(uint32_t) * (list->count - 1 - at));
    list->items[at] = item;
}

static void list_remove(ItemList *list, uint32_t item) {
    size_t at = list_position(list, item);
    if (at == list->count || list->items[at] != item) return;
    memmove(&list->items[at], &list->items[at + 1], sizeof(uint32_t) * (list->count - 1 - at));
    list->count--;
}

void fuse_list_item(Fuse *fuse, uint32_t item) {
    const Item *it = &fuse->items[item];
    for (int i = 0; i < it->launch.operand_count; i++) {
        if (item_reads(fuse, it, i)) list_insert(fuse, &fuse->readers[it->launch.buffers[i]], item);
        if (item_writes(fuse, it, i)) list_insert(fuse, &fuse->writers[it->launch.buffers[i]], item);
    }
}

void fuse_unlist_item(Fuse *fuse, uint32_t item) {
    const Item *it = &fuse->items[item];
    for (int i = 0; i < it->launch.operand_count; i++) {
        list_remove(&fuse->readers[it->launch.buffers[i]], item);
        list_remove(&fuse->writers[it->launch.buffers[i]], item);
    }
}

// Does an item of the list in [low, high) touch this part of the buffer?
static bool touched(const Fuse *fuse, const ItemList *list, uint32_t buffer, Span span, bool writing,
                    uint32_t low, uint32_t high) {
    for (size_t i = list_position(list, low); i < list->count && list->items[i] < high; i++) {
        const Item *other = &fuse->items[list->items[i]];
        for (int o = 0; o < other->launch.operand_count; o++)
            if (other->launch.buffers[o] == buffer &&
                (writing ? item_writes(fuse, other, o) : item_reads(fuse, other, o)) &&
                overlap(span, item_span(fuse, other, o)))
                return true;
    }
    return false;
}

bool fuse_written(const Fuse *fuse, uint32_t buffer, Span span, uint32_t low, uint32_t high) {
    return touched(fuse, &fuse->writers[buffer], buffer, span, true, low + 1, high + 1);
}

bool fuse_conflict(const Fuse *fuse, const Item *item, uint32_t low, uint32_t high) {
    for (int i = 0; i < item->launch.operand_count; i++) {
        uint32_t buffer = item->launch.buffers[i];
        Span span = item_span(fuse, item, i);
        if (touched(fuse, &fuse->writers[buffer], buffer, span, true, low + 1, high)) return true;
        if (item_writes(fuse, item, i) &&
            touched(fuse, &fuse->readers[buffer], buffer, span, false, low + 1, high))
            return true;
    }
    return false;
}

uint32_t fuse_last_reader(const Fuse *fuse, uint32_t buffer) {
    const ItemList *readers = &fuse->readers[buffer];
    return readers->count ? vector_last(readers) : 0;
}

void fuse_add_buffers(Fuse *fuse, size_t before) {
    size_t count = fuse->program->buffers.count;
    ItemList *readers = ARENA_ARRAY(fuse->ir.arena, ItemList, count + 1);
    ItemList *writers = ARENA_ARRAY(fuse->ir.arena, ItemList, count + 1);
    memcpy(readers, fuse->readers, sizeof(ItemList) * before);
    memcpy(writers, fuse->writers, sizeof(ItemList) * before);
    fuse->readers = readers;
    fuse->writers = writers;
}

// ---- Whether two walks through a buffer meet ----

void meeting_add(Meeting *meeting, int64_t step, int64_t extent) {
    if (step < 0) step = -step;  // distances go both ways
    int at = meeting->count++;
    for (; at > 0 && meeting->step[at - 1] < step; at--) {
        meeting->step[at] = meeting->step[at - 1];
        meeting->last[at] = meeting->last[at - 1];
    }
    meeting->step[at] = step;
    meeting->last[at] = extent - 1;
}

// The same from step `at` on; `moved`: some distance before was not zero.
static bool reaches(const Meeting *meeting, int at, int64_t low, int64_t high, bool moved) {
    if (at == meeting->count) return moved && low <= 0 && 0 <= high;
    int64_t rest = 0, step = meeting->step[at];
    for (int i = at + 1; i < meeting->count; i++) rest += meeting->step[i] * meeting->last[i];
    for (int64_t distance = -meeting->last[at]; distance <= meeting->last[at]; distance++) {
        int64_t least = low - rest, most = high + rest;
        if (step > 0 && distance * step < least) {  // skip to the first that can reach
            int64_t first = least >= 0 ? (least + step - 1) / step : -((-least) / step);
            if (first > meeting->last[at]) return false;
            distance = first;
        }
        if (distance * step > most) return false;
        if (reaches(meeting, at + 1, low - distance * step, high - distance * step, moved || distance != 0))
            return true;
    }
    return false;
}

bool meeting_reaches(const Meeting *meeting, int64_t low, int64_t high, bool standing) {
    return reaches(meeting, 0, low, high, standing);
}

// No element belongs to both operands. Exact where they have the same shape; else by their spans.
static bool apart(const Fuse *fuse, const Item *item, int i, int j) {
    const NestOperand *a = &item->nest->operands[i], *b = &item->nest->operands[j];
    Meeting meeting = {.count = 0};
    if (!overlap(item_span(fuse, item, i), item_span(fuse, item, j))) return true;
    if (a->rank != b->rank) return false;
    for (int d = 0; d < a->rank; d++) {
        if (a->extent[d] != b->extent[d] || a->stride[d] != b->stride[d]) return false;
        meeting_add(&meeting, a->stride[d], a->extent[d]);
    }
    int64_t distance = item->launch.offsets[j] - item->launch.offsets[i];
    return !meeting_reaches(&meeting, distance, distance, true);
}

bool nest_operands_apart(const Fuse *fuse, const Item *item) {
    for (int i = 0; i < item->launch.operand_count; i++) {
        if (!item_writes(fuse, item, i)) continue;
        for (int j = 0; j < item->launch.operand_count; j++)
            if (i != j && item->launch.buffers[i] == item->launch.buffers[j] && !apart(fuse, item, i, j))
                return false;
    }
    return true;
}

// ---- Addresses ----

Address nest_address(const Nest *nest, const Launch *launch, uint32_t number, const Index *index) {
    const NestOperand *operand = &nest->operands[number];
    Address address = {.buffer = launch->buffers[number], .offset = launch->offsets[number]};
    for (int d = 0; d < operand->rank; d++) {
        if (index[d].gathered != FORMULA_NONE) {  // anywhere along this dimension
            int64_t span = (operand->extent[d] - 1) * operand->stride[d];
            address.gathered = true;
            address.gathered_span += span < 0 ? -span : span;
            if (span < 0) address.offset += span;
            continue;
        }
        address.offset += index[d].affine.offset * operand->stride[d];
        for (int loop = 0; loop < nest->loop_count; loop++)
            address.coefficient[loop] += index[d].affine.scale[loop] * operand->stride[d];
    }
    return address;
}

bool address_equal(const Address *a, const Address *b) {
    return a->buffer == b->buffer && !a->gathered && !b->gathered && a->offset == b->offset &&
           memcmp(a->coefficient, b->coefficient, sizeof a->coefficient) == 0;
}

// ---- Formulas ----

enum { USUAL_FORMULAS = 512 };  // as many need no memory of the arena

uint32_t nest_formula_users(const Nest *nest, uint32_t formula) {
    bool usual[USUAL_FORMULAS] = {false}, *uses = usual;
    uint32_t mask = 0;
    if (nest->formulas.count > USUAL_FORMULAS)
        uses = ARENA_ARRAY(nest->ir->arena, bool, nest->formulas.count);
    uses[formula] = true;
    for (size_t i = (size_t)formula + 1; i < nest->formulas.count; i++) {
        const Formula *f = &nest->formulas.items[i];
        if (f->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(f->primitive); a++) uses[i] |= uses[f->arguments[a]];
        if (f->kind == FORMULA_LOAD)
            for (int d = 0; d < nest->operands[f->operand].rank; d++)
                if (f->index[d].gathered != FORMULA_NONE) uses[i] |= uses[f->index[d].gathered];
    }
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        bool used = uses[stage->formula];
        if (stage_writes(stage))
            for (int d = 0; d < nest->operands[stage->operand].rank; d++)
                if (stage->index[d].gathered != FORMULA_NONE) used |= uses[stage->index[d].gathered];
        if (used) mask |= 1u << i;
    }
    return mask;
}

static void add_cost(const Nest *nest, uint32_t id, bool *seen, FormulaCost *cost) {
    const Formula *formula = &nest->formulas.items[id];
    if (seen[id]) return;
    seen[id] = true;
    if (formula->kind == FORMULA_LOAD)
        for (int d = 0; d < nest->operands[formula->operand].rank; d++)
            if (formula->index[d].gathered != FORMULA_NONE) {
                cost->gathers = true;
                add_cost(nest, formula->index[d].gathered, seen, cost);
            }
    if (formula->kind != FORMULA_PRIMITIVE) return;
    cost->operations += formula->primitive != PRIMITIVE_cast;
    cost->expensive |= primitive_is_expensive(formula->primitive);
    for (int a = 0; a < primitive_arguments(formula->primitive); a++)
        add_cost(nest, formula->arguments[a], seen, cost);
}

FormulaCost nest_formula_cost(const Nest *nest, uint32_t formula) {
    FormulaCost cost = {0};
    bool usual[USUAL_FORMULAS] = {false}, *seen = usual;
    if (nest->formulas.count > USUAL_FORMULAS)
        seen = ARENA_ARRAY(nest->ir->arena, bool, nest->formulas.count);
    add_cost(nest, formula, seen, &cost);
    return cost;
}

double nest_iterations(const Nest *nest, uint32_t loops) {
    double product = 1;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (loops >> loop & 1) product *= (double)nest->loops[loop].dimension.extent;
    return product;
}

bool item_is_library_product(const Fuse *fuse, const Item *item) {
    Contraction found;
    if (!fuse->for_gpu || !item->nest || !nest_contraction(item->nest, &found)) return false;
    for (int loop = 0; loop < item->nest->loop_count; loop++)
        if (item->nest->loops[loop].bound_operand != UINT32_MAX) return false;  // generated, whatever follows it too
    return nest_iterations(item->nest, found.batch | found.row) > 1;
}

// ---- Transplants ----

Transplant transplant_begin(const Nest *from, const Launch *from_launch, Nest *to, Launch *launch) {
    Transplant transplant = {.from = from, .from_launch = from_launch, .to = to, .launch = launch};
    transplant.map = ARENA_ARRAY(to->ir->arena, uint32_t, from->formulas.count + 1);
    for (int i = 0; i < LOOP_MAX; i++) transplant.gathered[i] = FORMULA_NONE;
    transplant_forget(&transplant);
    return transplant;
}

void transplant_forget(Transplant *transplant) {
    memset(transplant->map, 0xff, sizeof(uint32_t) * (transplant->from->formulas.count + 1));
}

static bool operand_same(const NestOperand *a, const NestOperand *b) {
    if (a->rank != b->rank || a->element != b->element) return false;
    for (int d = 0; d < a->rank; d++)
        if (a->extent[d] != b->extent[d] || a->stride[d] != b->stride[d]) return false;
    return true;
}

static uint32_t add_operand(Transplant *transplant, uint32_t buffer, int64_t offset, NestOperand operand) {
    Nest *to = transplant->to;
    for (int i = 0; i < to->operand_count; i++) {
        if (transplant->launch->buffers[i] != buffer || transplant->launch->offsets[i] != offset ||
            !operand_same(&to->operands[i], &operand))
            continue;
        to->operands[i].reads |= operand.reads;
        to->operands[i].writes |= operand.writes;
        return (uint32_t)i;
    }
    if (to->operand_count == NEST_OPERAND_MAX) {
        transplant->failed = true;
        return 0;
    }
    transplant->launch->buffers[to->operand_count] = buffer;
    transplant->launch->offsets[to->operand_count] = offset;
    to->operands[to->operand_count++] = operand;
    transplant->launch->operand_count = to->operand_count;
    return (uint32_t)to->operand_count - 1;
}

uint32_t transplant_access(Transplant *transplant, uint32_t number, Index *index, bool reads, bool writes) {
    NestOperand operand = transplant->from->operands[number];
    int64_t offset = transplant->from_launch->offsets[number];
    operand.reads = reads;
    operand.writes = writes;
    // Only the part that the loops reach, from its first element: layers and chunks then look alike.
    for (int d = 0; d < operand.rank; d++) {
        const Affine *affine = &index[d].affine;
        int64_t low = affine->offset, high = affine->offset;
        if (index[d].gathered != FORMULA_NONE) continue;
        for (int loop = 0; loop < transplant->to->loop_count; loop++) {
            int64_t last = affine->scale[loop] * (transplant->to->loops[loop].dimension.extent - 1);
            *(last < 0 ? &low : &high) += last;
        }
        CHECK(low >= 0 && high < operand.extent[d]);
        offset += low * operand.stride[d];
        index[d].affine.offset -= low;
        operand.extent[d] = high - low + 1;
    }
    return add_operand(transplant, transplant->from_launch->buffers[number], offset, operand);
}

void transplant_loop(Transplant *transplant, int number) {
    Nest *to = transplant->to;
    Loop loop = transplant->from->loops[number];
    if (to->loop_count == LOOP_MAX) {
        transplant->failed = true;
        return;
    }
    const char *base = loop.dimension.name;
    for (int i = 0, suffix = 2; i < to->loop_count; i++)
        if (to->loops[i].dimension.name ==
            loop.dimension.name) {  // another loop has the name: make a new one
            loop.dimension.name = names_format(to->ir->names, "%s.%d", base, suffix++);
            i = -1;
        }
    if (loop.bound_operand != UINT32_MAX)
        loop.bound_operand = transplant_access(transplant, loop.bound_operand, NULL, true, false);
    transplant->loop[number] = (Affine){0};
    transplant->loop[number].scale[to->loop_count] = 1;
    to->loops[to->loop_count++] = loop;
}

uint32_t transplant_mask(const Transplant *transplant, uint32_t loops) {
    uint32_t mask = 0;
    for (int loop = 0; loop < transplant->from->loop_count; loop++)
        for (int i = 0; i < LOOP_MAX && (loops >> loop & 1); i++)
            if (transplant->loop[loop].scale[i]) mask |= 1u << i;
    return mask;
}

static Affine map_affine(const Transplant *transplant, const Affine *affine) {
    Affine result = {.offset = affine->offset};
    for (int loop = 0; loop < transplant->from->loop_count; loop++) {
        int64_t scale = affine->scale[loop];
        if (!scale) continue;
        result.offset += scale * transplant->loop[loop].offset;
        for (int i = 0; i < LOOP_MAX; i++) result.scale[i] += scale * transplant->loop[loop].scale[i];
    }
    return result;
}

// The gathered part that the loops of an affine value bring along: one, unscaled, or none.
static uint32_t gathered_part(Transplant *transplant, const Affine *affine) {
    uint32_t gathered = FORMULA_NONE;
    for (int loop = 0; loop < transplant->from->loop_count; loop++) {
        if (!affine->scale[loop] || transplant->gathered[loop] == FORMULA_NONE) continue;
        if (gathered != FORMULA_NONE || affine->scale[loop] != 1) transplant->failed = true;
        gathered = transplant->gathered[loop];
    }
    return gathered;
}

// An index that is gathered by the value of loops is affine, as far as it stays inside of the operand.
static void fold_gathered(const Transplant *transplant, const NestOperand *operand, int dimension,
                          Index *index) {
    const Nest *to = transplant->to;
    const Formula *formula = &to->formulas.items[index->gathered];
    while (formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_cast &&
           formula->element == ELEMENT_I64)
        formula = &to->formulas.items[formula->arguments[0]];
    if (formula->kind != FORMULA_LOOP) return;
    Affine sum = index->affine;
    int64_t low = sum.offset += formula->affine.offset, high = low;
    for (int loop = 0; loop < to->loop_count; loop++) {
        sum.scale[loop] += formula->affine.scale[loop];
        int64_t last = sum.scale[loop] * (to->loops[loop].dimension.extent - 1);
        *(last < 0 ? &low : &high) += last;
    }
    if (low < 0 || high >= operand->extent[dimension]) return;
    *index = (Index){.affine = sum, .gathered = FORMULA_NONE};
}

void transplant_index(Transplant *transplant, uint32_t operand, const Index *index, Index *mapped) {
    for (int d = 0; d < transplant->from->operands[operand].rank; d++) {
        mapped[d].affine = map_affine(transplant, &index[d].affine);
        mapped[d].gathered = gathered_part(transplant, &index[d].affine);
        if (index[d].gathered == FORMULA_NONE) continue;
        if (mapped[d].gathered != FORMULA_NONE) transplant->failed = true;
        mapped[d].gathered = transplant_formula(transplant, index[d].gathered);
        if (!transplant->failed)
            fold_gathered(transplant, &transplant->from->operands[operand], d, &mapped[d]);
    }
}

void transplant_write(Transplant *transplant, Stage *stage) {
    if (transplant->failed || !stage_writes(stage)) return;
    Index *index = ARENA_ARRAY(transplant->to->ir->arena, Index, RANK_MAX);
    transplant_index(transplant, stage->operand, stage->index, index);
    if (transplant->failed) return;
    stage->operand = transplant_access(transplant, stage->operand, index, stage->kind == STAGE_ADD, true);
    stage->index = index;
}

static uint32_t transplant_load(Transplant *transplant, const Formula *load) {
    Index index[RANK_MAX];
    Formula mapped = *load;
    transplant_index(transplant, load->operand, load->index, index);
    mapped.index = index;
    if (transplant->failed) return 0;
    if (transplant->replace) {
        uint32_t replacement = transplant->replace(transplant, load, &mapped);
        if (transplant->failed) return 0;
        if (replacement != FORMULA_NONE) return replacement;
    }
    mapped.operand = transplant_access(transplant, load->operand, index, true, false);
    return transplant->failed ? 0 : nest_formula(transplant->to, mapped);
}

uint32_t transplant_formula(Transplant *transplant, uint32_t id) {
    if (transplant->failed) return 0;
    if (transplant->map[id] != FORMULA_NONE) return transplant->map[id];
    Formula formula = transplant->from->formulas.items[id];
    uint32_t result = 0;
    switch (formula.kind) {
        case FORMULA_LOAD:
            result = transplant_load(transplant, &formula);
            break;
        case FORMULA_LOOP:
            if (gathered_part(transplant, &formula.affine) != FORMULA_NONE) transplant->failed = true;
            formula.affine = map_affine(transplant, &formula.affine);
            result = nest_formula(transplant->to, formula);
            break;
        case FORMULA_STAGE:
            formula.stage = transplant->stage[formula.stage];
            result = nest_formula(transplant->to, formula);
            break;
        case FORMULA_PRIMITIVE:
            for (int a = 0; a < primitive_arguments(formula.primitive); a++)
                formula.arguments[a] = transplant_formula(transplant, formula.arguments[a]);
            result = transplant->failed ? 0 : nest_formula(transplant->to, formula);
            break;
        case FORMULA_CONSTANT:
            result = nest_formula(transplant->to, formula);
            break;
    }
    if (transplant->failed) return 0;
    return transplant->map[id] = result;
}

Nest *nest_without_stages(const Nest *nest, const Launch *from_launch, const bool *dropped, Launch *launch) {
    bool keep[STAGE_LIMIT];
    for (int i = nest->stage_count - 1; i >= 0; i--) {  // a reduction stays where a later kept stage uses it
        keep[i] = stage_writes(&nest->stages[i]) && !dropped[i];
        for (size_t f = 0; f < nest->formulas.count && !keep[i]; f++) {
            const Formula *formula = &nest->formulas.items[f];
            if (formula->kind != FORMULA_STAGE || formula->stage != (uint32_t)i) continue;
            uint32_t users = nest_formula_users(nest, (uint32_t)f);
            for (int s = i + 1; s < nest->stage_count; s++) keep[i] |= keep[s] && (users >> s & 1);
        }
    }
    Nest *result = nest_create(nest->ir, nest->name, nest->place);
    *launch = *from_launch;
    launch->operand_count = 0;
    Transplant transplant = transplant_begin(nest, from_launch, result, launch);
    uint32_t used = nest_outer_mask(nest);
    for (int i = 0; i < nest->stage_count; i++) used |= keep[i] ? nest->stages[i].inner : 0;
    for (int i = 0; i < nest->loop_count; i++)
        if (used >> i & 1) transplant_loop(&transplant, i);
    result->outer_count = nest->outer_count;
    for (int i = 0; i < nest->stage_count; i++) {
        if (!keep[i]) continue;
        Stage stage = nest->stages[i];
        stage.inner = transplant_mask(&transplant, stage.inner);
        stage.formula = transplant_formula(&transplant, stage.formula);
        transplant_write(&transplant, &stage);
        transplant.stage[i] = (uint32_t)result->stage_count;
        result->stages[result->stage_count++] = stage;
    }
    CHECK(!transplant.failed);
    nest_compact(result);
    nest_mark_parallel(result);
    return result;
}
