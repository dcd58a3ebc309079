// From kernels to their text: who generates what, what launches promise about alignment, names that are keys.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "codegen/cuda_product.h"

typedef struct NamedGenerator {
    const char *kernel;
    bool (*emit)(CudaUnit *unit);
    bool composites;  // may ask for it
} NamedGenerator;

static const NamedGenerator named_generators[] = {
#define CUDA_NAMED_GENERATOR(kernel, function, composites) {#kernel, function, composites},
#include "codegen/cuda_generators.def"
#undef CUDA_NAMED_GENERATOR
    {NULL, NULL, false}};

static const NamedGenerator *find_named(const char *name) {
    const NamedGenerator *row = named_generators;
    while (row->kernel && strcmp(row->kernel, name) != 0) row++;
    return row->kernel ? row : NULL;
}

bool cuda_has_kernel(const char *name) {
    const NamedGenerator *row = find_named(name);
    return row && row->composites;
}

extern const char cuda_prelude_text[];  // made by codegen/embed.cmake

const char *cuda_prelude(void) { return cuda_prelude_text; }

// ---- Promises ----

// What every launch of the kernel in the program promises about each operand.
static void find_promises(CudaUnit *unit, const Program *program, uint32_t kernel) {
    for (int i = 0; i < NEST_OPERAND_MAX; i++) unit->alignment[i] = CUDA_BUFFER_ALIGNMENT;
    memset(unit->lasts, true, sizeof unit->lasts);
    for (size_t l = 0; l < program->launches.count; l++) {
        const Launch *launch = &program->launches.items[l];
        if (launch->kernel != kernel) continue;
        for (int o = 0; o < launch->operand_count; o++) {
            const Buffer *buffer = &program->buffers.items[launch->buffers[o]];
            unit->lasts[o] &= buffer->kind == BUFFER_STATE;
            unit->alignment[o] =
                cuda_common_alignment(unit->alignment[o], launch->offsets[o] * element_bytes(buffer->type->element));
        }
    }
}

// ---- Keys ----

// Of a text without its comments: models that differ in line numbers alone share machine code.
static uint64_t text_key(const char *text) {
    uint64_t hash = HASH_START;
    while (*text) {
        size_t length = strcspn(text, "\n"), indent = strspn(text, " ");
        if (strncmp(text + indent, "//", 2) != 0) hash = hash_bytes(hash, text, length);
        text += length + (text[length] == '\n');
    }
    return hash ? hash : 1;
}

static char *put_key(Arena *arena, const char *text, uint64_t key) {
    char mark[32];
    size_t length = strlen(text), at = 0, count = 0;
    snprintf(mark, sizeof mark, "_%016" PRIx64, key);
    for (const char *found = text; (found = strstr(found, CUDA_KEY_MARK)); found++) count++;
    char *result = arena_allocate(arena, length + count * strlen(mark) + 1);
    while (*text) {
        if (strncmp(text, CUDA_KEY_MARK, strlen(CUDA_KEY_MARK)) == 0) {
            memcpy(result + at, mark, strlen(mark));
            at += strlen(mark);
            text += strlen(CUDA_KEY_MARK);
        } else {
            result[at++] = *text++;
        }
    }
    return result;
}

void cuda_name_functions(Ir *ir, CudaKernel *code, const char *text) {
    code->key = text_key(text);
    code->text = put_key(ir->arena, text, code->key);
    for (int p = 0; p < code->phase_count; p++)
        if (code->phases[p].function) code->phases[p].function = put_key(ir->arena, code->phases[p].function, code->key);
}

// ---- Kernels ----

static bool emit_kernel(CudaUnit *unit) {
    const Kernel *kernel = unit->kernel;
    if (kernel->nest) return cuda_nest_emit(unit);
    const NamedGenerator *row = find_named(kernel->named->name);
    return row ? row->emit(unit) : cuda_fail(unit, "no CUDA code for kernel %s", kernel->named->name);
}

static bool fits_launch(CudaUnit *unit) {
    for (int p = 0; p < unit->out->phase_count; p++) {
        const CudaPhase *phase = &unit->out->phases[p];
        if (phase->grid[0] > INT32_MAX || phase->grid[1] > CUDA_GRID_LIMIT || phase->grid[2] > CUDA_GRID_LIMIT)
            return cuda_fail(unit, "%" PRId64 " x %" PRId64 " x %" PRId64 " blocks are more than a launch has",
                             phase->grid[0], phase->grid[1], phase->grid[2]);
    }
    return true;
}

// The text; NULL after a failure.
static char *emit_text(CudaUnit *unit) {
    char *text = NULL;
    size_t length = 0;
    unit->stream = open_memstream(&text, &length);
    CHECK(unit->stream);
    *unit->out = (CudaKernel){0};
    bool ok = emit_kernel(unit) && fits_launch(unit);
    fclose(unit->stream);
    if (ok) return text;
    free(text);
    return NULL;
}

static bool library_has_products(const CudaUnit *unit, const CudaOptions *options) {
    if (!options || !options->has_product) return true;
    for (int i = 0; i < unit->out->phase_count; i++) {
        if (unit->out->phases[i].function) continue;
        const CudaProduct *p = &unit->out->phases[i].product;
        if (!options->has_product(options->library, p, cuda_product_alignment(unit, p))) return false;
    }
    return true;
}

static bool generate_kernel(Ir *ir, const CudaOptions *options, const Program *program, uint32_t number) {
    Kernel *kernel = &program->kernels.items[number];
    Arena *arena = arena_create();
    CudaUnit start = {.arena = arena, .kernel = kernel, .out = &kernel->cuda, .architecture = "sm_90"};
    if (options && options->architecture) start.architecture = options->architecture;
    if (options && options->no_library) start.products = PRODUCTS_NONE;
    find_promises(&start, program, number);
    CudaUnit unit = start;
    char *text = emit_text(&unit);
    while (text && !library_has_products(&unit, options)) {  // in the end there are none
        free(text);
        start.products++;
        unit = start;
        text = emit_text(&unit);
    }
    bool ok = text;
    if (ok && *text) cuda_name_functions(ir, &kernel->cuda, text);
    if (!ok)
        report_error(ir->diagnostics, kernel->nest ? kernel->nest->place : kernel->named->place, "E0620",
                     "CUDA code generation: %s", unit.failure ? unit.failure : "failed");
    free(text);
    arena_destroy(arena);
    return ok;
}

bool cuda_generate(Ir *ir, Program *const *programs, size_t count, const CudaOptions *options) {
    bool ok = true;
    for (size_t p = 0; p < count; p++) {
        for (size_t k = 0; k < programs[p]->kernels.count; k++)
            ok &= generate_kernel(ir, options, programs[p], (uint32_t)k);
        if (ok) cuda_find_groups(programs[p]);
    }
    return ok;
}
