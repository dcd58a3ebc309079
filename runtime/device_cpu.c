// The CPU device: runs a program as a list of phases, each shared out over the threads (task_share.h). Who runs a task
// changes no bit.
//
// Threads meet only where they must. Phases that touch disjoint memory follow each other without a
// barrier: such a run of phases is called an epoch. A chain of one-task phases stays on one thread and
// needs no barrier either, whatever its phases touch of each other.
#include <string.h>

#include "runtime/executor_calls.h"
#include "runtime/task_share.h"

// Bytes [low, high) that a phase touches. Views with holes are taken whole: that costs a barrier, never
// correctness.
typedef struct Range {
    uintptr_t low, high;
    bool writes;
} Range;

typedef struct Phase {
    TaskPhase work;
    uint32_t launch;
    int first_thread;  // of fewer tasks than threads the one that gets the first: spreads such phases over the threads
    bool barrier_before;
} Phase;

typedef struct CpuExecutor {
    Executor base;
    Arena *arena;          // of the tables
    const Program *program;
    State *state;
    ThreadPool *pool;
    int threads;
    MemoryBlock exchange;  // inputs and outputs
    char **addresses;      // of each of the program's buffers
    Phase *phases;
    uint32_t runs;
    double *seconds;       // executor_run_timed
} CpuExecutor;

// ---- Addresses ----

static int64_t align(int64_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) & ~(int64_t)(MEMORY_ALIGNMENT - 1);
}

static bool is_exchanged(const Buffer *buffer) {
    return buffer->kind == BUFFER_INPUT || buffer->kind == BUFFER_OUTPUT;
}

static char *state_address(const CpuExecutor *executor, const Buffer *buffer) {
    const StateBuffer *found = state_find(executor->state, buffer->name, buffer->role);
    if (!found || found->bytes != buffer->bytes)
        INTERNAL_ERROR("program %s was not in the list that its state was created from: %s %s",
                       executor->program->name, role_name(buffer->role), buffer->name);
    return found->data;
}

static bool resolve_buffers(Diagnostics *diagnostics, CpuExecutor *executor) {
    const Program *program = executor->program;
    int64_t bytes = 0;
    for (size_t i = 0; i < program->buffers.count; i++)
        if (is_exchanged(&program->buffers.items[i])) bytes += align(program->buffers.items[i].bytes);
    if (!memory_allocate(diagnostics, bytes, "inputs and outputs", &executor->exchange)) return false;
    CHECK(program->arena_bytes <= state_arena_bytes(executor->state));

    executor->addresses = ARENA_ARRAY(executor->arena, char *, program->buffers.count);
    int64_t offset = 0;
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_STATE) {
            executor->addresses[i] = state_address(executor, buffer);
        } else if (is_exchanged(buffer)) {
            executor->addresses[i] = executor->exchange.data + offset;
            offset += align(buffer->bytes);
        } else if (buffer->offset >= 0) {
            CHECK(buffer->offset % MEMORY_ALIGNMENT == 0 && buffer->offset + buffer->bytes <= program->arena_bytes);
            executor->addresses[i] = state_arena(executor->state) + buffer->offset;
        }  // else: fusing left it without a use, and planning without a place
    }
    return true;
}

// ---- Phases ----

// Extents and strides of operand `index`, whatever kind of kernel it is.
static int operand_shape(const Kernel *kernel, int index, int64_t *extents, const int64_t **strides,
                         Element *element) {
    if (kernel->nest) {
        const NestOperand *operand = &kernel->nest->operands[index];
        memcpy(extents, operand->extent, sizeof operand->extent);
        *strides = operand->stride;
        *element = operand->element;
        return operand->rank;
    }
    const Type *type = kernel->named->types[index];
    for (int i = 0; i < type->rank; i++) extents[i] = type->dimensions[i].extent;
    *strides = kernel->named->strides[index];
    *element = type->element;
    return type->rank;
}

