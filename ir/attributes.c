// Attributes: their table, and how lists of them are sorted, hashed, compared and copied by kind.
#include "ir/attributes.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

static const struct {
    const char *name;
    AttributeKind kind;
} attribute_table[ATTRIBUTE_COUNT] = {
#define ATTRIBUTE(name, kind, doc) [ATTRIBUTE_##name] = {#name, KIND_##kind},
#include "ir/attributes.def"
#undef ATTRIBUTE
};

static const char *const op_names[OP_COUNT] = {
#define OP(name, family, operands, results, doc) [OP_##name] = #name,
#include "ir/ops.def"
#undef OP
};

static const char *const role_names[ROLE_COUNT] = {
    [ROLE_ARGUMENT] = "argument",   [ROLE_DATA] = "data",         [ROLE_SCALAR] = "scalar",
    [ROLE_PARAMETER] = "parameter", [ROLE_GRADIENT] = "gradient", [ROLE_MOMENT1] = "moment1",
    [ROLE_MOMENT2] = "moment2",     [ROLE_CACHE] = "cache",       [ROLE_ROUNDED] = "rounded",
    [ROLE_FROZEN] = "frozen",
};

const char *attribute_name(AttributeKey key) { return attribute_table[key].name; }
AttributeKind attribute_kind(AttributeKey key) { return attribute_table[key].kind; }
const char *op_name(Op op) { return op_names[op]; }
const char *role_name(Role role) { return role_names[role]; }
bool role_is_state(Role role) { return role >= ROLE_PARAMETER && role < ROLE_COUNT; }

const Attribute *attribute_find(const Node *node, AttributeKey key) {
    for (uint32_t i = 0; i < node->attributes.count; i++)
        if (node->attributes.items[i].key == key) return &node->attributes.items[i];
    return NULL;
}

int64_t attribute_integer(const Node *node, AttributeKey key, int64_t otherwise) {
    const Attribute *attribute = attribute_find(node, key);
    return attribute ? attribute->integer : otherwise;
}

double attribute_number(const Node *node, AttributeKey key, double otherwise) {
    const Attribute *attribute = attribute_find(node, key);
    return attribute ? attribute->number : otherwise;
}

const char *attribute_text(const Node *node, AttributeKey key) {
    const Attribute *attribute = attribute_find(node, key);
    return attribute ? attribute->text : NULL;
}

Graph *attribute_graph(const Node *node, AttributeKey key) {
    const Attribute *attribute = attribute_find(node, key);
    return attribute ? attribute->graph : NULL;
}

void attributes_sort(const Attribute *items, uint32_t count, Attribute *sorted) {
    CHECK(count <= ATTRIBUTE_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        CHECK((unsigned)items[i].key < ATTRIBUTE_COUNT);
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1].key >= items[i].key; at--) {
            CHECK(sorted[at - 1].key != items[i].key);
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = items[i];
        // One NaN only: the text form knows no other.
        if (attribute_kind(items[i].key) == KIND_NUMBER && isnan(items[i].number)) sorted[at].number = NAN;
    }
}

