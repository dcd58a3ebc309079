// fuse, order and plan-memory on random graphs, against the reference evaluator.
// FUSE_SEED=n runs one graph, FUSE_PRINT=1 shows its program.
#include "tests/unit/fuse_random.h"

enum { GRAPHS = 800 };

static void random_graphs(void **state) {
    (void)state;
    const char *one = getenv("FUSE_SEED");
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        Graph *graph = random_graph(one ? strtoull(one, NULL, 10) : seed, ELEMENT_F32);
        fuse_test(graph, -1);
        arena_destroy(graph->ir->arena);
        if (one) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_graphs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
