// Contractions as products for cuBLASLt.
//
//   store C { sum }                              ->  D = A B
//   store C { cast(add(sum, residual[m, n])) }   ->  D = A B + C
//   store C { add(sum, bias[n]) }                ->  D = A B + bias
//   add C { 0.5 sum }                            ->  C = 0.5 A B + C
//   store C { gelu(e = add(sum, bias[n])) },
//     store D { e }                              ->  C = gelu(A B + bias), D = A B + bias
//   store C { e = add(sum, r) }, store D { f(e) } ->  C = A B + R, then a kernel for the other stores
//   anything else                                ->  workspace = A B, then a kernel for the other stages
//   an operand that is rounded as it is read, or
//   walked with several strides                  ->  a kernel copies it into the workspace before all this
//
// A weight, f32, is so rounded once for many products: launches share the copy (packed_key). What the other
// stages round is bf16 in the workspace already.
// No extent may vary.
#include <string.h>

#include "base/hash.h"
#include "codegen/cuda_product.h"

// Whether a value is a load of `element`, cast from float to float.
static bool casts_of_load(const Nest *nest, uint32_t id, Element element) {
    const Formula *formula = &nest->formulas.items[id];
    if (formula->kind == FORMULA_LOAD) return formula->element == element;
    return formula->kind == FORMULA_PRIMITIVE && formula->primitive == PRIMITIVE_cast &&
           (formula->element == ELEMENT_F32 || formula->element == ELEMENT_BF16) &&
           casts_of_load(nest, formula->arguments[0], element);
}

// Whether the library can read an operand, as it lies or from a copy.
static bool is_readable(const CudaContraction *c, bool is_a) {
    const Formula *load = is_a ? c->a : c->b;
    return (load->element == ELEMENT_F32 || load->element == ELEMENT_BF16) &&
           casts_of_load(c->nest, is_a ? c->value_a : c->value_b, load->element);
}

// Operands that the library cannot read as they lie are copied: rounded, or walked with several strides.
typedef struct Copies {
    bool a, b;
} Copies;

// The fastest loop of a copy is the one along which the operand lies side by side.
static bool is_copied_turned(const CudaLoops *columns, const CudaLoops *rows, const Index *index) {
    bool along_columns = columns->count && access_stride(index, columns->loop[columns->count - 1]) == 1;
    return !along_columns && rows->count && access_stride(index, rows->loop[rows->count - 1]) == 1;
}

static bool describe_operands(const CudaContraction *c, CudaProduct *product, Copies *copies) {
    const Nest *nest = c->nest;
    const Index *a = c->a->index, *b = c->b->index;
    Element element = c->half_a && c->half_b ? ELEMENT_BF16 : ELEMENT_F32;
    copies->a = !cuda_as_matrix(cuda_walk(nest, &c->row, a), cuda_walk(nest, &c->k, a), cuda_walk(nest, &c->batch, a),
                                &c->row, &c->k, &product->turned_a, &product->lead_a, &product->step_a) ||
                c->a->element != element || c->half_a != (element == ELEMENT_BF16);
    copies->b = !cuda_as_matrix(cuda_walk(nest, &c->k, b), cuda_walk(nest, &c->column, b), cuda_walk(nest, &c->batch, b),
                                &c->k, &c->column, &product->turned_b, &product->lead_b, &product->step_b) ||
                c->b->element != element || c->half_b != (element == ELEMENT_BF16);
    if (copies->a) product->turned_a = is_copied_turned(&c->k, &c->row, a);
    if (copies->b) product->turned_b = is_copied_turned(&c->column, &c->k, b);
    product->a = (CudaPlace){(int32_t)c->a->operand, a[0].affine.offset};
    product->b = (CudaPlace){(int32_t)c->b->operand, b[0].affine.offset};
    product->element_ab = element;
    product->m = c->row.extent;
    product->n = c->column.extent;
    product->k = c->k.extent;
    product->batch = c->batch.extent;
    product->alpha = 1;
    product->c = product->bias = (CudaPlace){.operand = CUDA_NONE};
    return is_readable(c, true) && is_readable(c, false);
}

// ---- Kernels before and behind it ----

enum { COPY_BLOCK = 256, COPY_WIDE = 4, PART_ALIGNMENT = 256 };

