// Matrix products through cuBLASLt. It counts columns first, Cherry rows: D = A B row by row is D' = B' A' column by
// column, so B goes in front, and what lies `turned` for Cherry is what cuBLASLt transposes.
#include <string.h>

#include "runtime/device_cuda.h"

enum { CHOICES = 8 };

struct DeviceProduct {
    DeviceProduct *next;  // of the device's
    CudaProduct product;
    int64_t alignment;
    void *description, *layout_a, *layout_b, *layout_c, *layout_d;
    CublasChoice choices[CHOICES];  // algorithms, the best one first
    int choice_count, choice;       // 0: cuBLASLt has none; the first that was not found to fail
    float alpha, beta;
};

static int type_of(Element element) { return element == ELEMENT_BF16 ? CUBLAS_TYPE_BF16 : CUBLAS_TYPE_F32; }

// rows x columns of cuBLASLt, batched.
static int make_layout(const CublasLibrary *cublas, void **layout, Element element, int64_t rows, int64_t columns,
                       int64_t lead, int64_t batch, int64_t step) {
    int32_t count = (int32_t)batch;
    int status = cublas->layout_create(layout, type_of(element), (uint64_t)rows, (uint64_t)columns, lead);
    if (status == 0 && batch > 1) status = cublas->layout_set(*layout, CUBLAS_LAYOUT_BATCH, &count, sizeof count);
    if (status == 0 && batch > 1) status = cublas->layout_set(*layout, CUBLAS_LAYOUT_BATCH_STEP, &step, sizeof step);
    return status;
}

static int make_layouts(const CublasLibrary *cublas, DeviceProduct *made) {
    const CudaProduct *p = &made->product;
    bool adds = p->c.operand != CUDA_NONE;
    int status = make_layout(cublas, &made->layout_b, p->element_ab, p->turned_b ? p->k : p->n, p->turned_b ? p->n : p->k,
                             p->lead_b, p->batch, p->step_b);
    if (status == 0)
        status = make_layout(cublas, &made->layout_a, p->element_ab, p->turned_a ? p->m : p->k,
                             p->turned_a ? p->k : p->m, p->lead_a, p->batch, p->step_a);
    if (status == 0)
        status = make_layout(cublas, &made->layout_d, p->element_d, p->n, p->m, p->lead_d, p->batch, p->step_d);
    if (status == 0)
        status = make_layout(cublas, &made->layout_c, p->element_d, p->n, p->m, adds ? p->lead_c : p->lead_d, p->batch,
                             adds ? p->step_c : p->step_d);
    return status;
}

// What is done behind the sums, and what of it is the same wherever its operands lie.
static int describe_epilogue(const CublasLibrary *cublas, void *description, const CudaProduct *p) {
    bool adds_bias = p->bias.operand != CUDA_NONE;
    int32_t type = type_of(p->element_d), epilogue = (adds_bias ? CUBLAS_EPILOGUE_BIAS : 0) |
                                                     (p->activation == CUDA_GELU ? CUBLAS_EPILOGUE_GELU : 0) |
                                                     (cuda_product_keeps(p) ? CUBLAS_EPILOGUE_BEFORE : 0);
    int status = 0;
    if (epilogue)
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_EPILOGUE, &epilogue, sizeof epilogue);
    if (status == 0 && adds_bias)
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_BIAS_TYPE, &type, sizeof type);
    if (status == 0 && cuda_product_keeps(p))
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_BEFORE_TYPE, &type, sizeof type);
    if (status == 0 && cuda_product_keeps(p))
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_BEFORE_LEAD, &p->lead_before,
                                         sizeof p->lead_before);
    return status;
}

static int make_description(const CublasLibrary *cublas, DeviceProduct *made) {
    const CudaProduct *p = &made->product;
    int32_t transpose = CUBLAS_TRANSPOSE;
    int status = cublas->description_create(&made->description, CUBLAS_COMPUTE_F32, CUBLAS_TYPE_F32);
    void *description = made->description;
    if (status == 0 && p->turned_b)
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_TRANSPOSE_A, &transpose, sizeof transpose);
    if (status == 0 && p->turned_a)
        status = cublas->description_set(description, CUBLAS_DESCRIPTION_TRANSPOSE_B, &transpose, sizeof transpose);
    return status == 0 ? describe_epilogue(cublas, description, p) : status;
}

static CudaAddress place(CudaPlace at, Element element, const CudaAddress *operands, CudaAddress workspace) {
    return (at.operand == CUDA_WORKSPACE ? workspace : operands[at.operand]) +
           (uint64_t)(at.offset * element_bytes(element));
}

int64_t device_product_alignment(const CudaProduct *p, const CudaAddress *operands, CudaAddress workspace) {
    CudaAddress bits = DEVICE_ALIGNMENT | place(p->a, p->element_ab, operands, workspace) |
                       place(p->b, p->element_ab, operands, workspace) | place(p->d, p->element_d, operands, workspace);
    if (p->c.operand != CUDA_NONE) bits |= place(p->c, p->element_d, operands, workspace);
    return (int64_t)(bits & -bits);
}

