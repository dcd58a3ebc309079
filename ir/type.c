// Interned types. The table is open addressing over pointers; a type is found by its contents.
#include "ir/type.h"

#include <inttypes.h>
#include <string.h>

#include "base/hash.h"
#include "ir/text.h"

struct TypeTable {
    Arena *arena;
    const Type **slots;
    size_t count, capacity;  // capacity is a power of two
};

static const struct {
    const char *name;
    int bytes;
} element_table[ELEMENT_COUNT] = {
    [ELEMENT_BOOL] = {"bool", 1}, [ELEMENT_I32] = {"i32", 4}, [ELEMENT_I64] = {"i64", 8},
    [ELEMENT_BF16] = {"bf16", 2}, [ELEMENT_F32] = {"f32", 4}, [ELEMENT_F64] = {"f64", 8},
};

static const int64_t count_limit = INT64_C(1) << 47;

TypeTable *type_table_create(Arena *arena) {
    TypeTable *table = ARENA_NEW(arena, TypeTable);
    table->arena = arena;
    table->capacity = 64;
    table->slots = ARENA_ARRAY(arena, const Type *, table->capacity);
    return table;
}

// Names are interned, so their addresses stand for them.
static uint64_t type_hash(const Type *type) {
    uint64_t hash = hash_word(HASH_START, (uint64_t)type->element << 8 | (uint64_t)type->rank);
    for (int i = 0; i < type->rank; i++) {
        const Dimension *dimension = &type->dimensions[i];
        hash = hash_word(hash, (uint64_t)(uintptr_t)dimension->name);
        hash = hash_word(hash, (uint64_t)dimension->extent);
        hash = hash_word(hash, (uint64_t)(uintptr_t)dimension->bound);
    }
    return hash;
}

static bool type_equal(const Type *a, const Type *b) {
    return a->element == b->element && type_same_dimensions(a, b);
}

static size_t find_slot(const TypeTable *table, const Type *type) {
    size_t slot = type_hash(type) & (table->capacity - 1);
    while (table->slots[slot] && !type_equal(table->slots[slot], type))
        slot = (slot + 1) & (table->capacity - 1);
    return slot;
}

static void grow(TypeTable *table) {
    const Type **old = table->slots;
    size_t old_capacity = table->capacity;
    table->capacity *= 2;
    table->slots = ARENA_ARRAY(table->arena, const Type *, table->capacity);
    for (size_t i = 0; i < old_capacity; i++)
        if (old[i]) table->slots[find_slot(table, old[i])] = old[i];
}

static const Type *intern(TypeTable *table, const Type *type) {
    if (table->count * 2 >= table->capacity) grow(table);
    size_t slot = find_slot(table, type);
    if (!table->slots[slot]) {
        Type *copy = ARENA_NEW(table->arena, Type);
        *copy = *type;
        table->slots[slot] = copy;
        table->count++;
    }
    return table->slots[slot];
}

const Type *type_make(Ir *ir, Element element, int rank, const Dimension *dimensions) {
    CHECK((unsigned)element < ELEMENT_COUNT);
    CHECK(rank >= 0 && rank <= RANK_MAX);
    Type type = {.element = element, .rank = rank};
    int64_t count = 1;
    for (int i = 0; i < rank; i++) {
        const Dimension *from = &dimensions[i];
        if (from->extent < 1 || from->extent > (count_limit - 1) / count) return NULL;
        count *= from->extent;
        type.dimensions[i] = (Dimension){.name = names_intern(ir->names, from->name),
                                         .extent = from->extent,
                                         .bound = from->bound ? names_intern(ir->names, from->bound) : NULL};
        for (int j = 0; j < i; j++)
            if (type.dimensions[j].name == type.dimensions[i].name)
                INTERNAL_ERROR("type with dimension '%s' twice", type.dimensions[i].name);
    }
    return intern(ir->types, &type);
}

const Type *type_scalar(Ir *ir, Element element) { return type_make(ir, element, 0, NULL); }

const Type *type_with_element(Ir *ir, const Type *type, Element element) {
    return type->element == element ? type : type_make(ir, element, type->rank, type->dimensions);
}

int type_find(const Type *type, const char *name) {
    for (int i = 0; i < type->rank; i++)
        if (type->dimensions[i].name == name) return i;
    return -1;
}

int64_t type_count(const Type *type) {
    int64_t count = 1;
    for (int i = 0; i < type->rank; i++) count *= type->dimensions[i].extent;
    return count;
}

int64_t type_bytes(const Type *type) { return type_count(type) * element_bytes(type->element); }

bool dimension_same(const Dimension *a, const Dimension *b) {
    return a->name == b->name && a->extent == b->extent && a->bound == b->bound;
}

bool type_contains(const Type *type, const Type *part) {
    for (int i = 0; i < part->rank; i++) {
        int at = type_find(type, part->dimensions[i].name);
        if (at < 0 || !dimension_same(&type->dimensions[at], &part->dimensions[i])) return false;
    }
    return true;
}

bool type_same_dimensions(const Type *a, const Type *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (!dimension_same(&a->dimensions[i], &b->dimensions[i])) return false;
    return true;
}

int element_bytes(Element element) { return element_table[element].bytes; }
const char *element_name(Element element) { return element_table[element].name; }

bool element_is_float(Element element) {
    return element == ELEMENT_BF16 || element == ELEMENT_F32 || element == ELEMENT_F64;
}

bool element_is_integer(Element element) { return element == ELEMENT_I32 || element == ELEMENT_I64; }

bool element_parse(const char *text, Element *element) {
    for (int i = 0; i < ELEMENT_COUNT; i++)
        if (strcmp(text, element_table[i].name) == 0) {
            *element = (Element)i;
            return true;
        }
    return false;
}

const char *type_text(Ir *ir, const Type *type) {
    const char *text = arena_format(ir->arena, "%s[", element_name(type->element));
    for (int i = 0; i < type->rank; i++)
        text = arena_format(ir->arena, "%s%s%s", text, i ? ", " : "",
                            type_dimension_text(ir, &type->dimensions[i]));
    return arena_format(ir->arena, "%s]", text);
}

const char *type_dimension_text(Ir *ir, const Dimension *dimension) {
    const char *name = text_name(ir->arena, dimension->name);
    if (!dimension->bound) return arena_format(ir->arena, "%s=%" PRId64, name, dimension->extent);
    return arena_format(ir->arena, "%s<=%" PRId64 ":%s", name, dimension->extent,
                        text_name(ir->arena, dimension->bound));
}
