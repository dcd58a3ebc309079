// The text form of a nest. Formulas that are used more than once get a name; the others are written
// where they are used.
//
//   nest rms_norm {
//     outer batch=8, time=256
//     inner embed=512
//     parallel batch, time
//     operand 0: read f32 [8:131072, 256:512, 512:1]           extent:stride per dimension
//     operand 1: write f32 [8:131072, 256:512, 512:1]
//     stage 0: sum over embed { mul(@0[batch, time, embed], @0[batch, time, embed]) }
//     let v0 = rsqrt(stage 0)
//     stage 1: store over embed @1[batch, time, embed] { mul(@0[batch, time, embed], v0) }
//   }
//
// Constants are `0.5:f32`, affine values of loops `index(2*time + 1)`, casts `cast f32(x)`, a gathered
// index `{formula}` or `2*time + {formula}`; a bounded loop is `time<=256:length@3`, where operand 3
// holds the extent.
#include <string.h>

#include "ir/nest.h"
#include "ir/text.h"

typedef struct Printer {
    const Nest *nest;
    FILE *stream;
    uint32_t *uses;  // per formula
    int32_t *names;  // number of its `let`, -1: none yet
    int32_t name_count;
} Printer;

static void count_uses(Printer *printer, uint32_t id);

static void count_index(Printer *printer, uint32_t operand, const Index *index) {
    for (int d = 0; d < printer->nest->operands[operand].rank; d++)
        if (index[d].gathered != FORMULA_NONE) count_uses(printer, index[d].gathered);
}

static void count_uses(Printer *printer, uint32_t id) {
    if (printer->uses[id]++) return;
    const Formula *formula = &printer->nest->formulas.items[id];
    if (formula->kind == FORMULA_LOAD) count_index(printer, formula->operand, formula->index);
    if (formula->kind == FORMULA_PRIMITIVE)
        for (int a = 0; a < primitive_arguments(formula->primitive); a++)
            count_uses(printer, formula->arguments[a]);
}

static const char *loop_name(const Printer *printer, int loop) {
    return text_name(printer->nest->ir->arena, printer->nest->loops[loop].dimension.name);
}

// "2*batch + time + 3". `bare_zero`: prints "0" when there is nothing else.
static void print_affine(Printer *printer, const Affine *affine, bool bare_zero) {
    bool first = true;
    for (int loop = 0; loop < printer->nest->loop_count; loop++) {
        int64_t scale = affine->scale[loop];
        if (!scale) continue;
        if (!first) fprintf(printer->stream, " + ");
        if (scale != 1) fprintf(printer->stream, "%lld*", (long long)scale);
        fprintf(printer->stream, "%s", loop_name(printer, loop));
        first = false;
    }
    if (affine->offset || (first && bare_zero))
        fprintf(printer->stream, "%s%lld", first ? "" : " + ", (long long)affine->offset);
}

static bool affine_is_zero(const Affine *affine) {
    static const Affine zero;
    return memcmp(affine, &zero, sizeof zero) == 0;
}

static void print_formula(Printer *printer, uint32_t id);

static void print_access(Printer *printer, uint32_t operand, const Index *index) {
    fprintf(printer->stream, "@%u[", operand);
    for (int d = 0; d < printer->nest->operands[operand].rank; d++) {
        if (d) fprintf(printer->stream, ", ");
        bool gathered = index[d].gathered != FORMULA_NONE;
        print_affine(printer, &index[d].affine, !gathered);
        if (!gathered) continue;
        fprintf(printer->stream, affine_is_zero(&index[d].affine) ? "{" : " + {");
        print_formula(printer, index[d].gathered);
        fprintf(printer->stream, "}");
    }
    fprintf(printer->stream, "]");
}

// The formula itself, not the name it may have.
static void print_body(Printer *printer, uint32_t id) {
    const Formula *formula = &printer->nest->formulas.items[id];
    switch (formula->kind) {
        case FORMULA_CONSTANT:
            fprintf(printer->stream, "%s:%s", text_number(printer->nest->ir->arena, formula->number),
                    element_name(formula->element));
            return;
        case FORMULA_LOOP:
            fprintf(printer->stream, "index(");
            print_affine(printer, &formula->affine, true);
            fprintf(printer->stream, ")");
            return;
        case FORMULA_LOAD:
            print_access(printer, formula->operand, formula->index);
            return;
        case FORMULA_STAGE:
            fprintf(printer->stream, "stage %u", formula->stage);
            return;
        case FORMULA_PRIMITIVE:
            break;
    }
    fprintf(printer->stream, "%s", primitive_name(formula->primitive));
    if (formula->primitive == PRIMITIVE_cast) fprintf(printer->stream, " %s", element_name(formula->element));
    fprintf(printer->stream, "(");
    for (int a = 0; a < primitive_arguments(formula->primitive); a++) {
        if (a) fprintf(printer->stream, ", ");
        print_formula(printer, formula->arguments[a]);
    }
    fprintf(printer->stream, ")");
}

static void print_formula(Printer *printer, uint32_t id) {
    if (printer->names[id] >= 0)
        fprintf(printer->stream, "v%d", printer->names[id]);
    else
        print_body(printer, id);
}

