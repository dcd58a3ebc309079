// Launches side by side as one kernel: the update of all parameters, queries beside keys and values.
//
//   launch 7: k_a<<<96, 256>>>(x, y)      -> g_a_and_1<<<136, 256>>>(x, y, z, w):
//   launch 8: k_b<<<40, 256>>>(z, w)         blocks below 96 are k_a's, the others k_b's
//
// Members touch nothing that another member writes, and have as many phases, each with blocks of one size;
// what a block computes does not change. A launch joins from a few launches behind where nothing between
// keeps it there and what it leaves for later is small: earlier, it would hold memory. One that leaves nothing
// but state that is not touched again (the gradients of norms' scales) first waits for others that do. Memory is
// planned for the members as for one launch (passes/plan_memory.c).
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda_emit.h"

enum {
    MEMBERS_MOST = 32,
    PARAMETERS_MOST = 500,  // pointers: a kernel takes 4 KB of parameters
    REACH = 24,             // launches that one may be moved over
    MOVED_MOST = 1 << 16,   // bytes that a moved launch writes for later
    WAITING_MOST = 1 << 25, // bytes of temporaries that one that waits reads
    HELD_MOST = 1 << 28     // and those that do together
};

static const CudaKernel *code_of(const Program *program, uint32_t launch) {
    return &program->kernels.items[program->launches.items[launch].kernel].cuda;
}

static int64_t phase_blocks(const CudaPhase *phase) { return phase->grid[0] * phase->grid[1]; }

static bool may_join(const Program *program, uint32_t launch) {
    const CudaKernel *code = code_of(program, launch);
    bool good = code->joins && code->phase_count > 0;
    for (int p = 0; p < code->phase_count; p++) good &= phase_blocks(&code->phases[p]) > 0;
    return good;
}

// What an operand of a launch reaches in its buffer, both ends included.
typedef struct Span {
    int64_t low, high;
} Span;

static Span span_of(const Program *program, const Launch *launch, int number) {
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    const NestOperand *operand = kernel->nest ? &kernel->nest->operands[number] : NULL;
    const Type *type = operand ? NULL : kernel->named->types[number];
    Span span = {launch->offsets[number], launch->offsets[number]};
    for (int d = 0; d < (operand ? operand->rank : type->rank); d++) {
        int64_t extent = operand ? operand->extent[d] : type->dimensions[d].extent;
        int64_t stride = operand ? operand->stride[d] : kernel->named->strides[number][d];
        *(stride < 0 ? &span.low : &span.high) += (extent - 1) * stride;
    }
    return span;
}

static bool overlap(const Program *program, const Launch *a, int i, const Launch *b, int j) {
    if (a->buffers[i] != b->buffers[j]) return false;
    Span x = span_of(program, a, i), y = span_of(program, b, j);
    return x.low <= y.high && y.low <= x.high;
}

// Whether one of them writes what the other touches.
static bool in_conflict(const Program *program, const Launch *a, const Launch *b) {
    for (int i = 0; i < a->operand_count; i++)
        for (int j = 0; j < b->operand_count; j++)
            if ((launch_writes(program, a, i) || launch_writes(program, b, j)) && overlap(program, a, i, b, j))
                return true;
    return false;
}

static int64_t total_blocks(const Program *program, const LaunchGroup *group, int phase) {
    int64_t blocks = 0;
    for (uint32_t i = 0; i < group->count; i++)
        blocks += phase_blocks(&code_of(program, group->first + i)->phases[phase]);
    return blocks;
}

// Pointers: operands, and each member's workspace.
static int total_parameters(const Program *program, const LaunchGroup *group) {
    int count = 0;
    for (uint32_t i = 0; i < group->count; i++)
        count += program->launches.items[group->first + i].operand_count + 1;
    return count;
}

static bool is_alike(const Program *program, const LaunchGroup *group, uint32_t launch) {
    const CudaKernel *code = code_of(program, launch), *first = code_of(program, group->first);
    if (code->phase_count != first->phase_count) return false;
    for (int p = 0; p < code->phase_count; p++) {
        int64_t blocks = total_blocks(program, group, p) + phase_blocks(&code->phases[p]);
        if (code->phases[p].block != first->phases[p].block || blocks > INT32_MAX) return false;
    }
    return true;
}

