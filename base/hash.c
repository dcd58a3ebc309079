#include "base/hash.h"

#include <string.h>

uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *cursor = data;
    hash = hash_word(hash, bytes);
    for (; bytes >= 8; bytes -= 8, cursor += 8) {
        uint64_t word;
        memcpy(&word, cursor, 8);
        hash = hash_word(hash, word);
    }
    uint64_t tail = 0;
    if (bytes) memcpy(&tail, cursor, bytes);
    return hash_word(hash, tail);
}

uint64_t hash_text(uint64_t hash, const char *text) {
    return text ? hash_bytes(hash, text, strlen(text)) : hash_word(hash, ~UINT64_C(0));
}
