// The byte tokenizer, text of tokens that come one by one, and safe printing of a byte stream.
#include "runtime/tokens.h"

#include <string.h>

static void bytes_encode(const Tokenizer *tokenizer, const char *line, size_t length, TokenSink *sink,
                         void *context) {
    (void)tokenizer;
    for (size_t i = 0; i < length; i++) sink(context, (unsigned char)line[i], i, i + 1);
}

static size_t bytes_decode(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, char *text) {
    (void)tokenizer;
    size_t length = 0;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < 256) text[length++] = (char)ids[i];
    return length;
}

const Tokenizer tokenizer_bytes = {.name = "bytes", .vocabulary = 256, .separator = '\n', .longest = 1,
                                   .encode = bytes_encode, .decode = bytes_decode};

// ---- Whole texts ----

typedef struct IdList {
    int32_t *ids;
    int64_t count, limit;
} IdList;

static void take_id(void *context, int32_t id, size_t begin, size_t end) {
    (void)begin, (void)end;
    IdList *list = context;
    if (list->count < list->limit) list->ids[list->count] = id;
    list->count++;
}

int64_t tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t length, int32_t *ids, int64_t limit) {
    IdList list = {.ids = ids, .limit = limit};
    for (size_t at = 0; at < length;) {
        const char *newline = memchr(text + at, '\n', length - at);
        size_t line = newline ? (size_t)(newline - text) - at : length - at;
        tokenizer->encode(tokenizer, text + at, line, take_id, &list);
        if (newline) take_id(&list, tokenizer->separator, 0, 0);
        at += line + 1;
    }
    return list.count;
}

// ---- One token after the other ----

void detokenizer_start(Detokenizer *detokenizer, const Tokenizer *tokenizer, char *room) {
    *detokenizer = (Detokenizer){.tokenizer = tokenizer, .text = room};
}

// Looks only at the newer half of a full window from now on.
static void forget(Detokenizer *detokenizer) {
    enum { KEPT = DETOKENIZER_WINDOW / 2 };
    const Tokenizer *tokenizer = detokenizer->tokenizer;
    memmove(detokenizer->ids, detokenizer->ids + DETOKENIZER_WINDOW - KEPT, KEPT * sizeof *detokenizer->ids);
    detokenizer->count = KEPT;
    detokenizer->shown = tokenizer->decode(tokenizer, detokenizer->ids, KEPT, detokenizer->text);
}

static bool ends_broken(const char *text, size_t length) {
    return length >= 3 && memcmp(text + length - 3, "\xef\xbf\xbd", 3) == 0;
}

// What the window's text has beyond what was shown.
static size_t show(Detokenizer *detokenizer, size_t length, const char **bytes) {
    size_t shown = detokenizer->shown < length ? detokenizer->shown : length;
    *bytes = detokenizer->text + shown;
    detokenizer->shown = length;
    detokenizer->held = 0;
    return length - shown;
}

size_t detokenizer_push(Detokenizer *detokenizer, int32_t id, const char **bytes) {
    const Tokenizer *tokenizer = detokenizer->tokenizer;
    if (id == tokenizer->separator) {
        size_t length = tokenizer->decode(tokenizer, detokenizer->ids, detokenizer->count, detokenizer->text);
        detokenizer->text[length] = '\n';
        length = show(detokenizer, length + 1, bytes);
        detokenizer->count = 0;
        detokenizer->shown = 0;
        return length;
    }
    if (detokenizer->count == DETOKENIZER_WINDOW) forget(detokenizer);
    detokenizer->ids[detokenizer->count++] = id;
    size_t length = tokenizer->decode(tokenizer, detokenizer->ids, detokenizer->count, detokenizer->text);
    // A character of four bytes may come as four tokens; until it is whole its text is U+FFFD.
    if (ends_broken(detokenizer->text, length) && ++detokenizer->held < 4) return 0;
    return show(detokenizer, length, bytes);
}

size_t detokenizer_end(Detokenizer *detokenizer, const char **bytes) {
    const Tokenizer *tokenizer = detokenizer->tokenizer;
    return show(detokenizer,
                tokenizer->decode(tokenizer, detokenizer->ids, detokenizer->count, detokenizer->text), bytes);
}

// ---- Printing ----

// Bytes of the character that starts with `first`; 0: none does. C0, C1 and F5 and up never occur.
static int character_length(unsigned char first) {
    if (first < 0x80) return 1;
    if (first < 0xc2) return 0;
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

// Whether `byte` may be byte number `index` of the character that `first` starts: no overlong forms,
// no surrogates, nothing above U+10FFFF.
static bool may_continue(unsigned char first, int index, unsigned char byte) {
    if (index > 1) return byte >= 0x80 && byte < 0xc0;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return byte >= low && byte <= high;
}

static bool is_control(const unsigned char *character, int length) {
    if (length == 1) return (*character < 32 && *character != '\n' && *character != '\t') || *character == 127;
    return length == 2 && character[0] == 0xc2 && character[1] < 0xa0;  // U+0080 .. U+009F
}

static size_t put(char *text, size_t at, const void *bytes, size_t length) {
    memcpy(text + at, bytes, length);
    return at + length;
}

static size_t put_replacement(char *text, size_t at) { return put(text, at, "\xef\xbf\xbd", 3); }

size_t text_stream_push(TextStream *stream, const char *bytes, size_t length, char *text) {
    size_t at = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (stream->count && !may_continue(stream->pending[0], stream->count, byte)) {
            at = put_replacement(text, at);
            stream->count = 0;
        }
        stream->pending[stream->count++] = byte;
        int wanted = character_length(stream->pending[0]);
        if (stream->count < wanted) continue;
        bool bad = wanted == 0 || is_control(stream->pending, wanted);
        at = bad ? put_replacement(text, at) : put(text, at, stream->pending, (size_t)wanted);
        stream->count = 0;
    }
    text[at] = 0;
    return at;
}

size_t text_stream_end(TextStream *stream, char *text) {
    size_t at = stream->count ? put_replacement(text, 0) : 0;
    stream->count = 0;
    text[at] = 0;
    return at;
}
