// The programs of every model file on the emulated GPU, at small shapes with odd extents, against the
// reference: first values, a training step, an evaluation, a prompt and a token. Each program starts from the
// reference's state.
//   unit_cuda_models [NAME]
#include <glob.h>

#include "cpu_test.h"
#include "driver/compile.h"
#include "ir/input_limit.h"
#include "driver/setup.h"
#include "tests/cuda/run.h"

enum {
    CHUNK = 3,
    CONTEXT = 8,
    STATES = 4096,
    GENERATION = 1 << ENTRY_PREFILL | 1 << ENTRY_DECODE | 1 << ENTRY_ROUND
};

static const char *filter;

typedef struct State {
    const char *name;
    Role role;
    double *values;  // the reference's
} State;

typedef struct Subject {
    const char *file;
    Ir *ir;
    const Module *module;
    Compilation *compilation;
    bool is_large;  // emulates the initialisers too: those of all files differ in their constants alone
    State states[STATES];
    int state_count;
} Subject;

// Beside every file at the handful that `small` makes of each dim: some at sizes that fill more than a tile.
static const struct {
    const char *file;
    const char *settings[12];
} larger[] = {
    {"nano", {"vocab=37", "embed=24", "heads=2", "key=12", "ffn=40", "layers=2", "time=70", "batch=2"}},
    {"gpt2", {"vocab=37", "embed=24", "heads=3", "layers=1", "context=67", "batch=2", "accumulate=1"}},
    {"llama",
     {"vocab=37", "embed=24", "groups=2", "queries=2", "key=6", "ffn=40", "layers=1", "time=37",
      "accumulate=1", "batch=1"}},
    // Products of bf16: copies of weights, attention by fragments, rows of experts in wide tiles.
    {"moe",
     {"vocab=40", "embed=24", "heads=2", "key=16", "ffn=40", "layers=1", "time=70", "batch=2",
      "precision=bf16"}},
    {"llama",
     {"vocab=37", "embed=24", "groups=2", "queries=2", "key=8", "ffn=40", "layers=1", "time=37",
      "precision=bf16", "batch=1"}},
};

static Subject *load(Arena *arena, const char *path, const char *const *settings) {
    Subject *subject = ARENA_NEW(arena, Subject);
    subject->file = path;
    subject->is_large = settings != NULL;
    subject->ir = ir_create(arena);
    const char *texts[16];
    FrontendOptions options = {.settings = texts, .small = !settings};
    while (settings && settings[options.setting_count]) {
        texts[options.setting_count] = settings[options.setting_count];
        options.setting_count++;
    }
    subject->module = derive_module(subject->ir, frontend_load(subject->ir, path, &options));
    if (!subject->module) goto failed;
    CompileOptions compile = {.chunk = CHUNK, .context = CONTEXT, .sequences = 1, .cuda = true};
    uint32_t entries =
        1u << ENTRY_INITIALIZE | 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE | 1u << ENTRY_EVALUATE;
    if (module_find_graph(subject->module, "logits")) entries |= GENERATION;
    subject->compilation = compile_programs(subject->ir, subject->module, entries, &compile);
    if (!subject->compilation) {  // not every model generates
        entries &= ~(uint32_t)GENERATION;
        subject->compilation = compile_programs(subject->ir, subject->module, entries, &compile);
    }
    if (subject->compilation) return subject;
failed:
    diagnostics_print(subject->ir->diagnostics, 0, stderr);
    fail_msg("%s", path);
    return NULL;
}

static double *state_values(Subject *subject, const Buffer *buffer) {
    for (int i = 0; i < subject->state_count; i++)
        if (subject->states[i].name == buffer->name && subject->states[i].role == buffer->role)
            return subject->states[i].values;
    assert_true(subject->state_count < STATES);
    State *state = &subject->states[subject->state_count++];
    *state = (State){buffer->name, buffer->role,
                     ARENA_ARRAY(subject->ir->arena, double, type_count(buffer->type))};
    uint64_t count = (uint64_t)type_count(buffer->type);
    for (uint64_t i = 0; buffer->role == ROLE_FROZEN && i < count; i++)
        state->values[i] = 0.2 * test_random() - 0.1;
    return state->values;
}

static int64_t data_limit(const Subject *subject, const char *name) {
    const Graph *loss = module_find_graph(subject->module, "loss");
    Value input = graph_find_input(loss, name, ROLE_DATA);
    int64_t limit = value_is_none(input) ? INT64_MAX : input_limit(loss, input);
    Value tokens = graph_find_input(loss, names_intern(subject->ir->names, "tokens"), ROLE_DATA);
    if (limit == INT64_MAX && !value_is_none(tokens)) limit = input_limit(loss, tokens);
    return limit == INT64_MAX ? 2 : limit;
}

static double scalar_value(const Buffer *buffer, Entry entry) {
    if (strcmp(buffer->name, "length") == 0)
        return entry == ENTRY_PREFILL ? CHUNK : CHUNK + 1;  // of the cache
    if (strcmp(buffer->name, "position") == 0) return entry == ENTRY_PREFILL ? 0 : CHUNK;
    if (strcmp(buffer->name, "row") == 0) return CHUNK / 2;
    if (strcmp(buffer->name, "seed") == 0) return 5;
    if (strcmp(buffer->name, "rate") == 0) return 0.01;
    return 1;
}

