// The part of a graph that works on logits, found for the pass `fuse-loss`.
//
// Legend: rows: the dimensions of the logits but one (batch, time); column: that one (vocab). A value is
// wide when it has the column and all rows.
#ifndef CHERRY_PASSES_LOSS_REGION_H
#define CHERRY_PASSES_LOSS_REGION_H

#include "passes/rewrite.h"

typedef enum Part {
    PART_OUTSIDE,
    PART_ROW,      // each row of the results needs the same row of the operands
    PART_REDUCED,  // dot or sum over all rows: chunks of rows give parts of its sum
    PART_TAIL,     // a view of a reduced value on its way into a sink
    PART_SINK      // accumulate of a reduced value: every chunk accumulates its part
} Part;

typedef struct LossRegion {
    const Graph *graph;
    Dimension rows[RANK_MAX];
    int row_count;
    Dimension column;
    int64_t row_bytes;    // of one row of logits
    Part *parts;          // by node
    uint32_t *levels;     // by node: how often a path to it has left the region and come back; each
    uint32_t level_count; // level is a sweep of its own
    uint32_t *chains;     // by sink: the first sink of its chain
    uint32_t *uses;       // by node: operands and outputs that are any of its results
} LossRegion;

bool loss_region_is_wide(const LossRegion *region, Value value);

// The region around call node `id`: its wide operands, what makes them, and every user of a wide value.
// False where there is none: no wide operand, or a wide value that something needs whole.
bool loss_region_find(LossRegion *region, const Graph *graph, uint32_t id);

#endif
