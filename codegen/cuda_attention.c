// Attention and its gradient: the shape of one kernel as a struct of constants, for
// codegen/cuda/attention.cuh.
//
//   q[shared.., time, group.., key]   k[shared.., past, key]   v[shared.., past, feature..]
//   o[shared.., time, group.., feature..]   lse[shared.., time, group..]   positions[time]
//
// in any order of dimensions and with any strides. Behind its other inputs what turns takes cos[time, pair] and
// sin[time, pair], f32, and turns rows by those of their number: features x of the first half of keys and y of the
// second become x cos - y sin and y cos + x sin. Attention turns its queries, and leaves them behind its other results;
// the gradient rounds d_q and d_k and turns them back, by - sin.
#include <math.h>
#include <string.h>

#include "codegen/cuda_emit.h"

enum {
    THREADS = 128,
    KEYS_MOST = 256,
    WIDE_KEYS_MOST = 128,
    WIDE_TIME_MOST = 1 << 20,
    WIDE_GRADIENT_KEYS = 32,
    WIDE_BLOCK_KEYS = 64,
    TILE_ALIGNMENT = 1024,  // warpgroup.cuh
    FILL_BLOCKS = 256,
    DECLARED = 256  // bytes of shared memory that functions declare at most, whatever the shape
};
// Inputs of the gradient; the first four of attention.
enum { Q, K, V, POSITION, O, LSE, D_O, D_LSE, FORWARD_INPUTS = O, GRADIENT_INPUTS = D_LSE + 1 };

typedef struct Walked {  // dimensions that are walked as one number, the last fastest
    int count;
    const char *name[RANK_MAX];
    int64_t extent[RANK_MAX], total;
    uint32_t bound[RANK_MAX];
} Walked;

typedef struct Attention {
    CudaUnit *unit;
    const NamedKernel *named;
    bool gradient, turns;
    int regular;   // inputs that are no extents
    int cos, sin;  // of what turns, the last of them
    const char *over, *along, *past;
    Walked shared, group, feature;
    int64_t keys, features, time, past_extent, turn_row, turn_pair;
    uint32_t time_bound, past_bound;
    int tile_m, tile_n;
    bool wide;   // attention_wide.cuh
    bool warpgroups;  // its products are those of warpgroup.cuh
    int splits;  // blocks that share the keys of a block of queries
    Element element;
} Attention;

static int64_t stride_of(const Attention *a, int operand, const char *name) {
    return named_kernel_stride(a->named, operand, name);
}

static uint32_t bound_operand(const Attention *a, const char *bound) {
    return named_kernel_extent(a->named, a->regular, bound);
}

static void walk_dimension(const Attention *a, Walked *walked, const Dimension *dimension) {
    walked->name[walked->count] = dimension->name;
    walked->extent[walked->count] = dimension->extent;
    walked->bound[walked->count++] = bound_operand(a, dimension->bound);
    walked->total *= dimension->extent;
}

// The features must walk memory as one in every operand.
static bool features_are_contiguous(const Attention *a) {
    const Walked *f = &a->feature;
    for (int i = 0; i < a->named->operand_count && f->count > 1; i++)
        for (int d = f->count - 2; d >= 0; d--) {
            if (named_kernel_dimension(a->named->types[i], f->name[d]) < 0) continue;
            if (stride_of(a, i, f->name[d]) != stride_of(a, i, f->name[d + 1]) * f->extent[d + 1])
                return false;
        }
    return true;
}

// Whether rows of an operand's keys or features are whole pieces of 16 bytes, aligned in every launch.
static bool has_wide_rows(const Attention *a, int operand) {
    const Type *type = a->named->types[operand];
    const char *row = a->feature.count ? a->feature.name[0] : a->over;
    bool found = false;
    for (int d = 0; d < type->rank; d++) {
        const char *name = type->dimensions[d].name;
        int64_t stride = a->named->strides[operand][d];
        bool along = strcmp(name, a->over) == 0 || strcmp(name, row) == 0;
        found |= along;
        if (along ? stride != 1 : type->dimensions[d].extent > 1 && stride % 8) return false;
    }
    return found && a->unit->alignment[operand] % 16 == 0;
}