static void fill_input(const Subject *subject, const Buffer *buffer, Entry entry, double *values) {
    int64_t count = type_count(buffer->type), limit = data_limit(subject, buffer->name);
    for (int64_t i = 0; i < count; i++) {
        if (buffer->role == ROLE_SCALAR)
            values[i] = scalar_value(buffer, entry);
        else if (buffer->type->element == ELEMENT_BOOL)
            values[i] = test_random() < 0.6;
        else if (element_is_integer(buffer->type->element))
            values[i] = floor(test_random() * (double)limit);
        else
            values[i] = 2 * test_random() - 1;
    }
}

static void compare(const Subject *subject, Entry entry, const Buffer *buffer, const double *expected,
                    const char *got) {
    Element element = buffer->type->element;
    for (int64_t i = 0; i < type_count(buffer->type); i++) {
        double a = expected[i], b = element_read(element, got + i * element_bytes(element));
        // Of bf16 a sum that lies between two numbers may be rounded to either.
        double tolerance = subject->module->training.precision == ELEMENT_BF16 ? 1e-2 : 2e-4;
        if (a == b || fabs(a - b) <= tolerance * (fabs(a) > 1 ? fabs(a) : 1)) continue;
        fail_msg("%s %s: %s[%lld]: expected %.9g, found %.9g", subject->file, entry_name(entry), buffer->name,
                 (long long)i, a, b);
    }
}

static bool is_emulated(const Subject *subject, Entry entry) {
    return subject->compilation->programs[entry] && (entry != ENTRY_INITIALIZE || subject->is_large);
}

static void run_entry(const Emulation *emulation, Subject *subject, Entry entry) {
    const Program *program = subject->compilation->programs[entry];
    if (!program) return;
    Arena *arena = subject->ir->arena;
    double **reference = ARENA_ARRAY(arena, double *, program->buffers.count);
    char **device = ARENA_ARRAY(arena, char *, program->buffers.count);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        int64_t count = type_count(buffer->type);
        int width = element_bytes(buffer->type->element);
        device[i] = aligned_alloc(64, (size_t)(buffer->bytes + 63) & ~(size_t)63);
        memset(device[i], 0xff, (size_t)buffer->bytes);
        if (buffer->kind == BUFFER_TEMPORARY) continue;
        reference[i] =
            buffer->kind == BUFFER_STATE ? state_values(subject, buffer) : ARENA_ARRAY(arena, double, count);
        if (buffer->kind == BUFFER_INPUT) fill_input(subject, buffer, entry, reference[i]);
        for (int64_t k = 0; k < count && buffer->kind != BUFFER_OUTPUT; k++) {
            element_write(buffer->type->element, device[i] + k * width, reference[i][k]);
            reference[i][k] = element_read(buffer->type->element, device[i] + k * width);
        }
    }
    program_evaluate(program, reference);
    bool emulates = is_emulated(subject, entry);
    if (emulates) emulation_run_program(emulation, program, device);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        bool result = buffer->kind == BUFFER_STATE || buffer->kind == BUFFER_OUTPUT;
        if (emulates && result) compare(subject, entry, buffer, reference[i], device[i]);
        free(device[i]);
    }
}

static void every_model(void **state) {
    (void)state;
    Arena *arena = arena_create();
    glob_t files;
    assert_int_equal(glob(CHERRY_SOURCE "/models/*.cherry", 0, NULL, &files), 0);
    size_t count = 0, program_count = 0, kernels = 0, products = 0;
    Subject *subjects[64];
    Program *programs[64 * ENTRY_COUNT];
    for (size_t i = 0; i < files.gl_pathc && i < 48; i++)
        if (!filter || strstr(files.gl_pathv[i], filter))
            subjects[count++] = load(arena, files.gl_pathv[i], NULL);
    for (size_t i = 0; i < sizeof larger / sizeof *larger; i++)
        if (!filter || strstr(larger[i].file, filter))
            subjects[count++] =
                load(arena, arena_format(arena, CHERRY_SOURCE "/models/%s.cherry", larger[i].file),
                     larger[i].settings);
    for (size_t i = 0; i < count; i++)
        for (int entry = 0; entry < ENTRY_COUNT; entry++)
            if (is_emulated(subjects[i], (Entry)entry))
                programs[program_count++] = subjects[i]->compilation->programs[entry];
    for (size_t i = 0; i < program_count; i++) {
        // Every second program's contractions as generated tiles.
        CudaOptions options = {.no_library = i % 2 == 1};
        if (!cuda_generate(programs[i]->ir, &programs[i], 1, &options)) {
            diagnostics_print(programs[i]->ir->diagnostics, 0, stderr);
            fail();
        }
        kernels += programs[i]->kernels.count;
        for (size_t k = 0; k < programs[i]->kernels.count; k++)
            for (int p = 0; p < programs[i]->kernels.items[k].cuda.phase_count; p++)
                products += !programs[i]->kernels.items[k].cuda.phases[p].function;
    }
    Emulation *emulation = emulation_create(programs, program_count);
    assert_non_null(emulation);
    for (size_t i = 0; i < count; i++)
        for (int entry = 0; entry < ENTRY_COUNT; entry++) {
            if (entry == ENTRY_PREFILL) run_entry(emulation, subjects[i], ENTRY_ROUND);  // what generation reads
            run_entry(emulation, subjects[i], (Entry)entry);
        }
    print_message("%zu models, %zu programs, %zu kernels, %zu products for the library\n", count,
                  program_count, kernels, products);
    emulation_destroy(emulation);
    globfree(&files);
    arena_destroy(arena);
}

int main(int argc, char **argv) {
    filter = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