static uint64_t number_bits(double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static bool text_same(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

// ---- hash ----

static uint64_t hash_dimension(uint64_t hash, const Dimension *dimension) {
    hash = hash_word(hash_text(hash, dimension->name), (uint64_t)dimension->extent);
    return hash_text(hash, dimension->bound);
}

static uint64_t hash_option(uint64_t hash, const Option *option) {
    hash = hash_text(hash_text(hash, option->name), option->text);
    return option->text ? hash : hash_word(hash, number_bits(option->number));
}

static uint64_t hash_entry(uint64_t hash, const StackEntry *entry) {
    hash = hash_word(hash, (uint64_t)(uint32_t)entry->layer << 32 | (uint32_t)entry->iteration);
    uint64_t marks = (uint64_t)entry->stop_gradient << 3 | (uint64_t)entry->recompute << 2 |
                     (uint64_t)entry->enter << 1 | (uint64_t)entry->leave;
    return hash_word(hash, (uint64_t)(uint32_t)entry->row << 4 | marks);
}

static uint64_t hash_attribute(uint64_t hash, const Attribute *attribute) {
    hash = hash_word(hash, (uint64_t)attribute->key);
    switch (attribute_kind(attribute->key)) {
        case KIND_INTEGER:
        case KIND_ELEMENT:
        case KIND_ROLE:
            return hash_word(hash, (uint64_t)attribute->integer);
        case KIND_NUMBER:
            return hash_word(hash, number_bits(attribute->number));
        case KIND_TEXT:
        case KIND_NAME:
            return hash_text(hash, attribute->text);
        case KIND_GRAPH:
            return hash_word(hash, (uint64_t)(uintptr_t)attribute->graph);
        default:
            break;
    }
    hash = hash_word(hash, attribute->count);
    for (uint32_t i = 0; i < attribute->count; i++) switch (attribute_kind(attribute->key)) {
            case KIND_NAMES:
                hash = hash_text(hash, attribute->names[i]);
                break;
            case KIND_DIMENSIONS:
                hash = hash_dimension(hash, &attribute->dimensions[i]);
                break;
            case KIND_OPTIONS:
                hash = hash_option(hash, &attribute->options[i]);
                break;
            default:
                hash = hash_entry(hash, &attribute->entries[i]);
                break;
        }
    return hash;
}

uint32_t attributes_hash(Attributes attributes) {
    uint64_t hash = hash_word(HASH_START, attributes.count);
    for (uint32_t i = 0; i < attributes.count; i++) hash = hash_attribute(hash, &attributes.items[i]);
    return (uint32_t)(hash >> 32);
}

// ---- compare ----

static bool entry_same(const StackEntry *a, const StackEntry *b) {
    return a->layer == b->layer && a->iteration == b->iteration && a->row == b->row &&
           a->stop_gradient == b->stop_gradient && a->recompute == b->recompute && a->enter == b->enter &&
           a->leave == b->leave;
}

static bool option_same(const Option *a, const Option *b) {
    return text_same(a->name, b->name) && text_same(a->text, b->text) &&
           (a->text || number_bits(a->number) == number_bits(b->number));
}

static bool item_same(AttributeKind kind, const Attribute *a, const Attribute *b, uint32_t i) {
    switch (kind) {
        case KIND_NAMES:
            return text_same(a->names[i], b->names[i]);
        case KIND_DIMENSIONS:
            return text_same(a->dimensions[i].name, b->dimensions[i].name) &&
                   a->dimensions[i].extent == b->dimensions[i].extent &&
                   text_same(a->dimensions[i].bound, b->dimensions[i].bound);
        case KIND_OPTIONS:
            return option_same(&a->options[i], &b->options[i]);
        default:
            return entry_same(&a->entries[i], &b->entries[i]);
    }
}

bool attribute_same(const Attribute *a, const Attribute *b) {
    if (a->key != b->key) return false;
    AttributeKind kind = attribute_kind(a->key);
    switch (kind) {
        case KIND_INTEGER:
        case KIND_ELEMENT:
        case KIND_ROLE:
            return a->integer == b->integer;
        case KIND_NUMBER:
            return number_bits(a->number) == number_bits(b->number);
        case KIND_TEXT:
        case KIND_NAME:
            return text_same(a->text, b->text);
        case KIND_GRAPH:
            return a->graph == b->graph;
        default:
            break;
    }
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (!item_same(kind, a, b, i)) return false;
    return true;
}

bool attributes_same(Attributes a, Attributes b) {
    if (a.count != b.count || a.hash != b.hash) return false;
    for (uint32_t i = 0; i < a.count && a.items != b.items; i++)
        if (!attribute_same(&a.items[i], &b.items[i])) return false;
    return true;
}

// ---- copy ----

static const char *intern(Ir *ir, const char *text) { return text ? names_intern(ir->names, text) : NULL; }

static void copy_items(Ir *ir, Attribute *to, AttributeKind kind) {
    uint32_t count = to->count;
    if (kind == KIND_NAMES) {
        const char **names = ARENA_ARRAY(ir->arena, const char *, count);
        for (uint32_t i = 0; i < count; i++) names[i] = intern(ir, to->names[i]);
        to->names = names;
    } else if (kind == KIND_DIMENSIONS) {
        Dimension *dimensions = ARENA_ARRAY(ir->arena, Dimension, count);
        for (uint32_t i = 0; i < count; i++)
            dimensions[i] = (Dimension){intern(ir, to->dimensions[i].name), to->dimensions[i].extent,
                                        intern(ir, to->dimensions[i].bound)};
        to->dimensions = dimensions;
    } else if (kind == KIND_OPTIONS) {
        Option *options = ARENA_ARRAY(ir->arena, Option, count);
        for (uint32_t i = 0; i < count; i++)
            options[i] = (Option){intern(ir, to->options[i].name), to->options[i].number,
                                  intern(ir, to->options[i].text)};
        to->options = options;
    } else {
        StackEntry *entries = ARENA_ARRAY(ir->arena, StackEntry, count);
        for (uint32_t i = 0; i < count; i++) entries[i] = to->entries[i];
        to->entries = entries;
    }
}

Attributes attributes_copy(Ir *ir, Attributes attributes) {
    Attribute *items = ARENA_ARRAY(ir->arena, Attribute, attributes.count);
    for (uint32_t i = 0; i < attributes.count; i++) {
        items[i] = attributes.items[i];
        AttributeKind kind = attribute_kind(items[i].key);
        if (kind == KIND_TEXT || kind == KIND_NAME)
            items[i].text = intern(ir, items[i].text);
        else if (kind == KIND_NAMES || kind == KIND_DIMENSIONS || kind == KIND_OPTIONS ||
                 kind == KIND_ENTRIES)
            copy_items(ir, &items[i], kind);
    }
    return (Attributes){items, attributes.count, attributes.hash};
}
