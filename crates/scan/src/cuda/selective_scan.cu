// The selective scan in one launch, from the first token to the last: time is not cut.
//
// Four lanes share a channel, each with a part of its states, and the two directions of a mixer are
// two sides of one block, which walk towards each other. The recurrence of a token is one
// multiply-add, so a few warps hide it; what bounds the kernel is one exponential for each state of
// each token, and no chunk of tokens is walked twice to find the state that it starts from.
//
// Some warps of a block scan, and the others move: while a tile of tokens is scanned, the tile before
// is added up and stored, and the tile after is loaded and prepared.
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
    void *y;  // or `u`, where they have the same shape
    int batch;
    int seq_len;
    int d_inner;
    int d_state;
    int states_width;  // of a row of `b` and of `c`, which begin with the row's first stream
    int groups;
    int directions;
    int by_stream;  // whether `u`, `delta`, `b` and `c` have rows for each stream, and not for all
    int delta_softplus;
    int sum;  // whether the directions of a mixer are added
    float scale;
    unsigned reverse[REVERSE_WORDS];
};

constexpr int LANES = 4;  // scanning threads of a channel
constexpr int MOVERS = 8;  // moving threads of a channel
constexpr int TILE = 32;  // tokens that are in shared memory at a time
constexpr int GROUP = 4;  // tokens that are in registers at a time
constexpr int BANKS = 32;  // of shared memory

// What becomes of the sums of a tile.
enum Meeting {
    ALONE,  // there is no other direction to add
    FIRST,  // the other side meets these tokens in later tiles, and finishes them
    LATER,  // the other side left its sums in `y`, more than a tile ago
    MIXED,  // it depends on the token
};

struct __align__(8) Step {
    float dt, dt_u;
};

template <int STATES>
struct __align__(16) Row {
    float b[STATES], c[STATES];
};

// What the warps of a side hand to each other, for one tile.
template <int CHANNELS, int STATES>
struct Tile {
    Row<STATES> rows[TILE][LANES];
    Step steps[TILE][CHANNELS];
    float parts[TILE][CHANNELS][LANES];  // of the sums over the states
};

// A side of a block.
struct Side {
    int first;  // channel
    int mixer;
    int stream;
    unsigned batch;
    int streams;
    int outputs;
    bool reverse;
    bool paired;    // its sums are added to those of the other side
    bool opposite;  // which walks the other way
};

__device__ __forceinline__ Side side_of_block(const ScanArguments &scan, int channels, int side) {
    const int blocks = (scan.d_inner + channels - 1) / channels;
    Side at;
    at.first = blockIdx.x % blocks * channels;
    at.mixer = blockIdx.x / blocks % scan.groups;
    at.batch = blockIdx.x / blocks / scan.groups;
    at.streams = scan.groups * scan.directions;
    at.stream = at.mixer * scan.directions + side;
    at.outputs = scan.sum ? scan.groups : at.streams;
    at.reverse = is_reverse(scan.reverse, at.stream);
    at.paired = scan.sum && scan.directions == 2;
    at.opposite = at.paired && is_reverse(scan.reverse, at.stream + 1 - 2 * side) != at.reverse;
    return at;
}

// What becomes of the sums of a side's tile of that number. From the last token, tile `n` ends in tile
// `length / TILE - 1 - n` of a side that walks the other way, and begins in tile
// `(length - 1) / TILE - n`.
__device__ __forceinline__ Meeting meeting(const Side &at, int length, int tile) {
    if (!at.paired) {
        return ALONE;
    }
    return at.opposite && 2 * tile < length / TILE - 1         ? FIRST
           : at.opposite && 2 * tile > (length - 1) / TILE + 1 ? LATER
                                                               : MIXED;
}

// The first tile that is `MIXED`, and the first after it that is not, of `count` in all.
__device__ __forceinline__ int2 mixed_tiles(const Side &at, int length, int count) {
    return !at.paired    ? make_int2(count, count)
           : at.opposite ? make_int2(length / TILE / 2, ((length - 1) / TILE + 1) / 2 + 1)
                         : make_int2(0, count);
}

// A thread that holds `STATES` states of a channel.
template <int CHANNELS, int STATES>
struct Scanner {
    int lane, own;
    float a[STATES], h[STATES];