static int64_t add_workspace(CudaUnit *unit, int64_t bytes) {
    int64_t at = unit->out->workspace_bytes;
    unit->out->workspace_bytes = cuda_divide_up(at + bytes, PART_ALIGNMENT) * PART_ALIGNMENT;
    return at;
}

// Copies an operand into the workspace, its loops in the order of the product, a few elements a thread.
static void add_copy(CudaUnit *unit, const CudaContraction *c, bool is_a, CudaProduct *product) {
    const Formula *load = is_a ? c->a : c->b;
    const Index *index = load->index;
    bool half = is_a ? c->half_a : c->half_b, turned = is_a ? product->turned_a : product->turned_b;
    const CudaLoops *parts[] = {&c->batch, is_a ? &c->row : &c->k, is_a ? &c->k : &c->column};
    CudaPlace *place = is_a ? &product->a : &product->b;
    if (turned) {
        const CudaLoops *swap = parts[1];
        parts[1] = parts[2], parts[2] = swap;
    }
    bool batched = false;
    for (int i = 0; i < c->batch.count; i++) batched |= access_stride(index, c->batch.loop[i]) != 0;
    int64_t below = 1,
            alignment = place->offset | unit->alignment[load->operand] / element_bytes(load->element);
    uint64_t key = hash_word(hash_word(HASH_START, (uint64_t)load->element << 8 | product->element_ab),
                             (uint64_t)place->offset);
    const char *from = cuda_text(unit, "p%u + %lldll", load->operand, (long long)place->offset);
    bool fastest = true, dense = false;
    for (int part = 2; part >= !batched; part--)
        for (int i = parts[part]->count - 1; i >= 0; i--) {
            int loop = parts[part]->loop[i];
            int64_t extent = c->nest->loops[loop].dimension.extent, stride = access_stride(index, loop);
            from = cuda_text(unit, "%s + i / %lld %% %lld * %lldll", from, (long long)below,
                             (long long)extent, (long long)stride);
            key = hash_word(hash_word(key, (uint64_t)extent), (uint64_t)stride);
            if (fastest)
                alignment |= extent, dense = stride == 1;
            else
                alignment |= stride;
            fastest = false;
            below *= extent;
        }
    int wide = dense && alignment % COPY_WIDE == 0 ? COPY_WIDE : 1;
    int64_t at = add_workspace(unit, below * element_bytes(product->element_ab));
    CudaPhase *phase = cuda_begin_function(unit, is_a ? "_a" : "_b", COPY_BLOCK);
    phase->grid[0] = cuda_divide_up(below, COPY_BLOCK * wide);
    const char *type = below + COPY_BLOCK * wide > INT32_MAX ? "i64" : "int";
    cuda_note_place(unit, load->place);
    cuda_line(unit, "const %s i = ((%s)blockIdx.x * %d + (int)threadIdx.x) * %d;", type, type, COPY_BLOCK,
              wide);
    cuda_line(unit, "if (i >= %lld) return;", (long long)below);
    cuda_line(unit, "const auto x = load_pack<%d>(%s);", wide, from);
    cuda_line(unit, "pack<%s, %d> y;", cuda_memory_type(product->element_ab), wide);
    fprintf(unit->stream, "#pragma unroll\n");
    cuda_line(unit, "for (int e = 0; e < %d; e++) put(y.at[e], %s(value_of(x.at[e])));", wide,
              half ? "round_bf16" : "");
    cuda_line(unit, "store_pack((%s *)(workspace + %lldll) + i, y);", cuda_memory_type(product->element_ab),
              (long long)at);
    cuda_close(unit);
    if (unit->out->phase_count == 1) {
        unit->out->packed_key = key;
        unit->out->packed_operand = (int32_t)load->operand;
    }
    *place = (CudaPlace){CUDA_WORKSPACE, at / element_bytes(product->element_ab)};
    *(is_a ? &product->lead_a : &product->lead_b) = parts[2]->extent;
    *(is_a ? &product->step_a : &product->step_b) = batched ? parts[1]->extent * parts[2]->extent : 0;
}