static bool operand_is_written(const Kernel *kernel, int index) {
    return kernel->nest ? kernel->nest->operands[index].writes : index >= kernel->named->output_start;
}

// The bytes that an operand can reach from its base address; strides may be negative.
static Range operand_range(const Kernel *kernel, int index, char *base, int64_t *bytes) {
    int64_t extents[RANK_MAX];
    const int64_t *strides;
    Element element;
    int rank = operand_shape(kernel, index, extents, &strides, &element);
    int64_t low = 0, high = 1;
    for (int i = 0; i < rank; i++) {
        int64_t reach = (extents[i] - 1) * strides[i];
        if (reach < 0) low += reach;
        else high += reach;
    }
    *bytes = element_bytes(element);
    return (Range){.low = (uintptr_t)(base + low * *bytes),
                   .high = (uintptr_t)(base + high * *bytes),
                   .writes = operand_is_written(kernel, index)};
}

static char **resolve_operands(CpuExecutor *executor, const Launch *launch, const Kernel *kernel, Range *ranges) {
    char **operands = ARENA_ARRAY(executor->arena, char *, launch->operand_count + 1);
    for (int i = 0; i < launch->operand_count; i++) {
        const Buffer *buffer = &executor->program->buffers.items[launch->buffers[i]];
        char *address = executor->addresses[launch->buffers[i]];
        if (!address) INTERNAL_ERROR("kernel %s uses a buffer without a place: %s", kernel->name, buffer->name);
        operands[i] = address + launch->offsets[i] * element_bytes(buffer->type->element);
        int64_t bytes;
        ranges[i] = operand_range(kernel, i, operands[i], &bytes);
        if (ranges[i].low < (uintptr_t)address || ranges[i].high > (uintptr_t)(address + buffer->bytes))
            INTERNAL_ERROR("kernel %s: operand %d reaches outside of buffer %s", kernel->name, i, buffer->name);
    }
    return operands;
}

// The epoch under construction: what its phases touch, and who runs the one-task phases.
typedef struct Epoch {
    VECTOR(Range) ranges;
    VECTOR(int) owners;     // of the phase that each range belongs to: a thread, or -1 for several
    int next_thread;
} Epoch;

enum { EPOCH_RANGE_LIMIT = 256 };  // bounds the time that planning takes

static bool ranges_conflict(Range a, Range b) {
    return (a.writes || b.writes) && a.low < b.high && b.low < a.high;
}

// Who must run a phase with these ranges: -1 anybody, a thread, or `several` when only a barrier helps.
static int find_owner(const Epoch *epoch, const Range *ranges, int range_count, int several) {
    int owner = -1;
    for (size_t i = 0; i < epoch->ranges.count; i++)
        for (int j = 0; j < range_count; j++) {
            if (!ranges_conflict(epoch->ranges.items[i], ranges[j])) continue;
            int runner = epoch->owners.items[i];
            if (runner < 0 || (owner >= 0 && owner != runner)) return several;
            owner = runner;
        }
    return owner;
}

// Decides barrier and threads of one phase, and adds it to the epoch (a new one after a barrier).
static void schedule(CpuExecutor *executor, Epoch *epoch, Phase *phase, const Range *ranges, int range_count) {
    int several = executor->threads;
    int owner = find_owner(epoch, ranges, range_count, several);
    bool full = epoch->ranges.count + (size_t)range_count > EPOCH_RANGE_LIMIT && epoch->ranges.count;
    // What one thread wrote, only that thread may touch without a barrier; several tasks never do.
    if (full || owner == several || (owner >= 0 && phase->work.tasks > 1)) {
        phase->barrier_before = true;
        executor->base.barrier_count++;
        epoch->ranges.count = epoch->owners.count = 0;
        epoch->next_thread = 0;
        owner = -1;
    }
    bool few = phase->work.tasks < executor->threads;
    phase->first_thread = owner >= 0 ? owner : few ? epoch->next_thread : 0;
    if (owner < 0 && few) epoch->next_thread = (int)((epoch->next_thread + phase->work.tasks) % executor->threads);
    for (int i = 0; i < range_count; i++) {
        vector_push(executor->arena, &epoch->ranges, ranges[i]);
        vector_push(executor->arena, &epoch->owners, phase->work.tasks == 1 ? phase->first_thread : -1);
    }
}

