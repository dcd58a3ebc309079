// What kernels will do, told by the same plans that their code is generated from.
#include <string.h>

#include "codegen/cpu_attention.h"
#include "codegen/cpu_llvm.h"
#include "codegen/cpu_plan.h"

// Of one score and its weight: scale, mask, maximum, difference, power, sum.
static const double SCORE_INSTRUCTIONS = 20;

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// Of the loops that tasks iterate: those that move `load`, or all.
static double outer_product(const CpuContraction *plan, uint32_t load) {
    double product = 1;
    for (int i = 0; i < plan->outer_count; i++)
        if (load == FORMULA_NONE || access_stride(cpu_contraction_index(plan, load), plan->outer[i]))
            product *= (double)plan->nest->loops[plan->outer[i]].dimension.extent;
    return product;
}

static CpuWork contraction_work(Arena *arena, const CpuTarget *target, const Kernel *kernel, const Nest *nest) {
    Contraction contraction;
    CHECK(nest_contraction(kernel->nest, &contraction));
    CpuContraction plan = cpu_contraction_plan(target, nest, contraction.load_a, contraction.load_b);
    double outer = outer_product(&plan, FORMULA_NONE), depth = (double)plan.depth, vectors = (double)plan.vectors;
    double rows = (double)round_up(plan.rows, plan.tile.rows);
    CpuWork work = {.multiplies = outer * rows * vectors * depth,
                    .tasks = (int64_t)outer * plan.row_blocks * plan.panel_groups,
                    .phases = 1 + !plan.private_a + !plan.private_b};
    work.instructions = outer * (double)plan.rows * vectors * cpu_stage_instructions(arena, target, nest, plan.column);
    if (cpu_contract_sweeps(&plan, target)) {
        work.multiplies = outer * (double)plan.rows * vectors * depth;
        work.tasks = cpu_contract_sweep_tasks(&plan);
        work.phases = 1;
        return work;
    }
    if (plan.tile.a == TILE_PANEL) work.packed_bytes += 4 * depth * rows * outer_product(&plan, plan.load_a);
    if (plan.tile.b == TILE_PANEL || plan.tile.keeps)
        work.packed_bytes += 4 * depth * vectors * target->lanes * outer_product(&plan, plan.load_b);
    return work;
}

// Scores that are computed: of whole blocks of queries, with whole tiles of the keys that one of them sees.
static double computed_pairs(const CpuAttention *plan) {
    double pairs = 0;
    for (int64_t query = 0; query < plan->time; query += plan->queries) {
        int64_t first = plan->past - plan->time + query, end = plan->causal ? first + plan->queries : plan->past;
        if (end > plan->past) end = plan->past;
        int64_t begin = plan->window && first >= plan->window ? first - plan->window + 1 : 0;
        pairs += (double)plan->queries * (double)round_up(end - begin / plan->key_block * plan->key_block, plan->rows);
    }
    return pairs * (double)plan->units * (double)plan->group_total;
}

// Forward two products, backward five: of keys and of features.
static CpuWork attention_work(Arena *arena, const CpuTarget *target, const NamedKernel *named) {
    bool gradient = strcmp(named->name, "attention_gradient") == 0;
    CpuUnit unit = {.arena = arena, .target = target};
    CpuAttention plan;
    if (!cpu_attention_plan(&unit, named, gradient ? ATTENTION_GRADIENT_INPUTS : ATTENTION_INPUTS, &plan))
        return (CpuWork){.tasks = 1, .phases = 1};
    double vectors = computed_pairs(&plan) / target->lanes, step = (double)cpu_attention_step(&plan);
    double keys = (double)plan.keys / step, features = (double)plan.features / step;
    return (CpuWork){.multiplies = vectors * (gradient ? 3 * keys + 2 * features : keys + features),
                     .instructions = vectors * SCORE_INSTRUCTIONS,
                     .tasks = gradient ? plan.units : plan.units * cpu_attention_shares(&plan),
                     .phases = 1};
}

static CpuWork kernel_work(Arena *arena, const CpuTarget *target, const Kernel *kernel) {
    if (kernel->named) {
        if (strncmp(kernel->named->name, "attention", 9) == 0) return attention_work(arena, target, kernel->named);
        return (CpuWork){.tasks = 1, .phases = 1};  // others count by their bytes alone
    }
    const Nest *nest = normalise_nest(arena, kernel->nest);
    if (cpu_contract_supports(target, kernel->nest)) return contraction_work(arena, target, kernel, nest);
    CpuPlan plan = cpu_plan(arena, target, nest);
    return (CpuWork){.instructions = cpu_plan_instructions(arena, &plan), .tasks = plan.tasks, .phases = 1};
}

bool cpu_program_work(Ir *ir, const Program *program, const CpuOptions *options, CpuWork *works) {
    const CpuTarget *target = cpu_target_create(ir, options);
    if (!target) return false;
    for (size_t i = 0; i < program->kernels.count; i++)
        works[i] = kernel_work(ir->arena, target, &program->kernels.items[i]);
    return true;
}
