// order: launches are reordered within their dependences, so that less memory is live at once.
//
//   a = f(x); b = g(x); c = sum(a); d = sum(b)   ->   a = f(x); c = sum(a); b = g(x); d = sum(b)
//
// Requires and leaves: any program; only the order of its launches changes.
// A launch depends on earlier ones that wrote what it reads or writes, or read what it writes, element
// ranges of buffers considered. Greedy: of the launches whose dependences are done (the first WINDOW of
// them in the given order), the one that frees most is next; where none frees more than it needs, the
// first in the given order. If the given order turns out to need no more, it stays.
#include <string.h>

#include "passes/program_passes.h"

enum { WINDOW = 128 };

typedef struct Touch {
    uint32_t launch;
    int64_t low, high;  // elements, both included
    bool writes;
} Touch;
typedef VECTOR(Touch) TouchList;
typedef VECTOR(uint32_t) LaunchList;

typedef struct Order {
    Program *program;
    Arena *arena;
    uint32_t count;
    LaunchList *users;                 // per launch: launches that wait for it
    uint32_t *waits_for;               // per launch: how many it still waits for
    uint32_t *uses_left;               // per buffer: launches to come that touch it
    bool *live;                        // per buffer
    uint32_t *buffers, *buffer_start;  // per launch: the distinct temporaries that it touches
} Order;

static Touch touch_of(const Program *program, uint32_t number, int operand) {
    const Launch *launch = &program->launches.items[number];
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    Touch touch = {number, launch->offsets[operand], launch->offsets[operand],
                   launch_writes(program, launch, operand)};
    int rank = kernel->nest ? kernel->nest->operands[operand].rank : kernel->named->types[operand]->rank;
    for (int d = 0; d < rank; d++) {
        int64_t extent = kernel->nest ? kernel->nest->operands[operand].extent[d]
                                      : kernel->named->types[operand]->dimensions[d].extent;
        int64_t stride =
            kernel->nest ? kernel->nest->operands[operand].stride[d] : kernel->named->strides[operand][d];
        *(stride < 0 ? &touch.low : &touch.high) += (extent - 1) * stride;
    }
    return touch;
}

static void add_dependence(Order *order, uint32_t before, uint32_t after) {
    LaunchList *users = &order->users[before];
    if (before == after || (users->count && vector_last(users) == after)) return;
    vector_push(order->arena, users, after);
    order->waits_for[after]++;
}

// Dependences of one operand on the earlier touches of its buffer, the latest first, up to a write that
// covers it whole: what came before that is ordered by it.
static void depend(Order *order, const TouchList *earlier, Touch touch) {
    for (size_t i = earlier->count; i-- > 0;) {
        const Touch *other = &earlier->items[i];
        if (other->high < touch.low || touch.high < other->low || !(other->writes || touch.writes)) continue;
        add_dependence(order, other->launch, touch.launch);
        if (other->writes && other->low <= touch.low && touch.high <= other->high &&
            other->launch != touch.launch)
            return;
    }
}

static void find_dependences(Order *order) {
    const Program *program = order->program;
    TouchList *touches = ARENA_ARRAY(order->arena, TouchList, program->buffers.count + 1);
    for (uint32_t i = 0; i < order->count; i++) {
        const Launch *launch = &program->launches.items[i];
        for (int o = 0; o < launch->operand_count; o++)
            depend(order, &touches[launch->buffers[o]], touch_of(program, i, o));
        for (int o = 0; o < launch->operand_count; o++)
            vector_push(order->arena, &touches[launch->buffers[o]], touch_of(program, i, o));
    }
}

static void find_buffers(Order *order) {
    const Program *program = order->program;
    uint32_t total = 0;
    order->buffers = ARENA_ARRAY(order->arena, uint32_t, (size_t)order->count * NEST_OPERAND_MAX + 1);
    order->buffer_start = ARENA_ARRAY(order->arena, uint32_t, order->count + 1);
    for (uint32_t i = 0; i < order->count; i++) {
        const Launch *launch = &program->launches.items[i];
        order->buffer_start[i] = total;
        for (int o = 0; o < launch->operand_count; o++) {
            bool known = program->buffers.items[launch->buffers[o]].kind != BUFFER_TEMPORARY;
            for (uint32_t k = order->buffer_start[i]; k < total; k++)
                known |= order->buffers[k] == launch->buffers[o];
            if (!known) order->buffers[total++] = launch->buffers[o];
        }
    }
    order->buffer_start[order->count] = total;
}

