#include "tests/op_case_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/op.h"
#include "tests/elements.h"

static double rounded(Element element, double value) {
    char bytes[8] = {0};
    element_write(element, bytes, value);
    return element_read(element, bytes);
}

// Between row-major doubles of the tensor's own extents and a buffer at capacity.
static void copy_elements(const Tensor *tensor, const Type *type, char *bytes, bool into) {
    if (type_count(tensor->type) == 0) return;
    Odometer odometer;
    odometer_start(&odometer, tensor->type);
    do {
        int64_t offset = 0;
        for (int d = 0; d < type->rank; d++) offset = offset * type->dimensions[d].extent + odometer.at[d];
        char *at = bytes + offset * element_bytes(type->element);
        if (into) element_write(type->element, at, tensor->data[odometer.position]);
        else tensor->data[odometer.position] = element_read(type->element, at);
    } while (odometer_next(&odometer));
}

static int64_t compare(const OpCase *op_case, const char *where, const Tensor *expected, const Tensor *got) {
    Element element = expected->type->element;
    double tolerance = element == ELEMENT_BF16 ? 0x1p-6 : element == ELEMENT_F64 ? 1e-12 : 4e-6;
    int64_t wrong = 0;
    for (int64_t i = 0; i < type_count(expected->type); i++) {
        double a = rounded(element_is_float(element) ? ELEMENT_F32 : element, expected->data[i]), b = got->data[i];
        if (a == b || (isnan(a) && isnan(b))) continue;
        double size = fabs(a) > 1 ? fabs(a) : 1;
        if (fabs(expected->data[i] - b) <= tolerance * size) continue;
        if (!wrong++)
            fprintf(stderr, "%s/%s on %s: element %lld: expected %.9g, found %.9g\n", op_name(op_case->op),
                    op_case->name, where, (long long)i, a, b);
    }
    return wrong;
}

// The buffer's bytes, filled where it is an input. One byte more than none, so that nothing is NULL.
static char *create_buffer(const Graph *graph, const Tensor *inputs, const Buffer *buffer) {
    char *bytes = malloc((size_t)buffer->bytes + 1);
    CHECK(bytes);
    memset(bytes, 0x7f, (size_t)buffer->bytes);
    for (size_t i = 0; buffer->kind == BUFFER_INPUT && i < graph->inputs.count; i++)
        if (attribute_text(graph_node(graph, graph->inputs.items[i]), ATTRIBUTE_name) == buffer->name)
            copy_elements(&inputs[i], buffer->type, bytes, true);
    return bytes;
}

int64_t op_case_run(const OpCase *op_case, const Graph *graph, const Program *program, const char *where,
                    RunProgram run, void *context) {
    Arena *arena = graph->ir->arena;
    Tensor *inputs = op_case_inputs(arena, op_case, graph);
    for (size_t i = 0; i < graph->inputs.count; i++)
        for (int64_t j = 0; j < type_count(inputs[i].type); j++)
            inputs[i].data[j] = rounded(inputs[i].type->element, inputs[i].data[j]);
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, graph->outputs.count + 1);
    if (!evaluate_graph(arena, graph, inputs, outputs)) return -1;
    char **buffers = ARENA_ARRAY(arena, char *, program->buffers.count + 1);
    for (size_t b = 0; b < program->buffers.count; b++)
        buffers[b] = create_buffer(graph, inputs, &program->buffers.items[b]);
    run(context, program, buffers);
    int64_t wrong = 0;
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        for (size_t i = 0; buffer->kind == BUFFER_OUTPUT && i < graph->outputs.count; i++) {
            if (graph->outputs.items[i].name != buffer->name) continue;
            Tensor got = tensor_create(arena, outputs[i].type);
            copy_elements(&got, buffer->type, buffers[b], false);
            wrong += compare(op_case, where, &outputs[i], &got);
        }
        free(buffers[b]);
    }
    return wrong;
}