// A launch whose operand an earlier one has packed does not do it again, nor one that packs in its tasks.
static bool skips_phase(const Launch *launch, const CpuKernel *code, int phase) {
    if (phase >= code->pack_count) return false;
    return launch->packed[phase] || (code->pack_optional[phase] && launch->workspaces[phase] == UINT32_MAX);
}

static char **resolve_workspaces(CpuExecutor *executor, const Launch *launch, const CpuKernel *code, Range *ranges) {
    char **workspaces = ARENA_ARRAY(executor->arena, char *, WORKSPACE_MAX);
    for (int i = 0; i < WORKSPACE_MAX; i++) {
        ranges[i] = (Range){0};
        if (code->workspace_bytes[i] <= 0 || (code->pack_optional[i] && launch->workspaces[i] == UINT32_MAX)) continue;
        CHECK(launch->workspaces[i] != UINT32_MAX);
        CHECK(executor->program->buffers.items[launch->workspaces[i]].bytes >= code->workspace_bytes[i]);
        workspaces[i] = executor->addresses[launch->workspaces[i]];
        CHECK(workspaces[i]);
        ranges[i] = (Range){.low = (uintptr_t)workspaces[i],
                            .high = (uintptr_t)workspaces[i] + (uintptr_t)code->workspace_bytes[i],
                            .writes = i >= code->pack_count};
    }
    return workspaces;
}

static void plan_launch(CpuExecutor *executor, Epoch *epoch, uint32_t index) {
    const Launch *launch = &executor->program->launches.items[index];
    const Kernel *kernel = &executor->program->kernels.items[launch->kernel];
    const CpuKernel *compiled = &kernel->cpu;
    Range ranges[NEST_OPERAND_MAX + WORKSPACE_MAX];
    char **operands = resolve_operands(executor, launch, kernel, ranges);
    char **workspaces = resolve_workspaces(executor, launch, compiled, ranges + launch->operand_count);
    if (compiled->phase_count < 1) INTERNAL_ERROR("kernel %s is not compiled", kernel->name);
    for (int i = 0; i < compiled->phase_count; i++) {
        if (skips_phase(launch, compiled, i)) continue;
        CHECK(compiled->functions[i] && compiled->tasks[i] >= 0);
        Phase *phase = &executor->phases[executor->base.phase_count++];
        *phase = (Phase){.launch = index,
                         .work = {.function = compiled->functions[i], .operands = operands, .workspaces = workspaces,
                                  .tasks = compiled->tasks[i]}};
        if (task_phase_is_shared(&phase->work, executor->threads))
            phase->work.counters = ARENA_ARRAY(executor->arena, TaskCounter, executor->threads);
        if (i >= compiled->pack_count) {
            schedule(executor, epoch, phase, ranges, launch->operand_count + WORKSPACE_MAX);
        } else {
            Range packing[] = {ranges[compiled->packed_operand[i]], ranges[launch->operand_count + i]};
            packing[0].writes = false;
            packing[1].writes = true;
            schedule(executor, epoch, phase, packing, 2);
        }
    }
}

static bool plan_phases(Diagnostics *diagnostics, CpuExecutor *executor) {
    const Program *program = executor->program;
    int64_t phases = 0, scratch = 0;
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        const CpuKernel *compiled = &program->kernels.items[launch->kernel].cpu;
        for (int phase = 0; phase < compiled->phase_count; phase++) phases += !skips_phase(launch, compiled, phase);
        if (compiled->scratch_bytes > scratch) scratch = compiled->scratch_bytes;
    }
    if (!state_reserve_scratch(diagnostics, executor->state, executor->threads, MEMORY_ALIGNMENT + scratch)) return false;
    executor->phases = ARENA_ARRAY(executor->arena, Phase, phases + 1);
    Epoch epoch = {0};
    for (size_t i = 0; i < program->launches.count; i++) plan_launch(executor, &epoch, (uint32_t)i);
    CHECK(executor->base.phase_count == phases);
    return true;
}

