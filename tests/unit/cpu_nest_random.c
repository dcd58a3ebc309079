// Random loop nests against the reference interpreter: layouts, strides, gathers, bounded loops, shared
// formulas, several reductions and writes, in all combinations.
//   unit_cpu_nest_random [SEED [COUNT [CPU]]]      prints the nest that fails
#include "cpu_test.h"

typedef struct Maker {
    Ir *ir;
    Nest *nest;
    int64_t bounds[4];
    int bound_count;
    uint32_t values[64];  // f32 formulas so far
    int value_count;
} Maker;

static int64_t pick(int64_t count) { return (int64_t)(test_random() * (double)count); }

static bool chance(double probability) { return test_random() < probability; }

static int64_t random_extent(void) {
    static const int64_t extents[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 130};
    return extents[pick(sizeof extents / sizeof *extents)];
}

static uint32_t add_operand(Maker *maker, NestOperand operand) {
    CHECK(maker->nest->operand_count < NEST_OPERAND_MAX);
    maker->nest->operands[maker->nest->operand_count] = operand;
    return (uint32_t)maker->nest->operand_count++;
}

static uint32_t add_formula(Maker *maker, Formula formula) { return nest_formula(maker->nest, formula); }

static uint32_t primitive(Maker *maker, Primitive name, Element element, uint32_t a, uint32_t b, uint32_t c) {
    Formula formula = {.kind = FORMULA_PRIMITIVE, .element = element, .primitive = name};
    uint32_t arguments[] = {a, b, c};
    for (int i = 0; i < primitive_arguments(name); i++) formula.arguments[i] = arguments[i];
    if (primitive_is_comparison(name)) formula.element = ELEMENT_BOOL;
    return add_formula(maker, formula);
}

static uint32_t constant(Maker *maker, Element element, double number) {
    return add_formula(maker, (Formula){.kind = FORMULA_CONSTANT, .element = element, .number = number});
}

static void make_loops(Maker *maker) {
    Nest *nest = maker->nest;
    nest->loop_count = 1 + (int)pick(4);
    nest->outer_count = (int)pick(nest->loop_count + 1);
    int64_t points = 1;
    for (int loop = 0; loop < nest->loop_count; loop++) {
        int64_t extent = random_extent();
        while (points * extent > 30000) extent /= 2;
        points *= extent;
        Loop *made = &nest->loops[loop];
        made->dimension = (Dimension){.name = names_format(maker->ir->names, "l%d", loop), .extent = extent};
        made->bound_operand = UINT32_MAX;
        if (!chance(0.15) || maker->bound_count == 4) continue;
        made->dimension.bound = names_format(maker->ir->names, "n%d", loop);
        made->bound_operand = add_operand(maker, (NestOperand){.element = ELEMENT_I64, .reads = true});
        maker->bounds[maker->bound_count++] = pick(extent + 1);
    }
}

// Dimensions for the loops of `mask` in random order and layout; `index` says how they are walked.
static NestOperand make_layout(Maker *maker, uint32_t mask, bool plain, Index *index) {
    NestOperand operand = {.element = ELEMENT_F32};
    int order[LOOP_MAX], count = 0;
    for (int loop = 0; loop < maker->nest->loop_count; loop++)
        if (mask >> loop & 1) order[count++] = loop;
    for (int i = count - 1; i > 0 && chance(0.4); i--) {
        int other = (int)pick(i + 1), loop = order[i];
        order[i] = order[other], order[other] = loop;
    }
    int64_t stride = chance(0.1) ? 2 : 1;
    operand.rank = count;
    for (int d = count - 1; d >= 0; d--) {
        int64_t scale = !plain && chance(0.1) ? 2 : 1, offset = !plain && chance(0.1) ? 1 : 0;
        index[d] = (Index){.gathered = FORMULA_NONE};
        index[d].affine.scale[order[d]] = scale;
        index[d].affine.offset = offset;
        operand.extent[d] = (maker->nest->loops[order[d]].dimension.extent - 1) * scale + offset + 1;
        operand.stride[d] = chance(0.1) ? -stride : stride;
        stride *= operand.extent[d] + (chance(0.1) ? 3 : 0);
    }
    return operand;
}

static uint32_t random_loops(const Maker *maker, uint32_t allowed) {
    uint32_t mask = 0;
    for (int loop = 0; loop < maker->nest->loop_count; loop++)
        if ((allowed >> loop & 1) && chance(0.7)) mask |= 1u << loop;
    return mask;
}

