// The selective scan in one launch, from the first token to the last: time is not cut.
//
// Eight lanes share a channel, each with a part of its states, and the two directions of a mixer are
// two sides of one block, which walk towards each other. The recurrence of a token is one
// multiply-add, so a few warps hide it; what bounds the kernel is one exponential for each state of
// each token, and no chunk of tokens is walked twice to find the state that it starts from.
//
// A block owns its channels at every token. Where the sides meet a token in different tiles, the
// earlier leaves its sum in `y` and the later adds to it, gates and scales: nothing is shared with
// another block, and the same operands give the same bits in any batch.

// Mirrors `ScanArguments`.
struct ScanArguments {
    const void *u;
    const void *delta;
    const float *a;
    const void *b;
    const void *c;
    const float *d_skip;      // or null
    const void *z;            // or null
    const float *delta_bias;  // or null
    void *y;
    int seq_len;
    int d_inner;
    int d_state;
    int groups;
    int directions;
    int delta_softplus;
    int sum;  // whether the directions of a mixer are added
    float scale;
    unsigned reverse[REVERSE_WORDS];
};

constexpr int LANES = 8;  // threads of a channel
constexpr int TILE = 32;  // tokens that are in shared memory at a time
constexpr int GROUP = 4;  // tokens that are in registers at a time

// What becomes of the sums of a tile.
enum Meeting {
    ALONE,  // there is no other direction to add
    FIRST,  // the other side meets these tokens in later tiles, and finishes them
    LATER,  // the other side left its sums in `y`
    MIXED,  // it depends on the token
};

