// fuse on graphs made by hand: what is merged, and that the values stay.
#include "tests/unit/fuse_test.h"

static Ir *ir;
static Graph *g;
static const Type *bte, *bt, *e;

static int setup(void **state) {
    (void)state;
    ir = ir_create(arena_create());
    g = graph_create(ir, test_name(ir, "test"));
    bte = test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "embed", 8, NULL);
    bt = test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, NULL);
    e = test_type(ir, ELEMENT_F32, "embed", 8, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_destroy(ir->arena);
    return 0;
}

static Value argument(const char *name, const Type *type) { return test_input(g, name, ROLE_DATA, type); }
static Value parameter(const char *name, const Type *type) {
    return test_input(g, name, ROLE_PARAMETER, type);
}
static Value gradient(const char *name, const Type *type) { return test_input(g, name, ROLE_GRADIENT, type); }

static void elementwise_chain(void **state) {
    (void)state;
    Value x = argument("x", bte), y = argument("y", bte), scale = argument("scale", e);
    Value a = fuse_mul(g, x, scale), b = fuse_add(g, a, y), c = fuse_one(g, OP_tanh, b);
    fuse_output(g, "out", fuse_sub(g, c, x));
    fuse_output(g, "twice", fuse_mul(g, c, fuse_number(g, 2)));
    fuse_test(g, 1);
}

static void softmax(void **state) {
    (void)state;
    Value x = argument("x", bte);
    Value m = test_reduce(g, OP_max_over, x, "embed");
    Value p = fuse_one(g, OP_exp, fuse_sub(g, x, m));
    fuse_output(g, "out", fuse_div(g, p, fuse_sum(g, p, "embed")));
    Program *program = fuse_test(g, 1);
    assert_int_equal(program->arena_bytes, 0 * 64 + 192);  // the exponentials, once
}

static Value rms_norm(Value x, Value scale) {
    Value mean = fuse_mul(g, fuse_sum(g, fuse_mul(g, x, x), "embed"), fuse_number(g, 0.125));
    Value r = fuse_one(g, OP_rsqrt, fuse_add(g, mean, fuse_number(g, 1e-5)));
    return fuse_mul(g, fuse_mul(g, x, r), scale);
}

static void rms_norms(void **state) {
    (void)state;
    fuse_output(g, "out", rms_norm(argument("x", bte), argument("scale", e)));
    Program *program = fuse_test(g, 1);
    assert_int_equal(program->arena_bytes, 0);
}

static void layer_norm(void **state) {
    (void)state;
    Value x = argument("x", bte), eighth = fuse_number(g, 0.125);
    Value mean = fuse_mul(g, fuse_sum(g, x, "embed"), eighth), centred = fuse_sub(g, x, mean);
    Value variance = fuse_mul(g, fuse_sum(g, fuse_mul(g, centred, centred), "embed"), eighth);
    Value r = fuse_one(g, OP_rsqrt, fuse_add(g, variance, fuse_number(g, 1e-5)));
    Value n = fuse_mul(g, centred, r);
    fuse_output(g, "out", fuse_add(g, fuse_mul(g, n, argument("scale", e)), argument("shift", e)));
    Program *program = fuse_test(g, 1);
    assert_int_equal(program->arena_bytes, 0);
}

// The gradient of rms_norm and what follows: rows together, the column sum for the scale on its own.
static void rms_norm_gradient(void **state) {
    (void)state;
    Value x = argument("x", bte), scale = parameter("scale", e), dy = argument("dy", bte),
          r = argument("r", bt);
    Value gs = gradient("scale", e);
    Value dn = fuse_mul(g, dy, scale);
    Value dot = fuse_sum(g, fuse_mul(g, dn, x), "embed");
    Value r3 = fuse_mul(g, fuse_mul(g, r, r), fuse_mul(g, r, fuse_number(g, 0.125)));
    Value dx = fuse_sub(g, fuse_mul(g, dn, r), fuse_mul(g, x, fuse_mul(g, dot, r3)));
    Value ds = fuse_sum(g, fuse_sum(g, fuse_mul(g, fuse_mul(g, dy, x), r), "batch"), "time");
    (void)ds;
    const char *over[] = {test_name(ir, "batch"), test_name(ir, "time")};
    Value column = build_reduce(g, OP_sum, fuse_mul(g, fuse_mul(g, dy, x), r), over, 2, NO_PLACE);
    fuse_output(g, "dx", fuse_add(g, dx, dy));
    fuse_replace(g, "ds", build_accumulate(g, gs, column, NO_PLACE), gs);
    Program *program = fuse_test(g, 2);
    assert_int_equal(program->arena_bytes, 0);
}

