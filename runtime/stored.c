// Elements as safetensors files store them, and their conversion to ours.
#include <math.h>
#include <string.h>

#include "runtime/safetensors.h"

typedef enum StoredKind { KIND_FLOAT, KIND_WHOLE, KIND_OPAQUE } StoredKind;

static const struct {
    const char *name;
    int bytes;
    StoredKind kind;
} table[STORED_COUNT] = {
    [STORED_BOOL] = {"BOOL", 1, KIND_WHOLE},      [STORED_U8] = {"U8", 1, KIND_WHOLE},
    [STORED_I8] = {"I8", 1, KIND_WHOLE},          [STORED_U16] = {"U16", 2, KIND_WHOLE},
    [STORED_I16] = {"I16", 2, KIND_WHOLE},        [STORED_U32] = {"U32", 4, KIND_WHOLE},
    [STORED_I32] = {"I32", 4, KIND_WHOLE},        [STORED_U64] = {"U64", 8, KIND_WHOLE},
    [STORED_I64] = {"I64", 8, KIND_WHOLE},        [STORED_F16] = {"F16", 2, KIND_FLOAT},
    [STORED_BF16] = {"BF16", 2, KIND_FLOAT},      [STORED_F32] = {"F32", 4, KIND_FLOAT},
    [STORED_F64] = {"F64", 8, KIND_FLOAT},        [STORED_F8_E4M3] = {"F8_E4M3", 1, KIND_OPAQUE},
    [STORED_F8_E5M2] = {"F8_E5M2", 1, KIND_OPAQUE},
};

const char *stored_name(StoredElement element) { return table[element].name; }
int stored_bytes(StoredElement element) { return table[element].bytes; }

StoredElement stored_from_element(Element element) {
    switch (element) {
        case ELEMENT_BOOL: return STORED_BOOL;
        case ELEMENT_I32: return STORED_I32;
        case ELEMENT_I64: return STORED_I64;
        case ELEMENT_BF16: return STORED_BF16;
        case ELEMENT_F32: return STORED_F32;
        case ELEMENT_F64: return STORED_F64;
        case ELEMENT_COUNT: break;
    }
    INTERNAL_ERROR("no stored form of element type %d", (int)element);
}

bool stored_convertible(StoredElement from, Element to) {
    if (table[from].kind == KIND_OPAQUE) return false;
    return element_is_float(to) || table[from].kind == KIND_WHOLE;
}

static double half_to_double(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double magnitude = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                       : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                      : ldexp(mantissa, -24);
    return bits >> 15 ? -magnitude : magnitude;
}

static double brain_to_double(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static uint16_t float_to_brain(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) return (uint16_t)(bits >> 16 | 64);  // stays a NaN
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The bytes of one element, zeros above. Everything we run on is little endian, like the files.
static uint64_t read_bits(const unsigned char *at, int width) {
    uint64_t bits = 0;
    memcpy(&bits, at, (size_t)width);
    return bits;
}

static int64_t read_whole(StoredElement element, const unsigned char *at) {
    uint64_t bits = read_bits(at, table[element].bytes);
    switch (element) {
        case STORED_BOOL: return bits != 0;
        case STORED_I8: return (int8_t)bits;
        case STORED_I16: return (int16_t)bits;
        case STORED_I32: return (int32_t)bits;
        default: return (int64_t)bits;
    }
}

static double read_float(StoredElement element, const unsigned char *at) {
    uint64_t bits = read_bits(at, table[element].bytes);
    float narrow;
    double wide;
    switch (element) {
        case STORED_F16: return half_to_double((uint16_t)bits);
        case STORED_BF16: return brain_to_double((uint16_t)bits);
        case STORED_F32: memcpy(&narrow, at, sizeof narrow); return (double)narrow;
        case STORED_F64: memcpy(&wide, at, sizeof wide); return wide;
        case STORED_U64: return (double)bits;
        default: return (double)read_whole(element, at);
    }
}

void stored_convert(const StoredTensor *tensor, int64_t first, int64_t count, Element to, void *result) {
    CHECK(stored_convertible(tensor->element, to) && first >= 0 && first + count <= tensor->count);
    StoredElement from = tensor->element;
    int width = table[from].bytes;
    const unsigned char *at = tensor->data + first * width;
    // A bool that is neither 0 nor 1 must not reach a kernel: those are not copied but normalised.
    if (from == stored_from_element(to) && from != STORED_BOOL) {
        if (count) memcpy(result, at, (size_t)(count * width));
        return;
    }
    for (int64_t i = 0; i < count; i++, at += width) {
        switch (to) {
            case ELEMENT_BOOL: ((uint8_t *)result)[i] = read_whole(from, at) != 0; break;
            case ELEMENT_I32: ((int32_t *)result)[i] = (int32_t)read_whole(from, at); break;
            case ELEMENT_I64: ((int64_t *)result)[i] = read_whole(from, at); break;
            case ELEMENT_BF16: ((uint16_t *)result)[i] = float_to_brain((float)read_float(from, at)); break;
            case ELEMENT_F32: ((float *)result)[i] = (float)read_float(from, at); break;
            case ELEMENT_F64: ((double *)result)[i] = read_float(from, at); break;
            case ELEMENT_COUNT: break;
        }
    }
}