static bool is_wide(const Attention *a) {
    if (a->element != ELEMENT_BF16 || a->feature.count > 1 || a->keys % 8 || a->features % 8 ||
        a->keys > WIDE_KEYS_MOST || a->features > WIDE_KEYS_MOST || a->time > WIDE_TIME_MOST)
        return false;
    bool aligned = a->unit->alignment[a->cos] % 16 == 0 && a->unit->alignment[a->sin] % 16 == 0;
    if (a->turns && (a->turn_pair != 1 || a->turn_row % 4 || !aligned)) return false;
    for (int i = 0; i < a->named->operand_count; i++)
        if (a->named->types[i]->element == ELEMENT_BF16 && !has_wide_rows(a, i)) return false;
    return true;
}

// How the tables of angles lie.
static bool read_turn(Attention *a) {
    const Type *cos = a->named->types[a->cos], *sin = a->named->types[a->sin];
    const int64_t *strides = a->named->strides[a->cos];
    int row = named_kernel_dimension(cos, a->along), pair = 1 - row;
    if (cos->element != ELEMENT_F32 || sin != cos || cos->rank != 2 || row < 0 || cos->dimensions[row].bound ||
        2 * cos->dimensions[pair].extent != a->keys || cos->dimensions[row].extent < a->time ||
        cos->dimensions[row].extent < a->past_extent ||
        memcmp(strides, a->named->strides[a->sin], sizeof *strides * 2) != 0)
        return cuda_fail(a->unit, "%s by tables of another form", a->named->name);
    a->turn_row = strides[row];
    a->turn_pair = strides[pair];
    return true;
}

static bool read_shape(CudaUnit *unit, bool gradient, bool turns, Attention *a) {
    const NamedKernel *named = unit->kernel->named;
    const Option *over = named_kernel_option(named, "over"), *along = named_kernel_option(named, "along"),
                 *past = named_kernel_option(named, "past");
    int regular = (gradient ? GRADIENT_INPUTS : FORWARD_INPUTS) + 2 * turns;
    *a = (Attention){.unit = unit,
                     .named = named,
                     .gradient = gradient,
                     .turns = turns,
                     .regular = regular,
                     .cos = regular - 2,
                     .sin = regular - 1,
                     .shared.total = 1,
                     .group.total = 1,
                     .feature.total = 1};
    const char *elements = turns ? gradient ? "xxxixsxsss:xxx" : "xxxiss:xsx" : gradient ? "xxxixsxs:xxx" : "xxxi:xs";
    const char *misfit = named_kernel_misfit(unit->arena, named, elements, regular - 2 * turns);
    if (misfit) return cuda_fail(unit, "kernel %s %s", named->name, misfit);
    if (!over || !along || !past || !over->text || !along->text || !past->text)
        return cuda_fail(unit, "%s lacks options over, along and past", named->name);
    a->over = over->text, a->along = along->text, a->past = past->text;
    const Type *q = named->types[Q], *k = named->types[K], *v = named->types[V];
    int key = named_kernel_dimension(q, a->over), time = named_kernel_dimension(q, a->along),
        at = named_kernel_dimension(k, a->past);
    if (key < 0 || time < 0 || at < 0) return cuda_fail(unit, "%s lacks a dimension", named->name);
    a->element = q->element;
    a->keys = q->dimensions[key].extent;
    a->time = q->dimensions[time].extent;
    a->past_extent = k->dimensions[at].extent;
    a->time_bound = bound_operand(a, q->dimensions[time].bound);
    a->past_bound = bound_operand(a, k->dimensions[at].bound);
    for (int d = 0; d < q->rank; d++)
        if (d != key && d != time)
            walk_dimension(a, named_kernel_dimension(k, q->dimensions[d].name) >= 0 ? &a->shared : &a->group,
                           &q->dimensions[d]);
    for (int d = 0; d < v->rank; d++) {
        const char *name = v->dimensions[d].name;
        if (strcmp(name, a->past) != 0 && (named_kernel_dimension(q, name) < 0 || strcmp(name, a->over) == 0))
            walk_dimension(a, &a->feature, &v->dimensions[d]);
    }
    a->features = a->feature.total;
    for (int i = 0; i < a->group.count; i++)
        if (a->group.bound[i] != UINT32_MAX)
            return cuda_fail(unit, "%s over groups whose number varies", named->name);
    if (a->keys > KEYS_MOST || a->features > KEYS_MOST)
        return cuda_fail(unit, "%s over more than %d keys or features", named->name, KEYS_MOST);
    if (a->element != ELEMENT_F32 && a->element != ELEMENT_BF16)
        return cuda_fail(unit, "%s of %s", named->name, element_name(a->element));
    for (int i = 0; i < named->operand_count; i++) {
        Element element = named->types[i]->element;
        bool is_sum = gradient ? i == LSE || i == D_LSE : i == named->output_start + 1;
        bool is_table = turns && (i == a->cos || i == a->sin);
        if (element_is_float(element) && !is_sum && !is_table && element != a->element)
            return cuda_fail(unit, "%s of several element types", named->name);
    }
    if (turns && !read_turn(a)) return false;
    return features_are_contiguous(a) ||
           cuda_fail(unit, "%s: the features of v are not contiguous", named->name);
}

