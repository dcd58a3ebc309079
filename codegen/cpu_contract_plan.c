// The plan of a contraction: which loop is row, column and k, and how they are cut into panels, blocks and
// tasks. Everything is decided from extents alone, never from the number of threads.
#include "codegen/cpu_contract.h"

enum {
    ROW_BLOCK_BYTES = 1 << 20,    // of packed A in a task: stays in the second cache beside panels of B
    ROW_BLOCK_MIN = 64,
    ROW_BLOCK_MAX = 512,
    PART_DEPTH = 1024,            // steps of k from which on tasks take it in parts:
    PART_ROWS = 192, PART_COLUMNS = 384,  // of such a task, at most; fewer
    PART_ROWS_MIN = 64,           // rows where there would be fewer than TASKS_MIN of them,
    PART_COLUMNS_MIN = 64,        // then columns where there would be fewer
    PART_TASKS_MIN = 8,           // than this
    TASKS_MIN = 16,               // tasks wanted before rows are left in large blocks
    TASKS_MAX = 64,
    PANELS_TOGETHER = 4,          // of A that are packed at once
    SLAB_STEPS = 64,              // of k that are packed at once where neighbours of a panel are neighbours in memory,
    SLAB_STEPS_MIN = 16,          // fewer where there would be
    SLABS_MIN = 4,                // less than this
    PANELS_EVEN = 4,              // panels come in multiples of it where they alone are tasks
    DIRECT_PANELS = 4,            // of B, for which A is not worth packing: tiles read it as it lies,
    DIRECT_PANELS_ALONG = 16,     // along k, where they read whole lines
    NEAR_BYTES = 10 << 20,        // of both sides, that a third cache has
    FEW_ROWS = 128,               // of A, for which B is not worth packing where it lies near
    FEW_ROWS_PANELS = 8,          // of B, for which so few rows are not: a phase that packs them is mostly its barrier
    ACROSS_STRIDE = 128,          // floats from one step of k to the next of B that tiles may walk again and again
    FIRST_CACHE_PAGE = 4096, FIRST_CACHE_WAYS = 8  // lines that are multiples of a page apart compete for so many ways
};
static const double TASK_FLOPS = 1e6;  // a task below this costs more to start than it balances
static const double READ_FLOPS = 32;   // done in the time that one element of B takes to come from memory

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

static int64_t extent_of(const Nest *nest, int loop) {
    return loop < 0 ? 1 : nest->loops[loop].dimension.extent;
}

static int64_t stride_of(const CpuContraction *plan, uint32_t load, int loop) {
    return loop < 0 ? 0 : access_stride(cpu_contraction_index(plan, load), loop);
}

// The stage that writes most plainly: its stride decides which operand is the column side.
static int64_t result_stride(const Nest *nest, int loop) { return access_stride(nest->stages[1].index, loop); }

// The loop of `mask` that suits best: unit stride in the result and wide, else the widest.
static int choose_loop(const Nest *nest, uint32_t mask, bool unit_first) {
    int best = -1;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        if (!(mask >> loop & 1)) continue;
        if (unit_first && result_stride(nest, loop) == 1 && extent_of(nest, loop) >= 8) return loop;
        if (best < 0 || extent_of(nest, loop) >= extent_of(nest, best)) best = loop;
    }
    return best;
}

static bool has_unit_result(const Nest *nest, uint32_t mask) {
    for (int loop = 0; loop < nest->loop_count; loop++)
        if ((mask >> loop & 1) && result_stride(nest, loop) == 1) return true;
    return false;
}

