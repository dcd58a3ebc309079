// cuBLASLt that is not there: descriptions, guesses, products as plain loops. See fake.c.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/accumulate.h"
#include "tests/cuda/fake.h"

typedef struct Description {
    int32_t transpose_a, transpose_b, epilogue, bias_type, before_type;
    uint64_t bias, before;
    int64_t before_lead;
} Description;
enum { BIAS = 4, GELU = 32, BEFORE = 128 };  // of an epilogue, added up
typedef struct Layout {
    int type;
    int64_t rows, columns, lead, step;
    int32_t batch;
} Layout;
typedef struct Preference {
    uint64_t workspace;
    uint32_t reduction, alignment[4];
} Preference;
typedef struct Product {
    Description description;
    Layout a_layout, b_layout, c_layout, d_layout;
    float alpha, beta;
    uint64_t a, b, c, d;
} Product;

EXPORT int cublasLtCreate(void **handle) {
    *handle = &fake_failed;
    return fake_current ? OK : INVALID;
}
EXPORT size_t cublasLtGetCudartVersion(void) { return (size_t)atoi(variable("CHERRY_FAKE_CUBLAS", "13")) * 1000; }
EXPORT const char *cublasLtGetStatusString(int status) { return status == NOT_SUPPORTED ? "not supported" : "invalid value"; }
EXPORT int cublasLtDestroy(void *handle) { return handle ? OK : INVALID; }
EXPORT int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    if (compute != 68 || scale != 0) return INVALID;
    *description = calloc(1, sizeof(Description));
    ((Description *)*description)->epilogue = 1;
    return OK;
}
EXPORT int cublasLtMatmulDescDestroy(void *description) {
    free(description);
    return OK;
}
EXPORT int cublasLtMatmulDescSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Description *description = of;
    void *at = attribute == 3   ? (void *)&description->transpose_a
               : attribute == 4 ? (void *)&description->transpose_b
               : attribute == 7 ? (void *)&description->epilogue
               : attribute == 8 ? (void *)&description->bias
               : attribute == 11 ? (void *)&description->before
               : attribute == 12 ? (void *)&description->before_lead
               : attribute == 22 ? (void *)&description->before_type
               : attribute == 26 ? (void *)&description->bias_type
                                 : NULL;
    if (!at || bytes != (attribute == 8 || attribute == 11 || attribute == 12 ? 8 : 4)) return INVALID;
    memcpy(at, value, bytes);
    return OK;
}
EXPORT int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t lead) {
    if ((type != 0 && type != 14) || lead < (int64_t)rows) return INVALID;
    Layout *made = *layout = calloc(1, sizeof *made);
    *made = (Layout){.type = type, .rows = (int64_t)rows, .columns = (int64_t)columns, .lead = lead, .batch = 1};
    return OK;
}
EXPORT int cublasLtMatrixLayoutDestroy(void *layout) {
    free(layout);
    return OK;
}
EXPORT int cublasLtMatrixLayoutSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Layout *layout = of;
    if (attribute == 5 && bytes == 4) memcpy(&layout->batch, value, bytes);
    else if (attribute == 6 && bytes == 8) memcpy(&layout->step, value, bytes);
    else return INVALID;
    return OK;
}
EXPORT int cublasLtMatmulPreferenceCreate(void **preference) {
    Preference *made = *preference = calloc(1, sizeof *made);
    made->reduction = 7;  // any
    for (int i = 0; i < 4; i++) made->alignment[i] = 256;
    return OK;
}
EXPORT int cublasLtMatmulPreferenceDestroy(void *preference) {
    free(preference);
    return OK;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Preference *preference = of;
    if (attribute == 1 && bytes == 8) memcpy(&preference->workspace, value, bytes);
    else if (attribute == 3 && bytes == 4) memcpy(&preference->reduction, value, bytes);
    else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&preference->alignment[attribute - 5], value, bytes);
    else return INVALID;
    return OK;
}

enum { ALGORITHMS = 3 };  // of which the second is for other devices

typedef struct Choice {
    uint64_t algorithm[8];  // alignment; number
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} Choice;

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *of, void *a, void *b, void *c, void *d, void *wishes,
                                          int wanted, Choice *choices, int *found) {
    const Description *description = of;
    const Layout *la = a, *lb = b, *lc = c, *ld = d;
    int64_t m = description->transpose_a ? la->columns : la->rows, ka = description->transpose_a ? la->rows : la->columns;
    int64_t n = description->transpose_b ? lb->rows : lb->columns, kb = description->transpose_b ? lb->columns : lb->rows;
    if (!handle || !fake_current || wanted < 1 || ka != kb || ld->rows != m || ld->columns != n || lc->rows != m ||
        lc->columns != n || la->type != lb->type || lc->type != ld->type || la->batch != ld->batch || lb->batch != ld->batch)
        return INVALID;
    const Preference *preference = wishes;
    if (ld->type == 14 && preference->reduction & 5) complain("a product whose parts may be added up in bf16");
    const char *refused = variable("CHERRY_FAKE_REFUSE", "");
    *found = 0;
    if (strcmp(refused, "all") == 0 || (strcmp(refused, "bias") == 0 && description->epilogue & BIAS)) return NOT_SUPPORTED;
    if (description->epilogue & GELU && (ld->type != 14 || ld->batch > 1)) return NOT_SUPPORTED;
    if (description->epilogue & BEFORE && description->before_lead % 8) return INVALID;
    *found = wanted < ALGORITHMS ? wanted : ALGORITHMS;
    memset(choices, 0, sizeof *choices * (size_t)*found);
    for (int i = 0; i < *found; i++) {
        choices[i].algorithm[0] = preference->alignment[0];
        choices[i].algorithm[1] = (uint64_t)i;
        choices[i].state = i == 1 ? NOT_SUPPORTED : OK;
    }
    return OK;
}

