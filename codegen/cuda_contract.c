// Contractions: cuBLASLt's where the form fits (cuda_product.c), else a kernel of 64 x 64 tiles.
//
//   a, b: pieces of 16 (f32) or 32 (bf16) steps of k in shared memory, zero beyond the data
//   Tile<T, 64, 64>: sums in registers; both operands bf16: on tensor cores, else in f32
//   both operands matrices of bf16 in aligned rows: 128 x 64 sums out of asynchronous copies (product.cuh)
//   then the nest's other stages for each sum that exists
//
// Rows, columns, k and batch are each several loops walked as one, so any strides will do. Blocks stand for
// capacity: one whose rows lie beyond a bounded extent leaves at once.
#include "codegen/cuda_contract.h"

#include <string.h>

enum { TILE = 64, THREADS = 128 };
enum { WIDE_ROWS = 128, WIDE_BYTES = 2 * 2 * (128 + 64) * 64 };  // WideTile's

static CudaLoops take_loops(const Nest *nest, uint32_t mask, const Index *unit_along) {
    CudaLoops loops = {.extent = 1};
    int last = -1;  // contiguous in the result or, for k, in a: the fastest
    for (int loop = 0; loop < nest->loop_count; loop++)
        if ((mask >> loop & 1) && nest->loops[loop].bound_operand == UINT32_MAX &&
            access_stride(unit_along, loop) == 1)
            last = loop;
    for (int round = 0; round < 2; round++)
        for (int loop = 0; loop < nest->loop_count; loop++) {
            bool bounded = nest->loops[loop].bound_operand != UINT32_MAX;
            if (!(mask >> loop & 1) || loop == last || bounded == (round == 1)) continue;
            loops.loop[loops.count++] = loop;
        }
    if (last >= 0) loops.loop[loops.count++] = last;
    loops.extent = cuda_points(nest, mask);
    return loops;
}

static bool any_unit(const Nest *nest, uint32_t mask, const Index *index) {
    for (int loop = 0; loop < nest->loop_count; loop++)
        if ((mask >> loop & 1) && access_stride(index, loop) == 1) return true;
    return false;
}

// Whether some cast, or the load itself, leaves nothing but bf16 numbers.
static bool holds_bf16(const Nest *nest, uint32_t id) {
    const Formula *formula = &nest->formulas.items[id];
    if (formula->element == ELEMENT_BF16) return true;
    return formula->kind == FORMULA_PRIMITIVE && element_is_float(formula->element) &&
           holds_bf16(nest, formula->arguments[0]);
}

static bool recognise(CudaUnit *unit, const Nest *nest, CudaContraction *contraction) {
    Contraction found;
    if (!nest_contraction(nest, &found)) return false;
    const Formula *items = nest->formulas.items;
    for (int loop = 0; loop < nest->loop_count; loop++)
        contraction->bounded |= nest->loops[loop].bound_operand != UINT32_MAX;
    const Index *result = nest->stages[1].index;
    // Columns are what the result walks memory along.
    bool swap = any_unit(nest, found.row, result) && !any_unit(nest, found.column, result);
    contraction->original = unit->kernel->nest;
    contraction->nest = nest;
    const Formula *product = &items[nest->stages[0].formula];
    contraction->value_a = product->arguments[swap];
    contraction->value_b = product->arguments[!swap];
    contraction->a = &items[swap ? found.load_b : found.load_a];
    contraction->b = &items[swap ? found.load_a : found.load_b];
    contraction->half_a = holds_bf16(nest, contraction->value_a);
    contraction->half_b = holds_bf16(nest, contraction->value_b);
    contraction->batch = take_loops(nest, found.batch, result);
    contraction->row = take_loops(nest, swap ? found.column : found.row, result);
    contraction->column = take_loops(nest, swap ? found.row : found.column, result);
    contraction->k = take_loops(nest, found.reduced, contraction->a->index);
    return !access_may_miss(contraction->a) && !access_may_miss(contraction->b) &&
           product->element != ELEMENT_F64 && contraction->a->element != ELEMENT_F64 &&
           contraction->b->element != ELEMENT_F64 && contraction->batch.extent <= CUDA_GRID_LIMIT;
}

