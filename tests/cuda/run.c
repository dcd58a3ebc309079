#include "tests/cuda/run.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda/accumulate.h"
#include "tests/cuda/compile.h"
#include "tests/cuda/launch.h"

struct Emulation {
    char folder[64];
    void *library;
};

// ---- Compiling ----

typedef struct Keys {
    uint64_t *items;
    size_t count;
} Keys;

static bool is_new(Keys *keys, uint64_t key) {
    for (size_t i = 0; i < keys->count; i++)
        if (keys->items[i] == key) return false;
    keys->items = realloc(keys->items, sizeof *keys->items * (keys->count + 1));
    CHECK(keys->items);
    keys->items[keys->count++] = key;
    return true;
}

static void write_source(FILE *stream, Program *const *programs, size_t count) {
    Keys keys = {0};
    fprintf(stream, "#include \"%s/tests/cuda/emulate.h\"\n%s", CHERRY_SOURCE, cuda_prelude());
    for (size_t p = 0; p < count; p++)
        for (size_t k = 0; k < program_cuda_count(programs[p]); k++) {
            const CudaKernel *kernel = program_cuda_code(programs[p], k);
            if (!kernel->text || !is_new(&keys, kernel->key)) continue;
            fputs(kernel->text, stream);
            for (int i = 0; i < kernel->phase_count; i++)
                if (kernel->phases[i].function)
                    fprintf(stream, "EMULATE_KERNEL(%s)\n", kernel->phases[i].function);
        }
    free(keys.items);
}

Emulation *emulation_create(Program *const *programs, size_t count) {
    Emulation *emulation = calloc(1, sizeof *emulation);
    CHECK(emulation);
    strcpy(emulation->folder, "/tmp/cherry-cuda-XXXXXX");
    CHECK(mkdtemp(emulation->folder));
    char path[96], library[96];
    snprintf(path, sizeof path, "%s/kernels.cc", emulation->folder);
    FILE *stream = fopen(path, "w");
    CHECK(stream);
    write_source(stream, programs, count);
    fclose(stream);
    snprintf(library, sizeof library, "%s/kernels.so", emulation->folder);
    if (compile_emulated(path, library)) {
        emulation->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        if (!emulation->library) fprintf(stderr, "%s\n", dlerror());
    }
    if (emulation->library) return emulation;
    fprintf(stderr, "kept: %s\n", emulation->folder);
    free(emulation);
    return NULL;
}

void emulation_destroy(Emulation *emulation) {
    char path[96];
    dlclose(emulation->library);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/kernels.%s", emulation->folder, i ? "so" : "cc");
        unlink(path);
    }
    rmdir(emulation->folder);
    free(emulation);
}

// ---- Products ----

static float read_element(Element element, const char *base, int64_t at) {
    if (element == ELEMENT_F32) return ((const float *)base)[at];
    CHECK(element == ELEMENT_BF16);
    uint32_t bits = (uint32_t)((const uint16_t *)base)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void write_element(Element element, char *base, int64_t at, float value) {
    if (element == ELEMENT_F32) {
        ((float *)base)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)base)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static char *place(CudaPlace at, Element element, char *const *operands, char *workspace) {
    if (at.operand == CUDA_NONE) return NULL;
    return (at.operand == CUDA_WORKSPACE ? workspace : operands[at.operand]) +
           at.offset * element_bytes(element);
}

static float gelu(float x) { return 0.5f * x * (1 + tanhf(0.7978846f * (x + 0.044715f * x * x * x))); }

static float add_products(const CudaProduct *p, const char *a, const char *b, int64_t batch, int64_t i, int64_t j) {
    float sum = 0;
    for (int64_t k = 0; k < p->k; k += EMULATE_STEP) {
        float x[EMULATE_STEP] = {0}, y[EMULATE_STEP] = {0};
        for (int64_t s = 0; s < EMULATE_STEP && k + s < p->k; s++) {
            int64_t at_a = p->turned_a ? (k + s) * p->lead_a + i : i * p->lead_a + k + s;
            int64_t at_b = p->turned_b ? j * p->lead_b + k + s : (k + s) * p->lead_b + j;
            x[s] = read_element(p->element_ab, a, batch * p->step_a + at_a);
            y[s] = read_element(p->element_ab, b, batch * p->step_b + at_b);
        }
        sum = emulate_multiply(p->element_ab == ELEMENT_BF16, sum, x, y);
    }
    return sum;
}

static void run_product(const CudaProduct *p, char *const *operands, char *workspace) {
    const char *a = place(p->a, p->element_ab, operands, workspace),
               *b = place(p->b, p->element_ab, operands, workspace);
    const char *c = place(p->c, p->element_d, operands, workspace),
               *bias = place(p->bias, p->element_d, operands, workspace);
    char *d = place(p->d, p->element_d, operands, workspace), *before = NULL;
    if (cuda_product_keeps(p)) before = place(p->before, p->element_d, operands, workspace);
    CHECK(((uintptr_t)bias | (uintptr_t)before) % CUDA_BIAS_ALIGNMENT == 0);
    for (int64_t batch = 0; batch < p->batch; batch++)
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++) {
                float sum = (float)p->alpha * add_products(p, a, b, batch, i, j);
                if (c && p->beta != 0)
                    sum += (float)p->beta * read_element(p->element_d, c, batch * p->step_c + i * p->lead_c + j);
                if (bias) sum += read_element(p->element_d, bias, j);
                if (before) write_element(p->element_d, before, i * p->lead_before + j, sum);
                if (p->activation == CUDA_GELU) sum = gelu(sum);
                write_element(p->element_d, d, batch * p->step_d + i * p->lead_d + j, sum);
            }
}

