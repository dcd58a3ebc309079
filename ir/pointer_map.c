// Open addressing over pointers; the capacity is a power of two, at most half of it is used.
#include "ir/pointer_map.h"

#include "base/hash.h"

struct PointerSlot {
    const void *key;
    uint32_t number;
};

static size_t find_slot(const PointerMap *map, const void *key) {
    size_t at = hash_word(HASH_START, (uint64_t)(uintptr_t)key) & (map->capacity - 1);
    while (map->slots[at].key && map->slots[at].key != key) at = (at + 1) & (map->capacity - 1);
    return at;
}

int64_t pointer_map_find(const PointerMap *map, const void *key) {
    if (!map->count) return POINTER_MISSING;
    const struct PointerSlot *slot = &map->slots[find_slot(map, key)];
    return slot->key ? (int64_t)slot->number : POINTER_MISSING;
}

void pointer_map_set(Arena *arena, PointerMap *map, const void *key, uint32_t number) {
    if (map->count * 2 >= map->capacity) {
        PointerMap old = *map;
        map->capacity = old.capacity ? old.capacity * 2 : 16;
        map->slots = ARENA_ARRAY(arena, struct PointerSlot, map->capacity);
        for (size_t i = 0; i < old.capacity; i++)
            if (old.slots[i].key) map->slots[find_slot(map, old.slots[i].key)] = old.slots[i];
    }
    struct PointerSlot *slot = &map->slots[find_slot(map, key)];
    if (!slot->key) map->count++;
    *slot = (struct PointerSlot){key, number};
}
