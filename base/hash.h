// 64-bit hashing for hash-consing, kernel keys and file caches. Not cryptographic.
#ifndef CHERRY_BASE_HASH_H
#define CHERRY_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_START UINT64_C(0x9e3779b97f4a7c15)

// Mixes one word into a running hash (the finaliser of splitmix64).
static inline uint64_t hash_word(uint64_t hash, uint64_t word) {
    uint64_t x = (hash ^ word) + UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes);
uint64_t hash_text(uint64_t hash, const char *text);  // NULL hashes as an empty mark of its own

#endif