// Fills the loops by their part. `moves`: loops that move the address of a load.
static void choose_loops(CpuContraction *plan) {
    const Nest *nest = plan->nest;
    uint32_t outer = (1u << nest->outer_count) - 1, moves_a = 0, moves_b = 0;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        if (stride_of(plan, plan->load_a, loop)) moves_a |= 1u << loop;
        if (stride_of(plan, plan->load_b, loop)) moves_b |= 1u << loop;
    }
    uint32_t rows = moves_a & ~moves_b & outer, columns = moves_b & ~moves_a & outer;
    bool swap = !columns || (rows && has_unit_result(nest, rows) && !has_unit_result(nest, columns));
    if (swap) {
        uint32_t load = plan->load_a, mask = rows;
        bool narrow = plan->narrow_a;
        plan->narrow_a = plan->narrow_b;
        plan->narrow_b = narrow;
        plan->load_a = plan->load_b;
        plan->load_b = load;
        rows = columns;
        columns = mask;
        moves_a = moves_b;
    }
    plan->row = choose_loop(nest, rows, false);
    plan->column = choose_loop(nest, columns, true);
    plan->k = -1;
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++)
        if (nest->stages[0].inner >> loop & 1) plan->k = loop;  // the last: k ascends in the nest's order
    for (int only_b = 0; only_b < 2; only_b++) {
        for (int loop = 0; loop < nest->outer_count; loop++)
            if (loop != plan->row && loop != plan->column && (moves_a >> loop & 1) == !only_b)
                plan->outer[plan->outer_count++] = (uint8_t)loop;
        if (!only_b) plan->outer_a_count = plan->outer_count;
    }
    for (int loop = nest->outer_count; loop < nest->loop_count; loop++)
        if ((nest->stages[0].inner >> loop & 1) && loop != plan->k) plan->segments[plan->segment_count++] = (uint8_t)loop;
}

// Whether there are too few panels to share them out unevenly, and rows are not cut either.
static bool panels_are_tasks(const CpuContraction *plan) {
    int64_t panels = plan->panels;
    for (int i = 0; i < plan->outer_count; i++) panels *= extent_of(plan->nest, plan->outer[i]);
    return panels < 2 * TASKS_MIN && 2 * plan->rows > ROW_BLOCK_MIN && plan->rows < 2 * ROW_BLOCK_MIN;
}

// Columns in so many panels, the last few one vector narrower, so that none is mostly empty.
static void share_columns(CpuContraction *plan, int64_t panels) {
    plan->panels = panels;
    int wide = plan->tile.vectors = (int)divide_up(plan->vectors, panels);
    plan->narrow = wide > 1 ? wide - 1 : 1;
    plan->wide_panels = panels - (panels * wide - plan->vectors);
}

// In panels of `tile.vectors` vectors.
static void choose_panels(CpuContraction *plan, const CpuTarget *target) {
    plan->vectors = divide_up(plan->columns, target->lanes);
    plan->panels = divide_up(plan->vectors, plan->tile.vectors);
    int64_t even = round_up(plan->panels, PANELS_EVEN);
    share_columns(plan, panels_are_tasks(plan) && 2 * even <= plan->vectors ? even : plan->panels);
}

static bool is_static(const CpuContraction *plan, int loop) {
    return loop < 0 || plan->nest->loops[loop].bound_operand == UINT32_MAX;
}

// Tasks by what they have in common: those of the outer loops that move A, those that move only B, and how often
// each part of B is taken, by blocks of rows and by outer loops that do not move it.
typedef struct Cut {
    int64_t outer_a, outer_b, uses_b;
} Cut;

// Whether tiles would read A where it lies, in a cache.
static bool lies_near(const CpuContraction *plan) {
    bool plain = plan->panel_a == PANEL_F32 && plan->element_a == ELEMENT_F32;
    return plain && plan->panels <= DIRECT_PANELS && 4 * plan->depth * (plan->rows + plan->columns) <= NEAR_BYTES;
}

// Where k is long, a task takes it in parts, if neighbours of a step are neighbours in memory: it packs its rows of one,
// multiplies them by all its columns, and goes on to the next. No phase writes all of A and B for others to read again,
// and what a task reads several times stays in the second cache.
static void choose_depth(CpuContraction *plan) {
    bool lies = plan->pack_a == PACK_UNIT && plan->pack_b == PACK_UNIT && plan->whole_columns && !plan->segment_count;
    bool whole_pairs = plan->panel_a != PANEL_PAIRS || extent_of(plan->nest, plan->k) % 2 == 0;
    bool is_long = plan->depth >= PART_DEPTH && plan->rows >= PART_ROWS_MIN && is_static(plan, plan->k);
    plan->packed_depth = lies && whole_pairs && is_long && !lies_near(plan) ? CONTRACTION_DEPTH_BLOCK : plan->depth;
}

// In about square blocks, for which little of A and B is read: as many as several threads want, even if they are smaller.
static void cut_parts(CpuContraction *plan, const CpuTarget *target, int64_t tasks) {
    int64_t columns = plan->vectors * target->lanes;
    int64_t blocks = divide_up(plan->rows, PART_ROWS), groups = divide_up(columns, PART_COLUMNS);
    while (tasks * blocks * groups < TASKS_MIN && plan->rows >= 2 * blocks * PART_ROWS_MIN) blocks *= 2;
    while (tasks * blocks * groups < PART_TASKS_MIN && columns >= 2 * groups * PART_COLUMNS_MIN) groups *= 2;
    if (plan->panels < 2 * groups) share_columns(plan, round_up(plan->panels, groups));
    plan->row_block = round_up(divide_up(plan->rows, blocks), plan->tile.rows);
    plan->panel_group = divide_up(plan->panels, groups);
}