static uint32_t load(Maker *maker, uint32_t allowed, Element element, int64_t gather_limit) {
    Index index[RANK_MAX];
    NestOperand operand = make_layout(maker, random_loops(maker, allowed), false, index);
    operand.element = element;
    operand.reads = true;
    if (!gather_limit && operand.rank > 0 && chance(0.15)) {  // one dimension through a table of indices
        int d = (int)pick(operand.rank);
        int64_t limit = operand.extent[d];
        index[d] = (Index){.gathered = load(maker, allowed, ELEMENT_I32, limit)};
        if (limit < 20) {  // the test draws indices below 20
            index[d].gathered = primitive(maker, PRIMITIVE_rem, ELEMENT_I32, index[d].gathered,
                                          constant(maker, ELEMENT_I32, (double)limit), 0);
        }
    }
    uint32_t number = add_operand(maker, operand);
    return add_formula(maker, (Formula){.kind = FORMULA_LOAD, .element = element, .operand = number, .index = index});
}

// A float that depends only on loops of `allowed`; every case is safe from amplifying rounding errors.
static uint32_t leaf(Maker *maker, uint32_t allowed) {
    static const Element elements[] = {ELEMENT_F32, ELEMENT_F32, ELEMENT_F32, ELEMENT_BF16,
                                       ELEMENT_I32, ELEMENT_BOOL, ELEMENT_F64};
    if (maker->nest->operand_count > NEST_OPERAND_MAX - 8 || chance(0.1)) {
        Formula formula = {.kind = FORMULA_LOOP, .element = ELEMENT_I32, .affine.offset = pick(5)};
        for (int loop = 0; loop < maker->nest->loop_count; loop++)
            if (allowed >> loop & 1) formula.affine.scale[loop] = pick(4);
        uint32_t value = primitive(maker, PRIMITIVE_cast, ELEMENT_F32, add_formula(maker, formula), 0, 0);
        return primitive(maker, PRIMITIVE_mul, ELEMENT_F32, value, constant(maker, ELEMENT_F32, 0x1p-8), 0);
    }
    Element element = elements[pick(sizeof elements / sizeof *elements)];
    uint32_t value = load(maker, allowed, element, 0);
    if (element == ELEMENT_F32) return value;
    value = primitive(maker, PRIMITIVE_cast, ELEMENT_F32, value, 0, 0);
    if (element != ELEMENT_I32) return value;
    return primitive(maker, PRIMITIVE_mul, ELEMENT_F32, value, constant(maker, ELEMENT_F32, 0.0625), 0);
}

// A guarded load that reaches outside: x[i - 1] where i >= 1.
static uint32_t shifted(Maker *maker, uint32_t allowed) {
    int loop = (int)pick(maker->nest->loop_count);
    if (!(allowed >> loop & 1)) return leaf(maker, allowed);
    Index index[RANK_MAX];
    NestOperand operand = make_layout(maker, 1u << loop | random_loops(maker, allowed), true, index);
    operand.reads = true;
    Formula at = {.kind = FORMULA_LOOP, .element = ELEMENT_I32};
    at.affine.scale[loop] = 1;
    uint32_t position = add_formula(maker, at), one = constant(maker, ELEMENT_I32, 1);
    for (int d = 0; d < operand.rank; d++)
        if (index[d].affine.scale[loop])
            index[d] = (Index){.gathered = primitive(maker, PRIMITIVE_sub, ELEMENT_I32, position, one, 0)};
    uint32_t number = add_operand(maker, operand);
    Formula read = {.kind = FORMULA_LOAD, .element = ELEMENT_F32, .operand = number, .index = index};
    uint32_t inside = primitive(maker, PRIMITIVE_le, ELEMENT_BOOL, one, position, 0);
    return primitive(maker, PRIMITIVE_select, ELEMENT_F32, inside, add_formula(maker, read),
                     constant(maker, ELEMENT_F32, 0.5));
}

