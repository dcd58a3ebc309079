// How products are added up: shared by C, whose loops are cuBLASLt's products, and C++, which the kernels are.
#ifndef CHERRY_TESTS_CUDA_ACCUMULATE_H
#define CHERRY_TESTS_CUDA_ACCUMULATE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef EMULATE_QUIET
#define EMULATE_QUIET
#endif

enum { EMULATE_STEP = 16 };

EMULATE_QUIET static inline uint32_t emulate_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// A sum of f32 and EMULATE_STEP products of bf16, as tensor cores add: all are shifted to the largest exponent and lose
// what lies below its 24 bits, are added without further loss, and the result is cut to 24 bits, toward zero. What was
// measured of GPUs from sm_80 on keeps a bit or two more while adding, so none is further from the exact sum than this.
EMULATE_QUIET static inline float emulate_accumulate(float sum, const float *products) {
    uint32_t terms[EMULATE_STEP + 1], most = 1;
    float plain = sum;
    terms[EMULATE_STEP] = emulate_bits(sum);
    for (int i = 0; i < EMULATE_STEP; i++) terms[i] = emulate_bits(products[i]), plain += products[i];
    if (!isfinite(plain)) return plain;
    for (int i = 0; i <= EMULATE_STEP; i++) {
        uint32_t exponent = terms[i] >> 23 & 0xff;
        if (exponent > most) most = exponent;
    }
    int64_t total = 0;
    for (int i = 0; i <= EMULATE_STEP; i++) {
        uint32_t exponent = terms[i] >> 23 & 0xff, shift = most - (exponent ? exponent : 1);
        int64_t size = (terms[i] & 0x7fffff) | (exponent ? 1 << 23 : 0);
        size = shift < 24 ? size >> shift : 0;
        total += terms[i] >> 31 ? -size : size;
    }
    uint64_t size = total < 0 ? (uint64_t)-total : (uint64_t)total;
    int below = 0;
    while (size >> below >= 1 << 24) below++;
    float cut = (float)(size >> below << below);
    return ldexpf(total < 0 ? -cut : cut, (int)most - 127 - 23);
}

// A sum and EMULATE_STEP products x y, on tensor cores where both are bf16.
static inline float emulate_multiply(int on_tensor_cores, float sum, const float *x, const float *y) {
    float products[EMULATE_STEP];
    for (int i = 0; i < EMULATE_STEP; i++) products[i] = x[i] * y[i];
    if (on_tensor_cores) return emulate_accumulate(sum, products);
    for (int i = 0; i < EMULATE_STEP; i++) sum = fmaf(x[i], y[i], sum);
    return sum;
}

#endif
