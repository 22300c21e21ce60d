// An update to the residual and the layer norm of the sum, in one reading of both.
//
// A warp is a row, and walks to the next one that is as many rows ahead as there are warps.

// Mirrors `NormArguments`.
struct NormArguments {
    const void *x;
    const void *update;
    const float *weight;
    const float *bias;
    void *y;
    void *sum;
    int rows;
    int seq_len;
    int d_model;
    // Rows of `update` from a clip to the next, and from a token to the next; 0 where it is the same.
    int clip_hop;
    int token_hop;
    float epsilon;
};

constexpr int NORM_THREADS = 128;
constexpr int WARP = 32;

// The sum over the lanes of a warp, in each of them.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        value += __shfl_xor_sync(~0u, value, mask);
    }
    return value;
}

__device__ __forceinline__ long long update_row(const NormArguments &norm, int row) {
    return (long long)(row / norm.seq_len) * norm.clip_hop + row % norm.seq_len * norm.token_hop;
}

// Rows of an even number of values, at most `2 * WARP * PAIRS`, which are kept in registers.
template <typename T, int PAIRS>
__device__ __forceinline__ void norm_kept(const NormArguments &norm) {
    using Pair = Vector<T, 2>;
    const int lane = threadIdx.x % WARP;
    const int pairs = norm.d_model / 2;
    const int warps = gridDim.x * (NORM_THREADS / WARP);
    float weight[PAIRS][2], bias[PAIRS][2];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int pair = lane + i * WARP;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            weight[i][k] = pair < pairs ? load(norm.weight + 2 * pair + k) : 0.0f;
            bias[i][k] = pair < pairs ? load(norm.bias + 2 * pair + k) : 0.0f;
        }
    }
    for (int row = blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP; row < norm.rows;
         row += warps) {
        const long long place = (long long)row * pairs + lane;
        const auto x = static_cast<const Pair *>(norm.x) + place;
        const auto update =
            static_cast<const Pair *>(norm.update) + update_row(norm, row) * pairs + lane;
        Pair raw_x[PAIRS], raw_update[PAIRS];
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const bool exists = lane + i * WARP < pairs;
            raw_x[i] = exists ? load(x + i * WARP) : Pair{};
            raw_update[i] = exists ? load(update + i * WARP) : Pair{};
        }
        float values[PAIRS][2], total = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            Pair rounded{};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                rounded.set(k, raw_x[i][k] + raw_update[i][k]);
                values[i][k] = rounded[k];
                total += values[i][k];
            }
            if (lane + i * WARP < pairs) {
                static_cast<Pair *>(norm.sum)[place + i * WARP] = rounded;
            }
        }
        const float mean = warp_sum(total) / norm.d_model;
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (lane + i * WARP < pairs) {
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    values[i][k] -= mean;
                    squares = fmaf(values[i][k], values[i][k], squares);
                }
            }
        }
        const float scale = rsqrtf(warp_sum(squares) / norm.d_model + norm.epsilon);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            if (lane + i * WARP < pairs) {
                Pair normalised;
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    normalised.set(k, fmaf(values[i][k] * scale, weight[i][k], bias[i][k]));
                }
                static_cast<Pair *>(norm.y)[place + i * WARP] = normalised;
            }
        }
    }
}

// Rows of any number of values, which are read three times.
template <typename T>
__device__ __forceinline__ void norm_any(const NormArguments &norm) {
    const int lane = threadIdx.x % WARP;
    const int warps = gridDim.x * (NORM_THREADS / WARP);
    for (int row = blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP; row < norm.rows;
         row += warps) {
        const long long place = (long long)row * norm.d_model;
        const T *const x = static_cast<const T *>(norm.x) + place;
        const T *const update =
            static_cast<const T *>(norm.update) + update_row(norm, row) * norm.d_model;
        T *const sum = static_cast<T *>(norm.sum) + place;
        T *const y = static_cast<T *>(norm.y) + place;
        const auto value = [&](int i) {
            T rounded;
            from_float(rounded, to_float(x[i]) + to_float(update[i]));
            return rounded;
        };
        float total = 0.0f;
        for (int i = lane; i < norm.d_model; i += WARP) {
            const T rounded = value(i);
            sum[i] = rounded;
            total += to_float(rounded);
        }
        const float mean = warp_sum(total) / norm.d_model;
        float squares = 0.0f;
        for (int i = lane; i < norm.d_model; i += WARP) {
            const float off = to_float(value(i)) - mean;
            squares = fmaf(off, off, squares);
        }
        const float scale = rsqrtf(warp_sum(squares) / norm.d_model + norm.epsilon);
        for (int i = lane; i < norm.d_model; i += WARP) {
            const float off = to_float(value(i)) - mean;
            from_float(y[i], fmaf(off * scale, load(norm.weight + i), load(norm.bias + i)));
        }
    }
}

// `BLOCKS` run on a multiprocessor at once.
#define NORM(NAME, BODY, BLOCKS)                                                                   \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS, BLOCKS)                             \
        NAME(const __grid_constant__ NormArguments arguments) {                                    \
        BODY(arguments);                                                                           \
    }

// An even number of values up to 192, up to 768; then any.
NORM(norm_f32_192, (norm_kept<float, 3>), 12)
NORM(norm_f32_768, (norm_kept<float, 12>), 4)
NORM(norm_f32_any, norm_any<float>, 12)
NORM(norm_f16_192, (norm_kept<Half, 3>), 12)
NORM(norm_f16_768, (norm_kept<Half, 12>), 4)
NORM(norm_f16_any, norm_any<Half>, 12)
