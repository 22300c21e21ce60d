// The short convolutions of all streams of a mixer from one reading of its tokens.
//
// A thread is a vector of neighbouring channels in a run of tokens: it walks them once, with the taps
// on both sides in registers.

// Mirrors `ConvArguments`.
struct ConvArguments {
    const void *x;
    const float *weight;
    const float *bias;  // or null
    void *u;
    long long stream_step;  // values from a stream of `u` to the next
    int row;                // and from a token to the next
    int batch;
    int seq_len;
    int d_inner;
    int taps;
    int groups;
    int directions;
    int silu;
    int run;  // tokens of a thread
    unsigned reverse[REVERSE_WORDS];
};

constexpr int CONV_THREADS = 128;
constexpr int USUAL_TAPS = 4;

// Convolutions of up to `TAPS` taps; `WIDTH` divides `d_inner`.
template <typename T, int TAPS, int WIDTH>
__device__ __forceinline__ void short_conv(const ConvArguments &conv) {
    const int length = conv.seq_len;
    const int inner = conv.d_inner;
    const int vectors = conv.groups * inner / WIDTH;
    const int runs = (length + conv.run - 1) / conv.run;
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (long long)conv.batch * runs * vectors) {
        return;
    }
    const int channel = thread % vectors * WIDTH;
    const int begin = thread / vectors % runs * conv.run;
    const long long batch = thread / vectors / runs;
    const int end = min(begin + conv.run, length);
    const int mixer = channel / inner;
    const int absent = TAPS == USUAL_TAPS ? 0 : TAPS - conv.taps;
    const T *const x = static_cast<const T *>(conv.x) + batch * length * conv.groups * inner + channel;
    const auto row = [&](int token) {
        if (token < 0 || token >= length) {
            return Vector<T, WIDTH>{};
        }
        return load(reinterpret_cast<const Vector<T, WIDTH> *>(
            x + (long long)token * conv.groups * inner));
    };

    for (int direction = 0; direction < conv.directions; direction++) {
        const int stream = mixer * conv.directions + direction;
        const int place = stream * inner + channel % inner;
        const bool reverse = is_reverse(conv.reverse, stream);
        float weight[TAPS][WIDTH], bias[WIDTH], window[TAPS][WIDTH];
#pragma unroll
        for (int lane = 0; lane < WIDTH; lane++) {
            bias[lane] = conv.bias ? load(conv.bias + place + lane) : 0.0f;
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                // The window goes from the earliest token to the latest, taps in walking order.
                const int walked = (reverse ? TAPS - 1 - tap : tap) - absent;
                weight[tap][lane] =
                    walked < 0 ? 0.0f : load(conv.weight + (place + lane) * conv.taps + walked);
            }
        }
        const int ahead = reverse ? TAPS - 1 : 0;
#pragma unroll
        for (int tap = 1; tap < TAPS; tap++) {
            const Vector<T, WIDTH> values = row(begin + ahead - TAPS + tap);
#pragma unroll
            for (int lane = 0; lane < WIDTH; lane++) {
                window[tap][lane] = values[lane];
            }
        }
        T *u = static_cast<T *>(conv.u) + (batch * length + begin) * conv.row +
               stream * conv.stream_step + channel % inner;
#pragma unroll 8
        for (int token = begin; token < end; token++) {
            const Vector<T, WIDTH> values = row(token + ahead);
            Vector<T, WIDTH> results;
#pragma unroll
            for (int lane = 0; lane < WIDTH; lane++) {
#pragma unroll
                for (int tap = 0; tap + 1 < TAPS; tap++) {
                    window[tap][lane] = window[tap + 1][lane];
                }
                window[TAPS - 1][lane] = values[lane];
                float sum = bias[lane];
#pragma unroll
                for (int tap = 0; tap < TAPS; tap++) {
                    // Not a product with zero: the token may be infinite.
                    if ((reverse ? TAPS - 1 - tap : tap) >= absent) {
                        sum = fmaf(weight[tap][lane], window[tap][lane], sum);
                    }
                }
                results.set(lane, conv.silu ? silu(sum) : sum);
            }
            *reinterpret_cast<Vector<T, WIDTH> *>(u) = results;
            u += conv.row;
        }
    }
}

#define SHORT_CONV(NAME, T, TAPS, WIDTH)                                                           \
    extern "C" __global__ void __launch_bounds__(CONV_THREADS)                                     \
        NAME(const __grid_constant__ ConvArguments arguments) {                                    \
        short_conv<T, TAPS, WIDTH>(arguments);                                                     \
    }

SHORT_CONV(conv_f32_4, float, 4, 4)
SHORT_CONV(conv_f32_any, float, 16, 1)
SHORT_CONV(conv_f16_4, Half, 4, 4)
SHORT_CONV(conv_f16_any, Half, 16, 1)
