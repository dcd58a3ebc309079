// Checkpoints: which tensors a model has under which names, saving them, and loading them after all
// of the file has been checked. See checkpoint.h for the files and the names.
#include "runtime/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { REPORT_LIMIT = 5 };  // errors of one kind; the rest are counted

// ---- The tensors of a model ----

// One tensor of the file and its place in the state: a whole buffer, or one layer of it.
typedef struct Piece {
    const char *name;
    const Parameter *parameter;
    const Type *type;  // of the buffer
    int skipped;       // leading dimensions of `type` that the tensor lacks: 1 for a layer, else 0
    int64_t count;     // elements
    char *data;        // NULL: a parameter that no program of the state uses
} Piece;

typedef struct Pieces {
    VECTOR(Piece) list;
    Arena *arena;  // of everything that one call needs
} Pieces;

static const char *role_prefix(Role role) {
    return role == ROLE_MOMENT1 ? "moment1." : role == ROLE_MOMENT2 ? "moment2." : "";
}

static bool is_iteration(const Dimension *dimension) { return strcmp(dimension->name, "iteration") == 0; }

static bool is_stacked(const Parameter *parameter) {
    const Type *type = parameter->type;
    return type->rank > parameter->declared_rank && strcmp(type->dimensions[0].name, "layer") == 0;
}

// "trunk.wq", 3 -> "trunk.3.wq": the index follows the stack's name.
static const char *layer_name(Arena *arena, const char *prefix, const char *path, int64_t layer) {
    int stack = (int)strcspn(path, ".");
    return arena_format(arena, "%s%.*s.%lld%s", prefix, stack, path, (long long)layer, path + stack);
}

// Adds the tensors of all trained parameters in one role. Moments that the state lacks are left out.
// `place`: what stands in front of the paths in the state's names.
static void add_pieces(Pieces *pieces, const Module *module, const State *state, Role role,
                       const char *place) {
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if (parameter->file) continue;
        const char *name = arena_format(pieces->arena, "%s%s", place, parameter->path);
        const StateBuffer *buffer = state ? state_find(state, name, role) : NULL;
        bool weight = role == ROLE_PARAMETER || role == ROLE_FROZEN;
        if (!buffer && !weight) continue;
        const Type *type = buffer ? buffer->type : parameter->type;
        int64_t layers = is_stacked(parameter) ? type->dimensions[0].extent : 1;
        Piece piece = {.parameter = parameter,
                       .type = type,
                       .skipped = is_stacked(parameter),
                       .count = type_count(type) / layers};
        for (int64_t layer = 0; layer < layers; layer++) {
            const char *prefix = role_prefix(role);
            piece.name = piece.skipped ? layer_name(pieces->arena, prefix, parameter->path, layer)
                                       : arena_format(pieces->arena, "%s%s", prefix, parameter->path);
            piece.data = buffer ? buffer->data + layer * piece.count * element_bytes(type->element) : NULL;
            vector_push(pieces->arena, &pieces->list, piece);
        }
    }
}

uint64_t checkpoint_structure(const Module *module) {
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if (parameter->file) continue;  // of another model
        hash = hash_text(hash, parameter->path);
        hash = hash_text(hash, element_name(parameter->type->element));
        for (int k = 0; k < parameter->type->rank; k++) {
            hash = hash_text(hash, parameter->type->dimensions[k].name);
            if (!is_iteration(&parameter->type->dimensions[k]))
                hash = hash_word(hash, (uint64_t)parameter->type->dimensions[k].extent);
        }
        hash = hash_word(hash, (uint64_t)parameter->type->rank);
    }
    return hash;
}

// ---- Saving ----

typedef VECTOR(StoredText) TextVector;

static void add_text(Arena *arena, TextVector *texts, const char *key, const char *value) {
    vector_push(arena, texts, ((StoredText){key, value}));
}

