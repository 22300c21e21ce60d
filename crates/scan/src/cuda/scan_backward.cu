// The gradients of a selective scan. A thread is a channel of one stream and walks its tokens twice:
// forward, to leave the states at the start of each segment, and back, where a segment's states are
// computed again from there.
//
// The gradients of `b` and `c` are sums over channels: of a block's in here, of all in `sum_parts`.

// Mirrors `ScanBackwardArguments`.
struct ScanBackwardArguments {
    const float *u;
    const float *delta;
    const float *a;
    const float *b;
    const float *c;
    const float *d_skip;
    const float *z;
    const float *delta_bias;
    const float *grad_y;  // [batch, seq_len, groups * d_inner]
    float *states;        // [blocks, segments, STATES, SCAN_THREADS]
    float *grad_u;        // as `u`
    float *grad_delta;    // as `delta`
    float *grad_z;        // as `u`: each direction's part
    float *grad_b;        // [parts, batch, seq_len, streams * d_state]
    float *grad_c;        // likewise
    float *grad_a;        // [batch, streams * d_inner, d_state]
    float *grad_d_skip;   // [batch, streams * d_inner]
    float *grad_delta_bias;  // likewise
    int batch;
    int seq_len;
    int d_inner;
    int d_state;
    int groups;
    int directions;
    int parts;
    float scale;
    unsigned reverse[REVERSE_WORDS];
};

constexpr int SCAN_THREADS = 128;
constexpr int SCAN_WARPS = SCAN_THREADS / WARP;
constexpr int SEGMENT = 8;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float sigmoid(float x) {
    return __fdividef(1.0f, 1.0f + exp2_fast(-LOG2_E * x));
}

// A round of exchanges: lanes with the bit `WIDTH` keep the upper half of the values, the others the
// lower, and each gives away what it does not keep.
template <int WIDTH>
__device__ __forceinline__ void exchange(float (&values)[WARP]) {
    const bool upper = threadIdx.x & WIDTH;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        const float mine = upper ? values[i + WIDTH] : values[i];
        const float theirs = upper ? values[i] : values[i + WIDTH];
        values[i] = mine + __shfl_xor_sync(0xffffffffu, theirs, WIDTH);
    }
}

// The sum over the lanes of a warp of value `lane` of `values`, in as many exchanges as there are values.
__device__ __forceinline__ float sums_over_lanes(float (&values)[WARP]) {
    exchange<16>(values);
    exchange<8>(values);
    exchange<4>(values);
    exchange<2>(values);
    exchange<1>(values);
    return values[0];
}

template <int STATES>
struct Segment {
    float states[SEGMENT][STATES][SCAN_THREADS];  // before each token
    float rows[SEGMENT][2][STATES];               // `b` and `c`
    float sums[SEGMENT][2][SCAN_WARPS][STATES];
};