static void reset_lifetimes(Order *order) {
    memset(order->live, 0, order->program->buffers.count);
    memset(order->uses_left, 0, sizeof(uint32_t) * order->program->buffers.count);
    for (uint32_t i = 0; i < order->buffer_start[order->count]; i++) order->uses_left[order->buffers[i]]++;
}

// What the launch would add to the live bytes, and how much of that only while it runs.
static int64_t change_of(const Order *order, uint32_t launch, int64_t *during) {
    int64_t made = 0, freed = 0;
    for (uint32_t k = order->buffer_start[launch]; k < order->buffer_start[launch + 1]; k++) {
        uint32_t buffer = order->buffers[k];
        int64_t bytes = order->program->buffers.items[buffer].bytes;
        if (!order->live[buffer]) made += bytes;
        if (order->uses_left[buffer] == 1) freed += bytes;
    }
    *during = made;
    return made - freed;
}

static void run_launch(Order *order, uint32_t launch, int64_t *live, int64_t *most) {
    int64_t during, change = change_of(order, launch, &during);
    if (*live + during > *most) *most = *live + during;
    *live += change;
    for (uint32_t k = order->buffer_start[launch]; k < order->buffer_start[launch + 1]; k++) {
        order->live[order->buffers[k]] = true;
        order->uses_left[order->buffers[k]]--;
    }
}

static int64_t most_live(Order *order, const uint32_t *sequence) {
    int64_t live = 0, most = 0;
    reset_lifetimes(order);
    for (uint32_t i = 0; i < order->count; i++) run_launch(order, sequence[i], &live, &most);
    return most;
}

// Enters a launch into the ready ones, which ascend in the given order.
static void make_ready(uint32_t *ready, uint32_t *count, uint32_t launch) {
    uint32_t at = (*count)++;
    for (; at > 0 && ready[at - 1] > launch; at--) ready[at] = ready[at - 1];
    ready[at] = launch;
}

static uint32_t choose(const Order *order, const uint32_t *ready, uint32_t count) {
    uint32_t best = 0;
    int64_t least = 0;
    for (uint32_t i = 0; i < count && i < WINDOW; i++) {
        int64_t during, change = change_of(order, ready[i], &during);
        if (change >= least) continue;
        least = change;
        best = i;
    }
    return best;
}

static void schedule(Order *order, uint32_t *sequence) {
    uint32_t *ready = ARENA_ARRAY(order->arena, uint32_t, order->count + 1), count = 0;
    int64_t live = 0, most = 0;
    reset_lifetimes(order);
    for (uint32_t i = 0; i < order->count; i++)
        if (order->waits_for[i] == 0) make_ready(ready, &count, i);
    for (uint32_t done = 0; done < order->count; done++) {
        CHECK(count > 0);
        uint32_t at = choose(order, ready, count), launch = ready[at];
        memmove(&ready[at], &ready[at + 1], sizeof(uint32_t) * (count - at - 1));
        count--;
        sequence[done] = launch;
        run_launch(order, launch, &live, &most);
        for (size_t i = 0; i < order->users[launch].count; i++)
            if (--order->waits_for[order->users[launch].items[i]] == 0)
                make_ready(ready, &count, order->users[launch].items[i]);
    }
}

bool order_program(Program *program) {
    Order order = {.program = program, .arena = arena_create(), .count = (uint32_t)program->launches.count};
    size_t buffers = program->buffers.count + 1;
    order.users = ARENA_ARRAY(order.arena, LaunchList, order.count + 1);
    order.waits_for = ARENA_ARRAY(order.arena, uint32_t, order.count + 1);
    order.uses_left = ARENA_ARRAY(order.arena, uint32_t, buffers);
    order.live = ARENA_ARRAY(order.arena, bool, buffers);
    uint32_t *given = ARENA_ARRAY(order.arena, uint32_t, order.count + 1);
    uint32_t *better = ARENA_ARRAY(order.arena, uint32_t, order.count + 1);
    for (uint32_t i = 0; i < order.count; i++) given[i] = i;
    find_dependences(&order);
    find_buffers(&order);
    schedule(&order, better);
    if (most_live(&order, better) < most_live(&order, given)) {
        Launch *launches = ARENA_ARRAY(order.arena, Launch, order.count + 1);
        memcpy(launches, program->launches.items, sizeof(Launch) * order.count);
        for (uint32_t i = 0; i < order.count; i++) program->launches.items[i] = launches[better[i]];
    }
    arena_destroy(order.arena);
    return true;
}