static void cut_block(CpuContraction *plan, int64_t tasks) {
    int64_t limit = ROW_BLOCK_BYTES / (4 * plan->depth), blocks = 1;
    if (limit < ROW_BLOCK_MIN) limit = ROW_BLOCK_MIN;
    if (limit > ROW_BLOCK_MAX) limit = ROW_BLOCK_MAX;
    while (divide_up(plan->rows, blocks) > limit) blocks *= 2;
    if (tasks * plan->panels < 2 * TASKS_MIN)
        while (tasks * blocks < TASKS_MIN && plan->rows / (2 * blocks) >= ROW_BLOCK_MIN) blocks *= 2;
    plan->row_block = round_up(divide_up(plan->rows, blocks), plan->tile.rows);
}

static Cut cut_rows(CpuContraction *plan, const CpuTarget *target) {
    Cut cut = {1, 1, 1};
    for (int i = 0; i < plan->outer_count; i++) {
        int64_t extent = extent_of(plan->nest, plan->outer[i]);
        *(i < plan->outer_a_count ? &cut.outer_a : &cut.outer_b) *= extent;
        if (!stride_of(plan, plan->load_b, plan->outer[i])) cut.uses_b *= extent;
    }
    if (cpu_contraction_in_parts(plan)) cut_parts(plan, target, cut.outer_a * cut.outer_b);
    else cut_block(plan, cut.outer_a * cut.outer_b);
    plan->row_blocks = divide_up(plan->rows, plan->row_block);
    cut.uses_b *= plan->row_blocks;
    return cut;
}

// Which operands are worth packing: each element of A is used by all panels of B, each of B by all panels of A.
// Tiles that would reach beyond the last row want panels, and those that would read little of lines a page apart, again
// and again: they keep one another out of the first cache. One row along k is its own panel.
static void choose_side_a(CpuContraction *plan) {
    int64_t direct_panels = plan->pack_a == PACK_TRANSPOSE ? DIRECT_PANELS_ALONG
                            : plan->rows <= FEW_ROWS       ? FEW_ROWS_PANELS
                                                           : DIRECT_PANELS;
    bool apart = plan->tile.b == TILE_ALONG_K && plan->tile.near_columns < CPU_NEAR_COLUMNS;
    bool competes = apart && plan->rows <= FEW_ROWS;
    if ((plan->panels > direct_panels || competes) && plan->rows > 1) return;
    bool whole_rows = plan->rows % plan->tile.rows == 0 && is_static(plan, plan->row);
    bool plain = plan->panel_a == PANEL_F32 && plan->element_a == ELEMENT_F32;  // as the tile takes it
    bool pairs = plan->panel_a == PANEL_PAIRS && plan->element_a == ELEMENT_BF16;
    if (plan->pack_a == PACK_TRANSPOSE && (plain || pairs)) plan->tile.a = TILE_ALONG_K;
    int64_t run = plan->tile.rows * element_bytes(plan->element_a);
    int64_t step = stride_of(plan, plan->load_a, plan->k) * element_bytes(plan->element_a);
    bool misses = plan->panels > 1 && step % FIRST_CACHE_PAGE == 0 && run < CPU_CACHE_LINE / 2;
    if (plan->pack_a == PACK_UNIT && whole_rows && plain && !misses) plan->tile.a = TILE_ACROSS_K;
}

// How many columns along k have a line each in the first cache at the same time: few where they are a multiple of a
// large power of two apart.
static int near_columns(const CpuContraction *plan) {
    int64_t stride = stride_of(plan, plan->load_b, plan->column) * element_bytes(plan->element_b);
    int64_t apart = stride ? stride & -stride : 1;
    if (apart > FIRST_CACHE_PAGE) apart = FIRST_CACHE_PAGE;
    int64_t columns = FIRST_CACHE_PAGE / apart * FIRST_CACHE_WAYS;
    return columns < CPU_NEAR_COLUMNS ? (int)columns : CPU_NEAR_COLUMNS;
}

