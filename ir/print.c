// Modules and graphs as text. docs/ir.md shows the form; read.c reads it back.
#include <inttypes.h>
#include <string.h>

#include "ir/entries.h"
#include "ir/module.h"
#include "ir/pointer_map.h"
#include "ir/text.h"
#include "ir/training.h"

typedef struct NamedGraph {
    const Graph *graph;
    const char *name;
} NamedGraph;

typedef struct Printer {
    Ir *ir;
    Arena *arena;  // the compile's
    FILE *stream;
    VECTOR(NamedGraph) graphs;  // in the order of printing; names made distinct
    PointerMap numbers;         // of graphs, in `graphs`
    PointerMap taken;           // names
} Printer;

static void add_graph(Printer *printer, const Graph *graph) {
    if (!graph || pointer_map_find(&printer->numbers, graph) != POINTER_MISSING) return;
    const char *name = graph->name;
    for (int i = 2; pointer_map_find(&printer->taken, name) != POINTER_MISSING; i++)
        name = names_format(printer->ir->names, "%s.%d", graph->name, i);
    pointer_map_set(printer->arena, &printer->taken, name, 0);
    pointer_map_set(printer->arena, &printer->numbers, graph, (uint32_t)printer->graphs.count);
    vector_push(printer->arena, &printer->graphs, ((NamedGraph){graph, name}));
}

// Adds all that the graphs refer to; the list grows while it is walked.
static void add_callees(Printer *printer) {
    for (size_t g = 0; g < printer->graphs.count; g++) {
        const Graph *graph = printer->graphs.items[g].graph;
        for (uint32_t id = 0; id < graph->nodes.count; id++) {
            const Node *node = graph_node(graph, id);
            for (uint32_t i = 0; i < node->attributes.count; i++)
                if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH)
                    add_graph(printer, node->attributes.items[i].graph);
        }
    }
}

static const char *graph_reference(const Printer *printer, const Graph *graph) {
    int64_t number = pointer_map_find(&printer->numbers, graph);
    CHECK(number != POINTER_MISSING);
    return arena_format(printer->arena, "@%s", text_name(printer->arena, printer->graphs.items[number].name));
}

static void print_place(const Printer *printer, Place place) {
    if (!place.file) return;
    const char *file = text_is_bare_path(place.file) ? place.file : text_quote(printer->arena, place.file);
    fprintf(printer->stream, " !%s:%u:%u", file, place.line, place.column);
    if (place.length) fprintf(printer->stream, "+%u", place.length);
}

// A word that would read back as a number is quoted.
static const char *option_text(const Printer *printer, const Option *option) {
    if (!option->text) return text_number(printer->arena, option->number);
    bool number = strcmp(option->text, "inf") == 0 || strcmp(option->text, "nan") == 0;
    return number ? text_quote(printer->arena, option->text) : text_name(printer->arena, option->text);
}

static const char *item_text(const Printer *printer, const Attribute *attribute, uint32_t i) {
    Arena *arena = printer->arena;
    switch (attribute_kind(attribute->key)) {
        case KIND_NAMES:
            return text_name(arena, attribute->names[i]);
        case KIND_DIMENSIONS:
            return type_dimension_text(printer->ir, &attribute->dimensions[i]);
        default:
            return arena_format(arena, "%s = %s", text_name(arena, attribute->options[i].name),
                                option_text(printer, &attribute->options[i]));
    }
}

static void print_attribute(const Printer *printer, const Attribute *attribute) {
    FILE *stream = printer->stream;
    fprintf(stream, "%s = ", attribute_name(attribute->key));
    switch (attribute_kind(attribute->key)) {
        case KIND_INTEGER:
            fprintf(stream, "%" PRId64, attribute->integer);
            return;
        case KIND_NUMBER:
            fputs(text_number(printer->arena, attribute->number), stream);
            return;
        case KIND_TEXT:
            fputs(text_quote(printer->arena, attribute->text), stream);
            return;
        case KIND_NAME:
            fputs(text_name(printer->arena, attribute->text), stream);
            return;
        case KIND_ELEMENT:
            fputs(element_name((Element)attribute->integer), stream);
            return;
        case KIND_ROLE:
            fputs(role_name((Role)attribute->integer), stream);
            return;
        case KIND_GRAPH:
            fputs(graph_reference(printer, attribute->graph), stream);
            return;
        case KIND_ENTRIES:
            fprintf(stream, "(%s)", entries_text(printer->arena, attribute->entries, attribute->count));
            return;
        default:
            break;
    }
    for (uint32_t i = 0; i < attribute->count; i++)
        fprintf(stream, "%s%s", i ? ", " : "(", item_text(printer, attribute, i));
    fputs(attribute->count ? ")" : "()", stream);
}

static void print_value(const Printer *printer, Value value) {
    if (value_is_none(value))
        fputs("%none", printer->stream);  // only in a graph that is broken; does not read back
    else if (value.result)
        fprintf(printer->stream, "%%%u:%u", value.node, value.result);
    else
        fprintf(printer->stream, "%%%u", value.node);
}

