// Checkpoints: names of stacked parameters, round trips, what is reported when a file does not fit, and
// runs killed while they save.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/checkpoint.h"

typedef struct Fixture {
    Arena *arena;
    Ir *ir;
    char *folder, *path;
} Fixture;

// A model of two parameters: table[vocab, embed] and trunk.wq[layer, embed, heads].
typedef struct Model {
    Module module;
    Program program;
    State *state;
} Model;

static int set_up(void **state) {
    Fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = arena_create();
    fixture->ir = ir_create(fixture->arena);
    fixture->folder = arena_format(fixture->arena, "/tmp/cherry-checkpoint-XXXXXX");
    *state = fixture;
    if (!mkdtemp(fixture->folder)) return -1;
    fixture->path = arena_format(fixture->arena, "%s/checkpoint.safetensors", fixture->folder);
    return 0;
}

static int tear_down(void **state) {
    Fixture *fixture = *state;
    int status = system(arena_format(fixture->arena, "rm -rf '%s'", fixture->folder));
    arena_destroy(fixture->arena);
    free(fixture);
    return status;
}

static const Type *make_type(Fixture *fixture, Element element, int rank, const char *const *names,
                             const int64_t *extents) {
    Dimension dimensions[RANK_MAX];
    for (int i = 0; i < rank; i++)
        dimensions[i] = (Dimension){.name = names_intern(fixture->ir->names, names[i]), .extent = extents[i]};
    return type_make(fixture->ir, element, rank, dimensions);
}

static void add_parameter(Fixture *fixture, Model *model, const char *path, const Type *type, int declared_rank,
                          bool moments) {
    Parameter parameter = {.path = path, .type = type, .declared_rank = declared_rank,
                           .place = {.file = "model.cherry", .line = 3, .column = 5}};
    vector_push(fixture->arena, &model->module.parameters, parameter);
    static const Role roles[] = {ROLE_PARAMETER, ROLE_GRADIENT, ROLE_MOMENT1, ROLE_MOMENT2};
    for (int i = 0; i < (moments ? 4 : 1); i++) {
        Buffer buffer = {.kind = BUFFER_STATE, .role = roles[i], .name = path, .type = type, .bytes = type_bytes(type)};
        vector_push(fixture->arena, &model->program.buffers, buffer);
    }
}

typedef struct Sizes {
    int64_t vocab, embed, layers, heads;
    const char *heads_name;
    Element element;
    bool moments;
} Sizes;

static const Sizes usual = {.vocab = 7, .embed = 4, .layers = 3, .heads = 2, .heads_name = "heads",
                            .element = ELEMENT_F32, .moments = true};

static Model *make_model(Fixture *fixture, const char *name, Sizes sizes) {
    Model *model = ARENA_NEW(fixture->arena, Model);
    model->module = (Module){.ir = fixture->ir, .name = name};
    model->program = (Program){.ir = fixture->ir, .name = "update"};
    add_parameter(fixture, model, "table",
                  make_type(fixture, sizes.element, 2, (const char *[]){"vocab", "embed"},
                            (int64_t[]){sizes.vocab, sizes.embed}), 2, sizes.moments);
    add_parameter(fixture, model, "trunk.wq",
                  make_type(fixture, sizes.element, 3, (const char *[]){"layer", "embed", sizes.heads_name},
                            (int64_t[]){sizes.layers, sizes.embed, sizes.heads}), 2, sizes.moments);
    model->state = state_create(fixture->ir->diagnostics, (Program *[]){&model->program}, 1);
    assert_non_null(model->state);
    return model;
}

// Value of element i of a buffer: distinct for every buffer and version.
static void fill(State *state, int version) {
    for (size_t b = 0; b < state_count(state); b++) {
        const StateBuffer *buffer = state_buffer(state, b);
        for (int64_t i = 0; i < type_count(buffer->type); i++)
            ((float *)buffer->data)[i] = (float)(version + (int)b * 1000) + (float)i / 128;
    }
}

static bool holds(const State *state, int version, bool with_moments) {
    for (size_t b = 0; b < state_count(state); b++) {
        const StateBuffer *buffer = state_buffer(state, b);
        bool saved = buffer->role == ROLE_PARAMETER || (with_moments && buffer->role != ROLE_GRADIENT);
        for (int64_t i = 0; saved && i < type_count(buffer->type); i++)
            if (((float *)buffer->data)[i] != (float)(version + (int)b * 1000) + (float)i / 128) return false;
    }
    return true;
}