// A part of B that one task alone takes is not worth a phase: the task's first tile reads it as it lies, and keeps
// it as a panel where other tiles follow. What each tile reads again must not lie in steps of many lines: they fall into
// few places of the first cache.
static void choose_side_b(CpuContraction *plan, const CpuTarget *target, const Cut *cut) {
    CpuTile *tile = &plan->tile;
    bool one_tile = plan->rows <= tile->rows, one_task = cut->uses_b == 1;
    if (plan->panels == 1 && !plan->whole_columns) return;
    if (plan->pack_b == PACK_UNIT) {
        bool plain = plan->panel_b == PANEL_F32 && plan->element_b == ELEMENT_F32 && plan->whole_columns;
        bool near = stride_of(plan, plan->load_b, plan->k) <= ACROSS_STRIDE && plan->rows <= FEW_ROWS && plain;
        if (one_task || near || (one_tile && plan->whole_columns)) tile->b = TILE_ACROSS_K;
        tile->once = tile->b == TILE_ACROSS_K && !near;
    } else if (plan->pack_b == PACK_TRANSPOSE && one_task) {
        bool whole_turns = plan->segment_depth % target->lanes == 0 && is_static(plan, plan->k);
        if (whole_turns) tile->b = TILE_ALONG_K;
        if (whole_turns) tile->near_columns = near_columns(plan);
        tile->once = whole_turns;
    }
    tile->keeps = tile->once && !one_tile;
    // Where rows of B follow one another the machine looks ahead by itself, further than it can be asked to, if a tile
    // reads whole rows, or, with no other tile behind it, every other line.
    bool in_order = stride_of(plan, plan->load_b, plan->k) == plan->columns;
    bool two_lines = plan->columns * element_bytes(plan->element_b) <= 2 * CPU_CACHE_LINE;
    if (tile->b == TILE_ACROSS_K && in_order && (plan->panels == 1 || (one_tile && two_lines))) tile->once = false;
}

// In parts a task packs A, and of each panel of B the first tile leaves one for the others.
static void choose_sides(CpuContraction *plan, const CpuTarget *target, const Cut *cut) {
    if (cpu_contraction_in_parts(plan)) {
        plan->tile.b = TILE_ACROSS_K;
        plan->tile.once = plan->tile.keeps = true;
        return;
    }
    bool whole_pairs = extent_of(plan->nest, plan->k) % 2 == 0 && is_static(plan, plan->k);
    if (plan->segment_count || (plan->panel_a == PANEL_PAIRS && !whole_pairs)) return;
    choose_side_b(plan, target, cut);
    choose_side_a(plan);
}

static int64_t group_of_panels(const CpuContraction *plan, int64_t tasks) {
    int64_t group = plan->panels;
    double step_flops = plan->panel_b == PANEL_PAIRS ? 4.0 : 2.0;
    double panel_flops = (step_flops * (double)plan->row_block + READ_FLOPS) * (double)plan->columns *
                         (double)plan->depth / (double)plan->panels;
    while (group > 1 && tasks * divide_up(plan->panels, group) < TASKS_MAX &&
           panel_flops * (double)group > 2 * TASK_FLOPS)
        group = divide_up(group, 2);
    return group;
}

static void choose_tasks(CpuContraction *plan, const Cut *cut) {
    bool in_parts = cpu_contraction_in_parts(plan);
    if (!in_parts) plan->panel_group = group_of_panels(plan, cut->outer_a * cut->outer_b * plan->row_blocks);
    plan->panel_groups = divide_up(plan->panels, plan->panel_group);
    plan->private_a = plan->panel_groups * cut->outer_b == 1 || plan->tile.a != TILE_PANEL || in_parts;
    plan->optional_a = !plan->private_a && plan->row_blocks * cut->outer_a >= TASKS_MIN;
    plan->private_b = cut->uses_b == 1 || plan->tile.b != TILE_PANEL;
    plan->pack_rows = plan->tile.rows * PANELS_TOGETHER;
    int64_t slab = round_up(divide_up(plan->depth, SLABS_MIN), SLAB_STEPS_MIN);
    if (slab > SLAB_STEPS) slab = SLAB_STEPS;
    if (!plan->segment_count && plan->pack_a == PACK_UNIT) plan->slab_a = slab;
    if (!plan->segment_count && plan->pack_b == PACK_UNIT) plan->slab_b = slab;
}

