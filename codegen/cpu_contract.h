// Contractions on the CPU, inside the back end: register tiles, packed panels, and the plan that says how
// the loops of a contraction are cut into them. cpu_attention.c is built from the same tiles and panels.
//
//   panel of A: [step][rows]            `rows` = CpuTile.rows consecutive rows, zero beyond the last one
//   panel of B: [step][vectors * lanes] columns, zero beyond the last one
//   tile:       [rows][vectors * lanes] of f32, the sum over k of A column times B row
//
// A step is one of k, as f32, or two of k, as a pair of bf16 in the room of an f32 (PANEL_PAIRS): then the sum
// takes the odd one of a pair first, and a segment of k with an odd end has a zero behind it.
//
// One output element is one chain of multiply-adds in ascending k, whatever the blocks: its bits depend
// on its own row and column alone, not on the number of rows, columns, tasks or threads.
#ifndef CHERRY_CODEGEN_CPU_CONTRACT_H
#define CHERRY_CODEGEN_CPU_CONTRACT_H

#include "codegen/cpu_helper.h"

// ---- Helper functions of a module: emitted at the first use, internal, shared by all its kernels ----

// Where a tile finds an operand: in a panel, or as it lies in memory, with steps of k or rows and columns side by
// side, and a stride in the other direction.
typedef enum CpuTileSide { TILE_PANEL, TILE_ALONG_K, TILE_ACROSS_K } CpuTileSide;

// What a panel holds of what is in memory.
typedef enum CpuPanel {
    PANEL_F32,
    PANEL_ROUNDED,  // f32, rounded to bf16 numbers
    PANEL_PAIRS     // two steps of k in bf16
} CpuPanel;

typedef struct CpuTile {
    int rows, vectors;  // of accumulators: rows x vectors
    CpuTileSide a, b;
    CpuPanel panel;     // of both sides
    Element element_b;  // of B where it lies in memory
    bool once;          // nothing has read this part of B before: the tile asks for what it will read
    bool keeps;         // leaves a panel of B behind, for the rows that follow
    bool pages_apart;   // B lies across k, and rows of its pairs compete for few places of the first cache
    int near_columns;   // where B lies along k: of how many columns the first cache holds a line each, at most
                        // CPU_NEAR_COLUMNS
} CpuTile;

enum { CPU_NEAR_COLUMNS = 16 };

// The largest tile that the registers hold with room for one row of B and a broadcast; of fewer rows a wider one:
// then B comes from memory, in runs that should be long. `tall`: a narrow one may have a few rows more than others.
CpuTile cpu_tile_shape(const CpuTarget *target, int64_t rows, bool tall);

// void (a, b, i64 steps, c, i64 stride, i64 first, ahead, i64 ahead_stride, i64 a_stride, i64 b_stride, i64 last, panel,
//       sum, i64 sum_stride):
// c[row * stride + column] = (first ? 0 : c) + sum over k, or, where `sum` is given, adds that to it, the last of all.
// Meanwhile a tile that reads panels of B brings the length of steps / 4 of their rows into the second cache, from
// `ahead` on, and each ahead_stride bytes behind the one before; any address will do. The other strides are those of
// operands that are no panels. Where A lies along k, rows behind row `last` are not there and give anything; where
// B does, steps are a multiple of the lanes. A tile that keeps B writes it to `panel`.
enum { TILE_UNROLL = 4 };
LLVMValueRef cpu_tile_function(CpuUnit *unit, CpuTile tile);
LLVMTypeRef cpu_tile_type(CpuUnit *unit);

typedef enum CpuPack {
    PACK_UNIT,       // neighbours in the panel are neighbours in memory
    PACK_TRANSPOSE,  // neighbours in k are neighbours in memory
    PACK_STRIDED
} CpuPack;

CpuPack cpu_pack_kind(int64_t panel_stride, int64_t k_stride);

// void (to, from, i64 valid, i64 k, i64 panel_stride, i64 k_stride, i64 width, i64 panels, i64 panel_size):
// fills the steps of k, each `width` floats, of each panel from `valid` columns of all panels together, zero behind.
// Panels stand panel_size floats apart. Source strides are in elements of `element` (f32 or bf16).
// PANEL_F32 and PANEL_ROUNDED differ in whether f32 numbers are rounded. The function is for panels of this `width`.
LLVMValueRef cpu_pack_function(CpuUnit *unit, CpuPack kind, Element element, CpuPanel panel, int width);
LLVMTypeRef cpu_pack_type(CpuUnit *unit);
// Numbers in memory as a panel holds them; half a step where those are pairs.
LLVMValueRef cpu_panel_load(CpuUnit *unit, Element element, CpuPanel panel, LLVMValueRef at, int lanes,
                            LLVMValueRef mask);
