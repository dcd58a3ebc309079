// Attention of bf16 whose rows are aligned to 16 bytes: tiles are copied while others are multiplied, and the
// weights go from one product to the next in registers. S as in attention.cuh, and
//   QUERIES, KEYS            of a block of the forward pass and of the gradient of queries: 64 R, and what
//                            streams past
//   GRADIENT_KEYS            keys that stream past the gradient of queries
//   WARPGROUPS               whether products are those of warpgroup.cuh
// The gradient of keys has 64 keys in a block, 64 queries stream past.
// Scores are kept without `scale`; weights are powers of two.

template <class S> struct WideSizes {
    static constexpr int STEP = S::WARPGROUPS ? 64 : 16;
    static constexpr int K = (S::keys + STEP - 1) / STEP * STEP, F = (S::features + STEP - 1) / STEP * STEP;
    static constexpr int PITCH_K = pitch_of(K), PITCH_F = pitch_of(F);
};

template <int ROWS> struct PermutedRows {
    static __device__ __forceinline__ int at(int row, int column) { return place_of<ROWS>(row, column / 8) + column % 8; }
};

DEVICE constexpr float log2_e() { return 1.4426950408889634f; }

// The least and the largest of the block's queries, those beyond `time` left out.
template <class S, int R> struct WideQueries {
    int places[R][2];  // positions of this thread's rows; -1 beyond `time`
    int least, most;
    __device__ __forceinline__ void load(const i32 *position, int first, int time) {
        __shared__ int ends[TILE_THREADS / 32][2];
        int low = 0x7fffffff, high = -1;
#pragma unroll
        for (int i = 0; i < R * 2; i++) {
            const int at = first + row(i / 2, i % 2);
            places[i / 2][i % 2] = at < time ? position[at * S::position_time] : -1;
            if (at < time) low = smaller(low, places[i / 2][i % 2]), high = larger(high, places[i / 2][i % 2]);
        }
        low = -fold_warp<MaxInteger>(-low);
        high = fold_warp<MaxInteger>(high);
        if (threadIdx.x % 32 == 0) ends[threadIdx.x / 32][0] = low, ends[threadIdx.x / 32][1] = high;
        __syncthreads();
        least = ends[0][0], most = ends[0][1];
        for (int i = 1; i < TILE_THREADS / 32; i++) least = smaller(least, ends[i][0]), most = larger(most, ends[i][1]);
    }
    static __device__ __forceinline__ int row(int r, int half) { return 64 * r + warp_row() + 8 * half + threadIdx.x % 32 / 4; }
    __device__ __forceinline__ void visible_keys(int past, int step, int &begin, int &end) const {
        begin = 0;
        end = S::causal ? smaller(past, most + 1) : past;
        if (S::window > 0) begin = larger(0, least - S::window + 1) / step * step;
    }
    // Whether every query sees all of keys [key, key + count).
    __device__ __forceinline__ bool see_all(int key, int count, int end) const {
        return key + count <= end && (!S::causal || key + count - 1 <= least) && (S::window == 0 || most - key < S::window);
    }
    template <int C> __device__ __forceinline__ void hide(float (&scores)[R][C][4], int key, int end) const {
#pragma unroll
        for (int i = 0; i < R * C * 4; i++) {
            const int at = key + i / 4 % C * 8 + threadIdx.x % 4 * 2 + i % 2;
            if (at >= end || !is_visible<S>(places[i / 4 / C][i % 4 / 2], at)) scores[i / 4 / C][i / 4 % C][i % 4] = -infinity();
        }
    }
};

// The gradient of queries or keys of a block of ROWS rows. `rows` is the block's shared memory, in use until here: what is turned back goes through it, rounded as it would be without.
template <class S, int ROWS, int R, int F>
DEVICE void store_gradient_wide(const float (&sums)[R][F][4], bf16 *rows, Turn turn, bf16 *to, i64 stride, int first, int limit) {
    float factor[R][2];
#pragma unroll
    for (int i = 0; i < R * 2; i++) factor[i / 2][i % 2] = S::scale;
    if constexpr (S::turns) {
        constexpr int LEAD = WideSizes<S>::K + 8;  // eight rows fall into different banks
        __syncthreads();
        store_sums(rows, LEAD, sums, factor, 0, ROWS, S::keys);
        __syncthreads();
        turn_rows<S, StraightRows<LEAD>, 4, true>(rows, ROWS, turn, false, to, stride, 1, first, limit);
    } else {
        store_sums(to, stride, sums, factor, first, limit, S::keys);
    }
}

