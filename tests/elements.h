// One element of a buffer as a double and back, rounded to nearest even.
#ifndef CHERRY_TESTS_ELEMENTS_H
#define CHERRY_TESTS_ELEMENTS_H

#include <stdint.h>
#include <string.h>

#include "ir/type.h"

static inline void element_write(Element element, char *at, double value) {
    if (element == ELEMENT_BOOL) *at = value != 0;
    if (element == ELEMENT_I32) *(int32_t *)at = (int32_t)value;
    if (element == ELEMENT_I64) *(int64_t *)at = (int64_t)value;
    if (element == ELEMENT_F32) *(float *)at = (float)value;
    if (element == ELEMENT_F64) *(double *)at = value;
    if (element == ELEMENT_BF16) {
        float number = (float)value;
        uint32_t bits;
        memcpy(&bits, &number, 4);
        *(uint16_t *)at = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static inline double element_read(Element element, const char *at) {
    if (element == ELEMENT_BOOL) return *at;
    if (element == ELEMENT_I32) return *(const int32_t *)at;
    if (element == ELEMENT_I64) return (double)*(const int64_t *)at;
    if (element == ELEMENT_F32) return *(const float *)at;
    if (element == ELEMENT_F64) return *(const double *)at;
    uint32_t bits = (uint32_t) * (const uint16_t *)at << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

#endif
