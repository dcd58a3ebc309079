#include "driver/cuda_budget.h"

#include <stdlib.h>

#include "codegen/cuda.h"
#include "driver/cost.h"
#include "passes/program_passes.h"

// Of one H200: what an 8192-cubed product of bf16 and a copy reach.
static const double flops_per_second = 790e12, bytes_per_second = 4.3e12;

typedef enum Kind {
    KIND_PRODUCT,
    KIND_ATTENTION,
    KIND_TILES,
    KIND_ROUNDING,
    KIND_EPILOGUE,
    KIND_OTHER,
    KIND_COUNT
} Kind;
static const char *const kind_names[] = {"cuBLASLt", "attention", "tiles", "rounding", "epilogue", "other"};

typedef struct Line {
    const Kernel *kernel;
    Kind kind;
    int64_t launches, blocks;
    double flops, bytes;  // of all launches
} Line;
typedef VECTOR(Line) Lines;

static double floor_seconds(double flops, double bytes) {
    double compute = flops / flops_per_second, memory = bytes / bytes_per_second;
    return compute > memory ? compute : memory;
}

static void add_line(Arena *arena, Lines *lines, Line line) {
    for (size_t i = 0; i < lines->count; i++) {
        Line *old = &lines->items[i];
        if (old->kernel != line.kernel || old->kind != line.kind) continue;
        old->launches += line.launches;
        old->flops += line.flops;
        old->bytes += line.bytes;
        return;
    }
    vector_push(arena, lines, line);
}

static int64_t blocks(const CudaPhase *phase) { return phase->grid[0] * phase->grid[1] * phase->grid[2]; }

// The product that these phases are parts of (cuda_product_cut.c).
static CudaProduct join_parts(const CudaPhase *phases, int count) {
    CudaProduct whole = phases[0].product;
    for (int i = 1; i < count; i++) {
        const CudaProduct *first = &phases[0].product, *rest = &phases[i].product;
        whole.m += rest->m < first->m ? rest->m : 0;
        whole.n += rest->n < first->n ? rest->n : 0;
        whole.k += rest->k < first->k ? rest->k : 0;
    }
    return whole;
}

static double count_a(const CudaProduct *p) { return (double)p->m * (double)p->k * (double)(p->step_a ? p->batch : 1); }
static double count_b(const CudaProduct *p) { return (double)p->k * (double)p->n * (double)(p->step_b ? p->batch : 1); }
static double count_d(const CudaProduct *p) { return (double)p->m * (double)p->n * (double)p->batch; }

static void add_part(Arena *arena, Lines *lines, const Kernel *kernel, const CudaProduct *p) {
    double ab = element_bytes(p->element_ab), d = element_bytes(p->element_d);
    Line line = {.kernel = kernel, .kind = KIND_PRODUCT, .launches = 1};
    line.flops = 2 * count_d(p) * (double)p->k;
    line.bytes = (count_a(p) + count_b(p)) * ab +
                 count_d(p) * d * (1 + (p->c.operand != CUDA_NONE) + cuda_product_keeps(p));
    add_line(arena, lines, line);
}

// A copy of f32 as bf16 before a product, the product, what its other stages read and write behind it.
static void add_product(Arena *arena, Lines *lines, const Kernel *kernel, int number, bool packed) {
    const CudaKernel *cuda = &kernel->cuda;
    int end = number;
    for (; end < cuda->phase_count && !cuda->phases[end].function; end++)
        add_part(arena, lines, kernel, &cuda->phases[end].product);
    const CudaProduct whole = join_parts(&cuda->phases[number], end - number), *p = &whole;
    double ab = element_bytes(p->element_ab), d = element_bytes(p->element_d);
    double rounded[2];
    int count = 0;
    if (p->b.operand == CUDA_WORKSPACE) rounded[count++] = count_b(p);
    if (p->a.operand == CUDA_WORKSPACE) rounded[count++] = count_a(p);
    for (int i = packed ? 1 : 0; i < number && i < count; i++)
        add_line(arena, lines,
                 (Line){.kernel = kernel,
                        .kind = KIND_ROUNDING,
                        .launches = 1,
                        .bytes = rounded[i] * (4 + ab),
                        .blocks = blocks(&cuda->phases[i])});
    if (end == cuda->phase_count) return;
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], bytes = count_d(p) * d;  // the sums
    nest_operand_bytes(kernel->nest, read, written);
    Contraction found;
    bool known = nest_contraction(kernel->nest, &found);
    for (uint32_t i = 0; i < (uint32_t)kernel->nest->operand_count; i++) {
        bool multiplied = known && (kernel->nest->formulas.items[found.load_a].operand == i ||
                                    kernel->nest->formulas.items[found.load_b].operand == i);
        bool done = (int32_t)i == p->d.operand || (int32_t)i == p->c.operand || (int32_t)i == p->bias.operand;
        if (!multiplied && !done) bytes += read[i] + written[i];
    }
    add_line(arena, lines,
             (Line){.kernel = kernel,
                    .kind = KIND_EPILOGUE,
                    .launches = 1,
                    .bytes = bytes,
                    .blocks = blocks(&cuda->phases[end])});
}