DEVICE float fold_quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
DEVICE float fold_quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Where blocks are too few to fill a GPU, SPLITS of them share the keys of a block of queries: each leaves the
// largest score, the total and the sums of its part, and attention_join adds the parts up in order.
template <class S> struct WidePart {
    static constexpr int STEP = S::features + 2;
    // Of query `row` of all units, groups and times.
    static __device__ __forceinline__ float *of(float *parts, int split, i64 row) { return parts + (split * S::rows + row) * STEP; }
};

template <class S>
DEVICE void attention_forward_wide(const bf16 *q, const bf16 *k, const bf16 *v, const i32 *position, bf16 *o, float *lse, Turn turn,
                                   bf16 *turned, int unit, int group, int first, int time, int past, float *parts, i64 row) {
    typedef WideSizes<S> Z;
    constexpr int R = S::QUERIES / 64, C = S::KEYS / 8, F = Z::F / 8;
    constexpr float scale = S::scale * log2_e();
    SHARED_MEMORY;
    bf16 *qs = first_tile<S>(shared_memory), *ks = qs + S::QUERIES * Z::PITCH_K, *vs = ks + 2 * S::KEYS * Z::PITCH_K;
    k += S::k(unit, group), v += S::v(unit, group);
    copy_rows<S::QUERIES, Z::PITCH_K>(qs, q + S::q(unit, group), S::q_time, first, time, S::keys);
    WideQueries<S, R> queries;
    int begin, end;
    queries.load(position, first, time);
    queries.visible_keys(past, S::KEYS, begin, end);
    if (S::SPLITS > 1) {
        const int share = (larger(0, end - begin) + S::SPLITS * S::KEYS - 1) / (S::SPLITS * S::KEYS) * S::KEYS;
        begin += (int)blockIdx.z * share;
        end = smaller(end, begin + share);
    }
    copy_rows<S::KEYS, Z::PITCH_K>(ks, k, S::k_past, begin, end, S::keys);
    copy_rows<S::KEYS, Z::PITCH_F>(vs, v, S::v_past, begin, end, S::features);
    if constexpr (S::turns) {
        wait_for_copies<S>();
        __syncthreads();
        turn_rows<S, PermutedRows<S::QUERIES>, 4, false>(qs, S::QUERIES, turn, true,
                                                         blockIdx.z == 0 ? turned + S::turned(unit, group) : nullptr,
                                                         S::turned_time, 1, first, time);
    }
    float sums[R][F][4], most[R][2], total[R][2];
    clear_sums(sums);
#pragma unroll
    for (int i = 0; i < R * 2; i++) most[i / 2][i % 2] = -1e30f, total[i / 2][i % 2] = 0;
    int buffer = 0;
    for (int key = begin; key < end; key += S::KEYS, buffer ^= 1) {
        wait_for_copies<S>();
        __syncthreads();
        if (key + S::KEYS < end) {
            copy_rows<S::KEYS, Z::PITCH_K>(ks + (buffer ^ 1) * S::KEYS * Z::PITCH_K, k, S::k_past, key + S::KEYS, end, S::keys);
            copy_rows<S::KEYS, Z::PITCH_F>(vs + (buffer ^ 1) * S::KEYS * Z::PITCH_F, v, S::v_past, key + S::KEYS, end, S::features);
        }
        float scores[R][C][4];
        clear_sums(scores);
        start_rows<S, Z::K>(scores, qs, ks + buffer * S::KEYS * Z::PITCH_K);
        finish_products<S>(scores);
        if (!queries.see_all(key, S::KEYS, end)) queries.hide(scores, key, end);
        float factor[R][2];
        bool grows = false;
#pragma unroll
        for (int i = 0; i < R * 2; i++) {
            const int r = i / 2, h = i % 2 * 2;
            float largest = most[r][i % 2], sum = 0;
#pragma unroll
            for (int c = 0; c < C; c++) largest = fmaxf(largest, fmaxf(scores[r][c][h], scores[r][c][h + 1]));  // NaN comes by the sum
            largest = fold_quad_max(largest);
            grows = grows || largest > most[r][i % 2];
            factor[r][i % 2] = power_of_two((most[r][i % 2] - largest) * scale);
            const float shift = -largest * scale;
            most[r][i % 2] = largest;
#pragma unroll
            for (int c = 0; c < C * 2; c++) {
                float &score = scores[r][c / 2][h + c % 2];
                score = power_of_two(__fmaf_rn(score, scale, shift));
                sum += score;
            }
            total[r][i % 2] = __fmaf_rn(total[r][i % 2], factor[r][i % 2], sum);
        }
        if (__ballot_sync(ALL_LANES, grows)) {  // else all factors are 1
#pragma unroll
            for (int i = 0; i < R * F * 4; i++) sums[i / 4 / F][i / 4 % F][i % 4] *= factor[i / 4 / F][i % 4 / 2];
        }
        u32 weights[R][C / 2][4];
        as_left(weights, scores);
        start_left<S>(sums, weights, vs + buffer * S::KEYS * Z::PITCH_F);
        finish_products<S>(sums, weights);
    }
    wait_for_copies<S>();
    float factor[R][2];
#pragma unroll
    for (int i = 0; i < R * 2; i++) {
        const int at = first + queries.row(i / 2, i % 2);
        const float all = fold_quad_sum(total[i / 2][i % 2]);
        if (S::SPLITS > 1) {
            if (at >= time) continue;
            float *part = WidePart<S>::of(parts, blockIdx.z, row + at);
            if (threadIdx.x % 4 == 0) part[S::features] = most[i / 2][i % 2], part[S::features + 1] = all;
#pragma unroll
            for (int f = 0; f < F * 2; f++) {
                const int c = f / 2 * 8 + threadIdx.x % 4 * 2 + f % 2;
                if (c < S::features) part[c] = sums[i / 2][f / 2][i % 2 * 2 + f % 2];
            }
            continue;
        }
        factor[i / 2][i % 2] = all > 0 ? 1 / all : 0.0f;
        if (threadIdx.x % 4 == 0 && at < time) lse[S::lse(unit, group) + at * S::lse_time] = most[i / 2][i % 2] * S::scale + logf(all);
    }
    if (S::SPLITS == 1) store_sums(o + S::o(unit, group), S::o_time, sums, factor, first, time, S::features);
}

