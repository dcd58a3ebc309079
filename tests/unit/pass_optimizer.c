// optimizer: two parameters, some steps, against the same steps written out by hand.
#include "ir/module.h"
#include "tests/unit/pass_test.h"

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

static Module *small_module(void **state, Training training) {
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    Module *module = module_create(ir, test_name(ir, "Small"));
    const Type *matrix = test_type(ir, ELEMENT_F32, "a", 2, "b", 3, NULL),
               *row = test_type(ir, ELEMENT_F32, "b", 3, NULL);
    vector_push(arena, &module->parameters,
                ((Parameter){.path = test_name(ir, "w"), .type = matrix, .declared_rank = 2}));
    vector_push(arena, &module->parameters,
                ((Parameter){.path = test_name(ir, "g"), .type = row, .declared_rank = 1}));
    module->has_training = true;
    module->training = training;
    PassContext context = {.ir = ir, .verify = true};
    Module *result = pass_run_module(&context, "optimizer", module);
    if (!result) test_show_errors(ir);
    assert_non_null(result);
    return result;
}

static const char *const paths[] = {"w", "g"};

typedef struct Hand {
    double p[2][6], m[2][6], v[2][6];
} Hand;

// PyTorch's clip_grad_norm_, AdamW and SGD, written out.
static double step_by_hand(const Training *t, Hand *hand, double g[2][6], double scale, double rate,
                           int64_t step) {
    double total = 0;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < (i ? 3 : 6); j++) total += pow(g[i][j] * scale, 2);
    double norm = sqrt(total), factor = scale;
    if (t->clip > 0 && t->clip / (norm + 1e-6) < 1) factor *= t->clip / (norm + 1e-6);
    for (int i = 0; i < 2; i++) {
        double decay = i == 0 ? t->decay : 0;
        for (int j = 0; j < (i ? 3 : 6); j++) {
            double *p = &hand->p[i][j], *m = &hand->m[i][j], *v = &hand->v[i][j], x = g[i][j] * factor;
            if (t->optimizer == OPTIMIZER_SGD) {
                *m = t->momentum * *m + x + decay * *p;
                *p -= rate * *m;
                continue;
            }
            *p *= 1 - rate * decay;
            *m = t->beta1 * *m + (1 - t->beta1) * x;
            *v = t->beta2 * *v + (1 - t->beta2) * x * x;
            double m_hat = *m / (1 - pow(t->beta1, (double)step)),
                   v_hat = *v / (1 - pow(t->beta2, (double)step));
            *p -= rate * m_hat / (sqrt(v_hat) + t->epsilon);
        }
    }
    return norm;
}

static Role roles(const Training *training, int i) {
    static const Role adamw[] = {ROLE_PARAMETER, ROLE_MOMENT1, ROLE_MOMENT2};
    static const Role sgd[] = {ROLE_PARAMETER, ROLE_MOMENT1, ROLE_COUNT};
    return training->optimizer == OPTIMIZER_ADAMW ? adamw[i] : sgd[i];
}

// Inputs or outputs of the graph against the state kept by hand.
static double *hand_state(Hand *hand, Role role, int parameter) {
    return role == ROLE_PARAMETER ? hand->p[parameter]
           : role == ROLE_MOMENT1 ? hand->m[parameter]
                                  : hand->v[parameter];
}

static void run(void **state, Training training, double size) {
    Module *module = small_module(state, training);
    Graph *update = module_find_graph(module, "update");
    assert_non_null(update);
    Ir *ir = module->ir;
    Hand hand = {0};
    uint64_t random = 5;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 6; j++) hand.p[i][j] = test_random(&random);
    for (int64_t step = 1; step <= 4; step++) {
        Tensor *inputs = test_inputs(update, 2);
        double gradients[2][6], rate = 0.01 / (double)step;
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < 3 && roles(&training, r) != ROLE_COUNT; r++)
                memcpy(test_find_input(update, inputs, paths[i], roles(&training, r))->data,
                       hand_state(&hand, roles(&training, r), i), sizeof(double) * (i ? 3 : 6));
            for (int j = 0; j < 6; j++) gradients[i][j] = size * test_random(&random);
            memcpy(test_find_input(update, inputs, paths[i], ROLE_GRADIENT)->data, gradients[i],
                   sizeof(double) * (i ? 3 : 6));
        }
        test_find_input(update, inputs, "rate", ROLE_SCALAR)->data[0] = rate;
        test_find_input(update, inputs, "step", ROLE_SCALAR)->data[0] = (double)step;
        test_find_input(update, inputs, "gradient_scale", ROLE_SCALAR)->data[0] = 0.25;
        const Tensor *outputs = test_evaluate(update, inputs);
        double norm = step_by_hand(&training, &hand, gradients, 0.25, rate, step);
        assert_true(fabs(test_output(update, outputs, "gradient_norm")->data[0] - norm) < 1e-9 * (1 + norm));
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < 3 && roles(&training, r) != ROLE_COUNT; r++) {
                const Tensor *found =
                    test_output(update, outputs, state_output_name(ir, roles(&training, r), paths[i]));
                for (int j = 0; j < (i ? 3 : 6); j++)
                    assert_true(fabs(found->data[j] - hand_state(&hand, roles(&training, r), i)[j]) < 2e-7);
            }
            const Tensor *zero = test_output(update, outputs, state_output_name(ir, ROLE_GRADIENT, paths[i]));
            for (int j = 0; j < (i ? 3 : 6); j++) assert_true(zero->data[j] == 0);
        }
    }
    for (size_t i = 0; i < update->outputs.count; i++)  // everything but the norm is in place
        assert_int_equal(value_is_none(update->outputs.items[i].replaces),
                         strcmp(update->outputs.items[i].name, "gradient_norm") == 0);
}

static Training adamw(double clip) {
    return (Training){.optimizer = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8,
                      .decay = 0.1, .decay_rank = 2, .clip = clip};
}

static void adamw_steps(void **state) { run(state, adamw(0), 1); }
static void adamw_clips(void **state) { run(state, adamw(0.5), 4); }
static void adamw_leaves_small_gradients(void **state) { run(state, adamw(100), 1); }
static void adamw_survives_zero_gradients(void **state) { run(state, adamw(1), 0); }
static void sgd_steps(void **state) {
    run(state,
        (Training){.optimizer = OPTIMIZER_SGD, .momentum = 0.9, .decay = 0.1, .decay_rank = 2, .clip = 1}, 2);
}

static float in_f32(float step, float beta_log) {  // the formula of bias_correction, in f32
    float y = step * beta_log, series = 1;
    for (int n = 5; n >= 2; n--) series = 1 + y * (1.0f / (float)n) * series;
    return -0.1f < y ? -y * series : 1 - expf(y);
}

static void bias_correction_is_accurate_in_f32(void **state) {
    (void)state;
    const double betas[] = {0.9, 0.95, 0.99, 0.999, 0.9999};
    for (int i = 0; i < 5; i++)
        for (int step = 1; step < 100000; step = step * 3 / 2 + 1) {
            double exact = -expm1(step * log(betas[i]));
            double found = (double)in_f32((float)step, (float)log(betas[i]));
            assert_true(fabs(found - exact) < 2e-6 * exact);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(adamw_steps, finish),
        cmocka_unit_test_teardown(adamw_clips, finish),
        cmocka_unit_test_teardown(adamw_leaves_small_gradients, finish),
        cmocka_unit_test_teardown(adamw_survives_zero_gradients, finish),
        cmocka_unit_test_teardown(sgd_steps, finish),
        cmocka_unit_test(bias_correction_is_accurate_in_f32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