// ---- Tiles ----

static int64_t lead(const Attention *a, int64_t columns) {
    return a->element == ELEMENT_BF16 ? cuda_divide_up(columns, 16) * 16 + 8 : columns | 1;
}

typedef enum Tiles { NO_TILES, FORWARD, GRADIENT_KEYS, GRADIENT_QUERIES } Tiles;

static int64_t whole_panels(int64_t columns) { return cuda_divide_up(columns, 64) * 64; }

static int64_t wide_bytes(const Attention *a, Tiles tiles) {
    int64_t row = (whole_panels(a->keys) + whole_panels(a->features)) * 2;
    int64_t start = a->warpgroups ? TILE_ALIGNMENT - 16 : 0;
    if (tiles == FORWARD) return start + a->tile_m * whole_panels(a->keys) * 2 + 2 * a->tile_n * row;
    if (tiles == GRADIENT_KEYS) return start + 3 * WIDE_BLOCK_KEYS * row + 2 * WIDE_BLOCK_KEYS * 12;
    return start + (a->tile_m + 2 * WIDE_GRADIENT_KEYS) * row;
}

// sm_90a alone has these products. They take whole panels: a row that fills less than three quarters of them is
// better off with the others.
static bool has_warpgroups(const Attention *a) {
    return a->wide && strcmp(a->unit->architecture, "sm_90a") == 0 && 4 * a->keys >= 3 * whole_panels(a->keys) &&
           4 * a->features >= 3 * whole_panels(a->features);
}

// Bytes of the tiles in shared memory, as attention.cuh and attention_wide.cuh lay them out.
static int64_t shared_bytes(const Attention *a, Tiles tiles) {
    if (tiles == NO_TILES) return 0;
    if (a->wide) return wide_bytes(a, tiles);
    int64_t width = element_bytes(a->element), m = a->tile_m, n = a->tile_n;
    int64_t k = lead(a, cuda_divide_up(a->keys, 16) * 16), f = lead(a, cuda_divide_up(a->features, 16) * 16),
            p = lead(a, n);
    if (tiles != FORWARD) return m * 12 + width * (m * k + n * k + n * f + m * f + 2 * m * p);
    return m * (n + 1) * 4 + m * 16 + width * (m * k + n * k + n * f + m * p);
}

// The most that a block of the kernel takes. Beside the tiles: of the wide gradient of keys, whether tiles of queries
// see them; ends of positions, and folds.
static int64_t most_bytes(const Attention *a) {
    if (!a->gradient) return shared_bytes(a, FORWARD) + DECLARED;
    int64_t keys = shared_bytes(a, GRADIENT_KEYS) + (a->wide ? cuda_divide_up(a->time, WIDE_BLOCK_KEYS) : 0),
            queries = shared_bytes(a, GRADIENT_QUERIES);
    return (keys > queries ? keys : queries) + DECLARED;
}

static int choose_splits(const Attention *a) {
    int64_t blocks = cuda_divide_up(a->time, a->tile_m) * a->shared.total * a->group.total;
    int64_t most = cuda_divide_up(a->past_extent, 2 * a->tile_n), splits = FILL_BLOCKS / blocks;
    if (splits > most) splits = most;
    return splits > 1 ? (int)splits : 1;
}