static float read_number(int type, const char *base, int64_t at) {
    if (type == 0) return ((const float *)base)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)base)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void write_number(int type, char *base, int64_t at, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == 0) ((float *)base)[at] = value;
    else ((uint16_t *)base)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The last element that a matrix reaches.
static size_t reach(const Layout *layout) {
    int64_t last = (layout->batch - 1) * layout->step + (layout->columns - 1) * layout->lead + layout->rows;
    return (size_t)last * (layout->type == 0 ? 4 : 2);
}

static float add_products(const Product *p, const char *a, const char *b, int64_t batch, int64_t i, int64_t j) {
    int64_t extent = p->description.transpose_a ? p->a_layout.rows : p->a_layout.columns;
    float sum = 0;
    for (int64_t k = 0; k < extent; k += EMULATE_STEP) {
        float x[EMULATE_STEP] = {0}, y[EMULATE_STEP] = {0};
        for (int64_t s = 0; s < EMULATE_STEP && k + s < extent; s++) {
            int64_t at_a = p->description.transpose_a ? i * p->a_layout.lead + k + s : (k + s) * p->a_layout.lead + i;
            int64_t at_b = p->description.transpose_b ? (k + s) * p->b_layout.lead + j : j * p->b_layout.lead + k + s;
            x[s] = read_number(p->a_layout.type, a, batch * p->a_layout.step + at_a);
            y[s] = read_number(p->b_layout.type, b, batch * p->b_layout.step + at_b);
        }
        sum = emulate_multiply(p->a_layout.type == 14, sum, x, y);
    }
    return sum;
}

static void multiply(void *what) {
    const Product *p = what;
    if (fake_failed) return;
    const Description *how = &p->description;
    if (how->epilogue & BIAS && how->bias % 16) complain("a bias that is not aligned to 16 bytes");
    if (how->epilogue & BEFORE && how->before % 16) complain("a matrix before its activation that is not aligned to 16 bytes");
    int64_t k_extent = how->transpose_a ? p->a_layout.rows : p->a_layout.columns;
    if (p->d_layout.rows * p->d_layout.columns * k_extent >= 1ll << 32) {  // of a benchmark: nobody looks
        const char *last = device_bytes(p->a, reach(&p->a_layout)) + reach(&p->a_layout) - 2;
        if (!last[0] && !last[1]) complain("a benchmark of zeros: GPUs are faster with them");
        return;
    }
    const char *a = device_bytes(p->a, reach(&p->a_layout)), *b = device_bytes(p->b, reach(&p->b_layout)),
               *c = device_bytes(p->c, reach(&p->c_layout));
    char *d = device_bytes(p->d, reach(&p->d_layout)), *before = NULL;
    if (how->epilogue & BEFORE) {
        Layout kept = p->d_layout;
        kept.lead = how->before_lead;
        before = device_bytes(how->before, reach(&kept));
    }
    for (int64_t batch = 0; batch < p->d_layout.batch; batch++)
        for (int64_t j = 0; j < p->d_layout.columns; j++)
            for (int64_t i = 0; i < p->d_layout.rows; i++) {
                float sum = p->alpha * add_products(p, a, b, batch, i, j);
                int64_t at_c = batch * p->c_layout.step + j * p->c_layout.lead + i;
                if (p->beta != 0) sum += p->beta * read_number(p->c_layout.type, c, at_c);
                if (how->epilogue & BIAS) sum += read_number(how->bias_type, (char *)(uintptr_t)how->bias, i);
                if (how->epilogue & BEFORE) write_number(how->before_type, before, j * how->before_lead + i, sum);
                if (how->epilogue & GELU) sum = 0.5f * sum * (1 + tanhf(0.7978846f * (sum + 0.044715f * sum * sum * sum)));
                write_number(p->d_layout.type, d, batch * p->d_layout.step + j * p->d_layout.lead + i, sum);
            }
}

EXPORT int cublasLtMatmul(void *handle, void *description, const void *alpha, uint64_t a, void *a_layout, uint64_t b,
                          void *b_layout, const void *beta, uint64_t c, void *c_layout, uint64_t d, void *d_layout,
                          const uint64_t *algorithm, uint64_t workspace, size_t workspace_bytes, void *stream) {
    if (status_now(OK) != OK) return status_now(OK);
    if (!handle || !stream || (a | b | c | d) % algorithm[0] || algorithm[1] == 1) return INVALID;
    if ((int)algorithm[1] < atoi(variable("CHERRY_FAKE_BROKEN", "0"))) return NOT_SUPPORTED;
    device_bytes(workspace, workspace_bytes);
    Product *product = calloc(1, sizeof *product);
    *product = (Product){*(Description *)description, *(Layout *)a_layout, *(Layout *)b_layout, *(Layout *)c_layout,
                         *(Layout *)d_layout, *(const float *)alpha, *(const float *)beta, a, b, c, d};
    record(multiply, product);
    return OK;
}