// Of a step and the one behind it, whole steps of pairs.
LLVMValueRef cpu_panel_load_pair(CpuUnit *unit, Element element, LLVMValueRef low, LLVMValueRef high, int lanes,
                                 LLVMValueRef mask);

// Steps of one part, of as many columns as a vector has lanes, which lie along k at these addresses: a part is half a
// vector of each column, of which the other half is read soon after, or a whole one of four lanes.
int cpu_panel_part(const CpuTarget *target);
void cpu_panel_load_along(CpuUnit *unit, Element element, CpuPanel panel, const LLVMValueRef *columns, int part,
                          LLVMValueRef *steps);

// As many zeros as a row of the widest tile has.
LLVMValueRef cpu_zeros(CpuUnit *unit);

// ---- The plan of one contraction ----

typedef struct CpuContraction {
    const Nest *nest;         // normalised
    uint32_t load_a, load_b;  // formulas; columns are the loop along which results are vectors
    int row, column, k;       // loops, -1 where there is none (extent 1)
    // All other outer loops, iterated by tasks: first those that move A, then those that move only B.
    int outer_count, outer_a_count;
    uint8_t outer[LOOP_MAX];
    int segment_count;
    uint8_t segments[LOOP_MAX];             // all other reduced loops, outermost first
    int64_t rows, columns, depth;           // at capacity; depth: steps of all reduced loops together
    int64_t segment_depth;                  // steps of loop k alone
    Element element_a, element_b;           // in memory
    bool narrow_a, narrow_b;                // bf16 numbers: as they lie, or rounded as they are read
    CpuPanel panel_a, panel_b;              // PANEL_PAIRS: both
    CpuPack pack_a, pack_b;
    CpuTile tile;             // of wide panels; narrow ones have `narrow` vectors. It may read A and B as they lie:
                              // of B whole panels. Where it keeps them, the rows behind the first tile read panels
    int narrow;
    int64_t panels, wide_panels, vectors;   // of B: all, those that come first, their vectors together
    int64_t row_block, row_blocks;          // rows of a task: a multiple of tile.rows
    int64_t panel_group, panel_groups;      // panels of a task
    int64_t packed_depth;     // steps that packed panels hold: all, or those that a task packs at a time, of private ones
    bool private_a, private_b;  // tasks pack their own panels, if any; else a phase of its own packs all of them
    bool optional_a;            // that phase is left out where no other launch needs what it packs
    // A phase that packs has a task for this many steps of k, or, where that is 0, for a panel of B or pack_rows
    // of A. Neighbours in memory are packed together.
    int64_t slab_a, slab_b, pack_rows;
    bool whole_columns;       // every panel of B is whole
    bool direct;              // whole tiles go straight to the result: a plain store or addition with unit columns
    bool adds;                // it is an addition
} CpuContraction;

enum { CONTRACTION_DEPTH_BLOCK = 512 };  // steps for which a panel of A stays in the first cache

// Whether a task goes over all its panels for one part of k, then for the next.
static inline bool cpu_contraction_in_parts(const CpuContraction *plan) { return plan->packed_depth < plan->depth; }

CpuContraction cpu_contraction_plan(const CpuTarget *target, const Nest *normalised, uint32_t load_a,
                                    uint32_t load_b);

static inline const Index *cpu_contraction_index(const CpuContraction *plan, uint32_t load) {
    return plan->nest->formulas.items[load].index;
}

// ---- The loops around tiles: cpu_contract_driver.c. Records of 8-byte slots. ----

enum {
    SIDE_PANEL_STRIDE, SIDE_K_STRIDE,  // in elements
    SIDE_PANEL_BYTES, SIDE_STEP_BYTES,
    SIDE_SLAB,                         // steps of k that are packed together, or 0
    SIDE_SLOTS
};