// Whether the result is stage 0 as it is, in memory that a tile can be written or added to.
static bool stores_plainly(const CpuContraction *plan) {
    const Nest *nest = plan->nest;
    const Stage *store = &nest->stages[1];
    const NestOperand *operand = &nest->operands[store->operand];
    bool writes = store->kind == STAGE_STORE || store->kind == STAGE_ADD;
    if (nest->stage_count != 2 || !writes || operand->element != ELEMENT_F32) return false;
    if (nest->formulas.items[store->formula].kind != FORMULA_STAGE) return false;
    for (int d = 0; d < operand->rank; d++)
        if (store->index[d].gathered != FORMULA_NONE) return false;
    return plan->column >= 0 && result_stride(nest, plan->column) == 1;
}

// Whether a factor of the sum is a bf16 number, in memory or by a cast.
static bool is_narrow(const Nest *nest, uint32_t argument) {
    const Formula *product = &nest->formulas.items[nest->stages[0].formula];
    const Formula *factor = &nest->formulas.items[product->arguments[argument]];
    while (factor->kind == FORMULA_PRIMITIVE && factor->element != ELEMENT_BF16)
        factor = &nest->formulas.items[factor->arguments[0]];
    return factor->element == ELEMENT_BF16;
}

// Pairs where both sides are bf16 numbers, whatever the extents: a sum keeps its bits when they change.
static void choose_numbers(CpuContraction *plan, const CpuTarget *target) {
    bool pairs = target->bf16_dot && plan->narrow_a && plan->narrow_b;
    plan->panel_a = pairs ? PANEL_PAIRS : plan->narrow_a && plan->element_a == ELEMENT_F32 ? PANEL_ROUNDED : PANEL_F32;
    plan->panel_b = pairs ? PANEL_PAIRS : plan->narrow_b && plan->element_b == ELEMENT_F32 ? PANEL_ROUNDED : PANEL_F32;
    int64_t k = extent_of(plan->nest, plan->k);
    plan->segment_depth = plan->depth = pairs ? divide_up(k, 2) : k;
    for (int i = 0; i < plan->segment_count; i++) plan->depth *= extent_of(plan->nest, plan->segments[i]);
}

// A tall tile reads B in short runs. A step of pairs takes two of its rows: where those are pages apart so many lines
// are on their way to few places of the first cache that longer runs, for two tiles, take less time.
static void choose_tile(CpuContraction *plan, const CpuTarget *target) {
    int64_t apart = stride_of(plan, plan->load_b, plan->k) * element_bytes(plan->element_b);
    bool pages = plan->panel_b == PANEL_PAIRS && plan->pack_b == PACK_UNIT && apart % FIRST_CACHE_PAGE == 0;
    plan->tile = cpu_tile_shape(target, plan->rows, !pages);
    plan->tile.panel = plan->panel_b;
    plan->tile.element_b = plan->element_b;
    plan->tile.pages_apart = pages;
}

CpuContraction cpu_contraction_plan(const CpuTarget *target, const Nest *normalised, uint32_t load_a,
                                    uint32_t load_b) {
    CpuContraction plan = {.nest = normalised, .load_a = load_a, .load_b = load_b};
    plan.narrow_a = is_narrow(normalised, 0);
    plan.narrow_b = is_narrow(normalised, 1);
    choose_loops(&plan);
    plan.rows = extent_of(normalised, plan.row);
    plan.columns = extent_of(normalised, plan.column);
    const Formula *a = &normalised->formulas.items[plan.load_a], *b = &normalised->formulas.items[plan.load_b];
    plan.element_a = normalised->operands[a->operand].element;
    plan.element_b = normalised->operands[b->operand].element;
    plan.pack_a = cpu_pack_kind(stride_of(&plan, plan.load_a, plan.row), stride_of(&plan, plan.load_a, plan.k));
    plan.pack_b = cpu_pack_kind(stride_of(&plan, plan.load_b, plan.column), stride_of(&plan, plan.load_b, plan.k));
    choose_numbers(&plan, target);
    choose_tile(&plan, target);
    choose_panels(&plan, target);
    plan.whole_columns = plan.columns % target->lanes == 0 && is_static(&plan, plan.column);
    choose_depth(&plan);
    Cut cut = cut_rows(&plan, target);
    choose_sides(&plan, target, &cut);
    choose_tasks(&plan, &cut);
    plan.direct = stores_plainly(&plan);
    plan.adds = plan.direct && normalised->stages[1].kind == STAGE_ADD;
    return plan;
}
