// Types as they are written: resolving annotations, checking values against them.
#include <string.h>

#include "frontend/build.h"

bool element_from_name(const char *name, Element *element) {
    if (strcmp(name, "int") == 0) return element_parse("i32", element);
    if (strcmp(name, "float") == 0) return element_parse("f32", element);
    return element_parse(name, element);
}

// type_make insists on distinct names and a sane size; here is where a user hears of it.
const Type *type_checked(Context *context, Place place, Element element, int rank,
                         const Dimension *dimensions) {
    Ir *ir = context->builder->ir;
    if (rank > RANK_MAX) {
        REPORT(context, place, "E0206", "a tensor has at most %d dimensions, found %d", RANK_MAX, rank);
        return NULL;
    }
    const int64_t limit = (INT64_C(1) << 47) - 1;
    int64_t count = 1;
    const char *text = "";
    for (int i = 0; i < rank; i++) {
        for (int j = 0; j < i; j++)
            if (dimensions[j].name == dimensions[i].name) {
                REPORT(context, place, "E0207", "two dimensions are called %s", dimensions[i].name);
                HINT(context, "for a square matrix declare an alias: dim %s2 = %s", dimensions[i].name,
                     dimensions[i].name);
                return NULL;
            }
        text = arena_format(ir->arena, "%s%s%s = %lld", text, i ? ", " : "", dimensions[i].name,
                            (long long)dimensions[i].extent);
        if (dimensions[i].extent > limit / count) {
            REPORT(context, place, "E0208", "a tensor with %s has 2^47 elements or more", text);
            return NULL;
        }
        count *= dimensions[i].extent;
    }
    return type_make(ir, element, rank, dimensions);
}

static bool resolve_extent(Context *context, const DimensionSyntax *syntax, int64_t *extent) {
    if (!syntax->extent) return dimension_extent(context, syntax->name, syntax->place, extent);
    return evaluate_integer(context, syntax->extent, "an extent", extent) &&
           (*extent >= 1 ||
            REPORT(context, syntax->extent->place, "E0204", "%s: an extent is at least 1, found %lld",
                   syntax->name, (long long)*extent));
}

// `otherwise` is the element type where none is written.
bool type_resolve(Context *context, const TypeSyntax *syntax, Element otherwise, const Type **type) {
    Dimension dimensions[RANK_MAX] = {0};
    Element element = otherwise;
    bool ok = true;
    if (syntax && syntax->element && !element_from_name(syntax->element, &element)) {
        NameList names = {0};
        const char *known[] = {"int", "bool", "float", "f32", "bf16", "f64", "i32", "i64", "dim"};
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            vector_push(context->builder->ir->arena, &names, known[i]);
        ok = REPORT(context, syntax->place, "E0209", "unknown element type '%s'", syntax->element);
        report_suggestion(context, syntax->element, &names);
    }
    size_t count = syntax ? syntax->dimensions.count : 0;
    for (size_t i = 0; i < count; i++) {
        const DimensionSyntax *dimension = &syntax->dimensions.items[i];
        int64_t extent = 1;
        if (!resolve_extent(context, dimension, &extent)) ok = false;
        if (i < RANK_MAX) dimensions[i] = (Dimension){dimension->name, extent, NULL};
    }
    if (!ok) return false;
    *type = type_checked(context, syntax ? syntax->place : NO_PLACE, element, (int)count, dimensions);
    return *type != NULL;
}

static bool element_fits(const TypeSyntax *syntax, Element element) {
    Element wanted;
    if (!syntax->element || strcmp(syntax->element, "float") == 0) return element_is_float(element);
    if (strcmp(syntax->element, "int") == 0) return element_is_integer(element);
    return !element_from_name(syntax->element, &wanted) || wanted == element;
}

// An annotation is minimal: the value has at least these dimensions. `name` is what is annotated.
bool type_check_annotation(Context *context, const TypeSyntax *syntax, Thing thing, const char *name,
                           Place place) {
    if (!syntax || thing.kind == THING_UNKNOWN) return true;
    if (thing.kind != THING_TENSOR) {
        if (thing.kind == THING_NUMBER && !syntax->dimensions.count) return true;
        REPORT(context, place, "E0210", "%s is a tensor, found %s", name, thing_text(context, thing));
        NOTE(context, syntax->place, "annotated here");
        return false;
    }
    const Type *found = graph_type(context->work->graph, thing.value);
    if (!element_fits(syntax, found->element)) {
        REPORT(context, place, "E0211", "%s: expected %s, found %s", name,
               syntax->element ? syntax->element : "a float", type_text(context->builder->ir, found));
        NOTE(context, syntax->place, "annotated here");
        if (element_is_integer(found->element) && !syntax->element)
            HINT(context, "for integers write `: int[...]`");
        return false;
    }
    for (size_t i = 0; i < syntax->dimensions.count; i++) {
        const DimensionSyntax *dimension = &syntax->dimensions.items[i];
        int64_t extent;
        if (!resolve_extent(context, dimension, &extent)) return false;
        int at = type_find(found, dimension->name);
        if (at >= 0 && found->dimensions[at].extent == extent) continue;
        if (at < 0)
            REPORT(context, place, "E0212", "%s: expected a dimension %s, found %s", name, dimension->name,
                   type_text(context->builder->ir, found));
        else
            REPORT(context, place, "E0213", "%s: expected %s = %lld, found %s", name, dimension->name,
                   (long long)extent, type_text(context->builder->ir, found));
        NOTE(context, dimension->place, "annotated here");
        NOTE(context, graph_node(context->work->graph, thing.value.node)->place, "the value: %s",
             type_text(context->builder->ir, found));
        return false;
    }
    return true;
}