static void contraction_with_epilogue(void **state) {
    (void)state;
    Value x = argument("x", bte), w = parameter("w", test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL));
    Value bias = parameter("bias", test_type(ir, ELEMENT_F32, "ffn", 5, NULL));
    Value h = fuse_add(g, test_dot(g, x, w, "embed"), bias);
    fuse_output(g, "pre", h);
    fuse_output(g, "out", fuse_mul(g, h, fuse_one(g, OP_tanh, h)));
    Program *program = fuse_test(g, 1);
    Contraction contraction;
    assert_true(nest_contraction(program->kernels.items[0].nest, &contraction));
}

static void swiglu(void **state) {
    (void)state;
    const Type *w = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL);
    const Type *v = test_type(ir, ELEMENT_F32, "ffn", 5, "embed", 8, NULL);
    Value x = argument("x", bte), gate = test_dot(g, x, parameter("gate", w), "embed");
    Value up = test_dot(g, x, parameter("up", w), "embed");
    Value half = fuse_mul(g, gate, fuse_number(g, 0.5));
    Value silu = fuse_mul(g, half, fuse_add(g, fuse_one(g, OP_tanh, half), fuse_number(g, 1)));
    Value down = test_dot(g, fuse_mul(g, silu, up), parameter("down", v), "ffn");
    fuse_output(g, "out", fuse_add(g, x, down));
    fuse_test(g, 3);
}

// dot into a slice of a stacked gradient, twice: no temporary at all.
static void accumulates_into_slices(void **state) {
    (void)state;
    Value x = argument("x", bte),
          dy = argument("dy", test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "ffn", 5, NULL));
    Value acc = gradient("w", test_type(ir, ELEMENT_F32, "layer", 3, "embed", 8, "ffn", 5, NULL));
    const char *over[] = {test_name(ir, "batch"), test_name(ir, "time")};
    Value dw = build_dot(g, x, dy, over, 2, NO_PLACE),
          dv = build_dot(g, fuse_mul(g, x, x), dy, over, 2, NO_PLACE);
    Value a = build_accumulate_at(g, acc, dw, test_name(ir, "layer"), 1, NO_PLACE);
    Value b = build_accumulate_at(g, a, dv, test_name(ir, "layer"), 1, NO_PLACE);
    Value c = build_accumulate_at(g, b, dw, test_name(ir, "layer"), 2, NO_PLACE);
    fuse_replace(g, "dw", c, acc);
    Program *program = fuse_test(g, 3);
    assert_true(program->arena_bytes <= 192 + 2 * 192);
}

static Value zeros(const Type *type) {
    return build_broadcast(g, fuse_number(g, 0), type->dimensions, type->rank, NO_PLACE);
}

// A chain that starts at zero: where it reaches every slice, what comes first to each is stored and nothing is
// cleared (the launches are the products alone); where a slice is left out, all of them are cleared first.
static void stores_what_comes_first(void **state) {
    (void)state;
    const Type *stacked = test_type(ir, ELEMENT_F32, "layer", 2, "embed", 8, "ffn", 5, NULL);
    const Type *flat = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL);
    Value x = argument("x", bte);
    Value dy = argument("dy", test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "ffn", 5, NULL));
    const char *over[] = {test_name(ir, "batch"), test_name(ir, "time")}, *layer = test_name(ir, "layer");
    Value dw = build_dot(g, x, dy, over, 2, NO_PLACE), dv = build_dot(g, fuse_mul(g, x, x), dy, over, 2, NO_PLACE);
    Value whole = gradient("whole", stacked), partly = gradient("partly", stacked), plain = gradient("plain", flat);
    Value a = build_accumulate_at(g, zeros(stacked), dw, layer, 1, NO_PLACE);
    a = build_accumulate_at(g, a, dv, layer, 1, NO_PLACE);
    a = build_accumulate_at(g, a, dv, layer, 0, NO_PLACE);
    fuse_replace(g, "whole", build_accumulate_at(g, a, dw, layer, 1, NO_PLACE), whole);
    Value b = build_accumulate_at(g, zeros(stacked), dv, layer, 1, NO_PLACE);
    fuse_replace(g, "partly", build_accumulate_at(g, b, dw, layer, 1, NO_PLACE), partly);
    Value c = build_accumulate(g, zeros(flat), dv, NO_PLACE);
    fuse_replace(g, "plain", build_accumulate(g, c, dv, NO_PLACE), plain);
    Program *program = fuse_test(g, -1);
    int clears = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        clears += strstr(program->kernels.items[program->launches.items[i].kernel].nest->name, "constant") != NULL;
    assert_int_equal(clears, 1);
}