// ---- Running ----

// Where operand `number` begins and ends, by its strides.
static EmulateSpan operand_span(const Kernel *kernel, int number, char *data) {
    const NestOperand *operand = kernel->nest ? &kernel->nest->operands[number] : NULL;
    const Type *type = operand ? NULL : kernel->named->types[number];
    int rank = operand ? operand->rank : type->rank;
    int64_t low = 0, high = 1, width = element_bytes(operand ? operand->element : type->element);
    for (int d = 0; d < rank; d++) {
        int64_t extent = operand ? operand->extent[d] : type->dimensions[d].extent;
        int64_t reach = (extent - 1) * (operand ? operand->stride[d] : kernel->named->strides[number][d]);
        *(reach < 0 ? &low : &high) += reach;
    }
    return (EmulateSpan){data + low * width, (high - low) * width};
}

static void run_function(const Emulation *emulation, const CudaPhase *phase, char *const *pointers,
                         const EmulateSpan *spans, int span_count) {
    char name[160];
    snprintf(name, sizeof name, "launch_%s", phase->function);
    void *symbol = dlsym(emulation->library, name);
    LaunchFunction launch;
    if (!symbol) INTERNAL_ERROR("no %s", name);
    memcpy(&launch, &symbol, sizeof launch);
    CHECK(phase->grid[1] <= 65535 && phase->grid[2] <= 65535 && phase->block % 32 == 0 && phase->block <= 1024);
    EmulateGrid grid = {.block = phase->block, .span_count = span_count, .shared_bytes = phase->shared_bytes,
                        .spans = spans};
    memcpy(grid.blocks, phase->grid, sizeof grid.blocks);
    launch(pointers, &grid);
}

static void run_phases(const Emulation *emulation, const Kernel *kernel, char *const *operands,
                       char *workspace, bool packed) {
    const CudaKernel *cuda = &kernel->cuda;
    char *pointers[NEST_OPERAND_MAX + 1];
    EmulateSpan spans[NEST_OPERAND_MAX + 1];
    int count = kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
    if (workspace && !packed) memset(workspace, 0xff, (size_t)cuda->workspace_bytes);
    memcpy(pointers, operands, sizeof *pointers * (size_t)count);
    pointers[count] = workspace;
    for (int i = 0; i < count; i++) spans[i] = operand_span(kernel, i, operands[i]);
    spans[count] = (EmulateSpan){workspace, workspace ? cuda->workspace_bytes : 0};
    CHECK(cuda->phase_count > 0);
    for (int i = packed; i < cuda->phase_count; i++) {
        const CudaPhase *phase = &cuda->phases[i];
        if (phase->function)
            run_function(emulation, phase, pointers, spans, count + 1);
        else
            run_product(&phase->product, operands, workspace);
    }
}

void emulation_run_kernel(const Emulation *emulation, const Kernel *kernel, char *const *operands) {
    int64_t bytes = kernel->cuda.workspace_bytes;
    char *workspace = bytes ? aligned_alloc(64, (size_t)(bytes + 63) & ~(size_t)63) : NULL;
    run_phases(emulation, kernel, operands, workspace, false);
    free(workspace);
}

static int put_operands(const Program *program, const Launch *launch, char *const *buffers, char **operands) {
    for (int o = 0; o < launch->operand_count; o++) {
        const Buffer *buffer = &program->buffers.items[launch->buffers[o]];
        operands[o] = buffers[launch->buffers[o]] + launch->offsets[o] * element_bytes(buffer->type->element);
    }
    return launch->operand_count;
}

// Workspaces that the program does not plan are made here.
static void run_group(const Emulation *emulation, const Program *program, const LaunchGroup *group, char *const *buffers) {
    char *pointers[512], *made[64] = {NULL};
    EmulateSpan spans[512];
    int count = 0;
    CHECK(group->count <= sizeof made / sizeof *made);
    for (uint32_t i = 0; i < group->count; i++) {
        const Launch *launch = &program->launches.items[group->first + i];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        int64_t bytes = kernel->cuda.workspace_bytes;
        bool planned = launch->workspaces[0] != UINT32_MAX;
        if (bytes && !planned) made[i] = aligned_alloc(64, (size_t)(bytes + 63) & ~(size_t)63);
        int operands = put_operands(program, launch, buffers, pointers + count);
        for (int o = 0; o < operands; o++) spans[count + o] = operand_span(kernel, o, pointers[count + o]);
        count += operands;
        pointers[count] = planned ? buffers[launch->workspaces[0]] : made[i];
        if (bytes) memset(pointers[count], 0xff, (size_t)bytes);
        spans[count] = (EmulateSpan){pointers[count], bytes};
        count++;
    }
    for (int p = 0; p < group->code.phase_count; p++) run_function(emulation, &group->code.phases[p], pointers, spans, count);
    for (uint32_t i = 0; i < group->count; i++) free(made[i]);
}

void emulation_run_program(const Emulation *emulation, const Program *program, char *const *buffers) {
    for (uint32_t l = 0; l < program->launches.count; l++) {
        const LaunchGroup *group = program_group(program, l);
        const Launch *launch = &program->launches.items[l];
        char *operands[NEST_OPERAND_MAX];
        if (group) {
            run_group(emulation, program, group, buffers);
            l += group->count - 1;
            continue;
        }
        put_operands(program, launch, buffers, operands);
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        if (launch->workspaces[0] == UINT32_MAX)
            emulation_run_kernel(emulation, kernel, operands);
        else
            run_phases(emulation, kernel, operands, buffers[launch->workspaces[0]], launch->packed[0]);
    }
}
