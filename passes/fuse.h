// What the parts of `fuse` share: launches under way, who reads and writes which buffer, addresses, and
// moving formulas from one nest into another.
#ifndef CHERRY_PASSES_FUSE_H
#define CHERRY_PASSES_FUSE_H

#include "ir/program.h"

// A launch and its nest; nests are never changed, a merge makes a new one. Its number is its position:
// launch i of the program starts as item 2 i + 1, and item 2 i is room for one in front of it.
typedef struct Item {
    const Nest *nest;  // NULL: a named kernel
    Launch launch;
    bool alive;
} Item;

typedef VECTOR(uint32_t) ItemList;  // ascending

typedef struct Fuse {
    Program *program;
    Ir ir;     // the program's, but for the arena: that goes with the pass
    Ir trial;  // and this one's with a merge that is tried
    Item *items;
    uint32_t count;
    ItemList *readers, *writers;  // per buffer: items alive
    struct NestTable *kept;       // nests so far, equal ones once: layers are alike
    bool for_gpu;                 // see fuse_program
    uint32_t last_scalar;         // fuse_merge: the last item without outer loops, or UINT32_MAX
} Fuse;

// The elements of a buffer that an operand may touch, both ends included.
typedef struct Span {
    int64_t low, high;
} Span;

// The equal nest that was kept before, or a copy that lives as long as the pass. What was built in the
// trial arena is then gone with fuse_end_trial.
const Nest *fuse_keep_nest(Fuse *fuse, const Nest *nest);
void fuse_end_trial(Fuse *fuse);

Span item_span(const Fuse *fuse, const Item *item, int operand);
bool item_reads(const Fuse *fuse, const Item *item, int operand);
bool item_writes(const Fuse *fuse, const Item *item, int operand);
void fuse_list_item(Fuse *fuse, uint32_t item);  // enters it with the buffers that it touches
void fuse_unlist_item(Fuse *fuse, uint32_t item);
// Does an item strictly between `low` and `high` touch what `item` writes, or write what it reads?
bool fuse_conflict(const Fuse *fuse, const Item *item, uint32_t low, uint32_t high);
// The last item that reads the buffer, 0: none.
uint32_t fuse_last_reader(const Fuse *fuse, uint32_t buffer);
void fuse_add_buffers(Fuse *fuse, size_t before);  // buffers from `before` on are new to the program
// Does an item in (low, high] write into this part of the buffer?
bool fuse_written(const Fuse *fuse, uint32_t buffer, Span span, uint32_t low, uint32_t high);

// Items further apart than this are joined only where no more has to be kept for longer: bringing work
// forward makes its results live longer, putting it off its operands.
enum { FUSE_WINDOW = 128 };

// Where an access goes: offset + sum of coefficient[loop] * loop, in elements of the buffer, plus what
// gathered dimensions add: something in [0, gathered_span].
typedef struct Address {
    uint32_t buffer;
    bool gathered;
    int64_t offset, gathered_span;
    int64_t coefficient[LOOP_MAX];
} Address;

Address nest_address(const Nest *nest, const Launch *launch, uint32_t operand, const Index *index);
bool address_equal(const Address *a, const Address *b);

// Two walks through one buffer that take the same steps, each with an index of its own.
typedef struct Meeting {
    int count;
    int64_t step[LOOP_MAX], last[LOOP_MAX];  // the largest step first; last: extent - 1
} Meeting;
void meeting_add(Meeting *meeting, int64_t step, int64_t extent);
// Is there a choice of distances between the indices that makes the walks' distance lie in [low, high]?
// Not all distances are zero, unless `standing`.
bool meeting_reaches(const Meeting *meeting, int64_t low, int64_t high, bool standing);