// Loads [64][step] of a or b into shared memory: `x` names its 64 loops.
static void emit_piece(CudaScope *scope, const CudaContraction *c, bool is_a, bool half, int step) {
    CudaUnit *unit = scope->unit;
    const CudaLoops *x = is_a ? &c->row : &c->column;
    const Formula *load = is_a ? c->a : c->b;
    const char *name = is_a ? "a" : "b", *first = is_a ? "first_row" : "first_column";
    // Neighbouring threads take what lies side by side: steps of k, or the 64.
    bool along_k = access_stride(load->index, c->k.loop[c->k.count - 1]) == 1;
    cuda_open(unit, "for (int i = threadIdx.x; i < %d; i += %d)", TILE * step, THREADS);
    if (along_k)
        cuda_line(unit, "const int x = i / %d, y = i %% %d;", step, step);
    else
        cuda_line(unit, "const int x = i %% %d, y = i / %d;", TILE, TILE);
    cuda_line(unit, "%s element = {};", half ? "bf16" : "float");
    CudaScope *inner = cuda_inner_scope(scope);
    cuda_open(unit, "if (%s + x < %s_end && k + y < k_end)", first, is_a ? "row" : "column");
    cuda_split_index(inner, cuda_text(unit, "(%s + x)", first), x->loop, x->count);
    cuda_split_index(inner, "(k + y)", c->k.loop, c->k.count);
    const char *test = "";
    for (int part = 0; part < 2; part++) {
        const CudaLoops *loops = part ? &c->k : x;
        for (int i = 1; i < loops->count; i++)
            if (c->nest->loops[loops->loop[i]].bound_operand != UINT32_MAX)
                test = cuda_text(unit, "%s%s < %s)",
                                 *test ? cuda_text(unit, "%.*s && ", (int)strlen(test) - 1, test) : "if (",
                                 inner->loop[loops->loop[i]], cuda_extent(inner, loops->loop[i]));
    }
    if (*test) cuda_open(unit, "%s", test);
    const char *value = cuda_formula(inner, is_a ? c->value_a : c->value_b);
    cuda_line(unit, "put(element, %s);", value);
    if (*test) cuda_close(unit);
    cuda_close(unit);
    cuda_line(unit, "%s[x * LEAD + y] = element;", name);
    cuda_close(unit);
}

// int NAME_end: the loops' iterations at run time as far as their first loop says.
static void emit_end(CudaScope *scope, const CudaContraction *c, const CudaLoops *loops, const char *name) {
    int64_t below = loops->count ? loops->extent / c->nest->loops[loops->loop[0]].dimension.extent : 1;
    const char *first = loops->count ? cuda_extent(scope, loops->loop[0]) : "1";
    cuda_line(scope->unit, below > 1 ? "const int %s_end = %s * %lld;" : "const int %s_end = %s;", name,
              first, (long long)below);
}

static void emit_results(CudaScope *scope, const CudaContraction *c) {
    CudaUnit *unit = scope->unit;
    const Nest *nest = c->nest;
    fprintf(unit->stream, "#pragma unroll\n");
    cuda_open(unit, "for (int i = 0; i < Sums::COUNT; i++)");
    cuda_line(unit, "const int row = first_row + Sums::row(i), column = first_column + Sums::column(i);");
    cuda_line(unit, "if (row >= row_end || column >= column_end) continue;");
    CudaScope *inner = cuda_inner_scope(scope);
    cuda_split_index(inner, "row", c->row.loop, c->row.count);
    cuda_split_index(inner, "column", c->column.loop, c->column.count);
    for (int part = 0; part < 2; part++) {
        const CudaLoops *loops = part ? &c->column : &c->row;
        for (int i = 1; i < loops->count; i++)
            if (nest->loops[loops->loop[i]].bound_operand != UINT32_MAX)
                cuda_line(unit, "if (%s >= %s) continue;", inner->loop[loops->loop[i]],
                          cuda_extent(inner, loops->loop[i]));
    }
    inner->stage[0] = nest->stages[0].element == ELEMENT_BF16 ? "round_bf16(sums.at[i])" : "sums.at[i]";
    for (int s = 1; s < nest->stage_count; s++) {
        const char *value = cuda_formula(inner, nest->stages[s].formula);
        cuda_note_place(unit, nest->stages[s].place);
        cuda_write(inner, &nest->stages[s], value);
    }
    cuda_close(unit);
}