static void add_position(Arena *arena, TextVector *texts, const RunPosition *position) {
    add_text(arena, texts, "step", arena_format(arena, "%" PRId64, position->step));
    add_text(arena, texts, "seed", arena_format(arena, "%" PRId64, position->seed));
    add_text(arena, texts, "tokens", arena_format(arena, "%" PRId64, position->tokens));
    add_text(arena, texts, "best_loss", arena_format(arena, "%a", position->best_loss));  // exact
    add_text(arena, texts, "best_step", arena_format(arena, "%" PRId64, position->best_step));
}

// The model's name and structure, and the types of its parameters for messages: a file only has numbers.
static void add_model(Arena *arena, TextVector *texts, const Module *module) {
    add_text(arena, texts, "format", "cherry");
    add_text(arena, texts, "model", module->name);
    add_text(arena, texts, "structure", arena_format(arena, "%016" PRIx64, checkpoint_structure(module)));
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if (parameter->file) continue;
        add_text(arena, texts, arena_format(arena, "type.%s", parameter->path),
                 type_text(module->ir, parameter->type));
    }
}

static void add_tokenizer(Arena *arena, TextVector *texts, const RunPosition *position) {
    if (position && position->tokenizer) add_text(arena, texts, "tokenizer", position->tokenizer);
}

static bool save(Diagnostics *diagnostics, const char *path, const Pieces *pieces, const TextVector *texts) {
    size_t count = pieces->list.count;
    TensorSource *sources = ARENA_ARRAY(pieces->arena, TensorSource, count + 1);
    for (size_t i = 0; i < count; i++) {
        const Piece *piece = &pieces->list.items[i];
        if (!piece->data) INTERNAL_ERROR("parameter %s is not in the state that is saved", piece->name);
        TensorSource *source = &sources[i];
        *source = (TensorSource){.name = piece->name,
                                 .element = stored_from_element(piece->type->element),
                                 .rank = piece->type->rank - piece->skipped,
                                 .data = piece->data};
        for (int k = 0; k < source->rank; k++)
            source->shape[k] = piece->type->dimensions[k + piece->skipped].extent;
    }
    return tensor_file_write(diagnostics, path, sources, count, texts->items, texts->count);
}

bool checkpoint_save_weights(Diagnostics *diagnostics, const char *path, const Module *module,
                             const State *state, const RunPosition *position) {
    Pieces pieces = {.arena = arena_create()};
    TextVector texts = {0};
    add_model(pieces.arena, &texts, module);
    add_tokenizer(pieces.arena, &texts, position);
    if (position)
        add_text(pieces.arena, &texts, "step", arena_format(pieces.arena, "%" PRId64, position->step));
    add_pieces(&pieces, module, state, ROLE_PARAMETER, "");
    state_download(state, ROLE_PARAMETER);
    bool good = state_works(state) && save(diagnostics, path, &pieces, &texts);
    arena_destroy(pieces.arena);
    return good;
}

bool checkpoint_save(Diagnostics *diagnostics, const char *path, const Module *module, const State *state,
                     const RunPosition *position, const StoredText *extra, size_t extra_count) {
    Pieces pieces = {.arena = arena_create()};
    TextVector texts = {0};
    add_model(pieces.arena, &texts, module);
    add_text(pieces.arena, &texts, "training", "1");
    add_position(pieces.arena, &texts, position);
    add_tokenizer(pieces.arena, &texts, position);
    for (size_t i = 0; i < extra_count; i++) vector_push(pieces.arena, &texts, extra[i]);
    add_pieces(&pieces, module, state, ROLE_PARAMETER, "");
    add_pieces(&pieces, module, state, ROLE_MOMENT1, "");
    add_pieces(&pieces, module, state, ROLE_MOMENT2, "");
    state_download(state, ROLE_PARAMETER);
    state_download(state, ROLE_MOMENT1);
    state_download(state, ROLE_MOMENT2);
    bool good = state_works(state) && save(diagnostics, path, &pieces, &texts);
    arena_destroy(pieces.arena);
    return good;
}

// ---- Loading ----

typedef struct Loader {
    Diagnostics *diagnostics;
    const Module *module;
    const TensorFile *file;
    bool further;  // not the model that the command is about
    Pieces pieces;
    size_t missing, misshapen, unconvertible, unknown;
    size_t *absent;  // tensors that the file need not have; NULL: it must have all
} Loader;