static void destroy(Executor *base) {
    CpuExecutor *executor = (CpuExecutor *)base;
    memory_release(&executor->exchange);
    arena_destroy(executor->arena);
}

static char *find_address(const CpuExecutor *executor, const char *name, BufferKind kind) {
    for (size_t i = 0; i < executor->program->buffers.count; i++) {
        const Buffer *buffer = &executor->program->buffers.items[i];
        if (buffer->kind == kind && strcmp(buffer->name, name) == 0) return executor->addresses[i];
    }
    return NULL;
}

static void *input(Executor *executor, const char *name) {
    return find_address((CpuExecutor *)executor, name, BUFFER_INPUT);
}

static const void *output(Executor *executor, const char *name) {
    return find_address((CpuExecutor *)executor, name, BUFFER_OUTPUT);
}

static const void *scalar(Executor *executor, const char *name, int runs_ago) {
    CHECK(runs_ago == 0);
    return output(executor, name);
}

// ---- Running ----

static inline void run_share(const CpuExecutor *executor, const Phase *phase, int thread) {
    const TaskPhase *work = &phase->work;
    int rank = thread - phase->first_thread;
    if (rank < 0) rank += executor->threads;
    char *scratch = state_scratch(executor->state, thread) + MEMORY_ALIGNMENT;
    memset(scratch - SCRATCH_NOTE, 0xff, SCRATCH_NOTE);
    if (work->tasks >= executor->threads)
        task_share_run(work, rank, executor->threads, executor->runs, scratch);
    else if (rank < work->tasks)
        work->function(work->operands, work->workspaces, scratch, rank, rank + 1);
}

static void run_region(void *context, int thread) {
    const CpuExecutor *executor = context;
    for (int64_t i = 0; i < executor->base.phase_count; i++) {
        const Phase *phase = &executor->phases[i];
        if (phase->barrier_before) thread_pool_barrier(executor->pool, thread);
        run_share(executor, phase, thread);
    }
}

static void run(Executor *base) {
    CpuExecutor *executor = (CpuExecutor *)base;
    executor->runs++;
    thread_pool_run(executor->pool, run_region, executor);
}

static void run_timed_region(void *context, int thread) {
    CpuExecutor *executor = context;
    double before = clock_seconds();
    for (int64_t i = 0; i < executor->base.phase_count; i++) {
        const Phase *phase = &executor->phases[i];
        run_share(executor, phase, thread);
        thread_pool_barrier(executor->pool, thread);
        if (thread != 0) continue;
        double now = clock_seconds();
        executor->seconds[phase->launch] += now - before;
        before = now;
    }
}

static void run_timed(Executor *base, double *seconds_per_launch) {
    CpuExecutor *executor = (CpuExecutor *)base;
    executor->seconds = seconds_per_launch;
    executor->runs++;
    thread_pool_run(executor->pool, run_timed_region, executor);
}

Executor *executor_create_cpu(Diagnostics *diagnostics, const Program *program, State *state, ThreadPool *pool) {
    static const ExecutorCalls calls = {destroy, input, output, scalar, run, run_timed};
    Arena *arena = arena_create();
    CpuExecutor *executor = ARENA_NEW(arena, CpuExecutor);
    *executor = (CpuExecutor){.base = {.calls = &calls}, .arena = arena, .program = program, .state = state, .pool = pool,
                              .threads = thread_pool_count(pool)};
    if (resolve_buffers(diagnostics, executor) && plan_phases(diagnostics, executor)) return &executor->base;
    destroy(&executor->base);
    return NULL;
}