static uint32_t expression(Maker *maker, uint32_t allowed, int depth) {
    if (maker->value_count && chance(0.2)) {
        uint32_t value = maker->values[pick(maker->value_count)];
        uint32_t inner = ~((1u << maker->nest->outer_count) - 1);
        if (!(nest_formula_loops(maker->nest, value) & inner & ~allowed)) return value;
    }
    if (depth == 0) return chance(0.15) ? shifted(maker, allowed) : leaf(maker, allowed);
    uint32_t a = expression(maker, allowed, depth - 1), value;
    switch (pick(9)) {
        case 0: value = primitive(maker, PRIMITIVE_tanh, ELEMENT_F32, a, 0, 0); break;
        case 1: value = primitive(maker, PRIMITIVE_sin, ELEMENT_F32, a, 0, 0); break;
        case 2: value = primitive(maker, PRIMITIVE_neg, ELEMENT_F32, a, 0, 0); break;
        case 3:
            value = primitive(maker, PRIMITIVE_min, ELEMENT_F32, a, constant(maker, ELEMENT_F32, 1.5), 0);
            value = primitive(maker, PRIMITIVE_exp, ELEMENT_F32, value, 0, 0);
            break;
        case 4: value = primitive(maker, PRIMITIVE_max, ELEMENT_F32, a, expression(maker, allowed, depth - 1), 0); break;
        case 5: value = primitive(maker, PRIMITIVE_sub, ELEMENT_F32, a, expression(maker, allowed, depth - 1), 0); break;
        default: {
            uint32_t b = expression(maker, allowed, depth - 1);
            value = primitive(maker, chance(0.5) ? PRIMITIVE_add : PRIMITIVE_mul, ELEMENT_F32, a, b, 0);
        }
    }
    if (maker->value_count < 64) maker->values[maker->value_count++] = value;
    return value;
}

static void make_stage(Maker *maker, bool reduces) {
    Nest *nest = maker->nest;
    uint32_t outer = (1u << nest->outer_count) - 1, inner = ((1u << nest->loop_count) - 1) & ~outer;
    Stage *stage = &nest->stages[nest->stage_count];
    *stage = (Stage){.element = ELEMENT_F32, .inner = random_loops(maker, inner)};
    if (reduces && !stage->inner) stage->inner = inner;
    stage->formula = expression(maker, outer | stage->inner, 1 + (int)pick(3));
    if (reduces) {
        stage->kind = chance(0.7) ? STAGE_SUM : STAGE_MAX;
        uint32_t number = (uint32_t)nest->stage_count++;
        uint32_t value = add_formula(maker, (Formula){.kind = FORMULA_STAGE, .element = ELEMENT_F32, .stage = number});
        // Sums grow with their extents: bring them back before they are multiplied on.
        value = primitive(maker, PRIMITIVE_mul, ELEMENT_F32, value, constant(maker, ELEMENT_F32, 0.01), 0);
        maker->values[maker->value_count < 64 ? maker->value_count++ : 63] = value;
        return;
    }
    stage->kind = chance(0.7) ? STAGE_STORE : STAGE_ADD;
    uint32_t loops = outer | stage->inner;
    if (stage->kind == STAGE_ADD && chance(0.3)) loops = random_loops(maker, loops);
    Index *index = ARENA_ARRAY(maker->ir->arena, Index, RANK_MAX);
    NestOperand operand = make_layout(maker, loops, true, index);
    operand.writes = true;
    operand.reads = stage->kind == STAGE_ADD;
    stage->index = index;
    stage->operand = add_operand(maker, operand);
    nest->stage_count++;
}

static const Nest *make_nest(Maker *maker) {
    maker->nest = nest_create(maker->ir, "random", NO_PLACE);
    make_loops(maker);
    bool has_inner = maker->nest->outer_count < maker->nest->loop_count;
    for (int64_t i = has_inner ? pick(3) : 0; i > 0; i--) make_stage(maker, true);
    for (int64_t i = 1 + pick(3); i > 0; i--) make_stage(maker, false);
    nest_compact(maker->nest);
    nest_mark_parallel(maker->nest);
    return maker->nest;
}

static uint64_t first_seed = 1, seed_count = 150;
static const char *machine;

static void check_seed(uint64_t seed, const char *cpu) {
    Arena *arena = arena_create();
    test_random_state = seed * 2 + 1;
    test_random();
    Maker maker = {.ir = ir_create(arena)};
    const Nest *nest = make_nest(&maker);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    nest_print(nest, stream);
    fclose(stream);
    Case test = {.name = arena_format(arena, "seed %llu", (unsigned long long)seed), .text = text, .limit = 20,
                 .tolerance = 2e-4};
    if (seed_count == 1) fputs(text, stderr);
    memcpy(test.bounds, maker.bounds, sizeof test.bounds);
    if (!nest_verify(maker.ir, nest)) {
        diagnostics_print(maker.ir->diagnostics, 0, stderr);
        fail_msg("seed %llu: not a valid nest\n%s", (unsigned long long)seed, text);
    }
    run_case(&test, cpu);
    free(text);
    arena_destroy(arena);
}

static void test_random_nests(void **state) {
    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + seed_count; seed++) {
        check_seed(seed, machine);
        if (!machine) check_seed(seed, "x86-64-v3");
    }
}

int main(int argc, char **argv) {
    if (argc > 1) first_seed = strtoull(argv[1], NULL, 10);
    if (argc > 1) seed_count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc > 3) machine = argv[3];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_nests)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