static bool is_training(const TensorFile *file) { return tensor_file_metadata(file, "training") != NULL; }

// "f32[embed=256, heads=4]": what the file should hold for a piece.
static const char *wanted_text(Loader *loader, const Piece *piece) {
    Arena *arena = loader->pieces.arena;
    char *text = arena_format(arena, "%s[", element_name(piece->type->element));
    for (int i = piece->skipped; i < piece->type->rank; i++)
        text = arena_format(arena, "%s%s%s=%lld", text, i > piece->skipped ? ", " : "",
                            piece->type->dimensions[i].name, (long long)piece->type->dimensions[i].extent);
    return arena_format(arena, "%s]", text);
}

static bool shapes_agree(const Piece *piece, const StoredTensor *tensor) {
    if (tensor->rank != piece->type->rank - piece->skipped) return false;
    for (int i = 0; i < tensor->rank; i++) {
        const Dimension *dimension = &piece->type->dimensions[i + piece->skipped];
        bool rows = i == 0 && is_iteration(dimension) && tensor->shape[0] > 0;
        if (!rows && tensor->shape[i] != dimension->extent) return false;
    }
    return true;
}

static void report_shape(Loader *loader, const Piece *piece, const StoredTensor *tensor) {
    Arena *arena = loader->pieces.arena;
    report_error(loader->diagnostics, NO_PLACE, "E0802", "%s: %s is %s, the model has %s", loader->file->path,
                 piece->name, stored_text(arena, tensor), wanted_text(loader, piece));
    const char *path = piece->parameter->path;
    const char *saved = tensor_file_metadata(loader->file, arena_format(arena, "type.%s", path));
    if (saved) report_note(loader->diagnostics, NO_PLACE, "when it was saved, %s was %.200s", path, saved);
    if (piece->parameter->place.line)
        report_note(loader->diagnostics, piece->parameter->place, "%s is declared here", path);
}

// Columns may turn integers into floats; weights stored as integers are in some code of their own.
static bool keeps_meaning(StoredElement from, Element to) {
    bool from_float = from == STORED_F16 || from == STORED_BF16 || from == STORED_F32 || from == STORED_F64;
    return stored_convertible(from, to) && from_float == element_is_float(to);
}

// Checks one piece; marks its tensor as known.
static void check_piece(Loader *loader, const Piece *piece, bool *known) {
    const StoredTensor *tensor = tensor_file_find(loader->file, piece->name);
    if (!tensor && loader->absent) {
        ++*loader->absent;
        return;
    }
    if (!tensor) {
        if (loader->missing++ < REPORT_LIMIT)
            report_error(loader->diagnostics, NO_PLACE, "E0801", "%s has no tensor %s, the model needs %s",
                         loader->file->path, piece->name, wanted_text(loader, piece));
        return;
    }
    known[tensor - loader->file->tensors] = true;
    if (!shapes_agree(piece, tensor)) {
        if (loader->misshapen++ < REPORT_LIMIT) report_shape(loader, piece, tensor);
    } else if (!keeps_meaning(tensor->element, piece->type->element)) {
        if (loader->unconvertible++ < REPORT_LIMIT)
            report_error(loader->diagnostics, NO_PLACE, "E0803", "%s: %s is %s, which does not convert to %s",
                         loader->file->path, piece->name, stored_name(tensor->element),
                         element_name(piece->type->element));
    }
}

// A name from the file may hold anything; only printable ones are shown.
static const char *shown(Arena *arena, const char *name) {
    char *copy = arena_format(arena, "%.120s", name);
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at < 32 || (unsigned char)*at >= 127) *at = '?';
    return copy;
}

static void check_unknown(Loader *loader, const bool *known, bool weights_only) {
    const TensorFile *file = loader->file;
    for (size_t i = 0; i < file->tensor_count; i++) {
        const char *name = file->tensors[i].name;
        bool moment = strncmp(name, "moment1.", 8) == 0 || strncmp(name, "moment2.", 8) == 0;
        if (known[i] || (weights_only && moment && is_training(file))) continue;
        if (loader->unknown++ < REPORT_LIMIT)
            report_error(loader->diagnostics, NO_PLACE, "E0804", "%s: %s belongs to no parameter of model %s",
                         file->path, shown(loader->pieces.arena, name), loader->module->name);
    }
}