// Moves formulas of `from` into `to`, whose loops take the place of the loops of `from`.
typedef struct Transplant Transplant;
struct Transplant {
    const Nest *from;
    const Launch *from_launch;
    Nest *to;
    Launch *launch;               // of `to`; its operands are added here
    Affine loop[LOOP_MAX];        // each loop of `from` as an affine value over loops of `to`
    uint32_t gathered[LOOP_MAX];  // a formula of `to` that is added to it, or FORMULA_NONE
    uint32_t stage[STAGE_LIMIT];  // numbers of its reduction stages in `to`
    uint32_t *map;                // formulas that are there already, or FORMULA_NONE
    bool failed;                  // a limit was reached, or an index cannot be said
    // Called for every load with its mapped form; may return a formula of `to` to stand for it.
    uint32_t (*replace)(Transplant *transplant, const Formula *load, const Formula *mapped);
    void *context;
};

Transplant transplant_begin(const Nest *from, const Launch *from_launch, Nest *to, Launch *launch);
void transplant_forget(Transplant *transplant);  // what is there already: call it between stages
uint32_t transplant_formula(Transplant *transplant, uint32_t formula);
// The operand of `to` for an access through operand `number` of `from`, cut to what the loops reach;
// `index` is in terms of `to` and is moved with it (NULL: rank 0).
uint32_t transplant_access(Transplant *transplant, uint32_t number, Index *index, bool reads, bool writes);
void transplant_write(Transplant *transplant, Stage *stage);  // operand and index of a stage that writes
// `index` in terms of `to`; room for RANK_MAX.
void transplant_index(Transplant *transplant, uint32_t operand, const Index *index, Index *mapped);
// A loop of `to` that is like `loop` of `from`.
void transplant_loop(Transplant *transplant, int loop);

// A mask over loops of `from` as one over loops of `to`.
uint32_t transplant_mask(const Transplant *transplant, uint32_t loops);

// The nest without stage `dropped[i]` and without reductions that nothing uses then.
Nest *nest_without_stages(const Nest *nest, const Launch *from_launch, const bool *dropped, Launch *launch);
// Every two operands on overlapping parts of one buffer, one of them written, are the same operand.
bool nest_operands_apart(const Fuse *fuse, const Item *item);

// Which stages use a formula, as a mask.
uint32_t nest_formula_users(const Nest *nest, uint32_t formula);
typedef struct FormulaCost {
    int operations;  // primitives but casts
    bool expensive, gathers;
} FormulaCost;
// A temporary of the program for partial sums.
uint32_t fuse_create_parts(Fuse *fuse, const Type *type);
// Adds `buffer` to a nest, as an operand that reads and writes as `operand` says, and to its launch; `index` becomes
// the place at the loops that stand for its dimensions, in order. Returns the number of the operand.
uint32_t fuse_add_parts(Nest *nest, Launch *launch, uint32_t buffer, const Type *type, const int *loops,
                        NestOperand operand, Index *index);
// Whether a launch is a product that the library of a GPU computes.
bool item_is_library_product(const Fuse *fuse, const Item *item);
FormulaCost nest_formula_cost(const Nest *nest, uint32_t formula);
double nest_iterations(const Nest *nest, uint32_t loops);  // product of the extents

static inline bool stage_writes(const Stage *stage) {
    return stage->kind == STAGE_STORE || stage->kind == STAGE_ADD;
}
static inline uint32_t nest_outer_mask(const Nest *nest) { return (1u << nest->outer_count) - 1; }

// The parts of the pass, in order.
void fuse_inline(Fuse *fuse);                  // elementwise producers into their consumers
typedef enum FuseSplit { SPLIT_TOTALS, SPLIT_COLUMNS } FuseSplit;
void fuse_split(Fuse *fuse, FuseSplit which);  // large reductions to one scalar, or to one row
void fuse_merge(Fuse *fuse);                   // launches over common loops
void fuse_repeat(Fuse *fuse);                  // norms of one row into the products that read it
void fuse_rows(Fuse *fuse);                    // sums over rows into launches that walk them

#endif