static void adamw(void **state) {
    (void)state;
    const Type *type = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL),
               *scalar = type_scalar(ir, ELEMENT_F32);
    Value p = parameter("w", type), gr = gradient("w", type), m = test_input(g, "w", ROLE_MOMENT1, type);
    Value v = test_input(g, "w", ROLE_MOMENT2, type), rate = test_input(g, "rate", ROLE_SCALAR, scalar);
    Value scale = test_input(g, "scale", ROLE_SCALAR, scalar), d = fuse_mul(g, gr, scale);
    Value m2 = fuse_add(g, fuse_mul(g, m, fuse_number(g, 0.9)), fuse_mul(g, d, fuse_number(g, 0.1)));
    Value v2 = fuse_add(g, fuse_mul(g, v, fuse_number(g, 0.95)),
                        fuse_mul(g, fuse_mul(g, d, d), fuse_number(g, 0.05)));
    Value step = fuse_div(g, m2, fuse_add(g, fuse_one(g, OP_sqrt, v2), fuse_number(g, 1e-8)));
    Value decayed = fuse_add(g, step, fuse_mul(g, p, fuse_number(g, 0.1)));
    Value p2 = fuse_sub(g, p, fuse_mul(g, decayed, rate));
    fuse_replace(g, "w", p2, p);
    fuse_replace(g, "m", m2, m);
    fuse_replace(g, "v", v2, v);
    fuse_replace(g, "g", build_broadcast(g, fuse_number(g, 0), type->dimensions, 2, NO_PLACE), gr);
    Program *program = fuse_test(g, 1);
    assert_int_equal(program->arena_bytes, 0);
}

// A table that is gathered from and contracted with; its gradient comes from both ends.
static void tied_table(void **state) {
    (void)state;
    const Type *tokens_type = test_type(ir, ELEMENT_I32, "batch", 2, "time", 3, NULL);
    Value table = parameter("table", test_type(ir, ELEMENT_F32, "vocab", 5, "embed", 8, NULL));
    Value grad = gradient("table", test_type(ir, ELEMENT_F32, "vocab", 5, "embed", 8, NULL));
    Value tokens = argument("tokens", tokens_type),
          dl = argument("dl", test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "vocab", 5, NULL));
    const char *vocab = test_name(ir, "vocab"), *over[] = {test_name(ir, "batch"), test_name(ir, "time")};
    Value x = build_gather(g, table, tokens, vocab, NO_PLACE);
    Value logits = test_dot(g, x, table, "embed");
    fuse_output(g, "logits", logits);
    Value dx = test_dot(g, dl, table, "vocab");
    Value a = build_accumulate(g, grad, build_dot(g, dl, x, over, 2, NO_PLACE), NO_PLACE);
    fuse_replace(g, "dt", build_scatter_add(g, a, tokens, dx, vocab, NO_PLACE), grad);
    fuse_test(g, 5);
}

