// Attribute lists as values: hashed, compared and copied by contents. Used by graph.c and verify.c.
#ifndef CHERRY_IR_ATTRIBUTES_H
#define CHERRY_IR_ATTRIBUTES_H

#include "ir/graph.h"

// Sorts by key into `sorted` (room for ATTRIBUTE_COUNT). A key given twice is an internal error.
void attributes_sort(const Attribute *items, uint32_t count, Attribute *sorted);

// Graphs count by identity, numbers by their bits, all texts by their letters.
uint32_t attributes_hash(Attributes attributes);
bool attributes_same(Attributes a, Attributes b);  // their hashes are set, or are 0 in both
bool attribute_same(const Attribute *a, const Attribute *b);

// A deep copy in the arena with every text interned.
Attributes attributes_copy(Ir *ir, Attributes attributes);

#endif