// Whether stages behind the product use its sums rounded to bf16 alone.
static bool rounds_sums(const Nest *nest) {
    bool rounds = true;
    for (int s = 1; s < nest->stage_count; s++)
        rounds &= nest->formulas.items[nest->stages[s].formula].kind != FORMULA_STAGE;
    for (size_t i = 0; i < nest->formulas.count; i++) {
        const Formula *formula = &nest->formulas.items[i];
        if (formula->kind != FORMULA_PRIMITIVE) continue;
        for (int a = 0; a < primitive_arguments(formula->primitive); a++)
            if (nest->formulas.items[formula->arguments[a]].kind == FORMULA_STAGE)
                rounds &= formula->primitive == PRIMITIVE_cast && formula->element == ELEMENT_BF16;
    }
    return rounds || nest->stages[0].element == ELEMENT_BF16;
}

static void put_sums(CudaUnit *unit, Element element, CudaProduct *product) {
    int64_t bytes = product->batch * product->m * product->n * element_bytes(element);
    cuda_product_use_workspace(product, add_workspace(unit, bytes), element);
}

static void add_epilogue_kernel(CudaUnit *unit, const CudaContraction *c, const CudaProduct *product) {
    int spread[LOOP_MAX], count = 0;
    const CudaLoops *parts[] = {&c->batch, &c->row, &c->column};
    for (int part = 0; part < 3; part++)
        for (int i = 0; i < parts[part]->count; i++) spread[count++] = parts[part]->loop[i];
    CudaPlan plan = cuda_plan_epilogue(unit, c->original, c->nest, spread, count);
    plan.sums = cuda_text(unit, "((const %s *)workspace + %lldll)", cuda_memory_type(product->element_d),
                          (long long)product->d.offset);
    cuda_emit_function(unit, &plan, CUDA_WHOLE, "_epilogue");
}

// Whether formulas that the rest needs use the sum otherwise than by `known`.
static bool uses_sum(const Nest *nest, uint32_t id, uint32_t known) {
    const Formula *formula = &nest->formulas.items[id];
    if (id == known) return false;
    if (formula->kind == FORMULA_STAGE) return true;
    for (int a = 0; formula->kind == FORMULA_PRIMITIVE && a < primitive_arguments(formula->primitive); a++)
        if (uses_sum(nest, formula->arguments[a], known)) return true;
    return false;
}

// What stands behind the first store, where that leaves all that it needs of the sum: a nest that reads it.
static const Nest *rest_of(CudaUnit *unit, const Nest *nest) {
    const Stage *store = &nest->stages[1];
    const NestOperand *operand = &nest->operands[store->operand];
    if (store->kind != STAGE_STORE || nest->formulas.items[store->formula].element != operand->element)
        return NULL;
    for (int s = 2; s < nest->stage_count; s++)
        if (uses_sum(nest, nest->stages[s].formula, store->formula)) return NULL;
    Nest *rest = ARENA_NEW(unit->arena, Nest);
    *rest = *nest;
    rest->formulas.items = ARENA_ARRAY(unit->arena, Formula, nest->formulas.count);
    memcpy(rest->formulas.items, nest->formulas.items, sizeof *nest->formulas.items * nest->formulas.count);
    Formula *value = &rest->formulas.items[store->formula];
    *value = (Formula){.kind = FORMULA_LOAD,
                       .element = operand->element,
                       .operand = store->operand,
                       .index = store->index,
                       .place = value->place};
    rest->operands[store->operand].reads = true;
    rest->stage_count = nest->stage_count - 2;
    memmove(rest->stages, nest->stages + 2, sizeof *nest->stages * (size_t)rest->stage_count);
    return rest;
}

// A result whose columns are several loops, a weight of every expert: the slowest of them becomes a batch.
static bool as_batches(const CudaContraction *c, CudaContraction *batched) {
    *batched = *c;
    if (c->batch.count || c->column.count < 2) return false;
    int loop = c->column.loop[0];
    int64_t extent = c->nest->loops[loop].dimension.extent;
    batched->batch = (CudaLoops){.loop = {loop}, .count = 1, .extent = extent};
    batched->column.count--;
    batched->column.extent /= extent;
    memmove(batched->column.loop, c->column.loop + 1, sizeof *c->column.loop * (size_t)batched->column.count);
    return true;
}