static void rope(void **state) {
    (void)state;
    Value x = argument("x", test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "heads", 2, "key", 8, NULL));
    Dimension parts[] = {test_dimension(ir, "half", 2), test_dimension(ir, "pair", 4)};
    Value s = build_split(g, x, test_name(ir, "key"), parts, 2, NO_PLACE);
    Value angle = fuse_mul(
        g, build_cast(g, build_index(g, test_dimension(ir, "time", 3), NO_PLACE), ELEMENT_F32, NO_PLACE),
        fuse_number(g, 0.3));
    Value freq =
        fuse_one(g, OP_exp, build_cast(g, build_index(g, parts[1], NO_PLACE), ELEMENT_F32, NO_PLACE));
    const Type *table = test_type(ir, ELEMENT_F32, "time", 3, "pair", 4, NULL);
    Value phase = fuse_mul(g, build_expand(g, angle, table, NO_PLACE), freq);
    Value c = fuse_one(g, OP_cos, phase), sn = fuse_one(g, OP_sin, phase);
    const char *half = test_name(ir, "half");
    Value a = build_slice(g, s, half, 0, 1, NO_PLACE), b = build_slice(g, s, half, 1, 1, NO_PLACE);
    Value left = fuse_sub(g, fuse_mul(g, a, c), fuse_mul(g, b, sn));
    Value right = fuse_add(g, fuse_mul(g, a, sn), fuse_mul(g, b, c));
    Value pair[] = {left, right};
    Attribute along = {.key = ATTRIBUTE_along, .count = 1, .text = half};
    Value whole = graph_add(g, OP_concat, pair, 2, &along, 1, NO_PLACE);
    const char *from[] = {half, parts[1].name};
    fuse_output(g, "out", build_merge(g, whole, from, 2, test_name(ir, "key"), NO_PLACE));
    Attribute reversed = {.key = ATTRIBUTE_along, .count = 1, .text = half};
    Value swapped = graph_add(g, OP_reverse, &s, 1, &reversed, 1, NO_PLACE);
    fuse_output(g, "other", fuse_mul(g, fuse_add(g, swapped, s), c));
    fuse_test(g, 5);
}

// The producer walks half and pair, its reader the key that they make up, and in another order.
static void one_loop_as_two(void **state) {
    (void)state;
    const Type *heads = test_type(ir, ELEMENT_F32, "time", 3, "heads", 2, "key", 8, NULL);
    Dimension parts[] = {test_dimension(ir, "half", 2), test_dimension(ir, "pair", 4)};
    const char *half = test_name(ir, "half"), *from[] = {half, parts[1].name};
    Value s = build_split(g, argument("x", heads), test_name(ir, "key"), parts, 2, NO_PLACE);
    Attribute along = {.key = ATTRIBUTE_along, .count = 1, .text = half};
    Value swapped = graph_add(g, OP_reverse, &s, 1, &along, 1, NO_PLACE);
    Value turned = fuse_mul(g, fuse_add(g, s, swapped), argument("c", test_type(ir, ELEMENT_F32, "pair", 4, NULL)));
    Value key = build_merge(g, turned, from, 2, test_name(ir, "key"), NO_PLACE);
    Value across = argument("y", test_type(ir, ELEMENT_F32, "heads", 2, "time", 3, "key", 8, NULL));
    fuse_output(g, "out", fuse_mul(g, fuse_mul(g, across, parameter("scale", test_type(ir, ELEMENT_F32, "key", 8, NULL))),
                                   build_expand(g, key, graph_type(g, across), NO_PLACE)));
    Program *program = fuse_test(g, 1);
    assert_int_equal(program->arena_bytes, 0);
}

// One token's gate and up are one launch where products of one row are sums like any other.
static Program *token_swiglu(int rows, int launches, bool for_gpu) {
    const Type *row = test_type(ir, ELEMENT_F32, "time", rows, "embed", 8, NULL);
    const Type *w = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL);
    Value x = argument("x", row), gate = test_dot(g, x, parameter("gate", w), "embed");
    Value up = test_dot(g, x, parameter("up", w), "embed");
    fuse_output(g, "out", fuse_mul(g, fuse_one(g, OP_tanh, gate), up));
    return fuse_test_for(g, launches, NULL, for_gpu);
}

static void row_products(void **state) {
    (void)state;
    Program *program = token_swiglu(1, 1, true);
    assert_int_equal(program->kernels.items[0].nest->stage_count, 3);
    assert_int_equal(program->arena_bytes, 0);
}

static void row_products_of_a_library(void **state) {
    (void)state;
    token_swiglu(1, 2, false);
}

static void products_of_rows(void **state) {
    (void)state;
    token_swiglu(2, 2, true);
}

// Two products of a token's norm make it again each, where they have many columns; else it is a launch of its own.
static void token_norm(int rows, int columns, int launches, bool for_gpu, bool read) {
    const Type *w = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", columns, NULL);
    Value n = rms_norm(argument("x", test_type(ir, ELEMENT_F32, "time", rows, "embed", 8, NULL)), argument("scale", e));
    fuse_output(g, "gate", test_dot(g, n, parameter("gate", w), "embed"));
    fuse_output(g, "up", fuse_one(g, OP_tanh, test_dot(g, n, parameter("up", w), "embed")));
    if (read) fuse_output(g, "out", fuse_one(g, OP_exp, n));
    Program *program = fuse_test_for(g, launches, NULL, for_gpu);
    for (size_t k = 0; launches == 2 && k < 2; k++) assert_int_equal(program->kernels.items[k].nest->stage_count, 3);
}

