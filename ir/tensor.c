// Tensors of the reference evaluator against memory as back ends lay it out.
#include <string.h>

#include "ir/evaluate.h"
#include "ir/primitive.h"

// Elements of bf16 hold numbers that it has: the upper half is all there is.
static uint16_t bf16_bits(double value) {
    float single = (float)primitive_evaluate(PRIMITIVE_cast, ELEMENT_BF16, &value);
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static float bf16_value(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void tensor_store(Tensor tensor, void *memory) {
    int64_t count = type_count(tensor.type);
    for (int64_t i = 0; i < count; i++) {
        double value = tensor.data[i];
        switch (tensor.type->element) {
            case ELEMENT_BOOL:
                ((uint8_t *)memory)[i] = value != 0;
                break;
            case ELEMENT_I32:
                ((int32_t *)memory)[i] = (int32_t)value;
                break;
            case ELEMENT_I64:
                ((int64_t *)memory)[i] = (int64_t)value;
                break;
            case ELEMENT_BF16:
                ((uint16_t *)memory)[i] = bf16_bits(value);
                break;
            case ELEMENT_F32:
                ((float *)memory)[i] = (float)value;
                break;
            case ELEMENT_F64:
                ((double *)memory)[i] = value;
                break;
            case ELEMENT_COUNT:
                INTERNAL_ERROR("no such element");
        }
    }
}

void tensor_load(Tensor tensor, const void *memory) {
    int64_t count = type_count(tensor.type);
    for (int64_t i = 0; i < count; i++) switch (tensor.type->element) {
            case ELEMENT_BOOL:
                tensor.data[i] = ((const uint8_t *)memory)[i];
                break;
            case ELEMENT_I32:
                tensor.data[i] = ((const int32_t *)memory)[i];
                break;
            case ELEMENT_I64:
                tensor.data[i] = (double)((const int64_t *)memory)[i];
                break;
            case ELEMENT_BF16:
                tensor.data[i] = (double)bf16_value(((const uint16_t *)memory)[i]);
                break;
            case ELEMENT_F32:
                tensor.data[i] = (double)((const float *)memory)[i];
                break;
            case ELEMENT_F64:
                tensor.data[i] = ((const double *)memory)[i];
                break;
            case ELEMENT_COUNT:
                INTERNAL_ERROR("no such element");
        }
}
