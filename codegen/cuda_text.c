// The text of kernels: lines, blocks, names, functions.
#include <ctype.h>
#include <stdarg.h>
#include <string.h>

#include "codegen/cuda_emit.h"

bool cuda_fail(CudaUnit *unit, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!unit->failure) unit->failure = arena_format_list(unit->arena, format, arguments);
    va_end(arguments);
    return false;
}

const char *cuda_text(CudaUnit *unit, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_format_list(unit->arena, format, arguments);
    va_end(arguments);
    return text;
}

void cuda_line(CudaUnit *unit, const char *format, ...) {
    va_list arguments;
    fprintf(unit->stream, "%*s", 4 * unit->indent, "");
    va_start(arguments, format);
    vfprintf(unit->stream, format, arguments);
    va_end(arguments);
    fputc('\n', unit->stream);
}

void cuda_open(CudaUnit *unit, const char *format, ...) {
    va_list arguments;
    fprintf(unit->stream, "%*s", 4 * unit->indent, "");
    va_start(arguments, format);
    vfprintf(unit->stream, format, arguments);
    va_end(arguments);
    fputs(" {\n", unit->stream);
    unit->indent++;
}

void cuda_close(CudaUnit *unit) {
    unit->indent--;
    cuda_line(unit, "}");
}

// A path may hold anything: what could end the comment or the line does not come through.
void cuda_note_place(CudaUnit *unit, Place place) {
    if (!place.file || (place.line == unit->place.line && place.file == unit->place.file)) return;
    unit->place = place;
    char *file = arena_copy(unit->arena, place.file, strlen(place.file));
    for (char *at = file; *at; at++)
        if (iscntrl((unsigned char)*at) || *at == '\\') *at = '?';
    cuda_line(unit, "// %s:%u", file, (unsigned)place.line);
}

const char *cuda_memory_type(Element element) {
    static const char *const names[ELEMENT_COUNT] = {
        [ELEMENT_BOOL] = "bool", [ELEMENT_I32] = "i32",   [ELEMENT_I64] = "i64",
        [ELEMENT_BF16] = "bf16", [ELEMENT_F32] = "float", [ELEMENT_F64] = "double"};
    return names[element];
}

const char *cuda_register_type(Element element) {
    return element == ELEMENT_BF16 ? "float" : cuda_memory_type(element);
}

const char *cuda_name(Arena *arena, const char *name) {
    char *copy = arena_copy(arena, name && *name ? name : "kernel", name && *name ? strlen(name) : 6);
    for (char *at = copy; *at; at++)
        if (!isalnum((unsigned char)*at) || (unsigned char)*at > 127) *at = '_';
    return copy;
}

static Element operand_element(const Kernel *kernel, int operand) {
    return kernel->nest ? kernel->nest->operands[operand].element : kernel->named->types[operand]->element;
}

static bool operand_is_written(const Kernel *kernel, int operand) {
    return kernel->nest ? kernel->nest->operands[operand].writes : operand >= kernel->named->output_start;
}

CudaPhase *cuda_open_function(CudaUnit *unit, const char *suffix, int threads) {
    const Kernel *kernel = unit->kernel;
    int count = kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
    CHECK(unit->out->phase_count < CUDA_PHASE_MAX);
    CudaPhase *phase = &unit->out->phases[unit->out->phase_count++];
    char *name =
        arena_format(unit->arena, "k_%.40s%s%s", cuda_name(unit->arena, kernel->name), CUDA_KEY_MARK, suffix);
    *phase = (CudaPhase){.function = name, .grid = {1, 1, 1}, .block = threads};
    fprintf(unit->stream, "\nextern \"C\" __global__ void __launch_bounds__(%d)\n%s(", threads, name);
    for (int i = 0; i < count; i++)
        fprintf(unit->stream, "%s%s *p%d, ", operand_is_written(kernel, i) ? "" : "const ",
                cuda_memory_type(operand_element(kernel, i)), i);
    fprintf(unit->stream, "char *workspace) {\n");
    unit->indent = 1;
    unit->place = NO_PLACE;
    return phase;
}

CudaPhase *cuda_begin_function(CudaUnit *unit, const char *suffix, int threads) {
    CudaPhase *phase = cuda_open_function(unit, suffix, threads);
    cuda_line(unit, "begin_launch();");
    return phase;
}

int64_t cuda_points(const Nest *nest, uint32_t loops) {
    int64_t product = 1;
    for (int loop = 0; loop < nest->loop_count; loop++)
        if (loops >> loop & 1) product *= nest->loops[loop].dimension.extent;
    return product;
}
