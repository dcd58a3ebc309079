// Stack entries to compact text and back; see entries.h for the form.
#include "ir/entries.h"

#include <string.h>

enum { PERIOD_LIMIT = 1024 };  // longest group that is looked for

static EntryItem make_item(const StackEntry *entry, int32_t seen) {
    EntryItem item = {.layer = entry->layer,
                      .stop_gradient = entry->stop_gradient,
                      .recompute = entry->recompute,
                      .enter = entry->enter,
                      .leave = entry->leave};
    item.has_iteration = entry->iteration != seen;
    if (item.has_iteration) item.iteration = entry->iteration;
    item.has_row = entry->row != -1;
    item.row_is_iteration = item.has_row && entry->row == entry->iteration;
    if (item.has_row && !item.row_is_iteration) item.row = entry->row;
    return item;
}

static bool item_same_marks(const EntryItem *a, const EntryItem *b) {
    return a->has_iteration == b->has_iteration && a->iteration == b->iteration && a->has_row == b->has_row &&
           a->row_is_iteration == b->row_is_iteration && a->row == b->row &&
           a->stop_gradient == b->stop_gradient && a->recompute == b->recompute && a->enter == b->enter &&
           a->leave == b->leave;
}

static bool item_same(const EntryItem *a, const EntryItem *b) {
    return a->layer == b->layer && item_same_marks(a, b);
}

static const char *marks_text(Arena *arena, const EntryItem *item) {
    const char *text = "";
    if (item->has_iteration) text = arena_format(arena, ", iteration=%d", item->iteration);
    if (item->has_row)
        text = item->row_is_iteration ? arena_format(arena, "%s, row", text)
                                      : arena_format(arena, "%s, row=%d", text, item->row);
    text = arena_format(arena, "%s%s%s%s%s", text, item->stop_gradient ? ", stop_gradient" : "",
                        item->recompute ? ", recompute" : "", item->enter ? ", enter" : "",
                        item->leave ? ", leave" : "");
    return *text ? arena_format(arena, "[%s]", text + 2) : text;
}

typedef VECTOR(const char *) Pieces;

static void push_ranges(Arena *arena, Pieces *pieces, const EntryItem *items, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to;) {
        uint32_t end = i + 1;
        while (end < to && items[end].layer == items[end - 1].layer + 1 &&
               item_same_marks(&items[end], &items[i]))
            end++;
        const char *marks = marks_text(arena, &items[i]);
        vector_push(arena, pieces,
                    end - i > 1 ? arena_format(arena, "%d..%d%s", items[i].layer, items[end - 1].layer, marks)
                                : arena_format(arena, "%d%s", items[i].layer, marks));
        i = end;
    }
}

static const char *join(Arena *arena, const Pieces *pieces) {
    size_t length = 1;
    for (size_t i = 0; i < pieces->count; i++) length += strlen(pieces->items[i]) + 1;
    char *text = arena_allocate(arena, length), *out = text;
    for (size_t i = 0; i < pieces->count; i++) {
        if (i) *out++ = ' ';
        size_t piece = strlen(pieces->items[i]);
        memcpy(out, pieces->items[i], piece);
        out += piece;
    }
    return text;
}

// How often items[at .. at+period) comes in a row.
static uint32_t count_repeats(const EntryItem *items, uint32_t count, uint32_t at, uint32_t period) {
    uint32_t matched = 0;
    while (at + period + matched < count && item_same(&items[at + matched], &items[at + period + matched]))
        matched++;
    return 1 + matched / period;
}

// (2..4 1)*2 may as well be (1..4)*2 one entry later: the start with the lowest layer reads best.
static uint32_t best_rotation(const EntryItem *items, uint32_t count, uint32_t at, uint32_t period,
                              uint32_t repeats) {
    uint32_t best = at;
    for (uint32_t i = at + 1; i < at + period; i++)
        if (items[i].layer < items[best].layer && count_repeats(items, count, i, period) >= repeats) best = i;
    return best;
}

const char *entries_text(Arena *arena, const StackEntry *entries, uint32_t count) {
    EntryItem *items = ARENA_ARRAY(arena, EntryItem, count);
    int32_t layers = 0;
    for (uint32_t i = 0; i < count; i++)
        if (entries[i].layer >= layers && entries[i].layer < ENTRY_LAYER_LIMIT) layers = entries[i].layer + 1;
    int32_t *seen = ARENA_ARRAY(arena, int32_t, layers);
    for (uint32_t i = 0; i < count; i++) {
        bool known = entries[i].layer >= 0 && entries[i].layer < ENTRY_LAYER_LIMIT;
        items[i] = make_item(&entries[i], known ? seen[entries[i].layer]++ : 0);
    }
    Pieces pieces = {0};
    uint32_t pending = 0;  // items[pending .. i) are in no group
    for (uint32_t i = 0; i < count;) {
        uint32_t best = 0, best_repeats = 1;
        for (uint32_t period = 1; period <= PERIOD_LIMIT && period <= (count - i) / 2; period++) {
            uint32_t repeats = count_repeats(items, count, i, period);
            if (repeats > 1 && period * (repeats - 1) > best * (best_repeats - 1))
                best = period, best_repeats = repeats;
        }
        if (!best) {
            i++;
            continue;
        }
        i = best_rotation(items, count, i, best, best_repeats);
        push_ranges(arena, &pieces, items, pending, i);
        Pieces group = {0};
        push_ranges(arena, &group, items, i, i + best);
        vector_push(arena, &pieces, arena_format(arena, "(%s)*%u", join(arena, &group), best_repeats));
        i += best * best_repeats;
        pending = i;
    }
    push_ranges(arena, &pieces, items, pending, count);
    return join(arena, &pieces);
}

void entries_start(Arena *arena, EntryList *list) {
    if (!list->seen) list->seen = ARENA_ARRAY(arena, int32_t, ENTRY_LAYER_LIMIT);
    for (size_t i = 0; i < list->entries.count; i++) list->seen[list->entries.items[i].layer] = 0;
    list->entries.count = 0;
}

bool entries_append(Arena *arena, EntryList *list, EntryItem item) {
    CHECK(item.layer >= 0 && item.layer < ENTRY_LAYER_LIMIT);
    if (list->entries.count == ENTRY_COUNT_LIMIT) return false;
    int32_t iteration = item.has_iteration ? item.iteration : list->seen[item.layer];
    int32_t row = item.row_is_iteration ? iteration : item.has_row ? item.row : -1;
    list->seen[item.layer]++;
    vector_push(arena, &list->entries,
                ((StackEntry){item.layer, iteration, row, item.stop_gradient, item.recompute, item.enter,
                              item.leave}));
    return true;
}