    __device__ __forceinline__ Scanner(const ScanArguments &scan, const Side &at, int within) {
        // Neighbouring threads read the same `b` and `c`, and are served at once.
        lane = within % 32 / (32 / LANES);
        own = within / 32 * (32 / LANES) + within % (32 / LANES);
#pragma unroll
        for (int n = 0; n < STATES; n++) {
            const int state = lane * STATES + n;
            const int channel = at.first + own;
            const long long place = (long long)at.stream * scan.d_inner + channel;
            const bool exists = channel < scan.d_inner && state < scan.d_state;
            a[n] = exists ? load(scan.a + place * scan.d_state + state) * LOG2_E : 0.0f;
            h[n] = 0.0f;
        }
    }

    __device__ __forceinline__ void walk(Tile<CHANNELS, STATES> &tile) {
        // What a group reads is read before the group before it writes: a load waits for every
        // store that the compiler cannot tell apart from it.
        Step steps[2][GROUP];
        Row<STATES> rows[2][GROUP];
        const auto read = [&](int half, int group) {
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                steps[half][i] = tile.steps[group * GROUP + i][own];
                rows[half][i] = tile.rows[group * GROUP + i][lane];
            }
        };
        const auto walk = [&](int half, int group) {
            float parts[GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                const Step step = steps[half][i];
                const Row<STATES> row = rows[half][i];
#pragma unroll
                for (int n = 0; n < STATES; n++) {
                    h[n] = fmaf(exp2_fast(step.dt * a[n]), h[n], step.dt_u * row.b[n]);
                    parts[i] = n == 0 ? row.c[n] * h[n] : fmaf(row.c[n], h[n], parts[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                tile.parts[group * GROUP + i][own][lane] = parts[i];
            }
        };
        constexpr int GROUPS = TILE / GROUP;
        read(0, 0);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            if (group + 1 < GROUPS) {
                read((group + 1) % 2, group + 1);
            }
            walk(group % 2, group);
        }
    }
};

// A thread that moves `PAIR` channels, of which `d_inner` is a multiple, at every `HOP`th token of a
// tile, and `QUAD` states, of which `d_state` is a multiple, of `b` and `c`.
template <typename T, int CHANNELS, int STATES, int PAIR, int QUAD>
struct Mover {
    static constexpr int SIDE = CHANNELS * MOVERS;
    static constexpr int COLUMNS = CHANNELS / PAIR;
    static constexpr int HOP = SIDE / COLUMNS;
    static constexpr int EACH = TILE / HOP;
    static constexpr int WIDTH = LANES * STATES;  // states of a channel, padded
    static constexpr int ROW_HOP = SIDE * QUAD / WIDTH;
    static constexpr int ROWS = (TILE + ROW_HOP - 1) / ROW_HOP;
    static_assert(TILE % HOP == 0 && SIDE * QUAD % WIDTH == 0, "whole rows");
    using Values = Vector<T, PAIR>;
    using States = Vector<T, QUAD>;

    const ScanArguments &scan;
    const Side &at;
    int channel, token, state, row_token;
    float bias[PAIR], skip[PAIR];
    // Places of the first values of the tile that is fetched next, and of the first results of the one
    // that is stored next; from one of this thread's tokens to its next. Modulo 2^32, backwards too.
    unsigned wide, row, gate, out;
    unsigned wide_hop, row_hop, row_tile, gate_hop, out_hop;
    int left, rows_left, out_left;  // tokens from there to the end
    Values raw_u[EACH], raw_delta[EACH];
    States raw_b[ROWS], raw_c[ROWS];
    // Of the tile that is stored, and of those after it.
    float skipped[3][EACH][PAIR] = {};
    Values partial[2][EACH] = {}, gates[2][EACH] = {};

