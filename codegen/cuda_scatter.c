// Sums into gathered rows, without atomics: the gradient of an embedding.
//
//   for token (in order): p0[p1[token], embed] += ...      ->   a block for each token
//
// A block whose row was met by an earlier token has nothing to do; any other owns its row and adds all tokens
// that meet it, in ascending order, so that the bits are those of one thread. 256 indices are compared at
// once.
#include "codegen/cuda_plan.h"

enum { BLOCK = 256, OWNER_STEP = 1024 };  // tokens that are compared between two meetings of the block

typedef struct Scatter {
    CudaUnit *unit;
    const Nest *nest;
    const Stage *stage;
    int sequential[LOOP_MAX], sequential_count;  // the tokens
    int spread[LOOP_MAX], spread_count;          // the elements of a row
    int gathered;                                // dimension of the index
} Scatter;

static bool recognise(CudaUnit *unit, Scatter *scatter) {
    const Nest *nest = scatter->nest;
    const Stage *stage = &nest->stages[0];
    if (nest->stage_count != 1 || stage->kind != STAGE_ADD || stage->inner) return false;
    uint32_t sequential = 0;
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (nest->parallel >> loop & 1) {
            scatter->spread[scatter->spread_count++] = loop;
        } else {
            scatter->sequential[scatter->sequential_count++] = loop;
            sequential |= 1u << loop;
        }
    }
    const NestAnalysis *analysis = analyse_nest(unit->arena, nest);
    int count = 0;
    for (int d = 1; d < nest->operands[stage->operand].rank; d++) {
        if (stage->index[d].gathered == FORMULA_NONE) continue;
        if (analysis->loops[stage->index[d].gathered] & ~sequential) return false;
        scatter->gathered = d;
        count++;
    }
    // Two tokens meet where their index is the same, and nowhere else.
    bool apart = !(affine_loops(&stage->index[0].affine) & sequential);
    bool reads_itself = analysis->operands[stage->formula] >> stage->operand & 1;
    scatter->stage = stage;
    return count == 1 && apart && !reads_itself && scatter->sequential_count &&
           cuda_points(nest, sequential) < INT32_MAX;
}

// Declares bool `name`: whether token `number` exists and meets the row.
static void emit_meets(const Scatter *scatter, const CudaScope *scope, const char *number, const char *limit,
                       const char *name) {
    CudaUnit *unit = scatter->unit;
    cuda_line(unit, "bool %s = false;", name);
    cuda_open(unit, "if (%s < %s)", number, limit);
    CudaScope *inner = cuda_inner_scope((CudaScope *)scope);
    cuda_split_index(inner, number, scatter->sequential, scatter->sequential_count);
    const char *test = "";
    for (int i = 1; i < scatter->sequential_count; i++)
        if (scatter->nest->loops[scatter->sequential[i]].bound_operand != UINT32_MAX)
            test = cuda_text(unit, "%s%s < %s && ", test, inner->loop[scatter->sequential[i]],
                             cuda_extent(inner, scatter->sequential[i]));
    cuda_line(unit, "%s = %s%s == row;", name, test,
              cuda_formula(inner, scatter->stage->index[scatter->gathered].gathered));
    cuda_close(unit);
}

static const char *token_count(CudaScope *scope, const Scatter *scatter) {
    int64_t below = 1;
    for (int i = 1; i < scatter->sequential_count; i++)
        below *= scatter->nest->loops[scatter->sequential[i]].dimension.extent;
    const char *first = cuda_extent(scope, scatter->sequential[0]);
    return below == 1 ? first : cuda_text(scatter->unit, "%s * %lld", first, (long long)below);
}

static void emit_owner_test(const Scatter *scatter, CudaScope *scope) {
    CudaUnit *unit = scatter->unit;
    // Most tokens of a text were met not long before: the search stops early.
    cuda_open(unit, "for (int start = token; start > 0; start -= %d)", OWNER_STEP);
    cuda_line(unit, "bool met = false;  // by an earlier token");
    cuda_open(unit, "for (int j = start - 1 - (int)threadIdx.x; j >= 0 && j >= start - %d; j -= %d)",
              OWNER_STEP, BLOCK);
    emit_meets(scatter, scope, "j", "token", "same");
    cuda_line(unit, "met = met || same;");
    cuda_close(unit);
    cuda_line(unit, "if (__syncthreads_or(met)) return;");
    cuda_close(unit);
}