static void norms_of_tokens(void **state) {
    static const struct {
        int rows, columns, launches;
        bool for_gpu, read;  // by others than products, too
    } cases[] = {{1, 1030, 2, true, false}, {1, 1000, 3, true, false}, {2, 1030, 3, true, false},
                 {1, 1030, 3, true, true},  {1, 1030, 3, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (i) teardown(state), setup(state);
        token_norm(cases[i].rows, cases[i].columns, cases[i].launches, cases[i].for_gpu, cases[i].read);
    }
}

// The kernel of a product, by the name of one of the inputs that it multiplies.
static const Nest *product_of(const Program *program, const char *factor) {
    for (size_t l = 0; l < program->launches.count; l++) {
        const Launch *launch = &program->launches.items[l];
        const Nest *nest = program->kernels.items[launch->kernel].nest;
        Contraction found;
        if (!nest_contraction(nest, &found)) continue;
        const uint32_t loads[] = {found.load_a, found.load_b};
        for (int i = 0; i < 2; i++) {
            const Formula *load = &nest->formulas.items[loads[i]];
            if (strcmp(program->buffers.items[launch->buffers[load->operand]].name, factor) == 0) return nest;
        }
    }
    fail_msg("no product of %s", factor);
    return NULL;
}

// A library adds one matrix to a product: a sum of products is a chain of such additions.
static void sums_of_products(void **state) {
    (void)state;
    const Type *w = test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 6, NULL);
    Value a = test_dot(g, argument("x", bte), parameter("a", w), "embed");
    Value b = test_dot(g, argument("y", bte), parameter("b", w), "embed");
    Value c = test_dot(g, argument("z", bte), parameter("c", w), "embed");
    fuse_output(g, "out", fuse_add(g, fuse_add(g, a, b), c));
    Program *program = fuse_test_for(g, 3, NULL, true);
    assert_int_equal(product_of(program, "a")->operand_count, 3);
    assert_int_equal(product_of(program, "b")->operand_count, 4);
    assert_int_equal(product_of(program, "c")->operand_count, 4);
}

// What is kept rounded of a sum joins the norm that reads the sum too, not the library's product before it.
static void rounded_beside_norm(void **state) {
    (void)state;
    Value w = parameter("w", test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 6, NULL));
    const Type *wide = test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "ffn", 6, NULL);
    Value h = fuse_add(g, argument("residual", wide), test_dot(g, argument("x", bte), w, "embed"));
    fuse_output(g, "kept", build_cast(g, h, ELEMENT_BF16, NO_PLACE));
    fuse_output(g, "out", fuse_mul(g, h, fuse_sum(g, fuse_mul(g, h, h), "ffn")));
    Program *program = fuse_test_for(g, 2, NULL, true);
    assert_int_equal(product_of(program, "w")->stage_count, 2);
}

// Three matrices make one that two launches read: on a GPU the one that has them at hand stores it for the other.
static void stored_for_a_later_launch(void **state) {
    (void)state;
    Value p = argument("p", bte), w = parameter("w", test_type(ir, ELEMENT_F32, "embed", 8, "k", 8, NULL));
    Value q = argument("q", bte), s = fuse_sum(g, fuse_mul(g, p, q), "embed");
    Value d = fuse_add(g, fuse_add(g, fuse_mul(g, p, s), q), argument("u", bte));
    Value product = build_rename(g, test_dot(g, build_cast(g, d, ELEMENT_BF16, NO_PLACE),
                                             build_cast(g, w, ELEMENT_BF16, NO_PLACE), "embed"),
                                 "k", "embed", NO_PLACE);
    fuse_output(g, "out", fuse_add(g, product, d));
    Program *program = fuse_test_for(g, 2, NULL, true);
    assert_int_equal(product_of(program, "w")->operand_count, 4);
}