    __device__ __forceinline__ Mover(const ScanArguments &scan, const Side &at, int within)
        : scan(scan), at(at) {
        const int length = scan.seq_len;
        const int inner = scan.d_inner;
        channel = within % COLUMNS * PAIR;
        token = within / COLUMNS;
        state = within * QUAD % WIDTH;
        row_token = within * QUAD / WIDTH;
        const bool moves = at.first + channel < inner;
        const unsigned mine = at.stream * inner + at.first + channel;
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            bias[k] = moves && scan.delta_bias ? load(scan.delta_bias + mine + k) : 0.0f;
            skip[k] = moves && scan.d_skip ? load(scan.d_skip + mine + k) : 0.0f;
        }
        const unsigned way = at.reverse ? ~0u : 1u;
        const unsigned start = at.batch * length + (at.reverse ? length - 1 - token : token);
        const unsigned output = scan.sum ? at.mixer : at.stream;
        // Tokens before those of this clip, where rows are of one stream.
        const unsigned ahead = scan.by_stream ? (unsigned)at.stream * scan.batch * length : 0u;
        const unsigned wide_row = (scan.by_stream ? 1 : at.streams) * inner;
        wide = (ahead + start) * wide_row + (scan.by_stream ? at.first + channel : mine);
        gate = (start * scan.groups + at.mixer) * inner + at.first + channel;
        out = (start * at.outputs + output) * inner + at.first + channel;
        wide_hop = kept(way * HOP * wide_row);
        gate_hop = kept(way * HOP * scan.groups * inner);
        out_hop = kept(way * HOP * at.outputs * inner);
        out_left = left = moves ? length - token : 0;

        const unsigned row_start =
            at.batch * length + (at.reverse ? length - 1 - row_token : row_token);
        row = (ahead + row_start) * scan.states_width +
              (scan.by_stream ? 0 : at.stream * scan.d_state) + state;
        row_hop = kept(way * ROW_HOP * scan.states_width);
        row_tile = kept(way * TILE * scan.states_width);
        rows_left = state < scan.d_state ? length - row_token : 0;
    }

    __device__ __forceinline__ static const Values *place_of(const void *operand, unsigned place) {
        return reinterpret_cast<const Values *>(static_cast<const T *>(operand) + place);
    }

    __device__ __forceinline__ static Values values(const void *operand, unsigned place) {
        return load(place_of(operand, place));
    }

    __device__ __forceinline__ static States states(const void *operand, unsigned place) {
        return load(reinterpret_cast<const States *>(static_cast<const T *>(operand) + place));
    }

    __device__ __forceinline__ Values *results(unsigned place) const {
        return reinterpret_cast<Values *>(static_cast<T *>(scan.y) + place);
    }