static const Message *message(Fixture *fixture, size_t index) {
    assert_true(index < diagnostics_count(fixture->ir->diagnostics));
    return diagnostics_message(fixture->ir->diagnostics, index);
}

static void expect_message(Fixture *fixture, size_t index, const char *code, const char *text) {
    const Message *found = message(fixture, index);
    if (code) assert_string_equal(found->code, code);
    else assert_null(found->code);
    if (!strstr(found->text, text)) fail_msg("'%s' lacks '%s'", found->text, text);
}

static void test_weights(void **state) {
    Fixture *fixture = *state;
    Diagnostics *diagnostics = fixture->ir->diagnostics;
    Model *saved = make_model(fixture, "Dense", usual), *loaded = make_model(fixture, "Dense", usual);
    fill(saved->state, 5);
    RunPosition position = {.step = 12};
    assert_true(checkpoint_save_weights(diagnostics, fixture->path, &saved->module, saved->state, &position));

    TensorFile *file = tensor_file_open(fixture->arena, diagnostics, fixture->path);
    assert_int_equal(file->tensor_count, 4);
    const StoredTensor *layer = tensor_file_find(file, "trunk.2.wq");
    assert_non_null(layer);
    assert_string_equal(stored_text(fixture->arena, layer), "F32[4, 2]");
    assert_memory_equal(layer->data, (float *)state_data(saved->state, "trunk.wq", ROLE_PARAMETER) + 16, 32);
    assert_string_equal(tensor_file_metadata(file, "model"), "Dense");
    assert_string_equal(tensor_file_metadata(file, "step"), "12");
    assert_string_equal(tensor_file_metadata(file, "type.trunk.wq"), "f32[layer=3, embed=4, heads=2]");
    tensor_file_close(file);

    assert_true(checkpoint_load_weights(diagnostics, fixture->path, &loaded->module, loaded->state));
    assert_true(holds(loaded->state, 5, false));
    assert_int_equal(diagnostics_count(diagnostics), 0);
    // A run cannot go on from weights alone.
    assert_false(checkpoint_load(diagnostics, fixture->path, &loaded->module, loaded->state, &position));
    expect_message(fixture, 0, "E0806", "holds weights only");
    state_destroy(saved->state);
    state_destroy(loaded->state);
}

static void test_training_state(void **state) {
    Fixture *fixture = *state;
    Diagnostics *diagnostics = fixture->ir->diagnostics;
    Model *saved = make_model(fixture, "Dense", usual), *loaded = make_model(fixture, "Dense", usual);
    fill(saved->state, 6);
    RunPosition position = {.step = 120, .seed = -3, .tokens = INT64_C(1) << 60, .best_loss = 0.1 + 0.2, .best_step = 90};
    StoredText extra = {"data", "tiny.txt"};
    assert_true(checkpoint_save(diagnostics, fixture->path, &saved->module, saved->state, &position, &extra, 1));
    RunPosition read = {0};
    assert_true(checkpoint_load(diagnostics, fixture->path, &loaded->module, loaded->state, &read));
    assert_true(holds(loaded->state, 6, true));
    assert_int_equal(*(int32_t *)state_data(loaded->state, "table", ROLE_GRADIENT), 0);
    assert_true(read.step == 120 && read.seed == -3 && read.tokens == INT64_C(1) << 60 && read.best_step == 90);
    assert_true(read.best_loss == 0.1 + 0.2);
    assert_string_equal(checkpoint_metadata(fixture->arena, diagnostics, fixture->path, "data"), "tiny.txt");
    assert_null(checkpoint_metadata(fixture->arena, diagnostics, fixture->path, "nothing"));

    position.best_loss = (double)INFINITY;
    assert_true(checkpoint_save(diagnostics, fixture->path, &saved->module, saved->state, &position, NULL, 0));
    assert_true(checkpoint_load(diagnostics, fixture->path, &loaded->module, loaded->state, &read));
    assert_true(isinf(read.best_loss));

    // Weights can be taken from it too, by a program that has no moments.
    Sizes sizes = usual;
    sizes.moments = false;
    Model *bare = make_model(fixture, "Dense", sizes);
    assert_true(checkpoint_load_weights(diagnostics, fixture->path, &bare->module, bare->state));
    assert_memory_equal(state_data(bare->state, "table", ROLE_PARAMETER), state_data(saved->state, "table", ROLE_PARAMETER), 28);
    assert_int_equal(diagnostics_count(diagnostics), 0);
    state_destroy(saved->state);
    state_destroy(loaded->state);
    state_destroy(bare->state);
}

