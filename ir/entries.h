// The order of a stack as text: "0..47", "0 (1..4)*8 5", "(1..4[row, recompute])*8".
//
//   a..b       layers a to b, each once
//   (...)*n    the entries in parentheses, n times in a row
//   [marks]    of every entry of the item: `row=R` the row of the per-iteration parameters, `row` alone
//              where it is the iteration; `stop_gradient`, `recompute`, `enter`, `leave`; `iteration=I` where
//              I is not the number of earlier entries of that layer
#ifndef CHERRY_IR_ENTRIES_H
#define CHERRY_IR_ENTRIES_H

#include "ir/graph.h"

enum { ENTRY_LAYER_LIMIT = 1 << 16, ENTRY_COUNT_LIMIT = 1 << 16 };  // what the reader accepts

// How an entry is written. Equal items may be joined into groups and ranges.
typedef struct EntryItem {
    int32_t layer;
    bool has_iteration, has_row, row_is_iteration;
    int32_t iteration, row;  // zero where not written
    bool stop_gradient, recompute, enter, leave;
} EntryItem;

const char *entries_text(Arena *arena, const StackEntry *entries, uint32_t count);

// Reading: items become entries one after the other. A list may be started again.
typedef struct EntryList {
    VECTOR(StackEntry) entries;
    int32_t *seen;  // per layer, how often it has come
} EntryList;

void entries_start(Arena *arena, EntryList *list);
bool entries_append(Arena *arena, EntryList *list, EntryItem item);  // false at ENTRY_COUNT_LIMIT

#endif
