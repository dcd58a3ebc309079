// Rows that stay in shared memory: what several loops of a block walk is read from memory once.
//
//   for (i ...) { x0 = load_pack<4>(&p0[i]); store_pack(&row0[i], x0); s0 += x0 * x0; }
//   for (i ...) { x1 = load_pack<4>(&row0[i]); put(p1[...], x1 * s0); }
//
// The rows that are under way on a GPU at once are more than its caches hold. The loops walk alike, so that a thread
// reads back what it stored itself, and no barrier is needed. Of a row that is too long the first part stays.
#include <string.h>

#include "codegen/cuda_plan.h"

enum {
    CACHED_BYTES = 64 << 10,  // of rows under way on a multiprocessor that its first cache holds
    RESIDENT = 2048,          // threads on a multiprocessor
    LONG_ROW = 72 << 10,      // bytes; longer ones have a block of 1024 threads and all shared memory
    LONG_TEAM = 1024,
    BLOCKS = 3,               // on a multiprocessor, of shorter rows
    FEW_BLOCKS = 2,           // where their rows stay whole then
    SPARE = 2 << 10           // what folds declare, and what the driver takes for a block
};

int64_t cuda_shared_limit(const char *architecture) {
    bool large = strcmp(architecture, "sm_80") == 0 || strcmp(architecture, "sm_87") == 0;
    if (large) return 163 << 10;
    bool small = strncmp(architecture, "sm_8", 4) == 0 || strncmp(architecture, "sm_12", 5) == 0;
    return small ? 99 << 10 : 227 << 10;
}

static bool walk_alike(const CudaGroup *a, const CudaGroup *b) {
    return a->vector == b->vector && a->order_count == b->order_count &&
           memcmp(a->order, b->order, sizeof *a->order * (size_t)a->order_count) == 0;
}

static uint32_t mask_of(const int *loops, int count) {
    uint32_t mask = 0;
    for (int i = 0; i < count; i++) mask |= 1u << loops[i];
    return mask;
}

// Whether a load walks a row of its own for each point, of memory that the nest only reads.
static bool is_row(const CudaPlan *plan, const CudaGroup *group, const Formula *load) {
    const NestOperand *operand = &plan->nest->operands[load->operand];
    uint32_t loops = affine_loops(&load->index[0].affine);
    for (int d = 1; d < operand->rank; d++)
        if (load->index[d].gathered != FORMULA_NONE) loops |= plan->analysis->loops[load->index[d].gathered];
    return !operand->writes && !access_may_miss(load) && (loops & group->inner) &&
           (loops & mask_of(plan->spread, plan->spread_count));
}

static bool loads_place(const CudaUnit *unit, const Nest *nest, const CudaGroup *group, const Formula *load) {
    bool *used = ARENA_ARRAY(unit->arena, bool, nest->formulas.count + 1);
    cuda_mark_used(nest, group->first, group->count, used);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *other = &nest->formulas.items[i];
        if (used[i] && other->kind == FORMULA_LOAD && other->operand == load->operand &&
            cuda_same_place(nest, load->operand, other->index, load->index))
            return true;
    }
    return false;
}

// The row of a load that group `number` and others behind it walk alike; false: there is none.
static bool find_users(const CudaUnit *unit, const CudaPlan *plan, int number, const Formula *load, CudaRow *row) {
    const CudaGroup *first = &plan->groups[number];
    *row = (CudaRow){.operand = load->operand, .index = load->index, .first = first->first};
    for (int g = number; g < plan->group_count; g++) {
        const CudaGroup *group = &plan->groups[g];
        if (!group->serial && walk_alike(first, group) && loads_place(unit, plan->nest, group, load))
            row->users |= 1u << group->first;
    }
    return (row->users & (row->users - 1)) != 0;
}

const CudaRow *cuda_find_row(const CudaPlan *plan, const Formula *load, int first) {
    for (int i = 0; plan && i < plan->row_count; i++) {
        const CudaRow *row = &plan->rows[i];
        if (row->operand == load->operand && (row->users >> first & 1) &&
            cuda_same_place(plan->nest, row->operand, row->index, load->index))
            return row;
    }
    return NULL;
}