// A warp for each query.
template <class S> DEVICE void attention_join(float *parts, bf16 *o, float *lse, int unit, int group, int at, i64 row) {
    constexpr float scale = S::scale * log2_e();
    const int lane = threadIdx.x % 32;
    float most = -1e30f, total = 0;
    for (int split = 0; split < S::SPLITS; split++) most = larger(most, WidePart<S>::of(parts, split, row)[S::features]);
    for (int split = 0; split < S::SPLITS; split++) {
        const float *part = WidePart<S>::of(parts, split, row);
        total += part[S::features + 1] * power_of_two((part[S::features] - most) * scale);
    }
    for (int c = lane; c < S::features; c += 32) {
        float sum = 0;
        for (int split = 0; split < S::SPLITS; split++) {
            const float *part = WidePart<S>::of(parts, split, row);
            sum += part[c] * power_of_two((part[S::features] - most) * scale);
        }
        put(o[S::o(unit, group) + at * S::o_time + c], total > 0 ? sum / total : 0.0f);
    }
    if (lane == 0) lse[S::lse(unit, group) + at * S::lse_time] = most * S::scale + logf(total);
}

// A block: 64 keys of one unit; queries of all groups stream past. Rows are keys, columns are queries, so that
// weights and d_scores are left operands as they come.
template <class S> struct WideStream {
    typedef WideSizes<S> Z;
    static constexpr int COUNT = 64, TILES = (S::time + COUNT - 1) / COUNT;
    bf16 *qs, *d_os;
    float *lses, *deltas;
    int *places;
    __device__ __forceinline__ WideStream(bf16 *memory) {
        qs = memory, d_os = qs + 2 * COUNT * Z::PITCH_K;
        lses = (float *)(d_os + 2 * COUNT * Z::PITCH_F);
        deltas = lses + 2 * COUNT;
        places = (int *)(deltas + 2 * COUNT);
    }
    __device__ __forceinline__ void start(const bf16 *q, const bf16 *d_o, const float *lse, const float *delta, const i32 *position, int unit,
                             int groups, int group, int tile, int buffer, int time) const {
        const int first = tile * COUNT;
        copy_rows<COUNT, Z::PITCH_K>(qs + buffer * COUNT * Z::PITCH_K, q + S::q(unit, group), S::q_time, first, time, S::keys);
        copy_rows<COUNT, Z::PITCH_F>(d_os + buffer * COUNT * Z::PITCH_F, d_o + S::d_o(unit, group), S::d_o_time, first, time, S::features);
        const int i = threadIdx.x % COUNT, at = first + i < time ? first + i : 0, to = buffer * COUNT + i;
        if (threadIdx.x < COUNT) {
            copy_word(lses + to, lse + S::lse(unit, group) + at * S::lse_time, first + i < time);
            copy_word(places + to, position + at * S::position_time, first + i < time);
        } else {
            copy_word(deltas + to, delta + ((i64)unit * groups + group) * S::time + at, first + i < time);
        }
    }
    // By tile of queries: 0 none sees a key of [key, key + 64), 1 some, 2 all of them see all.
    static __device__ __forceinline__ void look(u8 *seen, const i32 *position, int key, int time, int past) {
        for (int tile = threadIdx.x / 32; tile * COUNT < time; tile += TILE_THREADS / 32) {
            bool any = false, all = key + 64 <= past;
            for (int i = threadIdx.x % 32; i < COUNT; i += 32) {
                const int at = tile * COUNT + i, place = at < time ? position[at * S::position_time] : 0;
                any = any || (at < time && (!S::causal || key <= place) && (S::window == 0 || place - (key + 63) < S::window));
                all = all && at < time && (!S::causal || key + 63 <= place) && (S::window == 0 || place - key < S::window);
            }
            const bool some = __ballot_sync(ALL_LANES, any) != 0, every = __ballot_sync(ALL_LANES, all) == ALL_LANES;
            if (threadIdx.x % 32 == 0) seen[tile] = every ? 2 : some ? 1 : 0;
        }
    }
    // Sets weights of this warp's keys, from `first` on, to 0 where a query of the tile does not see them. A branch of its own:
    // most tiles are seen whole, and tests between would keep their exponentials apart.
    template <int C> __device__ __forceinline__ void hide(float (&weights)[1][C][4], int tile, int column, int first, int time, int past) const {
#pragma unroll
        for (int i = 0; i < C * 4; i++) {
            const int c = i / 4 * 8 + i % 2, query = tile * COUNT + threadIdx.x % 4 * 2 + c;
            const int at = first + i % 4 / 2 * 8 + threadIdx.x % 32 / 4;
            const bool hidden = (query >= time) | (at >= past) | !is_visible<S>(places[column + c], at);
            weights[0][i / 4][i % 4] = hidden ? 0 : weights[0][i / 4][i % 4];
        }
    }
    static __device__ __forceinline__ int next(const u8 *seen, int tile, int tiles) {
        do tile++;
        while (tile < tiles && !seen[tile]);
        return tile;
    }
};

