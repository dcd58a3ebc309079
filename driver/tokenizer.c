#include "driver/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "runtime/checkpoint.h"
#include "runtime/sentencepiece.h"

static const char *model_beside(Ir *ir, const char *weights) {
    return arena_format(ir->arena, "%s/tokenizer.model", file_folder(ir->arena, weights));
}

static bool check_same(Ir *ir, const char *weights, const char *wanted, const Tokenizer *tokenizer) {
    if (!wanted || strcmp(wanted, tokenizer->name) == 0) return true;
    return report_error(ir->diagnostics, NO_PLACE, "E0932", "%s was trained with tokenizer %.80s, this one is %s", weights,
                        wanted, tokenizer->name);
}

const Tokenizer *tokenizer_choose(const Arguments *arguments, Ir *ir, const char *weights) {
    const char *path = arguments_text(arguments, "--tokenizer", NULL), *wanted = NULL;
    size_t errors = diagnostics_error_count(ir->diagnostics);
    if (weights && file_exists(weights)) wanted = checkpoint_metadata(ir->arena, ir->diagnostics, weights, "tokenizer");
    if (diagnostics_error_count(ir->diagnostics) != errors) return NULL;
    const char *beside = weights ? model_beside(ir, weights) : NULL;
    bool kept = !wanted && beside && file_exists(beside);  // weights that do not say: what lies beside them
    bool bytes = path ? strcmp(path, "bytes") == 0 : !kept && (!wanted || strcmp(wanted, tokenizer_bytes.name) == 0);
    if (!path && !bytes && !file_exists(beside)) {
        report_error(ir->diagnostics, NO_PLACE, "E0933", "%s was trained with tokenizer %.80s, and there is no %s", weights,
                     wanted, beside);
        report_hint(ir->diagnostics, "give it with --tokenizer");
        return NULL;
    }
    const Tokenizer *tokenizer = &tokenizer_bytes;
    if (!bytes) tokenizer = sentencepiece_open(ir->arena, ir->diagnostics, path ? path : beside);
    if (!tokenizer || check_same(ir, weights, wanted, tokenizer)) return tokenizer;
    tokenizer_release(tokenizer);
    return NULL;
}

bool tokenizer_keep(Ir *ir, const Tokenizer *tokenizer, const char *folder) {
    if (!tokenizer->file) return true;
    const char *path = arena_format(ir->arena, "%s/tokenizer.model", folder);
    FileWriter *writer = file_create(ir->diagnostics, path);
    if (!writer) return false;
    if (file_write(writer, tokenizer->file, tokenizer->file_bytes)) return file_commit(writer);
    file_abandon(writer);
    return false;
}

void tokenizer_release(const Tokenizer *tokenizer) {
    if (tokenizer && tokenizer->destroy) tokenizer->destroy((Tokenizer *)(uintptr_t)tokenizer);
}