// What the reader needs to understand the errors so far.
static bool explain(Loader *loader) {
    size_t counts[] = {loader->missing, loader->misshapen, loader->unconvertible, loader->unknown}, total = 0,
           rest = 0;
    for (int i = 0; i < 4; i++) {
        total += counts[i];
        rest += counts[i] > REPORT_LIMIT ? counts[i] - REPORT_LIMIT : 0;
    }
    if (!total) return true;
    if (rest) report_note(loader->diagnostics, NO_PLACE, "%zu more tensors do not fit", rest);
    const char *model = tensor_file_metadata(loader->file, "model");
    if (model && strcmp(model, loader->module->name) != 0) {
        const char *name = shown(loader->pieces.arena, model);
        report_note(loader->diagnostics, NO_PLACE, "%s holds model %s%s", loader->file->path, name,
                    loader->further ? ""
                                    : arena_format(loader->pieces.arena, ", this is model %s",
                                                   loader->module->name));
        if (!loader->further)
            report_hint(loader->diagnostics,
                        "`cherry convert FILE --to %s` computes its weights from those of %s",
                        loader->module->name, name);
    }
    return false;
}

static bool check_tensors(Loader *loader, bool weights_only) {
    bool *known = ARENA_ARRAY(loader->pieces.arena, bool, loader->file->tensor_count + 1);
    for (size_t i = 0; i < loader->pieces.list.count; i++)
        check_piece(loader, &loader->pieces.list.items[i], known);
    check_unknown(loader, known, weights_only);
    return explain(loader);
}

static void copy_tensors(const Loader *loader) {
    for (size_t i = 0; i < loader->pieces.list.count; i++) {
        const Piece *piece = &loader->pieces.list.items[i];
        const StoredTensor *tensor = tensor_file_find(loader->file, piece->name);
        const Dimension *front = &piece->type->dimensions[0];
        if (!piece->data || !tensor) continue;
        if (piece->skipped || !piece->type->rank || !is_iteration(front) ||
            tensor->shape[0] == front->extent) {
            stored_convert(tensor, 0, piece->count, piece->type->element, piece->data);
            continue;
        }
        int64_t row = piece->count / front->extent, stored = tensor->shape[0];
        for (int64_t r = 0; r < front->extent; r++)
            stored_convert(tensor, (r < stored ? r : stored - 1) * row, row, piece->type->element,
                           piece->data + r * row * element_bytes(piece->type->element));
    }
}

static bool same_structure(const Loader *loader) {
    const char *saved = tensor_file_metadata(loader->file, "structure");
    return saved && strtoull(saved, NULL, 16) == checkpoint_structure(loader->module);
}

static bool load_weights(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                         Role role, const char *prefix, size_t *absent) {
    Loader loader = {
        .diagnostics = diagnostics, .module = module, .pieces = {.arena = arena_create()}, .absent = absent};
    TensorFile *file = tensor_file_open(loader.pieces.arena, diagnostics, path);
    loader.file = file;
    loader.further = role == ROLE_FROZEN;
    bool good = file != NULL;
    if (good) {
        add_pieces(&loader.pieces, module, state, role, prefix);
        good = check_tensors(&loader, true);
    }
    if (good && absent && *absent == loader.pieces.list.count)
        good = report_error(diagnostics, NO_PLACE, "E0801", "%s has no tensor of model %s", path, module->name);
    // Equal numbers under other names: [heads=8, key=8] against [key=8, heads=8] would go unseen.
    bool whole = !absent || !*absent;
    if (good && state && whole && tensor_file_metadata(file, "structure") && !same_structure(&loader))
        report_warning(diagnostics, NO_PLACE, "E0807",
                       "%s fits by its numbers, but its parameters or their dimensions had other names",
                       path);
    if (good && state) {
        state_download(state, role);
        copy_tensors(&loader);
        state_upload(state, role);
        good = state_works(state);
    }
    tensor_file_close(file);
    arena_destroy(loader.pieces.arena);
    return good;
}