// Where a block's shared memory is short, what the wide attention could take is the other's, and its tiles are halved.
static bool choose_tiles(Attention *a) {
    CudaUnit *unit = a->unit;
    int64_t limit = cuda_shared_limit(unit->architecture), row = a->keys > a->features ? a->keys : a->features;
    int least = a->element == ELEMENT_BF16 ? 32 : 16;  // tile.cuh
    a->splits = 1;
    a->wide = is_wide(a);
    a->warpgroups = has_warpgroups(a);
    a->tile_n = row > 64 && !a->warpgroups ? 32 : 64;  // as many keys as registers allow
    a->tile_m = a->time > 64 ? 128 : 64;
    if (a->wide && most_bytes(a) <= limit) {
        if (!a->gradient) a->splits = choose_splits(a);
        return true;
    }
    a->wide = a->warpgroups = false;
    a->tile_m = row > 64 && a->element == ELEMENT_F32 ? 32 : 64;
    while (most_bytes(a) > limit && a->tile_m + a->tile_n > 2 * least)
        if (a->tile_m >= a->tile_n) a->tile_m /= 2;
        else a->tile_n /= 2;
    return most_bytes(a) <= limit ||
           cuda_fail(unit, "%s needs %lld bytes of shared memory, %s has %lld", unit->kernel->named->name,
                     (long long)most_bytes(a), unit->architecture, (long long)limit);
}

// ---- The struct ----

static const char *offset(const Attention *a, int operand, const Walked *walked, const char *number) {
    const char *text = "0";
    int64_t below = 1;
    for (int i = walked->count - 1; i >= 0; i--) {
        int64_t stride = stride_of(a, operand, walked->name[i]);
        if (stride)
            text = cuda_text(a->unit, "%s + %s / %lld %% %lld * %lldll", text, number, (long long)below,
                             (long long)walked->extent[i], (long long)stride);
        below *= walked->extent[i];
    }
    return text;
}

static void emit_side(const Attention *a, int operand, const char *name) {
    CudaUnit *unit = a->unit;
    int64_t feature = a->feature.count ? stride_of(a, operand, a->feature.name[a->feature.count - 1]) : 0;
    cuda_line(unit, "static constexpr i64 %s_time = %lld, %s_past = %lld, %s_key = %lld, %s_feature = %lld;",
              name, (long long)stride_of(a, operand, a->along), name,
              (long long)stride_of(a, operand, a->past), name, (long long)stride_of(a, operand, a->over),
              name, (long long)feature);
    cuda_line(unit, "static __device__ i64 %s(int unit, int group) { return %s + %s; }", name,
              offset(a, operand, &a->shared, "unit"), offset(a, operand, &a->group, "group"));
}

// sums[columns / 8][4] += A B over 16 of k, for warpgroup.cuh: A a tile's rows, or, `held`, in registers and B turned.
static void emit_product(CudaUnit *unit, int columns, bool held) {
    const char *registers = "%0", *sums = "\"+f\"(c[0][0])";
    int count = columns / 2, a_count = held ? 4 : 1;
    for (int i = 1; i < count; i++) {
        registers = cuda_text(unit, "%s, %%%d", registers, i);
        sums = cuda_text(unit, "%s, \"+f\"(c[%d][%d])", sums, i / 4, i % 4);
    }
    const char *left = held ? cuda_text(unit, "{%%%d, %%%d, %%%d, %%%d}", count, count + 1, count + 2, count + 3)
                            : cuda_text(unit, "%%%d", count);
    cuda_open(unit, "static __device__ __forceinline__ void multiply(float (&c)[%d][4], %s, u64 b)", columns / 8,
              held ? "const u32 (&a)[4]" : "u64 a");
    cuda_line(unit, "#ifdef CHERRY_EMULATED");
    cuda_line(unit, "emulate_product(c, a, b);");
    cuda_line(unit, "#else");
    cuda_line(unit, "asm volatile(\"wgmma.mma_async.sync.aligned.m64n%dk16.f32.bf16.bf16 {%s}, %s, %%%d, 1, 1, 1, %s;\"",
              columns, registers, left, count + a_count, held ? "1" : "0, 0");
    cuda_line(unit, "             : %s", sums);
    cuda_line(unit, "             : %s, \"l\"(b));",
              held ? "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3])" : "\"l\"(a)");
    cuda_line(unit, "#endif");
    cuda_close(unit);
}

static void emit_products(const Attention *a) {
    int keys = (int)whole_panels(a->keys), features = (int)whole_panels(a->features);
    emit_product(a->unit, WIDE_BLOCK_KEYS, false);
    if (a->gradient) emit_product(a->unit, WIDE_GRADIENT_KEYS, false);
    emit_product(a->unit, keys, true);
    if (features != keys) emit_product(a->unit, features, true);
}