// Prints `let` lines for the shared formulas below `id` that have no name yet, arguments first.
static void print_lets(Printer *printer, uint32_t id) {
    const Formula *formula = &printer->nest->formulas.items[id];
    if (printer->names[id] >= 0) return;
    if (formula->kind == FORMULA_LOAD)
        for (int d = 0; d < printer->nest->operands[formula->operand].rank; d++)
            if (formula->index[d].gathered != FORMULA_NONE) print_lets(printer, formula->index[d].gathered);
    if (formula->kind != FORMULA_PRIMITIVE) return;
    for (int a = 0; a < primitive_arguments(formula->primitive); a++)
        print_lets(printer, formula->arguments[a]);
    if (printer->uses[id] < 2) return;
    fprintf(printer->stream, "  let v%d = ", printer->name_count);
    print_body(printer, id);
    fprintf(printer->stream, "\n");
    printer->names[id] = printer->name_count++;
}

static void print_loop_names(Printer *printer, uint32_t mask) {
    const char *separator = "";
    for (int loop = 0; loop < printer->nest->loop_count; loop++) {
        if (!(mask >> loop & 1)) continue;
        fprintf(printer->stream, "%s%s", separator, loop_name(printer, loop));
        separator = ", ";
    }
}

static void print_loops(Printer *printer, const char *label, int begin, int end) {
    if (begin == end) return;
    fprintf(printer->stream, "  %s ", label);
    for (int i = begin; i < end; i++) {
        const Loop *loop = &printer->nest->loops[i];
        if (i > begin) fprintf(printer->stream, ", ");
        fprintf(printer->stream, "%s", loop_name(printer, i));
        if (loop->bound_operand == UINT32_MAX)
            fprintf(printer->stream, "=%lld", (long long)loop->dimension.extent);
        else
            fprintf(printer->stream, "<=%lld:%s@%u", (long long)loop->dimension.extent,
                    text_name(printer->nest->ir->arena, loop->dimension.bound), loop->bound_operand);
    }
    fprintf(printer->stream, "\n");
}

static void print_operand(Printer *printer, int number) {
    const NestOperand *operand = &printer->nest->operands[number];
    const char *use = operand->reads && operand->writes ? "update" : operand->writes ? "write" : "read";
    fprintf(printer->stream, "  operand %d: %s %s [", number, use, element_name(operand->element));
    for (int d = 0; d < operand->rank; d++)
        fprintf(printer->stream, "%s%lld:%lld", d ? ", " : "", (long long)operand->extent[d],
                (long long)operand->stride[d]);
    fprintf(printer->stream, "]\n");
}

static void print_stage(Printer *printer, int number) {
    static const char *const names[] = {
        [STAGE_SUM] = "sum", [STAGE_MAX] = "max", [STAGE_STORE] = "store", [STAGE_ADD] = "add"};
    const Stage *stage = &printer->nest->stages[number];
    bool writes = stage->kind == STAGE_STORE || stage->kind == STAGE_ADD;
    if (writes)
        for (int d = 0; d < printer->nest->operands[stage->operand].rank; d++)
            if (stage->index[d].gathered != FORMULA_NONE) print_lets(printer, stage->index[d].gathered);
    print_lets(printer, stage->formula);
    fprintf(printer->stream, "  stage %d: %s", number, names[stage->kind]);
    if (stage->inner) fprintf(printer->stream, " over ");
    print_loop_names(printer, stage->inner);
    fprintf(printer->stream, " ");
    if (writes) {
        print_access(printer, stage->operand, stage->index);
        fprintf(printer->stream, " ");
    }
    fprintf(printer->stream, "{ ");
    print_formula(printer, stage->formula);
    fprintf(printer->stream, " }\n");
}

void nest_print(const Nest *nest, FILE *stream) {
    size_t count = nest->formulas.count;
    Printer printer = {.nest = nest, .stream = stream};
    printer.uses = ARENA_ARRAY(nest->ir->arena, uint32_t, count + 1);
    printer.names = ARENA_ARRAY(nest->ir->arena, int32_t, count + 1);
    memset(printer.names, 0xff, sizeof(int32_t) * (count + 1));
    for (int i = 0; i < nest->stage_count; i++) {
        const Stage *stage = &nest->stages[i];
        if (stage->kind == STAGE_STORE || stage->kind == STAGE_ADD)
            count_index(&printer, stage->operand, stage->index);
        count_uses(&printer, stage->formula);
    }
    fprintf(stream, "nest %s {\n", text_name(nest->ir->arena, nest->name));
    print_loops(&printer, "outer", 0, nest->outer_count);
    print_loops(&printer, "inner", nest->outer_count, nest->loop_count);
    if (nest->parallel) {
        fprintf(stream, "  parallel ");
        print_loop_names(&printer, nest->parallel);
        fprintf(stream, "\n");
    }
    for (int i = 0; i < nest->operand_count; i++) print_operand(&printer, i);
    for (int i = 0; i < nest->stage_count; i++) print_stage(&printer, i);
    fprintf(stream, "}\n");
}