// cuBLASLt's guesses for this shape at addresses that are multiples of so many bytes.
static int choose(Device *device, DeviceProduct *made, int64_t bytes) {
    const CublasLibrary *cublas = &device->cublas;
    void *preference = NULL;
    uint64_t workspace = DEVICE_WORKSPACE;
    uint32_t alignment = (uint32_t)bytes, reduction = CUBLAS_REDUCTION_COMPUTE_TYPE;
    int found = 0, status = cublas->preference_create(&preference);
    if (status == 0)
        status = cublas->preference_set(preference, CUBLAS_PREFERENCE_WORKSPACE, &workspace, sizeof workspace);
    // Left alone it rounds parts of a sum to bf16 where D is.
    if (status == 0 && made->product.element_d == ELEMENT_BF16)
        status = cublas->preference_set(preference, CUBLAS_PREFERENCE_REDUCTION, &reduction, sizeof reduction);
    for (int side = 0; side < 4 && status == 0; side++)
        status = cublas->preference_set(preference, CUBLAS_PREFERENCE_ALIGNMENT + side, &alignment, sizeof alignment);
    if (status == 0)
        status = cublas->choose(device->handle, made->description, made->layout_b, made->layout_a, made->layout_c,
                                made->layout_d, preference, CHOICES, made->choices, &found);
    if (preference) cublas->preference_destroy(preference);
    made->choice_count = 0;
    for (int i = 0; i < found && status == 0; i++)
        if (made->choices[i].state == 0) made->choices[made->choice_count++] = made->choices[i];
    return status;
}

static bool same_shape(const CudaProduct *a, const CudaProduct *b) {
    return a->element_ab == b->element_ab && a->element_d == b->element_d && a->turned_a == b->turned_a &&
           a->turned_b == b->turned_b && a->m == b->m && a->n == b->n && a->k == b->k && a->batch == b->batch &&
           a->lead_a == b->lead_a && a->lead_b == b->lead_b && a->lead_c == b->lead_c && a->lead_d == b->lead_d &&
           a->step_a == b->step_a && a->step_b == b->step_b && a->step_c == b->step_c && a->step_d == b->step_d &&
           a->alpha == b->alpha && a->beta == b->beta &&  // NOLINT: the same text made both
           (a->c.operand == CUDA_NONE) == (b->c.operand == CUDA_NONE) &&
           (a->bias.operand == CUDA_NONE) == (b->bias.operand == CUDA_NONE) && a->activation == b->activation &&
           cuda_product_keeps(a) == cuda_product_keeps(b) &&
           (!cuda_product_keeps(a) || a->lead_before == b->lead_before);
}

// The product of this shape, made once. `status` is what cuBLASLt said last.
static DeviceProduct *find(Device *device, const CudaProduct *product, int64_t alignment, int *status) {
    *status = 0;
    for (DeviceProduct *known = device->products; known; known = known->next)
        if (known->alignment == alignment && same_shape(&known->product, product)) return known;
    DeviceProduct *made = ARENA_NEW(device->arena, DeviceProduct);
    *made = (DeviceProduct){.next = device->products, .product = *product, .alignment = alignment,
                            .alpha = (float)product->alpha, .beta = (float)product->beta};
    device->products = made;
    *status = make_description(&device->cublas, made);
    if (*status == 0) *status = make_layouts(&device->cublas, made);
    // What takes addresses of less alignment takes these.
    bool described = *status == 0;
    for (; described && !made->choice_count && alignment >= element_bytes(product->element_ab); alignment /= 2)
        *status = choose(device, made, alignment);
    return made;
}

bool device_has_product(Device *device, const CudaProduct *product, int64_t alignment) {
    int status;
    return find(device, product, alignment, &status)->choice_count > 0;
}

DeviceProduct *device_product_create(Device *device, const CudaProduct *product, int64_t alignment, const Kernel *kernel) {
    int status;
    DeviceProduct *made = find(device, product, alignment, &status);
    if (made->choice_count > 0) return made;
    report_error(device->diagnostics, NO_PLACE, "E0644",
                 "cuBLASLt has nothing for a product of %lld x %lld by %lld x %lld (%s)%s%s: %s (%d)",
                 (long long)product->m, (long long)product->k, (long long)product->k, (long long)product->n,
                 element_name(product->element_ab), kernel ? " of kernel " : "", kernel ? kernel->name : "",
                 device->cublas.status_text(status), status);
    device->failed = true;
    return NULL;
}

void device_products_release(Device *device) {
    for (; device->products; device->products = device->products->next) {
        const DeviceProduct *product = device->products;
        void *layouts[] = {product->layout_a, product->layout_b, product->layout_c, product->layout_d};
        for (int i = 0; i < 4; i++)
            if (layouts[i]) device->cublas.layout_destroy(layouts[i]);
        if (product->description) device->cublas.description_destroy(product->description);
    }
}

int device_product_run(Device *device, DeviceProduct *made, const CudaProduct *p, const CudaAddress *operands,
                       CudaAddress workspace) {
    const CublasLibrary *cublas = &device->cublas;
    CudaAddress d = place(p->d, p->element_d, operands, workspace);
    bool adds = p->c.operand != CUDA_NONE;
    static const CudaPlace nowhere = {.operand = CUDA_NONE};
    const CudaPlace *told[] = {&p->bias, cuda_product_keeps(p) ? &p->before : &nowhere};
    static const int attributes[] = {CUBLAS_DESCRIPTION_BIAS, CUBLAS_DESCRIPTION_BEFORE};
    for (int i = 0; i < 2; i++) {
        if (told[i]->operand == CUDA_NONE) continue;
        CudaAddress address = place(*told[i], p->element_d, operands, workspace);
        int status = cublas->description_set(made->description, attributes[i], &address, sizeof address);
        if (status != 0) return cublas_status(status);
    }
    for (;;) {
        int status = cublas->multiply(
            device->handle, made->description, &made->alpha, place(p->b, p->element_ab, operands, workspace),
            made->layout_b, place(p->a, p->element_ab, operands, workspace), made->layout_a, &made->beta,
            adds ? place(p->c, p->element_d, operands, workspace) : d, adds ? made->layout_c : made->layout_d, d,
            made->layout_d, made->choices[made->choice].algorithm, device->workspace.address, DEVICE_WORKSPACE,
            device->stream);
        if (status == 0 || made->choice + 1 == made->choice_count) return cublas_status(status);
        made->choice++;
    }
}