template <class S>
DEVICE void attention_gradient_keys_wide(const bf16 *q, const bf16 *k, const bf16 *v, const i32 *position, const float *lse,
                                         const bf16 *d_o, const float *delta, bf16 *d_k, bf16 *d_v, Turn turn, int unit,
                                         int groups, int key, int time, int past) {
    typedef WideSizes<S> Z;
    typedef WideStream<S> Stream;
    constexpr int C = Stream::COUNT / 8, FK = Z::K / 8, FV = Z::F / 8;
    constexpr float scale = S::scale * log2_e();
    SHARED_MEMORY;
    __shared__ u8 seen[Stream::TILES];
    bf16 *ks = first_tile<S>(shared_memory), *vs = ks + 64 * Z::PITCH_K;
    const Stream stream(vs + 64 * Z::PITCH_F);
    const int tiles = (time + Stream::COUNT - 1) / Stream::COUNT;
    copy_rows<64, Z::PITCH_K>(ks, k + S::k(unit, 0), S::k_past, key, past, S::keys);
    copy_rows<64, Z::PITCH_F>(vs, v + S::v(unit, 0), S::v_past, key, past, S::features);
    Stream::look(seen, position, key, time, past);
    __syncthreads();
    float sums_k[1][FK][4], sums_v[1][FV][4];
    clear_sums(sums_k);
    clear_sums(sums_v);
    const int first_tile = Stream::next(seen, -1, tiles);
    int tile = first_tile, group = first_tile < tiles ? 0 : groups, buffer = 0;
    if (group < groups) stream.start(q, d_o, lse, delta, position, unit, groups, group, tile, 0, time);
    while (group < groups) {
        int next_tile = Stream::next(seen, tile, tiles), next_group = group;
        if (next_tile >= tiles) next_tile = first_tile, next_group++;
        wait_for_copies<S>();
        __syncthreads();
        if (next_group < groups) stream.start(q, d_o, lse, delta, position, unit, groups, next_group, next_tile, buffer ^ 1, time);
        const bf16 *qs = stream.qs + buffer * Stream::COUNT * Z::PITCH_K, *d_os = stream.d_os + buffer * Stream::COUNT * Z::PITCH_F;
        const int column = buffer * Stream::COUNT + threadIdx.x % 4 * 2;
        float scores[1][C][4], from_values[1][C][4];
        clear_sums(scores);
        clear_sums(from_values);
        if constexpr (S::WARPGROUPS) hold(from_values);  // cleared later, they would wait for the first products
        start_rows<S, Z::K>(scores, ks, qs);
        if constexpr (S::WARPGROUPS) start_rows<S, Z::F>(from_values, vs, d_os);  // else registers are short
        finish_products<S>(scores, from_values);
#pragma unroll
        for (int c = 0; c < C; c++) {
            const auto lse = load_pack<2>(stream.lses + column + c * 8);
#pragma unroll
            for (int e = 0; e < 4; e++) scores[0][c][e] = power_of_two(__fmaf_rn(scores[0][c][e], scale, -lse.at[e % 2] * log2_e()));
        }
        if (seen[tile] != 2) stream.hide(scores, tile, column, key + warp_row(), time, past);
        u32 weights[1][C / 2][4], d_scores[1][C / 2][4];
        as_left(weights, scores);
        start_left<S>(sums_v, weights, d_os);
        if constexpr (!S::WARPGROUPS) multiply_rows<Z::F>(from_values, vs, d_os);
#pragma unroll
        for (int c = 0; c < C; c++) {
            const auto delta_pair = load_pack<2>(stream.deltas + column + c * 8);
#pragma unroll
            for (int e = 0; e < 4; e++) scores[0][c][e] *= from_values[0][c][e] - delta_pair.at[e % 2];
        }
        as_left(d_scores, scores);
        start_left<S>(sums_k, d_scores, qs);
        finish_products<S>(sums_v, sums_k, weights, d_scores);
        tile = next_tile, group = next_group, buffer ^= 1;
    }
    wait_for_copies<S>();
    const float factor[1][2] = {{1, 1}};
    store_sums(d_v + S::d_v(unit, 0), S::d_v_past, sums_v, factor, key, past, S::features);
    store_gradient_wide<S, 64>(sums_k, ks, turn, d_k + S::d_k(unit, 0), S::d_k_past, key, past);
}