template <int STATES>
__device__ __forceinline__ void scan_backward(const ScanBackwardArguments &scan) {
    extern __shared__ float shared[];
    Segment<STATES> &segment = *reinterpret_cast<Segment<STATES> *>(shared);
    const int length = scan.seq_len, inner = scan.d_inner, d_state = scan.d_state;
    const int streams = scan.groups * scan.directions;
    const int part = blockIdx.x % scan.parts;
    const int stream = blockIdx.x / scan.parts % streams;
    const int batch = blockIdx.x / scan.parts / streams;
    const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    const int channel = part * SCAN_THREADS + thread;
    const bool active = channel < inner;
    const int place = stream * inner + (active ? channel : 0);
    const int mixer = stream / scan.directions;
    const bool reverse = is_reverse(scan.reverse, stream);
    const int segments = (length + SEGMENT - 1) / SEGMENT;
    float *const states =
        scan.states + (long long)blockIdx.x * segments * STATES * SCAN_THREADS + thread;
    const auto row_of = [&](int step) {
        return (long long)batch * length + (reverse ? length - 1 - step : step);
    };
    const float d_skip = scan.d_skip[place], bias = scan.delta_bias[place];
    float rates[STATES];
#pragma unroll
    for (int n = 0; n < STATES; n++) {
        rates[n] = n < d_state ? scan.a[(long long)place * d_state + n] * LOG2_E : 0.0f;
    }
    // Rows of `b` and `c` of a segment.
    const auto fetch = [&](int first, int count) {
        __syncthreads();
        for (int i = thread; i < count * 2 * STATES; i += SCAN_THREADS) {
            const int n = i % STATES, which = i / STATES % 2, token = i / STATES / 2;
            const float *const from = which ? scan.c : scan.b;
            segment.rows[token][which][n] =
                n < d_state ? from[row_of(first + token) * streams * d_state + stream * d_state + n]
                            : 0.0f;
        }
        __syncthreads();
    };
    struct Token {
        long long at;
        float x, dt, u;
    };
    const auto token = [&](int step) {
        Token token;
        token.at = row_of(step) * streams * inner + place;
        token.x = active ? scan.delta[token.at] + bias : 0.0f;
        token.u = active ? scan.u[token.at] : 0.0f;
        token.dt = softplus(token.x);
        return token;
    };

    float h[STATES];
#pragma unroll
    for (int n = 0; n < STATES; n++) {
        h[n] = 0.0f;
    }
    for (int number = 0; number < segments; number++) {
        const int first = number * SEGMENT, count = min(SEGMENT, length - first);
#pragma unroll
        for (int n = 0; n < STATES; n++) {
            states[((long long)number * STATES + n) * SCAN_THREADS] = h[n];
        }
        if (number + 1 == segments) {
            break;
        }
        fetch(first, count);
        for (int i = 0; i < count; i++) {
            const Token now = token(first + i);
            const float dt_u = now.dt * now.u;
#pragma unroll
            for (int n = 0; n < STATES; n++) {
                h[n] = fmaf(exp2_fast(now.dt * rates[n]), h[n], dt_u * segment.rows[i][0][n]);
            }
        }
    }

    // What a token gets of the gradient from the token after it.
    float carry[STATES], grad_a[STATES];
#pragma unroll
    for (int n = 0; n < STATES; n++) {
        carry[n] = grad_a[n] = 0.0f;
    }
    float grad_d_skip = 0.0f, grad_bias = 0.0f;
    for (int number = segments - 1; number >= 0; number--) {
        const int first = number * SEGMENT, count = min(SEGMENT, length - first);
        fetch(first, count);
#pragma unroll
        for (int n = 0; n < STATES; n++) {
            h[n] = states[((long long)number * STATES + n) * SCAN_THREADS];
        }
        for (int i = 0; i < count; i++) {
            const Token now = token(first + i);
            const float dt_u = now.dt * now.u;
#pragma unroll
            for (int n = 0; n < STATES; n++) {
                segment.states[i][n][thread] = h[n];
                h[n] = fmaf(exp2_fast(now.dt * rates[n]), h[n], dt_u * segment.rows[i][0][n]);
            }
        }
        for (int i = count - 1; i >= 0; i--) {
            const Token now = token(first + i);
            const float dt_u = now.dt * now.u;
            const long long output =
                row_of(first + i) * scan.groups * inner + mixer * inner + (active ? channel : 0);
            const float z = active ? scan.z[output] : 0.0f;
            const float grad_out = active ? scan.grad_y[output] * scan.scale : 0.0f;
            const float open = sigmoid(z);
            const float grad = grad_out * z * open;
            float y = d_skip * now.u, of_rate = 0.0f, of_input = 0.0f;
            float sums[2 * STATES];
#pragma unroll
            for (int n = 0; n < STATES; n++) {
                const float b = segment.rows[i][0][n], c = segment.rows[i][1][n];
                const float kept = exp2_fast(now.dt * rates[n]);
                const float before = kept * segment.states[i][n][thread];
                const float state = fmaf(dt_u, b, before);
                const float grad_h = fmaf(c, grad, carry[n]);
                y = fmaf(c, state, y);
                sums[n] = grad_h * dt_u;
                sums[STATES + n] = grad * state;
                of_input = fmaf(grad_h, b, of_input);
                const float of_kept = grad_h * before;
                of_rate = fmaf(of_kept, rates[n], of_rate);
                grad_a[n] = fmaf(of_kept, now.dt, grad_a[n]);
                carry[n] = grad_h * kept;
            }
            const float grad_delta =
                fmaf(of_rate, LN_2, of_input * now.u) * sigmoid(now.x);
            if (active) {
                scan.grad_u[now.at] = fmaf(now.dt, of_input, d_skip * grad);
                scan.grad_delta[now.at] = grad_delta;
                scan.grad_z[now.at] = grad_out * y * open * fmaf(z, 1.0f - open, 1.0f);
                grad_d_skip = fmaf(grad, now.u, grad_d_skip);
                grad_bias += grad_delta;
            }
#pragma unroll
            for (int group = 0; group < 2 * STATES; group += WARP) {
                float values[WARP];
#pragma unroll
                for (int n = 0; n < WARP; n++) {
                    values[n] = sums[group + n];
                }
                const int n = group + lane;
                segment.sums[i][n / STATES][warp][n % STATES] = sums_over_lanes(values);
            }
        }
        __syncthreads();
        for (int i = thread; i < count * 2 * d_state; i += SCAN_THREADS) {
            const int n = i % d_state, which = i / d_state % 2, token = i / d_state / 2;
            float sum = 0.0f;
#pragma unroll
            for (int other = 0; other < SCAN_WARPS; other++) {
                sum += segment.sums[token][which][other][n];
            }
            const long long rows = (long long)scan.batch * length;
            const long long at = ((long long)part * rows + row_of(first + token)) * streams + stream;
            (which ? scan.grad_c : scan.grad_b)[at * d_state + n] = sum;
        }
    }
    if (!active) {
        return;
    }
    const long long channels = (long long)streams * inner;
#pragma unroll
    for (int n = 0; n < STATES; n++) {
        if (n < d_state) {
            scan.grad_a[(batch * channels + place) * d_state + n] = grad_a[n];
        }
    }
    scan.grad_d_skip[batch * channels + place] = grad_d_skip;
    scan.grad_delta_bias[batch * channels + place] = grad_bias;
}

#define SCAN_BACKWARD(NAME, STATES)                                                                \
    extern "C" __global__ void __launch_bounds__(SCAN_THREADS)                                     \
        NAME(const __grid_constant__ ScanBackwardArguments arguments) {                            \
        scan_backward<STATES>(arguments);                                                          \
    }

SCAN_BACKWARD(scan_backward_16, 16)
SCAN_BACKWARD(scan_backward_32, 32)
