// The generated kernels of a program as text, each headed by its phases and the source line of its main work.
#include <inttypes.h>
#include <string.h>

#include "codegen/cuda_emit.h"
#include "codegen/cuda_nvrtc.h"

static void print_place(CudaPlace place, FILE *stream) {
    if (place.operand == CUDA_WORKSPACE)
        fprintf(stream, "workspace");
    else
        fprintf(stream, "p%d", place.operand);
    if (place.offset) fprintf(stream, "+%" PRId64, place.offset);
}

static void print_product(const CudaProduct *p, FILE *stream) {
    fprintf(stream, "//   cuBLASLt ");
    print_place(p->d, stream);
    fprintf(stream, "[%" PRId64 ", %" PRId64 "] = ", p->m, p->n);
    if (p->activation == CUDA_GELU) fprintf(stream, "gelu of ");
    if (p->alpha != 1) fprintf(stream, "%g ", p->alpha);
    print_place(p->a, stream);
    fprintf(stream, "%s ", p->turned_a ? "'" : "");
    print_place(p->b, stream);
    fprintf(stream, "%s", p->turned_b ? "'" : "");
    if (p->c.operand != CUDA_NONE) {
        fprintf(stream, " + ");
        print_place(p->c, stream);
    }
    if (p->bias.operand != CUDA_NONE) {
        fprintf(stream, " + bias ");
        print_place(p->bias, stream);
    }
    if (cuda_product_keeps(p)) {
        fprintf(stream, ", kept in ");
        print_place(p->before, stream);
    }
    fprintf(stream, " over %" PRId64 ", batch %" PRId64 ", %s -> %s\n", p->k, p->batch,
            element_name(p->element_ab), element_name(p->element_d));
}

static void print_title(const Program *program, size_t number, FILE *stream) {
    if (number >= program->kernels.count) {
        const LaunchGroup *group = &program->groups.items[number - program->kernels.count];
        fprintf(stream, "\n// ---- launches %u to %u side by side", (unsigned)group->first,
                (unsigned)(group->first + group->count - 1));
        return;
    }
    const Kernel *kernel = &program->kernels.items[number];
    Place place = kernel->nest ? kernel->nest->place : kernel->named->place;
    fprintf(stream, "\n// ---- %s", kernel->name);
    if (place.file) fprintf(stream, " from line %u", (unsigned)place.line);
}

static void print_header(const Program *program, size_t number, FILE *stream) {
    const CudaKernel *cuda = program_cuda_code(program, number);
    print_title(program, number, stream);
    if (cuda->workspace_bytes) fprintf(stream, ", workspace %" PRId64 " bytes", cuda->workspace_bytes);
    fprintf(stream, "\n");
    for (int i = 0; i < cuda->phase_count; i++) {
        const CudaPhase *phase = &cuda->phases[i];
        if (!phase->function) {
            print_product(&phase->product, stream);
            continue;
        }
        fprintf(stream, "//   %s<<<(%" PRId64 ", %" PRId64 ", %" PRId64 "), %d", phase->function,
                phase->grid[0], phase->grid[1], phase->grid[2], phase->block);
        fprintf(stream, phase->shared_bytes ? ", %" PRId64 ">>>\n" : ">>>\n", phase->shared_bytes);
    }
}

// Whether an earlier kernel has the same text: products that differ round their operands alike.
static bool is_repeated(const Program *program, size_t number) {
    for (size_t k = 0; k < number; k++)
        if (program_cuda_code(program, k)->key == program_cuda_code(program, number)->key) return true;
    return false;
}

static void print_image(const CudaKernel *cuda, FILE *stream) {
    const unsigned char *bytes = cuda->image;
    fprintf(stream, "//   %d registers, %d bytes spilled, cubin of %zu bytes\n", cuda->registers,
            cuda->spill_bytes, cuda->image_bytes);
    for (size_t i = 0; i < cuda->image_bytes; i++)
        fprintf(stream, i % 32 == 31 || i + 1 == cuda->image_bytes ? "%02x\n" : "%02x", bytes[i]);
}

bool cuda_print(Ir *ir, const Program *program, const CudaOptions *options, const char *format,
                FILE *stream) {
    Program *one = (Program *)program;
    bool ptx = strcmp(format, "ptx") == 0, cubin = strcmp(format, "cubin") == 0;
    if (cubin ? !cuda_compile(ir, &one, 1, options, NULL) : !cuda_generate(ir, &one, 1, options))
        return false;
    if (!ptx && !cubin) fputs(cuda_prelude(), stream);
    for (size_t k = 0; k < program_cuda_count(program); k++) {
        const CudaKernel *code = program_cuda_code(program, k);
        print_header(program, k, stream);
        if (!code->text || is_repeated(program, k)) continue;
        if (cubin && !code->image) {
            fprintf(stream, "//   no launch runs it alone\n");
            continue;
        }
        if (cubin) {
            print_image(code, stream);
            continue;
        }
        if (!ptx) {
            fputs(code->text, stream);
            continue;
        }
        const char *text = cuda_nvrtc_ptx(ir, code, options);
        if (!text) return false;
        fputs(text, stream);
    }
    return true;
}