// The sum over features of d_o * o - d_lse, of a query that the four lanes of a quad share; 0 beyond `time`.
template <class S>
DEVICE float attention_delta_wide(const bf16 *o, const bf16 *d_o, const float *d_lse, int unit, int group, int at, int time) {
    float sum = 0;
#pragma unroll
    for (int step = 0; step < S::features; step += 32) {
        const int c = step + threadIdx.x % 4 * 8;
        if (at >= time || c >= S::features) continue;
        const auto x = load_pack<8>(o + S::o(unit, group) + at * S::o_time + c);
        const auto y = load_pack<8>(d_o + S::d_o(unit, group) + at * S::d_o_time + c);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += widen(x.at[e]) * widen(y.at[e]);
    }
    sum = fold_quad_sum(sum);
    return at < time ? sum - d_lse[S::d_lse(unit, group) + at * S::d_lse_time] : 0;
}

// It leaves `delta` for the gradient of keys.
template <class S>
DEVICE void attention_gradient_queries_wide(const bf16 *q, const bf16 *k, const bf16 *v, const i32 *position, const bf16 *o,
                                            const float *lse, const bf16 *d_o, const float *d_lse, float *delta, bf16 *d_q,
                                            Turn turn, int unit, int group, int groups, int first, int time, int past) {
    typedef WideSizes<S> Z;
    constexpr int KEYS = S::GRADIENT_KEYS, R = S::QUERIES / 64, C = KEYS / 8, FK = Z::K / 8;
    constexpr float scale = S::scale * log2_e();
    SHARED_MEMORY;
    bf16 *qs = first_tile<S>(shared_memory), *d_os = qs + S::QUERIES * Z::PITCH_K;
    bf16 *ks = d_os + S::QUERIES * Z::PITCH_F, *vs = ks + 2 * KEYS * Z::PITCH_K;
    k += S::k(unit, group), v += S::v(unit, group);
    copy_rows<S::QUERIES, Z::PITCH_K>(qs, q + S::q(unit, group), S::q_time, first, time, S::keys);
    copy_rows<S::QUERIES, Z::PITCH_F>(d_os, d_o + S::d_o(unit, group), S::d_o_time, first, time, S::features);
    WideQueries<S, R> queries;
    int begin, end;
    queries.load(position, first, time);
    queries.visible_keys(past, KEYS, begin, end);
    copy_rows<KEYS, Z::PITCH_K>(ks, k, S::k_past, begin, end, S::keys);
    copy_rows<KEYS, Z::PITCH_F>(vs, v, S::v_past, begin, end, S::features);
    float sums[R][FK][4], lses[R][2], deltas[R][2];
    delta += ((i64)unit * groups + group) * S::time;
#pragma unroll
    for (int i = 0; i < R * 2; i++) {
        const int at = first + queries.row(i / 2, i % 2);
        lses[i / 2][i % 2] = at < time ? -lse[S::lse(unit, group) + at * S::lse_time] * log2_e() : 0;
        deltas[i / 2][i % 2] = attention_delta_wide<S>(o, d_o, d_lse, unit, group, at, time);
        if (threadIdx.x % 4 == 0 && at < time) delta[at] = deltas[i / 2][i % 2];
    }
    clear_sums(sums);
    int buffer = 0;
    for (int key = begin; key < end; key += KEYS, buffer ^= 1) {
        wait_for_copies<S>();
        __syncthreads();
        if (key + KEYS < end) {
            copy_rows<KEYS, Z::PITCH_K>(ks + (buffer ^ 1) * KEYS * Z::PITCH_K, k, S::k_past, key + KEYS, end, S::keys);
            copy_rows<KEYS, Z::PITCH_F>(vs + (buffer ^ 1) * KEYS * Z::PITCH_F, v, S::v_past, key + KEYS, end, S::features);
        }
        const bf16 *k_now = ks + buffer * KEYS * Z::PITCH_K, *v_now = vs + buffer * KEYS * Z::PITCH_F;
        float scores[R][C][4], from_values[R][C][4];
        clear_sums(scores);
        clear_sums(from_values);
        start_rows<S, Z::K>(scores, qs, k_now);
        start_rows<S, Z::F>(from_values, d_os, v_now);
        finish_products<S>(scores, from_values);
        if (!queries.see_all(key, KEYS, end)) queries.hide(scores, key, end);
#pragma unroll
        for (int i = 0; i < R * C * 4; i++) {
            const int r = i / 4 / C, half = i % 4 / 2;
            float &score = scores[r][i / 4 % C][i % 4];
            // What is hidden weighs nothing, whatever the sum is of a query that sees nothing.
            const float weight = score == -infinity() ? 0 : power_of_two(__fmaf_rn(score, scale, lses[r][half]));
            score = weight * (from_values[r][i / 4 % C][i % 4] - deltas[r][half]);
        }
        u32 left[R][C / 2][4];
        as_left(left, scores);
        start_left<S>(sums, left, k_now);
        finish_products<S>(sums, left);
    }
    wait_for_copies<S>();
    store_gradient_wide<S, S::QUERIES>(sums, qs, turn, d_q + S::d_q(unit, group), S::d_q_time, first, time);
}