// Constant, one for each kernel.
enum {
    PLAN_A,                        // SIDE_SLOTS slots
    PLAN_B = PLAN_A + SIDE_SLOTS,  // SIDE_SLOTS slots
    PLAN_PACKED_DEPTH = PLAN_B + SIDE_SLOTS,  // steps that packed panels hold
    PLAN_TILE_ROWS,
    PLAN_TILE_STEP,      // floats of scratch that one row of a block takes; 0: all tiles share one
    PLAN_PANEL_SUMS,     // and all rows of a panel; 0: all panels share them, as k does not come in parts
    PLAN_WIDE, PLAN_NARROW, PLAN_WIDE_PANELS,  // widths in floats
    PLAN_PANELS_A, PLAN_SHARES_B,  // tiles read panels of A; a phase packed B
    PLAN_LYING_ROWS,               // of a block, for which whole panels of B are read as they lie
    PLAN_ALONG_ROWS,               // of a panel's length, in a step of B as it lies along k, or 0
    PLAN_PACK_ROWS,
    PLAN_TILES_B, PLAN_STRIPE_TILES,  // where k comes in parts: of a panel, that ask for B; and for one stripe
    PLAN_STEP_K,                   // of k in a step
    PLAN_RESULT_STRIDE,            // of rows
    PLAN_ADDS,                     // whole tiles are added to the result
    PLAN_PACK_A, PLAN_PACK_WIDE, PLAN_PACK_NARROW, PLAN_EPILOGUE,
    PLAN_TILE_WIDE, PLAN_TILE_NARROW, PLAN_LYING_WIDE, PLAN_LYING_NARROW,  // of panels of B, and as it lies
    PLAN_PREFETCH,                 // or NULL
    PLAN_SLOTS
};

enum {
    TASK_OPERANDS,
    TASK_A, TASK_B,      // at row and column 0
    TASK_RESULT,         // where tiles may be written or added to directly, else NULL
    TASK_BLOCK_A,        // packed rows, from TASK_ROW0 on
    TASK_PANEL,          // packed panel if private, else the packed matrix
    TASK_TILES,
    TASK_ROW0, TASK_ROWS, TASK_COLUMNS, TASK_DEPTH,  // of the block; existing columns and steps
    TASK_SEGMENTS, TASK_SEGMENT_DEPTH, TASK_SEGMENT_K,  // steps of a segment, and its extent
    TASK_OFFSETS_A, TASK_OFFSETS_B,  // bytes, an i64 for each segment
    TASK_PANEL_BEGIN, TASK_PANEL_END,
    TASK_STEP_BEGIN, TASK_STEP_END,  // of k, that panels hold
    TASK_PACK_A,
    TASK_COLUMN0, TASK_COLUMN_COUNT, TASK_WIDTH,  // of the panel: for the epilogue
    TASK_OUTER,          // indices of the outer loops that tasks iterate
    TASK_SLOTS = TASK_OUTER + LOOP_MAX
};

LLVMValueRef cpu_slot(CpuUnit *unit, LLVMValueRef record, int slot);
LLVMValueRef cpu_slot_load(CpuUnit *unit, LLVMValueRef record, int slot, bool pointer);
void cpu_slot_store(CpuUnit *unit, LLVMValueRef record, int slot, LLVMValueRef value);

// void (plan, task, i64 part): packs one panel of B, PLAN_PACK_ROWS rows of A, or SIDE_SLAB steps of k of all panels
// into their place in the shared matrix.
LLVMValueRef cpu_contract_pack_function(CpuUnit *unit, bool side_b);
// void (plan, task): one block of rows times panels [begin, end). The epilogue is a CpuFunction called
// with (operands, task, tile, row0, rows); so is what brings its operands nearer.
LLVMValueRef cpu_contract_task_function(CpuUnit *unit);

// ---- What follows the sums of a tile: cpu_contract_epilogue.c ----

// The function that runs the stages behind the sum for one tile.
LLVMValueRef cpu_contract_epilogue(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan);
// The function that brings nearer what the epilogue of a tile will touch, while the tile is computed: rows of a
// tile lie far apart, where the machine does not look ahead by itself. NULL where there is nothing.
LLVMValueRef cpu_contract_prefetch(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan);
// Operands that the epilogue stores past the caches. The lines need not be brought in then, nor do they push the rows
// of A out of the second cache. Tasks end with a cpu_fence.
uint32_t cpu_contract_streamed(const CpuContraction *plan, const CpuTarget *target);

// ---- Few rows over a matrix that is read once: cpu_contract_sweep.c ----

bool cpu_contract_sweeps(const CpuContraction *plan, const CpuTarget *target);
int64_t cpu_contract_sweep_tasks(const CpuContraction *plan);
void cpu_contract_sweep_emit(CpuUnit *unit, const Kernel *kernel, const CpuContraction *plan, CpuKernel *out);

#endif
