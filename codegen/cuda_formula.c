// Formulas as expressions of CUDA C. Every formula is computed once in a scope; short ones stand where they
// are used, others get a variable: x for a load, v for all else, numbered as they come.
#include <math.h>
#include <string.h>

#include "codegen/cuda_emit.h"

enum { INLINE_LENGTH = 48 };  // characters of an expression that needs no variable

static bool is_wide(const CudaScope *scope, uint32_t operand) {
    return scope->nest->operands[operand].extent[0] > INT32_MAX;
}

// ---- Scopes ----

static const int *count_uses(Arena *arena, const Nest *nest) {
    int *uses = ARENA_ARRAY(arena, int, nest->formulas.count + 1);
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *formula = &nest->formulas.items[i];
        if (formula->kind == FORMULA_PRIMITIVE)
            for (int a = 0; a < primitive_arguments(formula->primitive); a++) uses[formula->arguments[a]]++;
        if (formula->kind == FORMULA_LOAD)
            for (int d = 1; d < nest->operands[formula->operand].rank; d++)
                if (formula->index[d].gathered != FORMULA_NONE) uses[formula->index[d].gathered]++;
    }
    for (int s = 0; s < nest->stage_count; s++) uses[nest->stages[s].formula]++;
    return uses;
}

CudaScope *cuda_scope(CudaUnit *unit, const Nest *original, const Nest *nest, const NestAnalysis *analysis) {
    CudaScope *scope = ARENA_NEW(unit->arena, CudaScope);
    int64_t *low = ARENA_ARRAY(unit->arena, int64_t, NEST_OPERAND_MAX);
    for (int i = 0; i < original->operand_count; i++)
        for (int d = 0; d < original->operands[i].rank; d++)
            if (original->operands[i].stride[d] < 0)
                low[i] += (original->operands[i].extent[d] - 1) * original->operands[i].stride[d];
    *scope = (CudaScope){.unit = unit, .nest = nest, .analysis = analysis, .low = low};
    scope->uses = count_uses(unit->arena, nest);
    scope->value = ARENA_ARRAY(unit->arena, const char *, nest->formulas.count + 1);
    return scope;
}

CudaScope *cuda_inner_scope(CudaScope *parent) {
    CudaScope *scope = ARENA_NEW(parent->unit->arena, CudaScope);
    *scope = *parent;
    size_t count = parent->nest->formulas.count + 1;
    scope->value = ARENA_ARRAY(parent->unit->arena, const char *, count);
    memcpy(scope->value, parent->value, sizeof *scope->value * count);
    scope->parent = parent;
    return scope;
}

void cuda_forget(CudaScope *scope, uint32_t operand) {
    for (CudaScope *at = scope; at; at = at->parent)
        for (size_t i = 0; i < at->nest->formulas.count; i++)
            if (at->analysis->operands[i] >> operand & 1) at->value[i] = NULL;
}

// ---- Places ----

const char *cuda_affine(CudaScope *scope, const Affine *affine, bool wide) {
    CudaUnit *unit = scope->unit;
    const char *text = NULL;
    for (int loop = 0; loop < scope->nest->loop_count; loop++) {
        int64_t scale = affine->scale[loop];
        if (!scale) continue;
        const char *index = scope->loop[loop];
        CHECK(index);
        const char *cast = wide ? "(i64)" : "";
        const char *term = scale == 1    ? cuda_text(unit, "%s%s", cast, index)
                           : scale == -1 ? cuda_text(unit, "-%s%s", cast, index)
                           : wide        ? cuda_text(unit, "%lldll * %s", (long long)scale, index)
                                         : cuda_text(unit, "%lld * %s", (long long)scale, index);
        text = text ? cuda_text(unit, "%s + %s", text, term) : term;
    }
    if (!text) return cuda_text(unit, wide ? "%lldll" : "%lld", (long long)affine->offset);
    if (!affine->offset) return text;
    return cuda_text(unit, "%s %c %lld", text, affine->offset < 0 ? '-' : '+',
                     affine->offset < 0 ? -(long long)affine->offset : (long long)affine->offset);
}

const char *cuda_offset(CudaScope *scope, uint32_t operand, const Index *index) {
    const NestOperand *to = &scope->nest->operands[operand];
    bool wide = is_wide(scope, operand);
    const char *text = cuda_affine(scope, &index[0].affine, wide);
    for (int d = 1; d < to->rank; d++) {
        if (index[d].gathered == FORMULA_NONE) continue;
        const char *at = cuda_formula(scope, index[d].gathered);
        bool whole = strcmp(text, "0") == 0 || strcmp(text, "0ll") == 0;
        const char *part = to->stride[d] == 1 ? at
                                              : cuda_text(scope->unit, "%lld%s * %s",
                                                          (long long)to->stride[d], wide ? "ll" : "", at);
        text = whole ? part : cuda_text(scope->unit, "%s + %s", part, text);
    }
    return text;
}