// Sums over rows join the launch behind them that walks those: their matrix is read once.
static Program *scale_gradient(int rows, int launches, bool for_gpu) {
    const Type *type = test_type(ir, ELEMENT_F32, "time", rows, "embed", 32, NULL);
    Value x = argument("x", type), dy = argument("dy", type), v = fuse_mul(g, x, dy);
    fuse_output(g, "scale", fuse_sum(g, v, "time"));
    fuse_output(g, "dx", fuse_add(g, fuse_mul(g, x, fuse_sum(g, v, "embed")), dy));
    return fuse_test_for(g, launches, NULL, for_gpu);
}

static void expect_rows(const Program *program, int launch, int block, int stages) {
    const Nest *rows = program->kernels.items[program->launches.items[launch].kernel].nest;
    assert_int_equal(rows->outer_count, 2);
    assert_int_equal(rows->loops[1].dimension.extent, block);
    assert_int_equal(rows->stage_count, stages);
}

static void sums_join_rows(void **state) {
    (void)state;
    expect_rows(scale_gradient(512, 2, false), 0, 16, 3);
}

static void sums_join_rows_of_a_gpu(void **state) {
    (void)state;
    expect_rows(scale_gradient(4096, 2, true), 0, 8, 3);
}

static void few_rows_stay(void **state) {
    (void)state;
    Program *program = scale_gradient(64, 2, true);
    for (size_t i = 0; i < program->kernels.count; i++) assert_true(program->kernels.items[i].nest->outer_count == 1);
}

static void rows_that_fill_no_block_stay(void **state) {
    (void)state;
    Program *program = scale_gradient(520, 2, false);
    for (size_t i = 0; i < program->kernels.count; i++) assert_true(program->kernels.items[i].nest->outer_count == 1);
}

// As of layer_norm: a second sum has an input that is made behind the first, and adds to what the state holds.
static void several_sums_join_rows(void **state) {
    (void)state;
    const Type *type = test_type(ir, ELEMENT_F32, "time", 512, "embed", 32, NULL);
    const Type *row = test_type(ir, ELEMENT_F32, "embed", 32, NULL);
    Value x = argument("x", type), dy = argument("dy", type), v = fuse_mul(g, x, dy), old = parameter("shift", row);
    fuse_output(g, "scale", fuse_sum(g, v, "time"));
    Value norm = test_reduce(g, OP_max_over, fuse_mul(g, x, x), "embed");
    fuse_replace(g, "shift", build_accumulate(g, old, fuse_sum(g, fuse_mul(g, dy, norm), "time"), NO_PLACE), old);
    fuse_output(g, "dx", fuse_add(g, fuse_mul(g, x, fuse_sum(g, v, "embed")), fuse_mul(g, dy, norm)));
    Program *program = fuse_test_for(g, 3, NULL, false);
    expect_rows(program, 0, 16, 5);
}

// A sum that another one reads must be there before the rows: it does not join them.
static void sums_of_sums_stay(void **state) {
    (void)state;
    const Type *type = test_type(ir, ELEMENT_F32, "time", 512, "embed", 32, NULL);
    Value x = argument("x", type), dy = argument("dy", type), v = fuse_mul(g, x, dy), s = fuse_sum(g, v, "time");
    fuse_output(g, "scale", s);
    fuse_output(g, "other", fuse_sum(g, fuse_mul(g, dy, s), "time"));
    fuse_output(g, "dx", fuse_add(g, fuse_mul(g, x, fuse_sum(g, v, "embed")), dy));
    expect_rows(fuse_test_for(g, 3, NULL, false), 1, 16, 3);
}

// Rows of a product's result are padded to 16 bytes where every launch walks them by rows; the others stay.
static void padded_rows(void **state) {
    (void)state;
    const Type *w = test_type(ir, ELEMENT_F32, "embed", 8, "vocab", 515, NULL);
    Value logits = test_dot(g, argument("x", bte), parameter("w", w), "embed");
    Value share = fuse_mul(g, logits, fuse_sum(g, fuse_one(g, OP_tanh, logits), "vocab"));
    Value narrow = build_cast(g, share, ELEMENT_BF16, NO_PLACE);
    fuse_output(g, "out", test_dot(g, narrow, build_cast(g, parameter("v", w), ELEMENT_BF16, NO_PLACE), "vocab"));
    Tensor *inputs = test_inputs(g, 3);
    Program *program = fuse_test_lower(g, NULL);
    assert_true(fuse_program(program, true) && pad_rows(program));
    fuse_test_run(g, program, inputs, "pad-rows");
    int found = 0;
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        const Type *type = buffer->type;
        if (buffer->kind != BUFFER_TEMPORARY || type->rank < 2 || type->dimensions[type->rank - 1].extent < 515) continue;
        assert_int_equal(type->dimensions[type->rank - 1].extent, type->element == ELEMENT_BF16 ? 520 : 516);
        assert_int_equal(buffer->bytes, type_bytes(type));
        found++;
    }
    assert_int_equal(found, 2);
    assert_true(order_program(program) && plan_memory(program));
    fuse_test_run(g, program, inputs, "plan-memory");
}