// Loads weights of `saved` into a model of `sizes`; nothing of it may change.
static void expect_refusal(Fixture *fixture, Sizes sizes, const char *name) {
    Model *model = make_model(fixture, name, sizes);
    size_t bytes = (size_t)state_buffer(model->state, 0)->bytes;
    char *zeros = arena_allocate(fixture->arena, bytes);
    assert_false(checkpoint_load_weights(fixture->ir->diagnostics, fixture->path, &model->module, model->state));
    assert_memory_equal(state_buffer(model->state, 0)->data, zeros, bytes);
    state_destroy(model->state);
}

static void save_usual(Fixture *fixture) {
    Model *saved = make_model(fixture, "Dense", usual);
    fill(saved->state, 1);
    assert_true(checkpoint_save_weights(fixture->ir->diagnostics, fixture->path, &saved->module, saved->state, NULL));
    state_destroy(saved->state);
}

static void test_wrong_shape(void **state) {
    Fixture *fixture = *state;
    save_usual(fixture);
    Sizes sizes = usual;
    sizes.heads = 8;
    expect_refusal(fixture, sizes, "Dense");
    expect_message(fixture, 0, "E0802", ": trunk.0.wq is F32[4, 2], the model has f32[embed=4, heads=8]");
    expect_message(fixture, 1, NULL, "when it was saved, trunk.wq was f32[layer=3, embed=4, heads=2]");
    expect_message(fixture, 2, NULL, "trunk.wq is declared here");
    assert_int_equal(message(fixture, 2)->place.line, 3);
    assert_int_equal(diagnostics_error_count(fixture->ir->diagnostics), 3);
}

static void test_more_layers(void **state) {
    Fixture *fixture = *state;
    save_usual(fixture);
    Sizes sizes = usual;
    sizes.layers = 10;
    expect_refusal(fixture, sizes, "Deep");
    expect_message(fixture, 0, "E0801", "has no tensor trunk.3.wq, the model needs f32[embed=4, heads=2]");
    assert_int_equal(diagnostics_error_count(fixture->ir->diagnostics), 5);
    expect_message(fixture, 5, NULL, "2 more tensors do not fit");
    expect_message(fixture, 6, NULL, "holds model Dense, this is model Deep");
    expect_message(fixture, 7, NULL, "cherry convert");
}

static void test_fewer_layers(void **state) {
    Fixture *fixture = *state;
    save_usual(fixture);
    Sizes sizes = usual;
    sizes.layers = 2;
    expect_refusal(fixture, sizes, "Small");
    expect_message(fixture, 0, "E0804", "trunk.2.wq belongs to no parameter of model Small");
}

static void test_elements(void **state) {
    Fixture *fixture = *state;
    save_usual(fixture);
    Sizes sizes = usual;
    sizes.element = ELEMENT_BF16;
    Model *model = make_model(fixture, "Dense", sizes);
    assert_true(checkpoint_load_weights(fixture->ir->diagnostics, fixture->path, &model->module, model->state));
    expect_message(fixture, 0, "E0807", "had other names");  // the element type is part of the structure
    assert_int_equal(((uint16_t *)state_data(model->state, "table", ROLE_PARAMETER))[0], 0x3f80);
    state_destroy(model->state);
    sizes.element = ELEMENT_I32;
    expect_refusal(fixture, sizes, "Dense");
    expect_message(fixture, 1, "E0803", "table is F32, which does not convert to i32");
}

static void test_other_names(void **state) {
    Fixture *fixture = *state;
    save_usual(fixture);
    Sizes sizes = usual;
    sizes.heads_name = "groups";
    Model *model = make_model(fixture, "Dense", sizes);
    assert_true(checkpoint_load_weights(fixture->ir->diagnostics, fixture->path, &model->module, model->state));
    expect_message(fixture, 0, "E0807", "other names");
    state_destroy(model->state);
}

