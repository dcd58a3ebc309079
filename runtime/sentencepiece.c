// SentencePiece models as tokenizers: see sentencepiece.h. The library is behind sentencepiece_shim.h.
#include "runtime/sentencepiece.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "runtime/sentencepiece_shim.h"

#ifdef CHERRY_SENTENCEPIECE

static void encode(const Tokenizer *tokenizer, const char *line, size_t length, TokenSink *sink, void *context) {
    sentencepiece_encode(tokenizer->context, line, length, sink, context);
}

static size_t decode(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, char *text) {
    return sentencepiece_decode(tokenizer->context, ids, count, text, (size_t)(count * tokenizer->longest));
}

static void destroy(Tokenizer *tokenizer) { sentencepiece_destroy(tokenizer->context); }

Tokenizer *sentencepiece_open(Arena *arena, Diagnostics *diagnostics, const char *path) {
    size_t bytes = 0;
    char *file = file_read(arena, diagnostics, path, &bytes), error[256] = "it is empty";
    if (!file) return NULL;
    // The library takes an empty file for a model without pieces.
    SentencePiece *model = bytes ? sentencepiece_load(file, bytes, error, sizeof error) : NULL;
    if (!model) {
        report_error(diagnostics, NO_PLACE, "E0720", "%s is no SentencePiece model: %s", path, error);
        return NULL;
    }
    Tokenizer *tokenizer = ARENA_NEW(arena, Tokenizer);
    *tokenizer = (Tokenizer){
        .name = arena_format(arena, "sentencepiece:%016" PRIx64, hash_bytes(HASH_START, file, bytes)),
        .vocabulary = sentencepiece_vocabulary(model),
        .separator = sentencepiece_separator(model),
        .longest = sentencepiece_longest(model),
        .encode = encode,
        .decode = decode,
        .file = file,
        .file_bytes = bytes,
        .destroy = destroy,
        .context = model};
    if (tokenizer->separator >= 0) return tokenizer;
    report_error(diagnostics, NO_PLACE, "E0723",
                 "%s has neither an end of sentence nor a piece for a newline; one of them must stand between lines",
                 path);
    destroy(tokenizer);
    return NULL;
}

#else

Tokenizer *sentencepiece_open(Arena *arena, Diagnostics *diagnostics, const char *path) {
    (void)arena;
    report_error(diagnostics, NO_PLACE, "E0721",
                 "%s: this build has no SentencePiece; install libsentencepiece-dev and configure with "
                 "-DCHERRY_SENTENCEPIECE=ON",
                 path);
    return NULL;
}

#endif