static bool may_move(const Program *program, const Launch *launch) {
    for (int o = 0; o < launch->operand_count; o++) {
        const Buffer *buffer = &program->buffers.items[launch->buffers[o]];
        if (buffer->kind == BUFFER_TEMPORARY && buffer->bytes > MOVED_MOST &&
            launch_writes(program, launch, o))
            return false;
    }
    return launch->region == 0;
}

// Whether a launch behind the group may run with it, before those between.
static bool takes(const Program *program, const LaunchGroup *group, uint32_t launch) {
    const Launch *launches = program->launches.items, *next = &launches[launch];
    if (!may_join(program, launch) || !is_alike(program, group, launch) || group->count == MEMBERS_MOST ||
        total_parameters(program, group) + next->operand_count + 1 > PARAMETERS_MOST ||
        (launch > group->first + group->count && !may_move(program, next)))
        return false;
    for (uint32_t i = group->first; i < launch; i++)
        if (in_conflict(program, &launches[i], next)) return false;
    return true;
}

// Adds the launch, which runs right behind the group from now on.
static void take(Program *program, LaunchGroup *group, uint32_t launch) {
    Launch *launches = program->launches.items, taken = launches[launch];
    uint32_t place = group->first + group->count++;
    memmove(&launches[place + 1], &launches[place], sizeof *launches * (launch - place));
    launches[place] = taken;
}

// ---- Waiting ----

typedef struct Waiting {
    Launch launches[MEMBERS_MOST];
    uint32_t count;
    int64_t held;  // bytes of temporaries that they read
} Waiting;

static int64_t temporaries_read(const Program *program, const Launch *launch) {
    int64_t bytes = 0;
    for (int o = 0; o < launch->operand_count; o++) {
        const Buffer *buffer = &program->buffers.items[launch->buffers[o]];
        if (buffer->kind == BUFFER_TEMPORARY && launch_reads(program, launch, o)) bytes += buffer->bytes;
    }
    return bytes;
}

// Whether a launch writes nothing but state that no launch behind it touches.
static bool may_wait(const Program *program, uint32_t number) {
    const Launch *launch = &program->launches.items[number];
    if (!may_join(program, number) || launch->region || temporaries_read(program, launch) > WAITING_MOST) return false;
    for (int o = 0; o < launch->operand_count; o++) {
        if (!launch_writes(program, launch, o)) continue;
        if (program->buffers.items[launch->buffers[o]].kind != BUFFER_STATE) return false;
        for (uint32_t i = number + 1; i < program->launches.count; i++)
            for (int j = 0; j < program->launches.items[i].operand_count; j++)
                if (overlap(program, launch, o, &program->launches.items[i], j)) return false;
    }
    return true;
}

static void stop_waiting(Waiting *waiting, Launch *launches, uint32_t *count) {
    for (uint32_t i = 0; i < waiting->count; i++) launches[(*count)++] = waiting->launches[i];
    waiting->count = 0;
    waiting->held = 0;
}

// Moves launches that may wait down to where something changes what they read, or they have become many.
static void let_wait(Program *program) {
    Waiting waiting = {.count = 0};
    uint32_t count = 0, all = (uint32_t)program->launches.count;
    Arena *arena = arena_create();
    Launch *launches = ARENA_ARRAY(arena, Launch, all + 1);
    for (uint32_t i = 0; i < all; i++) {
        const Launch *launch = &program->launches.items[i];
        bool waits = may_wait(program, i), meets = false;
        int64_t bytes = waits ? temporaries_read(program, launch) : 0;
        for (uint32_t w = 0; w < waiting.count; w++) meets |= in_conflict(program, &waiting.launches[w], launch);
        if (meets || waiting.count == MEMBERS_MOST || waiting.held + bytes > HELD_MOST)
            stop_waiting(&waiting, launches, &count);
        if (waits)
            waiting.launches[waiting.count++] = *launch;
        else
            launches[count++] = *launch;
        waiting.held += bytes;
    }
    stop_waiting(&waiting, launches, &count);
    memcpy(program->launches.items, launches, all * sizeof *launches);
    arena_destroy(arena);
}

// ---- Text ----

static bool is_first_of_kernel(const Program *program, const LaunchGroup *group, uint32_t member) {
    for (uint32_t i = 0; i < member; i++)
        if (code_of(program, group->first + i)->key == code_of(program, group->first + member)->key)
            return false;
    return true;
}

static const char *const function_head = "extern \"C\" __global__";