static uint64_t structure_of(Fixture *fixture, const char *name, Sizes sizes) {
    Model *model = make_model(fixture, name, sizes);
    state_destroy(model->state);
    return checkpoint_structure(&model->module);
}

static void test_structure(void **state) {
    Fixture *fixture = *state;
    Sizes sizes = usual;
    uint64_t hash = structure_of(fixture, "A", usual);
    assert_true(hash == structure_of(fixture, "B", usual));
    sizes.heads_name = "groups";
    assert_true(hash != structure_of(fixture, "A", sizes));
    sizes = usual;
    sizes.layers = 4;
    assert_true(hash != structure_of(fixture, "A", sizes));
}

// Positions that cannot be: the file is refused and nothing changes.
static void test_damaged_position(void **state) {
    Fixture *fixture = *state;
    static const StoredText damages[] = {{"step", "12x"}, {"step", ""}, {"step", "99999999999999999999"}, {"step", "-1"},
                                         {"seed", "one"}, {"best_loss", "nan"}, {"best_loss", "?"}, {"best_step", NULL}};
    Model *model = make_model(fixture, "Dense", usual);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        TensorSource sources[20];
        RunPosition position = {.step = 1};
        assert_true(checkpoint_save(fixture->ir->diagnostics, fixture->path, &model->module, model->state, &position, NULL, 0));
        TensorFile *file = tensor_file_open(fixture->arena, fixture->ir->diagnostics, fixture->path);
        for (size_t k = 0; k < file->tensor_count; k++) {
            const StoredTensor *tensor = &file->tensors[k];
            sources[k] = (TensorSource){.name = tensor->name, .element = tensor->element, .rank = tensor->rank, .data = tensor->data};
            memcpy(sources[k].shape, tensor->shape, sizeof *tensor->shape * (size_t)tensor->rank);
        }
        size_t count = 0;
        for (size_t k = 0; k < file->metadata_count; k++) {
            StoredText text = file->metadata[k];
            if (strcmp(text.key, damages[i].key) == 0) text.value = damages[i].value;
            if (text.value) file->metadata[count++] = text;
        }
        assert_true(tensor_file_write(fixture->ir->diagnostics, fixture->path, sources, file->tensor_count, file->metadata, count));
        tensor_file_close(file);
        size_t before = diagnostics_count(fixture->ir->diagnostics);
        assert_false(checkpoint_load(fixture->ir->diagnostics, fixture->path, &model->module, model->state, &position));
        expect_message(fixture, before, "E0806", damages[i].key);
        assert_int_equal(position.step, 1);
    }
    state_destroy(model->state);
}

static int save_for_ever(Fixture *fixture, Model *model) {
    for (RunPosition position = {.step = 1};; position.step++) {
        fill(model->state, (int)position.step % 1000);
        if (!checkpoint_save(fixture->ir->diagnostics, fixture->path, &model->module, model->state, &position, NULL, 0))
            return 1;
    }
}

static void test_kill_while_saving(void **state) {
    Fixture *fixture = *state;
    Sizes sizes = usual;
    sizes.vocab = 20000;
    Model *model = make_model(fixture, "Dense", sizes);
    RunPosition position = {0};
    int64_t changes = 0;
    fill(model->state, 0);
    assert_true(checkpoint_save(fixture->ir->diagnostics, fixture->path, &model->module, model->state, &position, NULL, 0));
    // At least 20 kills; more on a busy machine, until some came after a save.
    for (int round = 0; round < 20 || (changes <= 20 && round < 400); round++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) _exit(save_for_ever(fixture, model));
        nanosleep(&(struct timespec){.tv_nsec = 3000000 + round % 100 * 2710000}, NULL);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        assert_true(checkpoint_load(fixture->ir->diagnostics, fixture->path, &model->module, model->state, &position));
        assert_true(holds(model->state, (int)position.step % 1000, true));
        changes += position.step;
    }
    assert_true(changes > 20);
    state_destroy(model->state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_weights),      TEST(test_training_state), TEST(test_wrong_shape), TEST(test_more_layers),
        TEST(test_fewer_layers), TEST(test_elements),       TEST(test_other_names), TEST(test_structure),
        TEST(test_damaged_position), TEST(test_kill_while_saving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
