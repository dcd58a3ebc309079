// The part of a graph that works on logits, found for the pass `fuse-loss`.
//
// Legend: rows: the dimensions of the logits but one (batch, time); column: that one (vocab). A value is
// wide when it has the column and all rows. Rows may be bounded by an extent that the graph computes: then
// they are the one dimension with that bound, under whatever name, and everything along it is the region,
// from the `compact` that made it on, for a bounded dimension cannot be sliced.
#ifndef CHERRY_PASSES_LOSS_REGION_H
#define CHERRY_PASSES_LOSS_REGION_H

#include "passes/rewrite.h"

typedef enum Part {
    PART_OUTSIDE,
    PART_ROW,      // each row of the results needs the same row of the operands
    PART_REDUCED,  // dot or sum over all rows: chunks of rows give parts of its sum
    PART_TAIL,     // a view of a reduced value on its way into a sink
    PART_SINK      // accumulate of a reduced value: every chunk accumulates its part. With bounded rows
                   // also a scatter_add of the rows into a value that lacks them
} Part;

typedef struct LossRegion {
    const Graph *graph;
    Dimension rows[RANK_MAX];
    int row_count;
    const char *bound;    // of the rows, or NULL where they are static
    Dimension column;
    int64_t row_bytes;    // of one row of logits
    Part *parts;          // by node
    uint32_t *levels;     // by node: how often a path to it has left the region and come back; each
    uint32_t level_count; // level is a sweep of its own
    uint32_t *chains;     // by sink: the first sink of its chain
    uint32_t *uses;       // by node: operands and outputs that are any of its results
} LossRegion;

bool loss_region_is_wide(const LossRegion *region, Value value);
// The dimension of `type` that is row dimension `row`, or NULL.
const Dimension *loss_region_row(const LossRegion *region, const Type *type, int row);

// The region around call node `id`: its wide operands, what makes them, and every user of a wide value.
// False where there is none: no wide operand, or a wide value that something needs whole.
bool loss_region_find(LossRegion *region, const Graph *graph, uint32_t id);

#endif