// `CHANNELS` of a block; `STATES` of a lane. `PAIR` channels, of which `d_inner` is a multiple, and
// `QUAD` states, of which `d_state` is one, move at once.
template <typename T, int CHANNELS, int STATES, int PAIR, int QUAD>
__device__ __forceinline__ void scan(const ScanArguments &scan) {
    constexpr int SIDE = CHANNELS * LANES;        // threads of a direction
    constexpr int COLUMNS = CHANNELS / PAIR;      // of them, those that move one token
    constexpr int HOP = SIDE / COLUMNS;           // tokens between two that a thread moves
    constexpr int EACH = TILE / HOP;              // tokens of a tile that a thread moves
    constexpr int WIDTH = LANES * STATES;         // states of a channel, padded
    constexpr int ROW_HOP = SIDE * QUAD / WIDTH;  // the same for rows of `b` and `c`
    constexpr int ROWS = (TILE + ROW_HOP - 1) / ROW_HOP;
    static_assert(SIDE % 32 == 0 && TILE % HOP == 0 && SIDE * QUAD % WIDTH == 0, "whole warps");
    using Values = Vector<T, PAIR>;
    using States = Vector<T, QUAD>;
    struct __align__(8) Step {
        float dt, dt_u;
    };
    // Eight bytes a lane: threads of a warp that read the same ones are served at once, as they are
    // not where each reads sixteen.
    struct __align__(8) Share {
        float of[STATES];
    };
    __shared__ Share all_b[2][TILE][LANES];
    __shared__ Share all_c[2][TILE][LANES];
    __shared__ Step all_steps[2][TILE][CHANNELS];
    __shared__ __align__(16) float all_parts[2][TILE][CHANNELS][LANES];

    const int side = threadIdx.x / SIDE;
    const int within = threadIdx.x % SIDE;
    Share(&b)[TILE][LANES] = all_b[side];
    Share(&c)[TILE][LANES] = all_c[side];
    Step(&steps)[TILE][CHANNELS] = all_steps[side];
    float(&parts)[TILE][CHANNELS][LANES] = all_parts[side];

    const int blocks = (scan.d_inner + CHANNELS - 1) / CHANNELS;
    const int first = blockIdx.x % blocks * CHANNELS;
    const int mixer = blockIdx.x / blocks % scan.groups;
    const long long batch = blockIdx.x / blocks / scan.groups;
    const int streams = scan.groups * scan.directions;
    const int stream = mixer * scan.directions + side;
    const int outputs = scan.sum ? scan.groups : streams;
    const int length = scan.seq_len;
    const int inner = scan.d_inner;
    const bool reverse = is_reverse(scan.reverse, stream);
    const bool paired = scan.sum && scan.directions == 2;
    const bool opposite = paired && is_reverse(scan.reverse, stream + 1 - 2 * side) != reverse;

    // The states that this thread holds.
    const int lane = within % LANES;
    const int own = within / LANES;
    float a[STATES];
    float h[STATES];
#pragma unroll
    for (int n = 0; n < STATES; n++) {
        const int state = lane * STATES + n;
        const bool exists = first + own < inner && state < scan.d_state;
        const long long at = ((long long)stream * inner + first + own) * scan.d_state + state;
        a[n] = exists ? load(scan.a + at) * LOG2_E : 0.0f;
        h[n] = 0.0f;
    }

    // The values that this thread moves: `PAIR` channels, at every `HOP`th token of a tile. Pointers
    // are to the first of the tile that is next, or, of `z` and `y`, of the tile at hand.
    const int channel = within % COLUMNS * PAIR;
    const int token = within / COLUMNS;
    const bool moves = first + channel < inner;
    const int mine = stream * inner + first + channel;
    float bias[PAIR], skip[PAIR];
#pragma unroll
    for (int i = 0; i < PAIR; i++) {
        bias[i] = moves && scan.delta_bias ? load(scan.delta_bias + mine + i) : 0.0f;
        skip[i] = moves && scan.d_skip ? load(scan.d_skip + mine + i) : 0.0f;
    }
    const long long way = reverse ? -1 : 1;
    const long long start = batch * length + (reverse ? length - 1 - token : token);
    const long long hop = kept(way * HOP * streams * inner);
    const long long z_hop = kept(way * HOP * scan.groups * inner);
    const long long y_hop = kept(way * HOP * outputs * inner);
    const T *next_u = static_cast<const T *>(scan.u) + start * streams * inner + mine;
    const T *next_delta = static_cast<const T *>(scan.delta) + start * streams * inner + mine;
    const T *this_z = static_cast<const T *>(scan.z) +
                      (start * scan.groups + mixer) * inner + first + channel;
    T *this_y = static_cast<T *>(scan.y) +
                (start * outputs + (scan.sum ? mixer : stream)) * inner + first + channel;
    int left = moves ? length - token : 0;  // tokens from there to the end

    const int state = within * QUAD % WIDTH;
    const int row_token = within * QUAD / WIDTH;
    const long long row_start = batch * length + (reverse ? length - 1 - row_token : row_token);
    const long long row_hop = kept(way * ROW_HOP * streams * scan.d_state);
    const long long row_tile = kept(way * TILE * streams * scan.d_state);
    const T *next_b =
        static_cast<const T *>(scan.b) + (row_start * streams + stream) * scan.d_state + state;
    const T *next_c =
        static_cast<const T *>(scan.c) + (row_start * streams + stream) * scan.d_state + state;
    int rows_left = state < scan.d_state ? length - row_token : 0;

    Values raw_u[EACH], raw_delta[EACH];
    States raw_b[ROWS], raw_c[ROWS];
    float skipped[EACH][PAIR];
    const auto fetch = [&] {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const bool exists = i * HOP < left;
            raw_u[i] = exists ? load(reinterpret_cast<const Values *>(next_u)) : Values{};
            raw_delta[i] = exists ? load(reinterpret_cast<const Values *>(next_delta)) : Values{};
            next_u += hop;
            next_delta += hop;
        }
        left -= TILE;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const bool exists = i * ROW_HOP < min(rows_left, TILE - row_token);
            const long long by = i * row_hop;
            raw_b[i] = exists ? load(reinterpret_cast<const States *>(next_b + by)) : States{};
            raw_c[i] = exists ? load(reinterpret_cast<const States *>(next_c + by)) : States{};
        }
        next_b += row_tile;
        next_c += row_tile;
        rows_left -= TILE;
    };
    // What was fetched, into shared memory. Tokens beyond the last change states that nothing reads.
    const auto unpack = [&] {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
#pragma unroll
            for (int k = 0; k < PAIR; k++) {
                const float u = to_float(raw_u[i][k]);
                float dt = to_float(raw_delta[i][k]) + bias[k];
                dt = scan.delta_softplus ? softplus(dt) : dt;
                steps[token + i * HOP][channel + k] = Step{dt, dt * u};
                skipped[i][k] = skip[k] * u;
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            if (row_token + i * ROW_HOP < TILE) {
#pragma unroll
                for (int k = 0; k < QUAD; k++) {
                    const int row = row_token + i * ROW_HOP;
                    b[row][(state + k) / STATES].of[(state + k) % STATES] = raw_b[i][k];
                    c[row][(state + k) / STATES].of[(state + k) % STATES] = raw_c[i][k];
                }
            }
        }
    };
    // The sums over the lanes of what this thread moves at a token. Four lanes are added, then two
    // such sums, and neighbouring threads start at different ones: no bank is read twice at once.
    const auto add_lanes = [&](int i, float(&sum)[PAIR]) {
        constexpr int FOURS = PAIR * LANES / 4;
        const int turn = within / (4 / PAIR) % FOURS;
        const auto fours = reinterpret_cast<const float4 *>(parts[token + i * HOP][channel]);
        float halves[FOURS];
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
            const float4 four = fours[k ^ turn];
            halves[k] = (four.x + four.y) + (four.z + four.w);
        }
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            const int other = PAIR - 1 - k;
            const bool swapped = turn / 2;
            const float straight = halves[2 * k] + halves[2 * k + 1];
            const float crossed = halves[2 * other] + halves[2 * other + 1];
            sum[k] = (swapped ? crossed : straight) + skipped[i][k];
        }
    };
    const auto keep = [&](const float(&sum)[PAIR]) {
        Values values;
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            values.set(k, sum[k]);
        }
        *reinterpret_cast<Values *>(this_y) = values;
    };
    const auto finish = [&](float(&sum)[PAIR], const Values &gate) {
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            sum[k] *= scan.scale;
            if (scan.z) {
                sum[k] *= silu(to_float(gate[k]));
            }
        }
        keep(sum);
    };

    fetch();
    unpack();
    __syncthreads();
    for (int begin = 0; begin < length; begin += TILE) {
        const int here = left + TILE;  // as `left` was for this tile
        const int tile = begin / TILE;
        Meeting meeting = ALONE;
        if (paired) {
            const int last = min(begin + TILE, length) - 1;
            meeting = opposite && (length - 1 - last) / TILE > tile    ? FIRST
                      : opposite && (length - 1 - begin) / TILE < tile ? LATER
                                                                       : MIXED;
        }
        if (begin + TILE < length) {
            fetch();
        }
        Values partial[EACH] = {}, gates[EACH] = {};
        if (meeting == LATER) {
            const T *at = this_y;
#pragma unroll
            for (int i = 0; i < EACH; i++, at += y_hop) {
                if (i * HOP < here) {
                    partial[i].word = kept(reinterpret_cast<const Values *>(at)->word);
                }
            }
        }
        if (scan.z && meeting != FIRST) {
            const T *at = this_z;
#pragma unroll
            for (int i = 0; i < EACH; i++, at += z_hop) {
                if (i * HOP < here) {
                    gates[i].word = kept(load(reinterpret_cast<const Values *>(at)).word);
                }
            }
        }

        // What a group reads is read before the group before it writes: a load waits for every
        // store that the compiler cannot tell apart from it.
        Step step[2][GROUP];
        Share with_b[2][GROUP], with_c[2][GROUP];
        const auto read = [&](int half, int group) {
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                step[half][i] = steps[group * GROUP + i][own];
                with_b[half][i] = b[group * GROUP + i][lane];
                with_c[half][i] = c[group * GROUP + i][lane];
            }
        };
        const auto walk = [&](int half, int group) {
            float part[GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                const Step now = step[half][i];
#pragma unroll
                for (int n = 0; n < STATES; n++) {
                    h[n] = fmaf(exp2_fast(now.dt * a[n]), h[n], now.dt_u * with_b[half][i].of[n]);
                    const float c_n = with_c[half][i].of[n];
                    part[i] = n == 0 ? c_n * h[n] : fmaf(c_n, h[n], part[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                parts[group * GROUP + i][own][lane] = part[i];
            }
        };
        constexpr int GROUPS = TILE / GROUP;
        read(0, 0);
        // A loop that stays one, so that what was fetched above is on its way meanwhile.
#pragma unroll 1
        for (int group = 0; group < GROUPS; group += 2) {
            read(1, group + 1);
            walk(0, group);
            read(0, (group + 2) % GROUPS);
            walk(1, group + 1);
        }
        __syncthreads();

        float sum[PAIR];
        if (meeting == FIRST) {
#pragma unroll
            for (int i = 0; i < EACH; i++, this_y += y_hop) {
                if (i * HOP < here) {
                    add_lanes(i, sum);
                    keep(sum);
                }
            }
        } else if (meeting != MIXED) {
#pragma unroll
            for (int i = 0; i < EACH; i++, this_y += y_hop) {
                if (i * HOP < here) {
                    add_lanes(i, sum);
#pragma unroll
                    for (int k = 0; k < PAIR; k++) {
                        sum[k] += to_float(partial[i][k]);
                    }
                    finish(sum, gates[i]);
                }
            }
        } else {
            // The sums are left where the other side finds them, in the place of a lane.
            float sums[EACH][PAIR];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                add_lanes(i, sums[i]);
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int k = 0; k < PAIR; k++) {
                    parts[token + i * HOP][channel + k][0] = sums[i][k];
                }
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; i++, this_y += y_hop) {
                if (i * HOP >= here) {
                    continue;
                }
                const int walked = begin + token + i * HOP;
                const int other = opposite ? length - 1 - walked : walked;
                if (other / TILE > tile) {
                    keep(sums[i]);
                } else if (other / TILE < tile || side == 1) {
                    const bool left_in_y = other / TILE < tile;
#pragma unroll
                    for (int k = 0; k < PAIR; k++) {
                        sums[i][k] += left_in_y ? to_float(this_y[k])
                                                : all_parts[0][other % TILE][channel + k][0];
                    }
                    finish(sums[i], gates[i]);
                }
            }
        }
        this_z += EACH * z_hop;
        if (begin + TILE < length) {
            unpack();
        }
        __syncthreads();
    }
}

#define SCAN(NAME, T, CHANNELS, STATES, PAIR, QUAD)                                                \
    extern "C" __global__ void __launch_bounds__(2 * CHANNELS * LANES)                             \
        NAME(const __grid_constant__ ScanArguments arguments) {                                    \
        scan<T, CHANNELS, STATES, PAIR, QUAD>(arguments);                                          \
    }

// Sixteen states and an even number of channels; then any.
SCAN(scan_f32_8_16, float, 8, 2, 2, 4)
SCAN(scan_f32_8_any, float, 8, 4, 1, 1)
SCAN(scan_f32_12_16, float, 12, 2, 2, 4)
SCAN(scan_f32_12_any, float, 12, 4, 1, 1)
SCAN(scan_f16_8_16, Half, 8, 2, 2, 4)
SCAN(scan_f16_8_any, Half, 8, 4, 1, 1)
SCAN(scan_f16_12_16, Half, 12, 2, 2, 4)
SCAN(scan_f16_12_any, Half, 12, 4, 1, 1)