bool cuda_product_emit(CudaUnit *unit, const CudaContraction *contraction) {
    CudaProduct product = {0}, other = {0};
    CudaContraction batched;
    Copies copies, other_copies;
    if (contraction->bounded || !describe_operands(contraction, &product, &copies)) return false;
    bool fused = unit->products == PRODUCTS_FUSED, active = fused && cuda_product_describe_activation(unit, contraction, &product);
    bool first = active || (fused && cuda_product_describe_epilogue(unit, contraction, &product));
    if (fused && !first && as_batches(contraction, &batched) && describe_operands(&batched, &other, &other_copies) &&
        cuda_product_describe_epilogue(unit, &batched, &other)) {
        first = true;
        contraction = &batched;
        product = other;
        copies = other_copies;
    }
    if (copies.b) add_copy(unit, contraction, false, &product);
    if (copies.a) add_copy(unit, contraction, true, &product);
    // Parts of sums are added up in f32 and rounded once, by a kernel.
    bool exact = contraction->nest->stages[0].element == ELEMENT_F32 && cuda_product_wants_f32(unit, &product);
    if (exact && product.element_d == ELEMENT_BF16) first = false;
    bool whole = first && (active || contraction->nest->stage_count == 2);
    const Nest *rest = first && !whole ? rest_of(unit, contraction->nest) : NULL;
    bool half = product.element_ab == ELEMENT_BF16 && rounds_sums(contraction->nest) && !exact;
    if (!whole && !rest) put_sums(unit, half ? ELEMENT_BF16 : ELEMENT_F32, &product);
    cuda_product_add_phases(unit, &product);
    if (rest) {
        CudaPlan plan = cuda_plan(unit, contraction->original, rest);
        cuda_emit_function(unit, &plan, CUDA_WHOLE, "_epilogue");
    } else if (!whole) {
        add_epilogue_kernel(unit, contraction, &product);
    }
    // Launches share the copy where nothing else differs: the workspace is theirs as a whole.
    if (unit->out->packed_key)
        unit->out->packed_key = hash_word(unit->out->packed_key, (uint64_t)unit->out->workspace_bytes) | 1;
    return true;
}

static bool is_bounded(const Nest *nest, const CudaLoops *loops) {
    for (int i = 0; i < loops->count; i++)
        if (nest->loops[loops->loop[i]].bound_operand != UINT32_MAX) return true;
    return false;
}

// Whether only the slowest of several loops varies: then they walk as one up to their end.
static bool ends_once(const Nest *nest, const CudaLoops *loops) {
    for (int i = 1; i < loops->count; i++)
        if (nest->loops[loops->loop[i]].bound_operand != UINT32_MAX) return false;
    return true;
}

static bool has_wide_rows(CudaUnit *unit, const CudaContraction *c, bool is_a, bool copied,
                          const CudaProduct *p) {
    bool turned = is_a ? p->turned_a : p->turned_b;
    const CudaLoops *rows = is_a ? &c->row : &c->k, *columns = is_a ? &c->k : &c->column;
    if (turned) {
        const CudaLoops *swap = rows;
        rows = columns, columns = swap;
    }
    if (columns == &c->k && is_bounded(c->nest, columns))
        return false;  // what lies behind the end is no zero
    if (copied)        // of what does not vary: a weight
        return columns->extent % 8 == 0 && !is_bounded(c->nest, rows) && !is_bounded(c->nest, columns);
    const CudaPlace *place = is_a ? &p->a : &p->b;
    int64_t parts = (is_a ? p->lead_a : p->lead_b) | (is_a ? p->step_a : p->step_b) | place->offset |
                    (columns == &c->k ? columns->extent : 0);
    return parts % 8 == 0 && unit->alignment[place->operand] % 16 == 0;
}

bool cuda_wide_operands(CudaUnit *unit, const CudaContraction *c, CudaProduct *product) {
    Copies copies;
    if (!c->half_a || !c->half_b || is_bounded(c->nest, &c->batch) || !ends_once(c->nest, &c->row) ||
        !ends_once(c->nest, &c->column) || !ends_once(c->nest, &c->k) ||
        !describe_operands(c, product, &copies) || !has_wide_rows(unit, c, true, copies.a, product) ||
        !has_wide_rows(unit, c, false, copies.b, product))
        return false;
    if (copies.b) add_copy(unit, c, false, product);
    if (copies.a) add_copy(unit, c, true, product);
    if (unit->out->packed_key)
        unit->out->packed_key = hash_word(unit->out->packed_key, (uint64_t)unit->out->workspace_bytes) | 1;
    return true;
}