static void emit_struct(const Attention *a) {
    CudaUnit *unit = a->unit;
    int out = a->named->output_start;
    cuda_note_place(unit, a->named->place);
    cuda_open(unit, "struct S" CUDA_KEY_MARK);
    cuda_line(unit, "typedef %s T;", cuda_memory_type(a->element));
    cuda_line(unit, "static constexpr int M = %d, N = %d, keys = %lld, features = %lld, time = %lld;",
              a->tile_m, a->tile_n, (long long)a->keys, (long long)a->features, (long long)a->time);
    if (a->wide)
        cuda_line(unit,
                  "static constexpr int QUERIES = M, KEYS = N, GRADIENT_KEYS = %d, SPLITS = %d, WARPGROUPS = %d;",
                  WIDE_GRADIENT_KEYS, a->splits, a->warpgroups);
    cuda_line(unit, "static constexpr i64 rows = %lld;",
              (long long)(a->shared.total * a->group.total * a->time));
    cuda_line(unit, "static constexpr bool causal = %s;",
              named_kernel_number(a->named, "causal") != 0 ? "true" : "false");
    cuda_line(unit, "static constexpr int window = %lld;",
              (long long)named_kernel_number(a->named, "window"));
    cuda_line(unit, "static constexpr float scale = (float)%.17g;", 1 / sqrt((double)a->keys));
    emit_side(a, Q, "q");
    emit_side(a, K, "k");
    emit_side(a, V, "v");
    emit_side(a, POSITION, "position");
    emit_side(a, a->gradient ? O : out, "o");
    emit_side(a, a->gradient ? LSE : out + 1, "lse");
    cuda_line(unit, "static constexpr bool turns = %s;", a->turns ? "true" : "false");
    cuda_line(unit, "static constexpr i64 turn_row = %lld, turn_pair = %lld;", (long long)a->turn_row,
              (long long)a->turn_pair);
    if (a->turns && !a->gradient) emit_side(a, out + 2, "turned");
    if (a->gradient) {
        emit_side(a, D_O, "d_o");
        emit_side(a, D_LSE, "d_lse");
        emit_side(a, out, "d_q");
        emit_side(a, out + 1, "d_k");
        emit_side(a, out + 2, "d_v");
    }
    if (a->warpgroups) emit_products(a);
    unit->indent--;
    cuda_line(unit, "};");
}

// ---- Functions ----

static const char *extent_text(const Attention *a, uint32_t bound, int64_t extent) {
    return bound == UINT32_MAX ? cuda_text(a->unit, "%lld", (long long)extent)
                               : cuda_text(a->unit, "(int)p%u[0]", bound);
}

static CudaPhase *begin(const Attention *a, const char *suffix, Tiles tiles) {
    CudaPhase *phase = cuda_begin_function(a->unit, suffix, THREADS);
    cuda_line(a->unit, "typedef S" CUDA_KEY_MARK " S;");
    cuda_line(a->unit, "const int time = %s, past = %s;", extent_text(a, a->time_bound, a->time),
              extent_text(a, a->past_bound, a->past_extent));
    phase->shared_bytes = shared_bytes(a, tiles);
    return phase;
}

// A unit beyond a bounded extent has nothing to do.
static void emit_unit(const Attention *a, const char *number) {
    cuda_line(a->unit, "const int unit = %s;", number);
    int64_t below = 1;
    for (int i = a->shared.count - 1; i >= 0; i--) {
        if (a->shared.bound[i] != UINT32_MAX)
            cuda_line(a->unit, "if (unit / %lld %% %lld >= p%u[0]) return;", (long long)below,
                      (long long)a->shared.extent[i], a->shared.bound[i]);
        below *= a->shared.extent[i];
    }
}

// `count` blocks for each of `units`, all along x, which takes as many as there are.
static void emit_blocks(const Attention *a, CudaPhase *phase, int64_t count, int64_t units) {
    phase->grid[0] = count * units;
    cuda_line(a->unit, "const int block = (int)blockIdx.x %% %lld, owner = (int)blockIdx.x / %lld;", (long long)count,
              (long long)count);
}

// Blocks of queries run from the last: under a causal mask it has the most keys.
static void emit_query_block(const Attention *a, CudaPhase *phase) {
    long long blocks = cuda_divide_up(a->time, a->tile_m), groups = a->group.total;
    emit_blocks(a, phase, blocks, a->shared.total * groups);
    emit_unit(a, cuda_text(a->unit, "owner / %lld", groups));
    cuda_line(a->unit, "const int group = owner %% %lld, first = (%lld - block) * S::M;", groups, blocks - 1);
    cuda_line(a->unit, "if (first >= time) return;");
}