    // Asks for the values of the next tile.
    __device__ __forceinline__ void fetch() {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const bool exists = i * HOP < left;
            // `y` may be in its place, so not through the cache for what no thread writes.
            raw_u[i] = exists ? *place_of(scan.u, wide + i * wide_hop) : Values{};
            raw_delta[i] = exists ? values(scan.delta, wide + i * wide_hop) : Values{};
        }
        wide += EACH * wide_hop;
        left -= TILE;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const bool exists = i * ROW_HOP < min(rows_left, TILE - row_token);
            raw_b[i] = exists ? states(scan.b, row + i * row_hop) : States{};
            raw_c[i] = exists ? states(scan.c, row + i * row_hop) : States{};
        }
        row += row_tile;
        rows_left -= TILE;
    }

    // Prepares what was fetched. Tokens beyond the last change states that nothing reads.
    __device__ __forceinline__ void unpack(Tile<CHANNELS, STATES> &tile) {
        float dt[EACH][PAIR];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
#pragma unroll
            for (int k = 0; k < PAIR; k++) {
                dt[i][k] = raw_delta[i][k] + bias[k];
            }
        }
        // Asked once for all: a chain of a softplus fills the waits of the others.
        if (scan.delta_softplus) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int k = 0; k < PAIR; k++) {
                    dt[i][k] = softplus(dt[i][k]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
#pragma unroll
            for (int k = 0; k < PAIR; k++) {
                const float u = raw_u[i][k];
                tile.steps[token + i * HOP][channel + k] = Step{dt[i][k], dt[i][k] * u};
                skipped[0][i][k] = skipped[1][i][k];
                skipped[1][i][k] = skipped[2][i][k];
                skipped[2][i][k] = skip[k] * u;
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int row = row_token + i * ROW_HOP;
            if (row < TILE) {
                // One after the other, so that each is written as words.
                Row<STATES> &to = tile.rows[row][state / STATES];
#pragma unroll
                for (int k = 0; k < QUAD; k++) {
                    to.b[state % STATES + k] = raw_b[i][k];
                }
#pragma unroll
                for (int k = 0; k < QUAD; k++) {
                    to.c[state % STATES + k] = raw_c[i][k];
                }
            }
        }
    }

    // Asks for what the sums of the tile that begins after `begin` tokens are added to and gated by,
    // while it is scanned.
    __device__ __forceinline__ void prepare(int begin) {
        const Meeting meets = meeting(at, scan.seq_len, begin / TILE);
        // `out` is still at the tile before.
        const unsigned next = out + (begin > 0 ? EACH * out_hop : 0);
        const int ahead = begin > 0 ? out_left - TILE : out_left;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            partial[1][i] = gates[1][i] = Values{};
            if (meets == LATER && i * HOP < ahead) {
                partial[1][i].word = kept(results(next + i * out_hop)->word);
            }
            if (scan.z && meets != FIRST && i * HOP < ahead) {
                gates[1][i].word = kept(values(scan.z, gate + i * gate_hop).word);
            }
        }
        gate += EACH * gate_hop;
    }

    // The sums over the lanes of what this thread moves at a token. Neighbouring threads start at
    // different channels: no bank is read twice at once.
    __device__ __forceinline__ void add_lanes(const Tile<CHANNELS, STATES> &tile, int within, int i,
                                              float (&sum)[PAIR]) const {
        static_assert(LANES == 4 && PAIR <= 2, "a channel is one word of four sums");
        const auto fours = reinterpret_cast<const float4 *>(tile.parts[token + i * HOP][channel]);
        const int turn = within / (BANKS / (LANES * PAIR)) % PAIR;
        float sums[PAIR];
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            const float4 four = fours[k ^ turn];
            sums[k] = (four.x + four.y) + (four.z + four.w);
        }
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            sum[k] = (turn ? sums[PAIR - 1 - k] : sums[k]) + skipped[0][i][k];
        }
    }

    __device__ __forceinline__ void keep(unsigned place, const float (&sum)[PAIR]) {
        Values values;
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            values.set(k, sum[k]);
        }
        *results(place) = values;
    }

    __device__ __forceinline__ void finish(unsigned place, float (&sum)[PAIR], const Values &gate) {
#pragma unroll
        for (int k = 0; k < PAIR; k++) {
            sum[k] *= scan.scale;
            if (scan.z) {
                sum[k] *= silu(gate[k]);
            }
        }
        keep(place, sum);
    }

    // Adds up and stores a tile that was scanned, which begins after `begin` tokens. `other` is that
    // of the other side.
    __device__ __forceinline__ void store(Tile<CHANNELS, STATES> &tile,
                                          const Tile<CHANNELS, STATES> &other, int within, int side,
                                          int begin) {
        const Meeting meets = meeting(at, scan.seq_len, begin / TILE);
        float sums[EACH][PAIR];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            add_lanes(tile, within, i, sums[i]);
        }
        if (meets == FIRST) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                if (i * HOP < out_left) {
                    keep(out + i * out_hop, sums[i]);
                }
            }
        } else if (meets != MIXED) {
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                if (i * HOP < out_left) {
#pragma unroll
                    for (int k = 0; k < PAIR; k++) {
                        sums[i][k] += partial[0][i][k];
                    }
                    finish(out + i * out_hop, sums[i], gates[0][i]);
                }
            }
        } else {
            // The sums are left where the other side finds them, in the place of a lane.
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int k = 0; k < PAIR; k++) {
                    tile.parts[token + i * HOP][channel + k][0] = sums[i][k];
                }
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                if (i * HOP >= out_left) {
                    continue;
                }
                const int walked = begin + token + i * HOP;
                const int there = at.opposite ? scan.seq_len - 1 - walked : walked;
                if (there / TILE > begin / TILE) {
                    keep(out + i * out_hop, sums[i]);
                } else if (there / TILE < begin / TILE || side == 1) {
                    const bool left_in_y = there / TILE < begin / TILE;
#pragma unroll
                    for (int k = 0; k < PAIR; k++) {
                        sums[i][k] += left_in_y ? (*results(out + i * out_hop))[k]
                                                : other.parts[there % TILE][channel + k][0];
                    }
                    finish(out + i * out_hop, sums[i], gates[0][i]);
                }
            }
        }
        out += EACH * out_hop;
        out_left -= TILE;
    }

    // What was asked for is of the tile that is stored next.
    __device__ __forceinline__ void advance() {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            partial[0][i] = partial[1][i];
            gates[0][i] = gates[1][i];
        }
    }
};

