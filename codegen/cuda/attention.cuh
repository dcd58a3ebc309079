// Attention that never holds time x time: blocks of keys stream past a block of queries, or the other way round.
// S is a struct that the generator writes for one kernel:
//   T                        element of q, k, v, o; sums and lse are f32
//   M, N                     queries and keys of a tile
//   keys, features           what scores sum over; what a value has
//   causal, window, scale
//   turns, turn_row, turn_pair   whether q is turned, or d_q and d_k are turned back; strides of the tables
//   side(i), S::NAME(unit, group)   strides and base offsets of operands, by the letters below
// A unit is an index of all dimensions that q shares with k; a group, of those that only q has.

// A query sees keys that are not later than it, and less than `window` back.
template <class S> DEVICE bool is_visible(int position, int key) {
    return (!S::causal || key <= position) && (S::window == 0 || position - key < S::window);
}

template <class S> struct AttentionSizes {
    typedef typename S::T T;
    static constexpr int K = (S::keys + 15) / 16 * 16, F = (S::features + 15) / 16 * 16;
    static constexpr int LEAD_K = Lead<T>::of(K), LEAD_F = Lead<T>::of(F), LEAD_P = Lead<T>::of(S::N), LEAD_S = S::N + 1;
};

// Copies rows [first, first + ROWS) x COLUMNS into shared memory with `lead`; zeros beyond `limit` and `columns`.
template <int ROWS, int COLUMNS, class T>
DEVICE void load_rows(T *to, int lead, const T *from, i64 row_stride, i64 column_stride, int first, int limit, int columns) {
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += TILE_THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        T element = {};
        if (first + row < limit && column < columns) element = from[(first + row) * row_stride + column * column_stride];
        to[row * lead + column] = element;
    }
}

// Keys [begin, end) that some query of the tile at `first` sees, in whole tiles; positions of its queries.
template <class S> DEVICE void visible_keys(int *positions, const i32 *from, i64 stride, int first, int time, int past, int &begin, int &end) {
    __shared__ int least, most;
    __syncthreads();
    if (threadIdx.x == 0) least = 0x7fffffff, most = -1;
    if (threadIdx.x < S::M) positions[threadIdx.x] = first + (int)threadIdx.x < time ? from[(first + threadIdx.x) * stride] : -1;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 0; i < S::M && first + i < time; i++) {
            least = smaller(least, positions[i]);
            most = larger(most, positions[i]);
        }
    __syncthreads();
    begin = 0;
    end = past;
    if (S::causal) end = smaller(past, most + 1);
    if (S::window > 0) begin = larger(0, least - S::window + 1) / S::N * S::N;
}

// Whether all of queries [first, first + M) and keys [key, key + N) may lie apart: blocks that are skipped whole.
template <class S> DEVICE bool is_hidden(const int *positions, int count, int key) {
    bool any = false;
    for (int i = 0; i < count; i++)
        any = any || ((!S::causal || key <= positions[i]) && (S::window == 0 || positions[i] - (key + S::N - 1) < S::window));
    return !any;
}

// Cosines and sines by row and pair of features, which lie half a row apart.
struct Turn {
    const float *cos, *sin;
};

// Where an element of a row in shared memory lies.
template <int LEAD> struct StraightRows {
    static __device__ __forceinline__ int at(int row, int column) { return row * LEAD + column; }
};

// Turns rows [first, limit) of `count` that a block has in shared memory by the angles of their numbers, N pairs at once.
// They go to `to`, unless that is null, and where `stays` to their places too. Angles are asked for before any is waited for.
template <class S, class Rows, int N, bool BACK, class T>
DEVICE void turn_rows(T *rows, int count, Turn turn, bool stays, T *to, i64 row_stride, i64 column_stride, int first, int limit) {
    constexpr int HALF = S::keys / 2, PACKS = HALF / N, ASKED = 4;
    const int all = smaller(count, limit - first) * PACKS;
    for (int start = threadIdx.x; start < all; start += ASKED * TILE_THREADS) {
        pack<float, N> cos[ASKED], sin[ASKED];
#pragma unroll
        for (int j = 0; j < ASKED; j++) {
            const int i = smaller(start + j * TILE_THREADS, all - 1);
            const i64 angle = (first + i / PACKS) * S::turn_row + i % PACKS * N * S::turn_pair;
            cos[j] = load_pack<N>(turn.cos + angle), sin[j] = load_pack<N>(turn.sin + angle);
        }
#pragma unroll
        for (int j = 0; j < ASKED; j++) {
            const int i = start + j * TILE_THREADS, row = i / PACKS, pair = i % PACKS * N;
            if (i >= all) break;
            T *at_x = rows + Rows::at(row, pair), *at_y = rows + Rows::at(row, pair + HALF);
            auto x = load_pack<N>(at_x), y = load_pack<N>(at_y);
#pragma unroll
            for (int e = 0; e < N; e++) {
                const float a = value_of(x.at[e]), b = value_of(y.at[e]), c = cos[j].at[e], s = BACK ? -sin[j].at[e] : sin[j].at[e];
                put(x.at[e], a * c - b * s);
                put(y.at[e], b * c + a * s);
            }
            T *to_x = to + (first + row) * row_stride + pair * column_stride;
            if (to) store_pack(to_x, x), store_pack(to_x + HALF * column_stride, y);
            if (stays) store_pack(at_x, x), store_pack(at_y, y);
        }
    }
}