const char *cuda_element(CudaScope *scope, uint32_t operand, const Index *index) {
    return cuda_text(scope->unit, "p%u[%s]", operand, cuda_offset(scope, operand, index));
}

void cuda_write(CudaScope *scope, const Stage *stage, const char *value) {
    const char *element = cuda_element(scope, stage->operand, stage->index);
    if (stage->kind == STAGE_STORE)
        cuda_line(scope->unit, "put(%s, %s);", element, value);
    else
        cuda_line(scope->unit, "put(%s, value_of(%s) + %s);", element, element, value);
    cuda_forget(scope, stage->operand);
}

bool cuda_stays_inside(const CudaScope *scope, const Formula *load) {
    const Affine *affine = &load->index[0].affine;
    int64_t low = affine->offset, high = affine->offset, least = scope->low[load->operand];
    for (int loop = 0; loop < scope->nest->loop_count; loop++) {
        int64_t last = affine->scale[loop] * (scope->nest->loops[loop].dimension.extent - 1);
        *(last < 0 ? &low : &high) += last;
    }
    return low >= least && high < least + scope->nest->operands[load->operand].extent[0];
}

const char *cuda_guard(CudaScope *scope, const Formula *load) {
    CudaUnit *unit = scope->unit;
    const NestOperand *operand = &scope->nest->operands[load->operand];
    const char *at = cuda_affine(scope, &load->index[0].affine, true), *text = NULL;
    int64_t low = scope->low[load->operand];
    if (!access_may_miss(load)) return NULL;
    if (!cuda_stays_inside(scope, load))
        text = cuda_text(unit, "%s >= %lld && %s < %lld", at, (long long)low, at,
                         (long long)(low + operand->extent[0]));
    for (int d = 1; d < operand->rank; d++) {
        if (load->index[d].gathered == FORMULA_NONE) continue;
        const char *index = cuda_formula(scope, load->index[d].gathered);
        text = cuda_text(unit, "%s%s(u64)%s < %lldu", text ? text : "", text ? " && " : "", index,
                         (long long)operand->extent[d]);
    }
    return text;
}

// ---- Values ----

static const char *constant(CudaUnit *unit, Element element, double number) {
    if (element == ELEMENT_BOOL) return number != 0 ? "true" : "false";
    if (element == ELEMENT_I32)
        return number == INT32_MIN ? "(-2147483647 - 1)"
                                   : cuda_text(unit, number < 0 ? "(%d)" : "%d", (int)number);
    if (element == ELEMENT_I64) {
        bool least = number <= -0x1p63;
        return least ? "(-9223372036854775807ll - 1)"
                     : cuda_text(unit, number < 0 ? "(%lldll)" : "%lldll", (long long)number);
    }
    bool is_double = element == ELEMENT_F64;
    if (isnan(number)) return is_double ? "(double)not_a_number()" : "not_a_number()";
    if (isinf(number))
        return cuda_text(unit, "(%s%sinfinity())", number < 0 ? "-" : "", is_double ? "(double)" : "");
    const char *digits =
        is_double ? cuda_text(unit, "%.17g", number) : cuda_text(unit, "%.9g", (double)(float)number);
    const char *point = strpbrk(digits, ".e") ? "" : ".0";
    const char *suffix = is_double ? "" : "f";
    return cuda_text(unit, signbit(number) ? "(%s%s%s)" : "%s%s%s", digits, point, suffix);
}

static const char *cast(CudaUnit *unit, Element from, Element to, const char *a) {
    if (from == to) return a;
    bool is_float = element_is_float(from);
    switch (to) {
        case ELEMENT_BOOL:
            return cuda_text(unit, "(%s != 0)", a);
        case ELEMENT_I32:
            return cuda_text(unit, is_float ? "to_i32(%s)" : "(i32)(%s)", a);
        case ELEMENT_I64:
            return cuda_text(unit, is_float ? "to_i64(%s)" : "(i64)(%s)", a);
        case ELEMENT_BF16:
            return cuda_text(unit, "round_bf16((float)(%s))", a);
        case ELEMENT_F32:
            return from == ELEMENT_BF16 ? a : cuda_text(unit, "(float)(%s)", a);
        default:
            return cuda_text(unit, "(double)(%s)", a);
    }
}