static void emit_sums(const Scatter *scatter, CudaScope *scope, int64_t points) {
    CudaUnit *unit = scatter->unit;
    const char *type = cuda_register_type(scatter->stage->element);
    cuda_line(unit, "const int column = (int)blockIdx.y * %d + (int)threadIdx.x;", BLOCK);
    cuda_line(unit, "const int point = column < %lld ? column : %lld;", (long long)points,
              (long long)points - 1);
    CudaScope *row = cuda_inner_scope(scope);
    cuda_split_index(row, "point", scatter->spread, scatter->spread_count);
    const char *live = "";
    for (int i = 0; i < scatter->spread_count; i++)
        if (scatter->nest->loops[scatter->spread[i]].bound_operand != UINT32_MAX)
            live = cuda_text(unit, "%s && %s < %s", live, row->loop[scatter->spread[i]],
                             cuda_extent(row, scatter->spread[i]));
    cuda_line(unit, "const bool live = column < %lld%s;", (long long)points, live);
    row->value[scatter->stage->index[scatter->gathered].gathered] = "row";
    const char *element = cuda_element(row, scatter->stage->operand, scatter->stage->index);
    cuda_line(unit, "%s sum = live ? value_of(%s) : 0;", type, element);
    cuda_line(unit, "__shared__ u32 meets[%d];", BLOCK / 32);
    cuda_open(unit, "for (int start = token; start < tokens; start += %d)", BLOCK);
    cuda_line(unit, "const int j = start + (int)threadIdx.x;");
    emit_meets(scatter, scope, "j", "tokens", "same");
    cuda_line(unit, "const u32 found = __ballot_sync(ALL_LANES, same);");
    cuda_line(unit, "if (threadIdx.x %% 32 == 0) meets[threadIdx.x / 32] = found;");
    cuda_line(unit, "__syncthreads();");
    cuda_open(unit, "for (int word = 0; live && word < %d; word++)", BLOCK / 32);
    cuda_open(unit, "for (u32 bits = meets[word]; bits; bits &= bits - 1)");
    cuda_line(unit, "const int other = start + word * 32 + __ffs((int)bits) - 1;");
    CudaScope *token = cuda_inner_scope(row);
    token->value[scatter->stage->index[scatter->gathered].gathered] = NULL;
    cuda_split_index(token, "other", scatter->sequential, scatter->sequential_count);
    const char *round = scatter->stage->element == ELEMENT_BF16 ? "round_bf16" : "";
    const char *value = cuda_formula(token, scatter->stage->formula);
    cuda_line(unit, "sum = %s(sum + %s);", round, value);
    cuda_close(unit);
    cuda_close(unit);
    cuda_line(unit, "__syncthreads();");
    cuda_close(unit);
    cuda_line(unit, "if (live) put(%s, sum);", element);
}

bool cuda_scatter_emit(CudaUnit *unit, const Nest *nest, bool *taken) {
    Scatter scatter = {.unit = unit, .nest = nest};
    *taken = recognise(unit, &scatter);
    if (!*taken) return true;
    int64_t points = 1, tokens = 1;
    for (int i = 0; i < scatter.spread_count; i++) points *= nest->loops[scatter.spread[i]].dimension.extent;
    for (int i = 0; i < scatter.sequential_count; i++)
        tokens *= nest->loops[scatter.sequential[i]].dimension.extent;
    CudaPhase *phase = cuda_begin_function(unit, "", BLOCK);
    phase->grid[0] = tokens;
    phase->grid[1] = cuda_divide_up(points, BLOCK);
    CudaScope *scope = cuda_scope(unit, unit->kernel->nest, nest, analyse_nest(unit->arena, nest));
    cuda_declare_bounds(scope);
    cuda_note_place(unit, scatter.stage->place);
    cuda_line(unit, "const int token = (int)blockIdx.x, tokens = %s;", token_count(scope, &scatter));
    cuda_line(unit, "if (token >= tokens) return;");
    CudaScope *own = cuda_inner_scope(scope);
    cuda_split_index(own, "token", scatter.sequential, scatter.sequential_count);
    for (int i = 1; i < scatter.sequential_count; i++)
        if (nest->loops[scatter.sequential[i]].bound_operand != UINT32_MAX)
            cuda_line(unit, "if (%s >= %s) return;", own->loop[scatter.sequential[i]],
                      cuda_extent(own, scatter.sequential[i]));
    cuda_line(unit, "const auto row = %s;",
              cuda_formula(own, scatter.stage->index[scatter.gathered].gathered));
    emit_owner_test(&scatter, scope);
    emit_sums(&scatter, scope, points);
    cuda_close(unit);
    return true;
}