//   %5 = dot %3, %4 {over = (embed)} : f32[batch=8, time=256] !nano.cherry:20:13+4
static void print_node(const Printer *printer, uint32_t id, const Node *node) {
    FILE *stream = printer->stream;
    fprintf(stream, "  %%%u = %s", id, op_name(node->op));
    for (uint32_t i = 0; i < node->operand_count; i++) {
        fputs(i ? ", " : " ", stream);
        print_value(printer, node->operands[i]);
    }
    for (uint32_t i = 0; i < node->attributes.count; i++) {
        fputs(i ? ", " : " {", stream);
        print_attribute(printer, &node->attributes.items[i]);
    }
    if (node->attributes.count) fputc('}', stream);
    for (uint32_t i = 0; i < node->result_count; i++)
        fprintf(stream, "%s%s", i ? ", " : " : ", type_text(printer->ir, node->types[i]));
    print_place(printer, node->place);
    fputc('\n', stream);
}

// The signature, where it is not the inputs in the order of their nodes.
static void print_signature(const Printer *printer, const Graph *graph) {
    bool ascending = true;
    for (size_t i = 1; i < graph->inputs.count; i++)
        ascending &= graph->inputs.items[i - 1] < graph->inputs.items[i];
    if (ascending) return;
    fputs("  inputs ", printer->stream);
    for (size_t i = 0; i < graph->inputs.count; i++)
        fprintf(printer->stream, "%s%%%u", i ? ", " : "", graph->inputs.items[i]);
    fputc('\n', printer->stream);
}

static void print_graph(const Printer *printer, const NamedGraph *named) {
    const Graph *graph = named->graph;
    fprintf(printer->stream, "graph @%s {\n", text_name(printer->arena, named->name));
    for (uint32_t id = 0; id < graph->nodes.count; id++) print_node(printer, id, graph_node(graph, id));
    print_signature(printer, graph);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        fprintf(printer->stream, "  output %s = ", text_name(printer->arena, output->name));
        print_value(printer, output->value);
        if (!value_is_none(output->replaces)) {
            fputs(" replaces ", printer->stream);
            print_value(printer, output->replaces);
        }
        fputc('\n', printer->stream);
    }
    fputs("}\n", printer->stream);
}

static void print_training(const Printer *printer, const Training *training) {
    fputs("training", printer->stream);
    if (training->name) fprintf(printer->stream, " %s", text_name(printer->arena, training->name));
    fputs(" {\n", printer->stream);
    for (Setting setting = 0; setting < SETTING_COUNT; setting++)
        fprintf(printer->stream, "  %s = %s\n", setting_name(setting),
                setting_text(printer->arena, training, setting));
    fputc('}', printer->stream);
    print_place(printer, training->place);
    fputc('\n', printer->stream);
}

static void print_parameter(const Printer *printer, const Parameter *parameter) {
    fprintf(printer->stream, "parameter %s : %s rank %d", text_name(printer->arena, parameter->path),
            type_text(printer->ir, parameter->type), parameter->declared_rank);
    if (parameter->initialize)
        fprintf(printer->stream, " initialize %s", graph_reference(printer, parameter->initialize));
    if (parameter->file) fprintf(printer->stream, " from %s", text_quote(printer->arena, parameter->file));
    print_place(printer, parameter->place);
    fputc('\n', printer->stream);
}

static void print_graphs(const Printer *printer, bool space_before) {
    for (size_t i = 0; i < printer->graphs.count; i++) {
        if (i || space_before) fputc('\n', printer->stream);
        print_graph(printer, &printer->graphs.items[i]);
    }
}

void module_print(const Module *module, FILE *stream) {
    Printer printer = {.ir = module->ir, .arena = module->ir->arena, .stream = stream};
    for (size_t i = 0; i < module->graphs.count; i++) add_graph(&printer, module->graphs.items[i]);
    for (size_t i = 0; i < module->parameters.count; i++)
        add_graph(&printer, module->parameters.items[i].initialize);
    add_callees(&printer);
    add_graph(&printer, module->transfer);  // last, where the reader leaves it out of the graphs
    add_callees(&printer);

    bool header = module->name[0] != 0;  // a lone graph's text has no module
    if (header) fprintf(stream, "module %s\n", text_name(printer.arena, module->name));
    if (module->has_training) print_training(&printer, &module->training);
    for (size_t i = 0; i < module->parameters.count; i++)
        print_parameter(&printer, &module->parameters.items[i]);
    if (module->transfer) fprintf(stream, "transfer %s\n", graph_reference(&printer, module->transfer));
    print_graphs(&printer, header || module->has_training || module->parameters.count);
}

void graph_print(const Graph *graph, FILE *stream) {
    Printer printer = {.ir = graph->ir, .arena = graph->ir->arena, .stream = stream};
    add_graph(&printer, graph);
    add_callees(&printer);
    print_graphs(&printer, false);
}