static const char *of_integers(CudaUnit *unit, Primitive primitive, const char *a, const char *b) {
    switch (primitive) {
        case PRIMITIVE_add:
            return cuda_text(unit, "add(%s, %s)", a, b);
        case PRIMITIVE_sub:
            return cuda_text(unit, "sub(%s, %s)", a, b);
        case PRIMITIVE_mul:
            return cuda_text(unit, "mul(%s, %s)", a, b);
        case PRIMITIVE_div:
            return cuda_text(unit, "quotient(%s, %s)", a, b);
        case PRIMITIVE_rem:
            return cuda_text(unit, "remainder_of(%s, %s)", a, b);
        case PRIMITIVE_max:
            return cuda_text(unit, "larger(%s, %s)", a, b);
        case PRIMITIVE_min:
            return cuda_text(unit, "smaller(%s, %s)", a, b);
        case PRIMITIVE_neg:
            return cuda_text(unit, "sub(0 * %s, %s)", a, a);
        case PRIMITIVE_abs:
            return cuda_text(unit, "(%s < 0 ? sub(0 * %s, %s) : %s)", a, a, a, a);
        case PRIMITIVE_and:
            return cuda_text(unit, "(%s & %s)", a, b);
        case PRIMITIVE_or:
            return cuda_text(unit, "(%s | %s)", a, b);
        case PRIMITIVE_xor:
            return cuda_text(unit, "(%s ^ %s)", a, b);
        case PRIMITIVE_not:
            return cuda_text(unit, "!%s", a);
        case PRIMITIVE_shl:
            return cuda_text(unit, "shift_left(%s, %s)", a, b);
        case PRIMITIVE_shr:
            return cuda_text(unit, "shift_right(%s, %s)", a, b);
        default:
            INTERNAL_ERROR("%s of integers", primitive_name(primitive));
    }
}

static const char *of_floats(CudaUnit *unit, Primitive primitive, bool is_double, const char *a,
                             const char *b) {
    switch (primitive) {
        case PRIMITIVE_add:
            return cuda_text(unit, "(%s + %s)", a, b);
        case PRIMITIVE_sub:
            return cuda_text(unit, "(%s - %s)", a, b);
        case PRIMITIVE_mul:
            return cuda_text(unit, "%s * %s", a, b);
        case PRIMITIVE_div:
            return cuda_text(unit, "(%s / %s)", a, b);
        case PRIMITIVE_max:
            return cuda_text(unit, "larger(%s, %s)", a, b);
        case PRIMITIVE_min:
            return cuda_text(unit, "smaller(%s, %s)", a, b);
        case PRIMITIVE_neg:
            return cuda_text(unit, "(-%s)", a);
        case PRIMITIVE_abs:
            return cuda_text(unit, is_double ? "fabs(%s)" : "fabsf(%s)", a);
        default:
            return cuda_text(unit, is_double ? "%s(%s)" : "%sf(%s)", primitive_name(primitive), a);
    }
}

static const char *primitive_text(CudaScope *scope, const Formula *formula) {
    CudaUnit *unit = scope->unit;
    const Formula *items = scope->nest->formulas.items;
    const char *a = cuda_formula(scope, formula->arguments[0]), *b = NULL, *c = NULL;
    Element from = items[formula->arguments[0]].element;
    if (primitive_arguments(formula->primitive) > 1) b = cuda_formula(scope, formula->arguments[1]);
    if (primitive_arguments(formula->primitive) > 2) c = cuda_formula(scope, formula->arguments[2]);
    switch (formula->primitive) {
        case PRIMITIVE_cast:
            return cast(unit, from, formula->element, a);
        case PRIMITIVE_select:
            return cuda_text(unit, "(%s ? %s : %s)", a, b, c);
        case PRIMITIVE_lt:
            return cuda_text(unit, "(%s < %s)", a, b);
        case PRIMITIVE_le:
            return cuda_text(unit, "(%s <= %s)", a, b);
        case PRIMITIVE_eq:
            return cuda_text(unit, "(%s == %s)", a, b);
        case PRIMITIVE_ne:
            return cuda_text(unit, "(%s != %s)", a, b);
        default:
            break;
    }
    if (!element_is_float(formula->element)) return of_integers(unit, formula->primitive, a, b);
    const char *text = of_floats(unit, formula->primitive, formula->element == ELEMENT_F64, a, b);
    if (formula->element == ELEMENT_BF16) return cuda_text(unit, "round_bf16(%s)", text);
    return formula->primitive == PRIMITIVE_mul ? cuda_text(unit, "(%s)", text) : text;
}

static const char *load_text(CudaScope *scope, const Formula *formula) {
    const char *test = cuda_guard(scope, formula);
    const char *read =
        cuda_text(scope->unit, "value_of(%s)", cuda_element(scope, formula->operand, formula->index));
    if (!test) return read;
    return cuda_text(scope->unit, "%s ? %s : (%s)0", test, read, cuda_register_type(formula->element));
}

