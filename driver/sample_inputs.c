#include "driver/sample_inputs.h"

#include "base/hash.h"
#include "ir/input_limit.h"

static void fill(char *data, const Type *type, int64_t limit, uint64_t seed) {
    int64_t count = type_count(type);
    for (int64_t k = 0; k < count; k++) {
        uint64_t random = hash_word(seed, (uint64_t)k);
        int64_t whole = (int64_t)(random >> 2) % (limit < (1 << 30) ? limit : 2);
        float real = (float)(random >> 40) * 0x1p-23f - 1;
        switch (type->element) {
            case ELEMENT_BOOL:
                data[k] = (char)(random & 1);
                break;
            case ELEMENT_I32:
                ((int32_t *)(void *)data)[k] = (int32_t)whole;
                break;
            case ELEMENT_I64:
                ((int64_t *)(void *)data)[k] = whole;
                break;
            case ELEMENT_F64:
                ((double *)(void *)data)[k] = (double)real;
                break;
            default:
                ((float *)(void *)data)[k] = real;
                break;
        }
    }
}

void sample_inputs(Runner *runner, Entry entry, const char *graph_name) {
    const Graph *graph = module_find_graph(runner->module, graph_name);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        Value input = {graph->inputs.items[i], 0};
        const Node *node = graph_node(graph, input.node);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_DATA) continue;
        char *data = executor_input(runner->executors[entry], attribute_text(node, ATTRIBUTE_name));
        if (data) fill(data, node->types[0], input_limit(graph, input), hash_word(HASH_START, i));
    }
}