// Sums += A B by wide tiles: operands are matrices.
static void emit_wide(CudaScope *scope, const CudaContraction *c, const CudaProduct *product) {
    CudaUnit *unit = scope->unit;
    const char *place[2];
    for (int side = 0; side < 2; side++) {
        const CudaPlace *from = side ? &product->b : &product->a;
        int64_t batch = side ? product->step_b : product->step_a;
        place[side] = from->operand == CUDA_WORKSPACE
                          ? cuda_text(unit, "(const bf16 *)workspace + %lldll", (long long)from->offset)
                          : cuda_text(unit, "p%d + %lldll", from->operand, (long long)from->offset);
        if (batch && c->batch.extent > 1)
            place[side] = cuda_text(unit, "%s + (int)blockIdx.z * %lldll", place[side], (long long)batch);
    }
    cuda_line(unit, "SHARED_MEMORY;");
    cuda_line(unit,
              "sums.multiply<%s, %s>((bf16 *)shared_memory, %s, %lld, %s, %lld, first_row, first_column, "
              "row_end, column_end, k_end);",
              product->turned_a ? "true" : "false", product->turned_b ? "true" : "false", place[0],
              (long long)product->lead_a, place[1], (long long)product->lead_b);
}

static void emit_steps(CudaScope *scope, const CudaContraction *c, bool half, int step) {
    CudaUnit *unit = scope->unit;
    cuda_line(unit, "constexpr int LEAD = Lead<%s>::of(%d);", half ? "bf16" : "float", step);
    cuda_line(unit, "__shared__ %s a[%d * LEAD], b[%d * LEAD];", half ? "__align__(16) bf16" : "float", TILE,
              TILE);
    cuda_open(unit, "for (int k = 0; k < k_end; k += %d)", step);
    emit_piece(scope, c, true, half, step);
    emit_piece(scope, c, false, half, step);
    cuda_line(unit, "__syncthreads();");
    cuda_line(unit, "sums.multiply<false, false>(a, LEAD, b, LEAD, %d);", step);
    cuda_line(unit, "__syncthreads();");
    cuda_close(unit);
}

static bool emit_tiles(CudaUnit *unit, const CudaContraction *c) {
    const Nest *nest = c->nest;
    CudaProduct product = {0};
    bool half = c->half_a && c->half_b, wide = cuda_wide_operands(unit, c, &product);
    int step = half ? 32 : 16, rows = wide ? WIDE_ROWS : TILE;
    if (c->row.extent > INT32_MAX / 2 || c->column.extent > INT32_MAX / 2 || c->k.extent > INT32_MAX / 2)
        return cuda_fail(unit, "a contraction of 2^30 rows, columns or steps");
    CudaPhase *phase = cuda_begin_function(unit, wide ? "_tiles" : "", THREADS);
    phase->grid[0] = cuda_divide_up(c->column.extent, TILE);
    phase->grid[1] = cuda_divide_up(c->row.extent, rows);
    phase->shared_bytes = wide ? WIDE_BYTES : 0;
    phase->grid[2] = c->batch.extent;
    CudaScope *scope = cuda_scope(unit, c->original, nest, analyse_nest(unit->arena, nest));
    cuda_note_place(unit, nest->stages[0].place);
    cuda_line(unit, wide ? "typedef WideTile Sums;" : "typedef Tile<%s, %d, %d> Sums;",
              half ? "bf16" : "float", TILE, TILE);
    cuda_declare_bounds(scope);
    cuda_split_index(scope, "(int)blockIdx.z", c->batch.loop, c->batch.count);
    for (int i = 0; i < c->batch.count; i++)
        if (nest->loops[c->batch.loop[i]].bound_operand != UINT32_MAX)
            cuda_line(unit, "if (%s >= %s) return;", scope->loop[c->batch.loop[i]],
                      cuda_extent(scope, c->batch.loop[i]));
    emit_end(scope, c, &c->row, "row");
    emit_end(scope, c, &c->column, "column");
    emit_end(scope, c, &c->k, "k");
    cuda_line(unit, "const int first_row = (int)blockIdx.y * %d, first_column = (int)blockIdx.x * %d;", rows,
              TILE);
    cuda_line(unit, "if (first_row >= row_end || first_column >= column_end) return;");
    cuda_line(unit, "Sums sums;");
    if (wide)
        emit_wide(scope, c, &product);
    else
        emit_steps(scope, c, half, step);
    emit_results(scope, c);
    cuda_close(unit);
    return true;
}

bool cuda_contract_emit(CudaUnit *unit, const Nest *nest, bool *taken) {
    CudaContraction contraction = {0};
    // One row, a token's: the weights are read once, like any sum's, by as many blocks as fill the GPU.
    *taken = recognise(unit, nest, &contraction) && contraction.batch.extent * contraction.row.extent > 1;
    if (!*taken) return true;
    if (unit->products != PRODUCTS_NONE && cuda_product_emit(unit, &contraction)) return !unit->failure;
    return emit_tiles(unit, &contraction);
}