bool checkpoint_load_weights(Diagnostics *diagnostics, const char *path, const Module *module, State *state) {
    return load_weights(diagnostics, path, module, state, ROLE_PARAMETER, "", NULL);
}

bool checkpoint_load_known(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                           size_t *absent) {
    *absent = 0;
    return load_weights(diagnostics, path, module, state, ROLE_PARAMETER, "", absent);
}

bool checkpoint_load_frozen(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                            const char *prefix) {
    return load_weights(diagnostics, path, module, state, ROLE_FROZEN, prefix, NULL);
}

static bool read_integer(const Loader *loader, const char *key, int64_t *value) {
    const char *text = tensor_file_metadata(loader->file, key);
    char *end = NULL;
    errno = 0;
    if (text) *value = strtoll(text, &end, 10);
    if (text && end != text && !*end && !errno) return true;
    return report_error(loader->diagnostics, NO_PLACE, "E0806", "%s: its entry \"%s\" is not a whole number",
                        loader->file->path, key);
}

static bool read_position(const Loader *loader, RunPosition *position) {
    const char *loss = tensor_file_metadata(loader->file, "best_loss");
    char *end = NULL;
    position->best_loss = loss ? strtod(loss, &end) : (double)NAN;
    if (!loss || end == loss || *end || isnan(position->best_loss))
        return report_error(loader->diagnostics, NO_PLACE, "E0806",
                            "%s: its entry \"best_loss\" is not a number", loader->file->path);
    return read_integer(loader, "step", &position->step) && read_integer(loader, "seed", &position->seed) &&
           read_integer(loader, "tokens", &position->tokens) &&
           read_integer(loader, "best_step", &position->best_step) &&
           (position->step >= 0 ||
            report_error(loader->diagnostics, NO_PLACE, "E0806", "%s: its step is %" PRId64,
                         loader->file->path, position->step));
}

bool checkpoint_load(Diagnostics *diagnostics, const char *path, const Module *module, State *state,
                     RunPosition *position) {
    Loader loader = {.diagnostics = diagnostics, .module = module, .pieces = {.arena = arena_create()}};
    TensorFile *file = tensor_file_open(loader.pieces.arena, diagnostics, path);
    loader.file = file;
    bool good = file != NULL;
    if (good && !is_training(file))
        good = report_error(diagnostics, NO_PLACE, "E0806",
                            "%s holds weights only: a run cannot be resumed from it", path);
    if (good) {
        add_pieces(&loader.pieces, module, state, ROLE_PARAMETER, "");
        add_pieces(&loader.pieces, module, state, ROLE_MOMENT1, "");
        add_pieces(&loader.pieces, module, state, ROLE_MOMENT2, "");
        good = check_tensors(&loader, false);
    }
    if (good && !same_structure(&loader))
        good = report_error(diagnostics, NO_PLACE, "E0806",
                            "%s was saved by a model whose parameters or dimensions had other names", path);
    RunPosition read = {0};
    if (good && read_position(&loader, &read)) {
        copy_tensors(&loader);
        state_upload(state, ROLE_PARAMETER);
        state_upload(state, ROLE_MOMENT1);
        state_upload(state, ROLE_MOMENT2);
        good = state_works(state);
        read.tokenizer = position->tokenizer;
        *position = read;
    } else {
        good = false;
    }
    tensor_file_close(file);
    arena_destroy(loader.pieces.arena);
    return good;
}

const char *checkpoint_metadata(Arena *arena, Diagnostics *diagnostics, const char *path, const char *key) {
    Arena *scratch = arena_create();
    TensorFile *file = tensor_file_open(scratch, diagnostics, path);
    const char *value = file ? tensor_file_metadata(file, key) : NULL;
    if (value) value = arena_copy(arena, value, strlen(value));
    tensor_file_close(file);
    arena_destroy(scratch);
    return value;
}