static void shapes(void **state) {
    (void)state;
    Value x = argument("x", bte), y = fuse_mul(g, x, x), z = fuse_one(g, OP_neg, x);
    const char *time = test_name(ir, "time");
    Value padded = build_pad(g, y, time, 1, 6, NO_PLACE);
    Attribute shift[] = {{.key = ATTRIBUTE_along, .count = 1, .text = time},
                         {.key = ATTRIBUTE_by, .integer = 1}};
    Value shifted = graph_add(g, OP_shift, &y, 1, shift, 2, NO_PLACE);
    Value both[] = {y, z, shifted};
    Value joined = graph_add(g, OP_concat, both, 3, shift, 1, NO_PLACE);
    const char *order[] = {test_name(ir, "embed"), time, test_name(ir, "batch")};
    Value turned = build_transpose(g, fuse_add(g, shifted, z), order, 3, NO_PLACE);
    fuse_output(g, "padded", padded);
    fuse_output(g, "joined", joined);
    fuse_output(g, "turned", fuse_one(g, OP_abs, turned));
    fuse_output(g, "slice", fuse_one(g, OP_exp, build_slice(g, turned, time, 1, 2, NO_PLACE)));
    fuse_output(g, "pick", fuse_sum(g, build_pick(g, turned, time, 2, NO_PLACE), "batch"));
    fuse_test(g, 7);
}

// Outputs that are inputs, twice the same value, swapped states, one state kept.
static void outputs_of_all_kinds(void **state) {
    (void)state;
    Value a = parameter("a", e), b = parameter("b", e), c = parameter("c", e), x = argument("x", e);
    Value y = fuse_mul(g, x, a);
    fuse_replace(g, "a2", b, a);
    fuse_replace(g, "b2", a, b);
    fuse_replace(g, "c2", c, c);
    fuse_output(g, "x", x);
    fuse_output(g, "y1", y);
    fuse_output(g, "y2", y);
    fuse_output(g, "old", a);
    fuse_test(g, 2);
}

// In place only where nobody needs the old value.
static void in_place_hazards(void **state) {
    (void)state;
    const Type *square = test_type(ir, ELEMENT_F32, "embed", 4, "other", 4, NULL);
    Value a = parameter("a", square), b = parameter("b", square), x = argument("x", square);
    const char *from[] = {test_name(ir, "embed"), test_name(ir, "other")}, *swapped[] = {from[1], from[0]};
    Value t = build_transpose(g, a, swapped, 2, NO_PLACE);
    t = build_rename(g, t, "embed", "k", NO_PLACE);
    t = build_rename(g, t, "other", "embed", NO_PLACE);
    t = build_rename(g, t, "k", "other", NO_PLACE);
    fuse_replace(g, "a2", fuse_add(g, a, t), a);     // reads the transpose: not in place
    Value b2 = build_accumulate(g, b, x, NO_PLACE);  // old b is read later: not in place
    fuse_replace(g, "b2", b2, b);
    fuse_output(g, "difference", fuse_sub(g, fuse_one(g, OP_exp, b2), b));
    Value zero = build_broadcast(g, fuse_number(g, 0), square->dimensions, 2, NO_PLACE);
    fuse_output(g, "fresh", build_accumulate(g, zero, fuse_add(g, x, a), NO_PLACE));
    Value z2 = build_accumulate(g, x, x, NO_PLACE);  // an input is copied
    fuse_output(g, "doubled", z2);
    fuse_test(g, 2);
}