static const char *in_variable(CudaScope *scope, uint32_t id, char letter, const char *text) {
    const Formula *formula = &scope->nest->formulas.items[id];
    cuda_note_place(scope->unit, formula->place);
    const char *name = cuda_text(scope->unit, "%c%d", letter, scope->unit->variables++);
    cuda_line(scope->unit, "const %s %s = %s;", cuda_register_type(formula->element), name, text);
    return name;
}

const char *cuda_formula(CudaScope *scope, uint32_t id) {
    if (scope->value[id]) return scope->value[id];
    const Formula *formula = &scope->nest->formulas.items[id];
    const char *text = NULL;
    switch (formula->kind) {
        case FORMULA_CONSTANT:
            text = constant(scope->unit, formula->element, formula->number);
            break;
        case FORMULA_LOOP:
            text = cuda_text(scope->unit, "(%s)(%s)", cuda_memory_type(formula->element),
                             cuda_affine(scope, &formula->affine, formula->element == ELEMENT_I64));
            break;
        case FORMULA_STAGE:
            text = scope->stage[formula->stage];
            CHECK(text);
            return text;  // changes from iteration to iteration of what runs outside
        case FORMULA_LOAD:
            text = in_variable(scope, id, 'x', load_text(scope, formula));
            break;
        case FORMULA_PRIMITIVE:
            text = primitive_text(scope, formula);
            if (scope->uses[id] > 1 || strlen(text) > INLINE_LENGTH) text = in_variable(scope, id, 'v', text);
            break;
    }
    return scope->value[id] = text;
}

void cuda_hoist(CudaScope *scope, uint32_t id, uint32_t loops) {
    const Formula *formula = &scope->nest->formulas.items[id];
    if (scope->value[id] || formula->kind == FORMULA_CONSTANT || formula->kind == FORMULA_LOOP) return;
    if (formula->kind == FORMULA_STAGE) return;
    if (!(scope->analysis->loops[id] & loops) && !(scope->analysis->stages[id] & scope->varying)) {
        cuda_formula(scope, id);
        return;
    }
    if (formula->kind == FORMULA_PRIMITIVE)
        for (int a = 0; a < primitive_arguments(formula->primitive); a++)
            cuda_hoist(scope, formula->arguments[a], loops);
    if (formula->kind == FORMULA_LOAD)
        for (int d = 1; d < scope->nest->operands[formula->operand].rank; d++)
            if (formula->index[d].gathered != FORMULA_NONE)
                cuda_hoist(scope, formula->index[d].gathered, loops);
}

// ---- Loops ----

// Distinct for every loop, and no word of the language.
const char *cuda_loop_name(const CudaScope *scope, int loop) {
    const Loop *loops = scope->nest->loops;
    const char *name = cuda_name(scope->unit->arena, loops[loop].dimension.name);
    for (int other = 0; other < loop; other++)
        if (strcmp(cuda_name(scope->unit->arena, loops[other].dimension.name), name) == 0)
            return cuda_text(scope->unit, "%s_%d_", name, loop);
    return name;
}

const char *cuda_extent(CudaScope *scope, int loop) {
    const Loop *l = &scope->nest->loops[loop];
    if (l->bound_operand == UINT32_MAX) return cuda_text(scope->unit, "%lld", (long long)l->dimension.extent);
    return cuda_text(scope->unit, "n_%s", cuda_loop_name(scope, loop));
}

void cuda_declare_bounds(CudaScope *scope) {
    for (int loop = 0; loop < scope->nest->loop_count; loop++)
        if (scope->nest->loops[loop].bound_operand != UINT32_MAX)
            cuda_line(scope->unit, "const int %s = (int)p%u[0];", cuda_extent(scope, loop),
                      scope->nest->loops[loop].bound_operand);
}

void cuda_split_index(CudaScope *scope, const char *number, const int *loops, int count) {
    CudaUnit *unit = scope->unit;
    int64_t below = 1;
    for (int i = count - 1; i >= 0; i--) {
        const char *name = cuda_text(unit, "i_%s", cuda_loop_name(scope, loops[i]));
        const char *text = below == 1 ? number : cuda_text(unit, "%s / %lld", number, (long long)below);
        int64_t extent = scope->nest->loops[loops[i]].dimension.extent;
        if (i > 0) text = cuda_text(unit, "%s %% %lld", text, (long long)extent);
        cuda_line(unit, "const int %s = (int)(%s);", name, text);
        scope->loop[loops[i]] = name;
        below *= extent;
    }
}