// The first group of which rows are walked again has its rows kept, and those of groups that walk as it does.
static const CudaGroup *find_rows(const CudaUnit *unit, CudaPlan *plan) {
    const Nest *nest = plan->nest;
    const CudaGroup *walked = NULL;
    for (int g = 0; g < plan->group_count; g++) {
        const CudaGroup *group = &plan->groups[g];
        if (!group->inner || group->serial || (walked && !walk_alike(walked, group))) continue;
        for (size_t i = 0; i < nest->formulas.count && plan->row_count < CUDA_ROWS_MOST; i++) {
            const Formula *load = &nest->formulas.items[i];
            CudaRow row;
            if (load->kind != FORMULA_LOAD || !is_row(plan, group, load) ||
                !loads_place(unit, nest, group, load) || cuda_find_row(plan, load, group->first) ||
                !find_users(unit, plan, g, load, &row))
                continue;
            plan->rows[plan->row_count++] = row;
            walked = group;
        }
    }
    return walked;
}

static int row_width(const CudaPlan *plan, int row) {
    return element_bytes(plan->nest->operands[plan->rows[row].operand].element);
}

void cuda_choose_rows(const CudaUnit *unit, CudaPlan *plan) {
    if (plan->shape != CUDA_ROWS || plan->splits > 1 || plan->sequential_count) return;
    const CudaGroup *walked = find_rows(unit, plan);
    if (!walked) return;
    int64_t length = cuda_points(plan->nest, walked->inner), width = 0;
    for (int i = 0; i < plan->row_count; i++) width += row_width(plan, i);
    if (RESIDENT / plan->team * length * width <= CACHED_BYTES) {
        plan->row_count = 0;
        return;
    }
    int64_t limit = cuda_shared_limit(unit->architecture), room = limit / BLOCKS - SPARE;
    int64_t large_room = limit / FEW_BLOCKS - SPARE, wanted = plan->width * cuda_divide_up(length, 16) * 16 * width;
    if (wanted > room && wanted <= large_room) room = large_room;
    if (plan->width == 1 && length * width > LONG_ROW) {
        plan->team = LONG_TEAM;
        room = limit - 2 * SPARE;
    }
    int64_t step = (int64_t)plan->team * walked->vector, most = room / plan->width / width / step * step;
    plan->kept = length < most ? cuda_divide_up(length, 16) * 16 : most;  // whole pieces of 16 bytes
    plan->keeps_all = length <= plan->kept;
    for (int i = 0; i < plan->row_count; i++) {
        plan->rows[i].at = plan->row_bytes;
        plan->row_bytes += plan->width * plan->kept * row_width(plan, i);
    }
}

void cuda_declare_rows(CudaUnit *unit, const CudaPlan *plan, const char *row) {
    for (int i = 0; i < plan->row_count; i++) {
        const char *type = cuda_memory_type(plan->nest->operands[plan->rows[i].operand].element);
        cuda_line(unit, "%s *row%d = (%s *)(shared_memory + %lld) + %s * %lld;", type, i, type,
                  (long long)plan->rows[i].at, row, (long long)plan->kept);
    }
}

void cuda_load_row(CudaUnit *unit, const CudaRow *row, bool fills, int vector, const char *from, int number) {
    const CudaPlan *plan = unit->rows;
    int r = (int)(row - plan->rows);
    const char *inside = plan->keeps_all ? "" : cuda_text(unit, "i < %lld", (long long)plan->kept);
    if (fills) {
        cuda_line(unit, "const auto x%d = load_pack<%d>(&%s);", number, vector, from);
        cuda_line(unit, "%s%s%sstore_pack(&row%d[i], x%d);", *inside ? "if (" : "", inside, *inside ? ") " : "", r,
                  number);
    } else if (plan->keeps_all) {
        cuda_line(unit, "const auto x%d = load_pack<%d>(&row%d[i]);", number, vector, r);
    } else {
        cuda_line(unit, "const auto x%d = load_pack<%d>(%s ? &row%d[i] : &%s);", number, vector, inside, r, from);
    }
}