static void large_sums_are_split(void **state) {
    (void)state;
    Value x = argument("x", test_type(ir, ELEMENT_F32, "i", 96, "j", 256, NULL));
    Value y = argument("y", test_type(ir, ELEMENT_F32, "k", 3 << 13, NULL));
    const char *over[] = {test_name(ir, "i"), test_name(ir, "j")};
    Value s = build_reduce(g, OP_sum, fuse_mul(g, x, x), over, 2, NO_PLACE);
    Value total = fuse_add(g, s, test_reduce(g, OP_max_over, y, "k"));
    fuse_output(g, "norm", fuse_one(g, OP_sqrt, total));
    fuse_test(g, 3);
}

// Sums of columns take their rows in parts, each read from end to end; sums of rows have tasks enough.
static void sums_of_columns_are_split(void **state) {
    (void)state;
    const Type *type = test_type(ir, ELEMENT_F32, "i", 1024, "j", 256, NULL);
    Value x = argument("x", type), scale = argument("scale", test_type(ir, ELEMENT_F32, "i", 1024, NULL));
    Value s = test_reduce(g, OP_sum, fuse_mul(g, fuse_mul(g, x, scale), x), "i");
    fuse_output(g, "columns", fuse_one(g, OP_exp, fuse_mul(g, s, fuse_number(g, 0.001))));
    Program *program = fuse_test(g, 2);
    const Nest *parts = program->kernels.items[program->launches.items[0].kernel].nest;
    assert_int_equal(parts->outer_count, 2);
    assert_int_equal(parts->loops[0].dimension.extent, 64);
    assert_int_equal(parts->loops[1].dimension.extent, 256);
    fuse_test_for(g, 1, NULL, true);  // a GPU shares them among its blocks
}

static void sums_of_rows_are_not_split(void **state) {
    (void)state;
    Value x = argument("x", test_type(ir, ELEMENT_F32, "i", 1024, "j", 256, NULL));
    fuse_output(g, "rows", test_reduce(g, OP_sum, fuse_mul(g, x, x), "j"));
    fuse_test(g, 1);
}

static void casts_stay(void **state) {
    (void)state;
    Value x = argument("x", bte), w = parameter("w", test_type(ir, ELEMENT_F32, "embed", 8, "ffn", 5, NULL));
    Value n = build_cast(g, fuse_mul(g, x, x), ELEMENT_BF16, NO_PLACE),
          wb = build_cast(g, w, ELEMENT_BF16, NO_PLACE);
    Value h = build_cast(g, test_dot(g, n, wb, "embed"), ELEMENT_F32, NO_PLACE);
    fuse_output(g, "out", fuse_one(g, OP_tanh, h));
    Program *program =
        fuse_test(g, 2);  // bf16 of x is stored, that of w made where it is loaded; sums are f32
    Contraction contraction;
    bool found = false;
    for (size_t i = 0; i < program->kernels.count; i++) {
        const Nest *nest = program->kernels.items[i].nest;
        int casts = 0;
        for (size_t f = 0; f < nest->formulas.count; f++)
            casts += nest->formulas.items[f].kind == FORMULA_PRIMITIVE &&
                     nest->formulas.items[f].primitive == PRIMITIVE_cast;
        if (nest_contraction(nest, &contraction))
            found = casts == 3;
        else
            assert_int_equal(casts, 1);
    }
    assert_true(found);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(elementwise_chain),
        TEST(softmax),
        TEST(rms_norms),
        TEST(layer_norm),
        TEST(rms_norm_gradient),
        TEST(contraction_with_epilogue),
        TEST(swiglu),
        TEST(accumulates_into_slices),
        TEST(stores_what_comes_first),
        TEST(adamw),
        TEST(tied_table),
        TEST(rope),
        TEST(one_loop_as_two),
        TEST(row_products),
        TEST(row_products_of_a_library),
        TEST(products_of_rows),
        TEST(norms_of_tokens),
        TEST(sums_of_products),
        TEST(rounded_beside_norm),
        TEST(stored_for_a_later_launch),
        TEST(sums_join_rows),
        TEST(sums_join_rows_of_a_gpu),
        TEST(few_rows_stay),
        TEST(rows_that_fill_no_block_stay),
        TEST(several_sums_join_rows),
        TEST(sums_of_sums_stay),
        TEST(padded_rows),
        TEST(shapes),
        TEST(outputs_of_all_kinds),
        TEST(in_place_hazards),
        TEST(large_sums_are_split),
        TEST(sums_of_columns_are_split),
        TEST(sums_of_rows_are_not_split),
        TEST(casts_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