// What a launch reads of temporaries that none before it wrote it has stored itself, and has it in registers.
static double bytes_at_hand(const Program *program, uint32_t number, const bool *written) {
    const Launch *launch = &program->launches.items[number];
    double read[NEST_OPERAND_MAX], stored[NEST_OPERAND_MAX], bytes = 0;
    cost_operand_bytes(&program->kernels.items[launch->kernel], read, stored);
    for (int o = 0; o < launch->operand_count; o++) {
        uint32_t buffer = launch->buffers[o];
        if (program->buffers.items[buffer].kind == BUFFER_TEMPORARY && !written[buffer]) bytes += read[o];
    }
    return bytes;
}

static void note_written(const Program *program, uint32_t number, bool *written) {
    const Launch *launch = &program->launches.items[number];
    for (int o = 0; o < launch->operand_count; o++)
        if (launch_writes(program, launch, o)) written[launch->buffers[o]] = true;
}

// Of a group the first launch counts for all.
static void add_launch(Arena *arena, Lines *lines, const Program *program, uint32_t number,
                       const bool *written) {
    const Launch *launch = &program->launches.items[number];
    const LaunchGroup *group = program_group(program, number);
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    const CudaKernel *cuda = &kernel->cuda;
    for (int i = 0; i < cuda->phase_count; i++)
        if (!cuda->phases[i].function) {
            add_product(arena, lines, kernel, i, launch->packed[0]);
            return;
        }
    Line line = {.kernel = kernel, .kind = KIND_OTHER, .flops = cost_flops(kernel)};
    if (!group || group->first == number) line.launches = cuda->phase_count;
    line.bytes = cost_bytes(kernel) - bytes_at_hand(program, number, written);
    line.blocks = blocks(&cuda->phases[0]);
    if (line.flops > 0) line.kind = kernel->named ? KIND_ATTENTION : KIND_TILES;
    add_line(arena, lines, line);
}

static int by_time(const void *a, const void *b) {
    const Line *x = a, *y = b;
    double difference = floor_seconds(y->flops, y->bytes) - floor_seconds(x->flops, x->bytes);
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

static void print_row(FILE *stream, const Line *line, double seconds, const char *name) {
    fprintf(stream, "%10.3f %9.0f %9.1f %8lld  %-9s %s", seconds * 1e3, line->flops / 1e9, line->bytes / 1e6,
            (long long)line->launches, kind_names[line->kind], name);
}

bool cuda_budget_print(Ir *ir, Program *program, FILE *stream) {
    if (!cuda_generate(ir, &program, 1, NULL) || !share_packed(program)) return false;
    Arena *arena = arena_create();
    Lines lines = {0};
    Line kinds[KIND_COUNT] = {0}, all = {0};
    double seconds[KIND_COUNT] = {0}, total = 0;
    bool *written = ARENA_ARRAY(arena, bool, program->buffers.count + 1);
    for (uint32_t i = 0; i < program->launches.count; i++) {
        add_launch(arena, &lines, program, i, written);
        note_written(program, i, written);
    }
    qsort(lines.items, lines.count, sizeof *lines.items, by_time);
    fprintf(stream, "%s: floors at %.0f TFLOP/s and %.1f TB/s, by kernel and phase\n", program->name,
            flops_per_second / 1e12, bytes_per_second / 1e12);
    fprintf(stream, "        ms    GFLOP        MB launches  kind      kernel\n");
    for (size_t i = 0; i < lines.count; i++) {
        const Line *line = &lines.items[i];
        double time = floor_seconds(line->flops, line->bytes);
        const Place place = line->kernel->nest ? line->kernel->nest->place : line->kernel->named->place;
        print_row(stream, line, time, line->kernel->name);
        fprintf(stream, ", line %u", (unsigned)place.line);
        fprintf(stream, line->blocks ? ", %lld blocks\n" : "\n", (long long)line->blocks);
        kinds[line->kind].launches += line->launches;
        kinds[line->kind].flops += line->flops;
        kinds[line->kind].bytes += line->bytes;
        seconds[line->kind] += time;
    }
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        kinds[kind].kind = (Kind)kind;
        if (kinds[kind].launches) print_row(stream, &kinds[kind], seconds[kind], "all\n");
        all.launches += kinds[kind].launches;
        all.flops += kinds[kind].flops;
        all.bytes += kinds[kind].bytes;
        total += seconds[kind];
    }
    fprintf(stream, "%10.3f %9.0f %9.1f %8lld  together\n", total * 1e3, all.flops / 1e9, all.bytes / 1e6,
            (long long)all.launches);
    arena_destroy(arena);
    return true;
}
