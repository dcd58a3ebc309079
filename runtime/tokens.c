// The byte tokenizer, and safe printing of a byte stream.
#include "runtime/tokens.h"

#include <string.h>

static int64_t bytes_encode(const Tokenizer *tokenizer, const char *text, size_t length, int32_t *ids,
                            int64_t limit) {
    (void)tokenizer;
    for (int64_t i = 0; i < (int64_t)length && i < limit; i++) ids[i] = (unsigned char)text[i];
    return (int64_t)length;
}

static size_t bytes_decode(const Tokenizer *tokenizer, int32_t id, char *bytes) {
    (void)tokenizer;
    if (id < 0 || id > 255) return 0;
    bytes[0] = (char)id;
    return 1;
}

const Tokenizer tokenizer_bytes = {
    .name = "bytes", .vocabulary = 256, .longest = 1, .encode = bytes_encode, .decode = bytes_decode};

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
