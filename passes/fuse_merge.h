// Inside of fuse's merging: one pair of launches under way. fuse_loops.c pairs their loops and looks at
// dependences, fuse_stages.c joins their stages, fuse_merge.c decides who goes with whom.
#ifndef CHERRY_PASSES_FUSE_MERGE_H
#define CHERRY_PASSES_FUSE_MERGE_H

#include "passes/fuse.h"

enum { MERGE_TRIES = 6 };  // ways to pair the loops of two launches

typedef struct Access {
    Address address;
    bool writes;
    uint32_t stages;  // that make it
    double bytes;
} Access;

typedef struct AccessList {
    Access *items;
    size_t count;
} AccessList;

typedef struct Merge {
    Fuse *fuse;
    uint32_t p, c;
    const Item *P, *C;
    AccessList p_access, c_access;
    bool is_contraction, feeds;  // of P; C reads what P makes
    bool row_products;           // both are products with one row, and remain plain sums
    int p_of_c[LOOP_MAX];        // the outer loop of P that is this outer loop of C, or -1
    Item built;
    Nest *nest;  // built.nest while it grows
    Transplant p_plant, c_plant;
    int tried[MERGE_TRIES][LOOP_MAX];  // pairings that did not work
    int tried_count;
    int p_stages;  // stages [0, p_stages) of the merged nest are P's
    int trailing;  // first of P's last stages without inner loops
    bool point;    // all stages of C are without inner loops
    bool joined;   // some took the place of one of P's
} Merge;

// ---- fuse_loops.c ----

AccessList merge_accesses(const Fuse *fuse, const Item *item);
bool merge_reduces(const Nest *nest);  // has reduction stages
// Pairs the outer loops of C with those of P by the steps they take in two accesses to one buffer, one
// of each; among several, and where neither moves, by name.
void merge_pair_loops(Merge *merge, const Access *p, const Access *c);
uint32_t merge_paired_p(const Merge *merge);  // outer loops of P that have a partner
uint32_t merge_paired_c(const Merge *merge);
// C with the one loop that walks what two outer loops of P walk as those two; false: none does. In the trial arena.
bool merge_divide_loop(const Merge *merge, Item *divided);
bool merge_structure_fits(const Merge *merge);  // cases A, B and C at the head of fuse_merge.c
void merge_make_loops(Merge *merge, const Access *p, const Access *c);
bool merge_keeps_order(const Transplant *plant);  // a reduction keeps the order of its loops
bool merge_dependences_hold(const Merge *merge);
double merge_shared_bytes(const Merge *merge);  // what both touch at the same places
double merge_all_bytes(const AccessList *list);

// ---- fuse_stages.c ----

bool merge_fill(Merge *merge);  // the stages of P, then those of C, in the nest whose loops are there
bool merge_stores_twice(const Merge *merge);
bool merge_reads_back_at_point(const Merge *merge);
void merge_drop_dead_stores(Merge *merge);  // to temporaries that nothing reads any more

#endif