// Columns of a row are shared by TILE_THREADS / M neighbouring threads.
template <class Fold, int THREADS> DEVICE float fold_row(float value) {
#pragma unroll
    for (int step = THREADS / 2; step > 0; step /= 2) value = Fold::of(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

// A block: M queries of one unit and group.
template <class S>
DEVICE void attention_forward(const typename S::T *q, const typename S::T *k, const typename S::T *v, const i32 *position,
                              typename S::T *o, float *lse, Turn turn, typename S::T *turned, int unit, int group, int first,
                              int time, int past) {
    typedef typename S::T T;
    typedef AttentionSizes<S> Z;
    constexpr int PER_ROW = TILE_THREADS / S::M;
    SHARED_MEMORY;
    float *scores = (float *)shared_memory, *largest = scores + S::M * Z::LEAD_S, *total = largest + S::M, *factor = total + S::M;
    int *positions = (int *)(factor + S::M);
    T *qs = (T *)(positions + S::M), *ks = qs + S::M * Z::LEAD_K, *vs = ks + S::N * Z::LEAD_K, *weights = vs + S::N * Z::LEAD_F;
    const int row = threadIdx.x / PER_ROW, lane = threadIdx.x % PER_ROW;
    int begin, end;
    visible_keys<S>(positions, position, S::position_time, first, time, past, begin, end);
    load_rows<S::M, Z::K>(qs, Z::LEAD_K, q + S::q(unit, group), S::q_time, S::q_key, first, time, S::keys);
    if constexpr (S::turns) {
        __syncthreads();
        turn_rows<S, StraightRows<Z::LEAD_K>, 1, false>(qs, S::M, turn, true, turned + S::turned(unit, group), S::turned_time,
                                                        S::turned_key, first, time);
    }
    if (threadIdx.x < S::M) largest[threadIdx.x] = -1e30f, total[threadIdx.x] = 0;
    Tile<T, S::M, Z::F> sums;
    for (int key = begin; key < end; key += S::N) {
        __syncthreads();
        load_rows<S::N, Z::K>(ks, Z::LEAD_K, k + S::k(unit, group), S::k_past, S::k_key, key, past, S::keys);
        load_rows<S::N, Z::F>(vs, Z::LEAD_F, v + S::v(unit, group), S::v_past, S::v_feature, key, past, S::features);
        __syncthreads();
        Tile<T, S::M, S::N> tile;
        tile.template multiply<false, false>(qs, Z::LEAD_K, ks, Z::LEAD_K, Z::K);
#pragma unroll
        for (int i = 0; i < tile.COUNT; i++) {
            const int r = tile.row(i), c = tile.column(i);
            scores[r * Z::LEAD_S + c] = key + c < end && is_visible<S>(positions[r], key + c) ? tile.at[i] * S::scale : -1e30f;
        }
        __syncthreads();
        float most = largest[row];
        for (int c = lane; c < S::N; c += PER_ROW) most = larger(most, scores[row * Z::LEAD_S + c]);
        most = fold_row<Max, PER_ROW>(most);
        float sum = 0;
        for (int c = lane; c < S::N; c += PER_ROW) {
            const float score = scores[row * Z::LEAD_S + c], weight = score <= -1e30f ? 0 : expf(score - most);
            put(weights[row * Z::LEAD_P + c], weight);
            sum += weight;
        }
        sum = fold_row<Sum, PER_ROW>(sum);
        __syncwarp();  // the lanes have read largest
        if (lane == 0) {
            factor[row] = expf(largest[row] - most);
            total[row] = total[row] * factor[row] + sum;
            largest[row] = most;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < sums.COUNT; i++) sums.at[i] *= factor[sums.row(i)];
        sums.template multiply<false, true>(weights, Z::LEAD_P, vs, Z::LEAD_F, S::N);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sums.COUNT; i++) {
        const int r = sums.row(i), c = sums.column(i);
        if (first + r < time && c < S::features)
            put(o[S::o(unit, group) + (first + r) * S::o_time + c * S::o_feature], total[r] > 0 ? sums.at[i] / total[r] : 0.0f);
    }
    if (lane == 0 && first + row < time)
        lse[S::lse(unit, group) + (first + row) * S::lse_time] = largest[row] + logf(total[row]);
}

// delta[row] = sum over features of d_o * o - d_lse, of a block's queries.
template <class S>
DEVICE void attention_delta(const typename S::T *o, const typename S::T *d_o, const float *d_lse, float *delta, int unit, int group,
                            int first, int time) {
    constexpr int PER_ROW = TILE_THREADS / S::M;
    const int lane = threadIdx.x % PER_ROW, at = first + threadIdx.x / PER_ROW;
    float sum = 0;
    for (int i = lane; at < time && i < S::features; i += PER_ROW)
        sum += value_of(o[S::o(unit, group) + at * S::o_time + i * S::o_feature]) *
               value_of(d_o[S::d_o(unit, group) + at * S::d_o_time + i * S::d_o_feature]);
    sum = fold_row<Sum, PER_ROW>(sum);
    if (lane == 0 && at < time) delta[at] = sum - d_lse[S::d_lse(unit, group) + at * S::d_lse_time];
}

// Rows [first, limit) x `columns` of a tile of sums.
template <class T, class Sums>
DEVICE void store_tile(const Sums &sums, T *to, i64 row_stride, i64 column_stride, int first, int limit, int columns) {
#pragma unroll
    for (int i = 0; i < sums.COUNT; i++) {
        const int at = first + sums.row(i), column = sums.column(i);
        if (at < limit && column < columns) put(to[at * row_stride + column * column_stride], sums.at[i]);
    }
}

// The gradient of queries or keys, `count` rows of it; `rows` is shared memory that is in use until here.
template <class S, class T, class Sums>
DEVICE void store_gradient(const Sums &sums, T *rows, int count, Turn turn, T *to, i64 row_stride, i64 column_stride, int first, int limit) {
    if constexpr (S::turns) {
        constexpr int LEAD = AttentionSizes<S>::LEAD_K;
        __syncthreads();
        store_tile(sums, rows, LEAD, 1, 0, count, S::keys);
        __syncthreads();
        turn_rows<S, StraightRows<LEAD>, 1, true>(rows, count, turn, false, to, row_stride, column_stride, first, limit);
    } else {
        store_tile(sums, to, row_stride, column_stride, first, limit, S::keys);
    }
}

// What both halves of the gradient hold for a tile of queries and one of keys.
template <class S> struct AttentionGradient {
    typedef typename S::T T;
    typedef AttentionSizes<S> Z;
    T *qs, *ks, *vs, *d_os, *weights, *d_scores;
    float *lses, *deltas;
    int *positions;
    __device__ __forceinline__ AttentionGradient(char *memory) {
        lses = (float *)memory;
        deltas = lses + S::M;
        positions = (int *)(deltas + S::M);
        qs = (T *)(positions + S::M);
        ks = qs + S::M * Z::LEAD_K;
        vs = ks + S::N * Z::LEAD_K;
        d_os = vs + S::N * Z::LEAD_F;
        weights = d_os + S::M * Z::LEAD_F;
        d_scores = weights + S::M * Z::LEAD_P;
    }
    __device__ __forceinline__ void load_queries(const T *q, const T *d_o, const float *lse, const float *delta, int unit, int group,
                                                 int first, int time) {
        load_rows<S::M, Z::K>(qs, Z::LEAD_K, q + S::q(unit, group), S::q_time, S::q_key, first, time, S::keys);
        load_rows<S::M, Z::F>(d_os, Z::LEAD_F, d_o + S::d_o(unit, group), S::d_o_time, S::d_o_feature, first, time, S::features);
        if (threadIdx.x < S::M) {
            const bool inside = first + (int)threadIdx.x < time;
            lses[threadIdx.x] = inside ? lse[S::lse(unit, group) + (first + threadIdx.x) * S::lse_time] : 0;
            deltas[threadIdx.x] = inside ? delta[first + threadIdx.x] : 0;
        }
    }
    __device__ __forceinline__ void load_keys(const T *k, const T *v, int unit, int first, int past) {
        load_rows<S::N, Z::K>(ks, Z::LEAD_K, k + S::k(unit, 0), S::k_past, S::k_key, first, past, S::keys);
        load_rows<S::N, Z::F>(vs, Z::LEAD_F, v + S::v(unit, 0), S::v_past, S::v_feature, first, past, S::features);
    }
    // weights and d_scores of the two tiles, in shared memory as [query][key].
    __device__ __forceinline__ void score(int query, int time, int key, int past) {
        Tile<T, S::M, S::N> tile, from_values;
        tile.template multiply<false, false>(qs, Z::LEAD_K, ks, Z::LEAD_K, Z::K);
        from_values.template multiply<false, false>(d_os, Z::LEAD_F, vs, Z::LEAD_F, Z::F);
#pragma unroll
        for (int i = 0; i < tile.COUNT; i++) {
            const int r = tile.row(i), c = tile.column(i);
            const bool visible = query + r < time && key + c < past && is_visible<S>(positions[r], key + c);
            const float weight = visible ? expf(tile.at[i] * S::scale - lses[r]) : 0;
            put(weights[r * Z::LEAD_P + c], weight);
            put(d_scores[r * Z::LEAD_P + c], weight * (from_values.at[i] - deltas[r]) * S::scale);
        }
    }
};

// A block: N keys of one unit; queries of all groups stream past, so that nothing is added from elsewhere.
template <class S>
DEVICE void attention_gradient_keys(const typename S::T *q, const typename S::T *k, const typename S::T *v, const i32 *position,
                                    const float *lse, const typename S::T *d_o, const float *delta, typename S::T *d_k,
                                    typename S::T *d_v, Turn turn, int unit, int groups, int key, int time, int past) {
    typedef typename S::T T;
    typedef AttentionSizes<S> Z;
    SHARED_MEMORY;
    AttentionGradient<S> g(shared_memory);
    Tile<T, S::N, Z::K> sums_k;
    Tile<T, S::N, Z::F> sums_v;
    g.load_keys(k, v, unit, key, past);
    for (int group = 0; group < groups; group++)
        for (int query = 0; query < time; query += S::M) {
            __syncthreads();
            if (threadIdx.x < S::M)
                g.positions[threadIdx.x] = query + (int)threadIdx.x < time ? position[(query + threadIdx.x) * S::position_time] : -1;
            __syncthreads();
            if (is_hidden<S>(g.positions, smaller(S::M, time - query), key)) continue;
            g.load_queries(q, d_o, lse, delta + ((i64)unit * groups + group) * S::time, unit, group, query, time);
            __syncthreads();
            g.score(query, time, key, past);
            __syncthreads();
            sums_v.template multiply<true, true>(g.weights, Z::LEAD_P, g.d_os, Z::LEAD_F, S::M);
            sums_k.template multiply<true, true>(g.d_scores, Z::LEAD_P, g.qs, Z::LEAD_K, S::M);
        }
    store_tile(sums_v, d_v + S::d_v(unit, 0), S::d_v_past, S::d_v_feature, key, past, S::features);
    store_gradient<S>(sums_k, g.ks, S::N, turn, d_k + S::d_k(unit, 0), S::d_k_past, S::d_k_key, key, past);
}

// A block: M queries of one unit and group; keys stream past. It leaves `delta` for the gradient of keys.
template <class S>
DEVICE void attention_gradient_queries(const typename S::T *q, const typename S::T *k, const typename S::T *v, const i32 *position,
                                       const typename S::T *o, const float *lse, const typename S::T *d_o, const float *d_lse,
                                       float *delta, typename S::T *d_q, Turn turn, int unit, int group, int groups, int first,
                                       int time, int past) {
    typedef typename S::T T;
    typedef AttentionSizes<S> Z;
    SHARED_MEMORY;
    AttentionGradient<S> g(shared_memory);
    Tile<T, S::M, Z::K> sums;
    int begin, end;
    delta += ((i64)unit * groups + group) * S::time;
    attention_delta<S>(o, d_o, d_lse, delta, unit, group, first, time);
    visible_keys<S>(g.positions, position, S::position_time, first, time, past, begin, end);
    g.load_queries(q, d_o, lse, delta, unit, group, first, time);
    for (int key = begin; key < end; key += S::N) {
        __syncthreads();
        g.load_keys(k, v, unit, key, past);
        __syncthreads();
        g.score(first, time, key, past);
        __syncthreads();
        sums.template multiply<false, true>(g.d_scores, Z::LEAD_P, g.ks, Z::LEAD_K, S::N);
    }
    store_gradient<S>(sums, g.qs, S::M, turn, d_q + S::d_q(unit, group), S::d_q_time, S::d_q_key, first, time);
}