// A phase of a member as a function that its block, of those of its launch, is given.
static void put_member(FILE *stream, const CudaKernel *code, int phase) {
    const char *function = code->phases[phase].function,
               *from = strchr(strstr(code->text, function), '(') + 1;
    const char *next = strstr(from, function_head);
    int length = (int)(next ? (size_t)(next - from) : strlen(from));
    fprintf(stream,
            "\nstatic __device__ __forceinline__ void\n%s_in" CUDA_KEY_MARK "(const Block blockIdx, %.*s",
            function, length, from);
}

static void put_parameters(CudaUnit *unit, const Program *program, const LaunchGroup *group) {
    for (uint32_t i = 0; i < group->count; i++) {
        const Launch *launch = &program->launches.items[group->first + i];
        const Nest *nest = program->kernels.items[launch->kernel].nest;
        for (int o = 0; o < launch->operand_count; o++)
            fprintf(unit->stream, "%s%s *m%up%d, ", launch_writes(program, launch, o) ? "" : "const ",
                    cuda_memory_type(nest->operands[o].element), (unsigned)i, o);
        fprintf(unit->stream, i + 1 < group->count ? "char *m%uw,\n    " : "char *m%uw) {\n", (unsigned)i);
    }
    unit->indent = 1;
}

static void put_calls(CudaUnit *unit, const Program *program, const LaunchGroup *group, int number) {
    long long before = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        const Launch *launch = &program->launches.items[group->first + i];
        const CudaPhase *phase = &code_of(program, group->first + i)->phases[number];
        long long end = before + phase_blocks(phase);
        cuda_open(unit, "if (blockIdx.x < %lldu)", end);
        cuda_line(unit, "const u32 block = blockIdx.x - %lldu;", before);
        fprintf(unit->stream, "%*sreturn %s_in" CUDA_KEY_MARK "(", 4 * unit->indent, "", phase->function);
        if (phase->grid[1] == 1)
            fprintf(unit->stream, "{block, 0}");
        else
            fprintf(unit->stream, "{block %% %lldu, block / %lldu}", (long long)phase->grid[0],
                    (long long)phase->grid[0]);
        for (int o = 0; o < launch->operand_count; o++) fprintf(unit->stream, ", m%up%d", (unsigned)i, o);
        fprintf(unit->stream, ", m%uw);\n", (unsigned)i);
        cuda_close(unit);
        before = end;
    }
}

static void put_phase(CudaUnit *unit, const Program *program, const LaunchGroup *group, int phase) {
    const Kernel *first = &program->kernels.items[program->launches.items[group->first].kernel];
    int threads = first->cuda.phases[phase].block;
    const char *name = arena_format(unit->arena, "g_%.40s_and_%u%s_%c", cuda_name(unit->arena, first->name),
                                    (unsigned)group->count - 1, CUDA_KEY_MARK, 'a' + phase);
    for (uint32_t i = 0; i < group->count; i++)
        if (is_first_of_kernel(program, group, i))
            put_member(unit->stream, code_of(program, group->first + i), phase);
    fprintf(unit->stream, "\n%s void __launch_bounds__(%d)\n%s(\n    ", function_head, threads, name);
    put_parameters(unit, program, group);
    put_calls(unit, program, group, phase);
    cuda_close(unit);
    unit->out->phases[unit->out->phase_count++] =
        (CudaPhase){.function = name, .grid = {total_blocks(program, group, phase), 1, 1}, .block = threads};
}

static void generate(Program *program, LaunchGroup *group) {
    Arena *arena = arena_create();
    CudaUnit unit = {.arena = arena, .out = &group->code};
    char *text = NULL;
    size_t length = 0;
    unit.stream = open_memstream(&text, &length);
    CHECK(unit.stream);
    for (int p = 0; p < code_of(program, group->first)->phase_count; p++) put_phase(&unit, program, group, p);
    fclose(unit.stream);
    cuda_name_functions(program->ir, &group->code, text);
    free(text);
    arena_destroy(arena);
}

void cuda_find_groups(Program *program) {
    program->groups.count = 0;
    let_wait(program);
    uint32_t count = (uint32_t)program->launches.count;
    for (uint32_t at = 0; at < count; at++) {
        if (!may_join(program, at)) continue;
        LaunchGroup group = {.first = at, .count = 1};
        for (uint32_t i = at + 1; i < count && i < at + group.count + REACH; i++)
            if (takes(program, &group, i)) take(program, &group, i);
        if (group.count == 1) continue;
        generate(program, &group);
        vector_push(program->ir->arena, &program->groups, group);
        at += group.count - 1;
    }
}