// A warp for each query: of all units, groups and times.
static void emit_row(const Attention *a, CudaPhase *phase) {
    CudaUnit *unit = a->unit;
    int64_t groups = a->group.total, rows = a->shared.total * groups * a->time;
    phase->grid[0] = cuda_divide_up(rows, THREADS / 32);
    cuda_line(unit, "const i64 row = (i64)blockIdx.x * %d + threadIdx.x / 32;", THREADS / 32);
    cuda_line(unit, "const int at = (int)(row %% %lld), group = (int)(row / %lld %% %lld);",
              (long long)a->time, (long long)a->time, (long long)groups);
    cuda_line(unit, "if (row >= %lld || at >= time) return;", (long long)rows);
    emit_unit(a, cuda_text(unit, "(int)(row / %lld)", (long long)(a->time * groups)));
    cuda_line(unit, "(void)past;");
}

static const char *turn_text(const Attention *a) {
    return a->turns ? cuda_text(a->unit, "Turn{p%d, p%d}", a->cos, a->sin) : "Turn{}";
}

static bool emit_forward(CudaUnit *unit, bool turns) {
    Attention a;
    if (!read_shape(unit, false, turns, &a) || !choose_tiles(&a)) return false;
    emit_struct(&a);
    CudaPhase *phase = begin(&a, "", FORWARD);
    emit_query_block(&a, phase);
    phase->grid[2] = a.splits;
    int out = a.named->output_start;
    int64_t groups = a.group.total, rows = a.shared.total * groups * a.time;
    const char *parts = a.wide ? cuda_text(unit, ", (float *)workspace, ((i64)unit * %lld + group) * %lld",
                                           (long long)groups, (long long)a.time)
                               : "";
    const char *turned = turns ? cuda_text(unit, "p%d", out + 2) : "nullptr";
    cuda_line(unit, "attention_forward%s<S>(p0, p1, p2, p3, p%d, p%d, %s, %s, unit, group, first, time, past%s);",
              a.wide ? "_wide" : "", out, out + 1, turn_text(&a), turned, parts);
    cuda_close(unit);
    if (a.splits == 1) return true;
    unit->out->workspace_bytes = a.splits * rows * (a.features + 2) * 4;
    phase = begin(&a, "_join", NO_TILES);
    emit_row(&a, phase);
    cuda_line(unit, "attention_join<S>((float *)workspace, p%d, p%d, unit, group, at, row);", out, out + 1);
    cuda_close(unit);
    return true;
}

static bool emit_gradient(CudaUnit *unit, bool turns) {
    Attention a;
    if (!read_shape(unit, true, turns, &a) || !choose_tiles(&a)) return false;
    int out = a.named->output_start;
    int64_t groups = a.group.total, rows = a.shared.total * groups * a.time;
    emit_struct(&a);
    CudaPhase *phase = begin(&a, "_queries", GRADIENT_QUERIES);
    emit_query_block(&a, phase);
    cuda_line(unit,
              "attention_gradient_queries%s<S>(p0, p1, p2, p3, p4, p5, p6, p7, (float *)workspace, p%d, %s, unit, group, "
              "%lld, first, time, past);",
              a.wide ? "_wide" : "", out, turn_text(&a), (long long)groups);
    cuda_close(unit);
    phase = begin(&a, "_keys", GRADIENT_KEYS);
    int keys = a.wide ? WIDE_BLOCK_KEYS : a.tile_n;
    emit_blocks(&a, phase, cuda_divide_up(a.past_extent, keys), a.shared.total);
    emit_unit(&a, "owner");
    cuda_line(unit, "const int key = block * %d;", keys);
    cuda_line(unit, "if (key >= past) return;");
    cuda_line(unit,
              "attention_gradient_keys%s<S>(p0, p1, p2, p3, p5, p6, (const float *)workspace, p%d, p%d, %s, unit, "
              "%lld, key, time, past);",
              a.wide ? "_wide" : "", out + 1, out + 2, turn_text(&a), (long long)groups);
    cuda_close(unit);
    unit->out->workspace_bytes = rows * 4;
    return true;
}

bool cuda_attention_emit(CudaUnit *unit) { return emit_forward(unit, false); }
bool cuda_attention_turned_emit(CudaUnit *unit) { return emit_forward(unit, true); }
bool cuda_attention_gradient_emit(CudaUnit *unit) { return emit_gradient(unit, false); }
bool cuda_attention_gradient_turned_emit(CudaUnit *unit) { return emit_gradient(unit, true); }
