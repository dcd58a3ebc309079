// Matrices in memory as cuBLASLt describes them: accesses of loops, alignment.
#include "codegen/cuda_product.h"

CudaWalk cuda_walk(const Nest *nest, const CudaLoops *loops, const Index *index) {
    CudaWalk result = {.regular = true};
    int64_t expected = 0;
    for (int i = loops->count - 1; i >= 0; i--) {
        int64_t stride = access_stride(index, loops->loop[i]);
        if (i == loops->count - 1)
            result.stride = stride;
        else
            result.regular &= stride == expected;
        expected = stride * nest->loops[loops->loop[i]].dimension.extent;
    }
    return result;
}

bool cuda_as_matrix(CudaWalk down, CudaWalk across, CudaWalk batch, const CudaLoops *rows, const CudaLoops *columns,
                    bool *turned, int64_t *lead, int64_t *step) {
    if (!down.regular || !across.regular || !batch.regular) return false;
    *step = batch.stride;
    *turned = !(across.stride == 1 || columns->extent == 1) ||
              (down.stride == 1 && columns->extent == 1 && rows->extent > 1);
    *lead = *turned ? across.stride : down.stride;
    int64_t width = *turned ? rows->extent : columns->extent,
            height = *turned ? columns->extent : rows->extent;
    if (*turned && down.stride != 1 && rows->extent > 1) return false;
    if (height == 1 && *lead < width) *lead = width;
    return *lead >= width && *step >= 0;
}

// ---- Alignment ----

static int64_t place_alignment(const CudaUnit *unit, CudaPlace place, Element element) {
    int64_t base = place.operand == CUDA_WORKSPACE ? CUDA_BUFFER_ALIGNMENT : unit->alignment[place.operand];
    return cuda_common_alignment(base, place.offset * element_bytes(element));
}

int64_t cuda_product_alignment(const CudaUnit *unit, const CudaProduct *p) {
    int64_t bits = place_alignment(unit, p->a, p->element_ab) | place_alignment(unit, p->b, p->element_ab) |
                   place_alignment(unit, p->d, p->element_d);
    if (p->c.operand != CUDA_NONE) bits |= place_alignment(unit, p->c, p->element_d);
    return cuda_common_alignment(bits, CUDA_BUFFER_ALIGNMENT);
}