template <typename T, int CHANNELS, int STATES, int PAIR, int QUAD>
__device__ __forceinline__ void scan(const ScanArguments &scan) {
    // Tiles of even numbers for each side, then of odd ones.
    extern __shared__ __align__(16) char shared[];
    const auto tiles = reinterpret_cast<Tile<CHANNELS, STATES> *>(shared);
    const auto tile_of = [&](int number, int side) -> Tile<CHANNELS, STATES> & {
        return tiles[number % 2 * scan.directions + side];
    };
    const int scanners = scan.directions * CHANNELS * LANES;
    const int count = (scan.seq_len + TILE - 1) / TILE;
    if (threadIdx.x < scanners) {
        const int side = threadIdx.x / (CHANNELS * LANES);
        const Side at = side_of_block(scan, CHANNELS, side);
        Scanner<CHANNELS, STATES> scanner(scan, at, threadIdx.x % (CHANNELS * LANES));
        const int2 mixed = mixed_tiles(at, scan.seq_len, count);
        // Behind these, the movers hand sums to each other in `store`.
        const auto hand_over = [] {
            __syncthreads();
            __syncthreads();
        };
        __syncthreads();
        int number = 0;
#pragma unroll 1
        for (int part = 0; part < 3; part++) {
            // A tile is stored while the next is scanned.
            const int end = part == 0 ? mixed.x + 1 : part == 1 ? mixed.y + 1 : count;
            for (; number < min(end, count); number++) {
                scanner.walk(tile_of(number, side));
                if (part == 1) {
                    hand_over();
                }
                __syncthreads();
            }
        }
        if (mixed.x < count && mixed.y >= count) {
            hand_over();
        }
        __syncthreads();
    } else {
        const int side = (threadIdx.x - scanners) / (CHANNELS * MOVERS);
        const int within = (threadIdx.x - scanners) % (CHANNELS * MOVERS);
        const Side at = side_of_block(scan, CHANNELS, side);
        Mover<T, CHANNELS, STATES, PAIR, QUAD> mover(scan, at, within);
        mover.fetch();
        mover.unpack(tile_of(0, side));
        mover.fetch();
        __syncthreads();
        for (int number = 0; number <= count; number++) {
            // What is asked for here is used after the next barrier.
            mover.unpack(tile_of(number + 1, side));
            mover.fetch();
            mover.prepare(number * TILE);
            if (number > 0) {
                mover.store(tile_of(number - 1, side), tile_of(number - 1, 1 - side), within, side,
                            (number - 1) * TILE);
            }
            mover.advance();
            __syncthreads();
        }
    }
}

#define SCAN(NAME, T, CHANNELS, STATES, PAIR, QUAD, BLOCKS)                                        \
    extern "C" __global__ void __launch_bounds__(2 * CHANNELS * (LANES + MOVERS), BLOCKS)          \
        NAME(const __grid_constant__ ScanArguments arguments) {                                    \
        scan<T, CHANNELS, STATES, PAIR, QUAD>(arguments);                                          \
    }

// Sixteen states and an even number of channels; then any.
SCAN(scan_f32_8, float, 8, 4, 2, 4, 3)
SCAN(scan_f32_16, float, 16, 4, 2, 4, 2)
SCAN(scan_f32_24, float, 24, 4, 2, 4, 1)
SCAN(scan_f32_any, float, 8, 8, 1, 1, 1)
SCAN(scan_f16_8, Half, 8, 4, 2, 4, 3)
SCAN(scan_f16_16, Half, 16, 4, 2, 4, 2)
SCAN(scan_f16_24, Half, 24, 4, 2, 4, 1)
SCAN(scan_f16_any, Half, 8, 8, 1, 1, 1)
