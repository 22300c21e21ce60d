// The gradients of the short convolutions of all streams of a mixer. A thread is a channel of a mixer in
// a run of tokens; what the neighbouring runs need of it, they compute themselves.

// Mirrors `ConvBackwardArguments`.
struct ConvBackwardArguments {
    const float *x;       // [batch, seq_len, groups * d_inner]
    const float *weight;  // [streams * d_inner, taps]
    const float *bias;    // [streams * d_inner]
    const float *grad_u;  // [batch, seq_len, streams * d_inner], after SiLU
    const float *parts_of_z;  // as `grad_u`
    float *grad_x;        // as `x`
    float *grad_z;        // as `x`: `parts_of_z`, added up over directions
    float *grad_weight;   // [batch * runs, streams * d_inner, taps]
    float *grad_bias;     // [batch * runs, streams * d_inner]
    int batch;
    int seq_len;
    int d_inner;
    int taps;
    int groups;
    int directions;
    int run;   // tokens of a thread
    int runs;  // of a sequence
    unsigned reverse[REVERSE_WORDS];
};

constexpr int CONV_BACKWARD_THREADS = 128;

template <int TAPS>
__device__ __forceinline__ void conv_backward(const ConvBackwardArguments &conv) {
    const int length = conv.seq_len, inner = conv.d_inner, taps = conv.taps;
    const int streams = conv.groups * conv.directions;
    const int width = conv.groups * inner;
    const long long thread = (long long)blockIdx.x * CONV_BACKWARD_THREADS + threadIdx.x;
    if (thread >= (long long)conv.batch * conv.runs * width) {
        return;
    }
    const int channel = thread % width;
    const long long part = thread / width;
    const int begin = part % conv.runs * conv.run, end = min(begin + conv.run, length);
    const long long row = part / conv.runs * length;
    const int mixer = channel / inner;
    const float *const x = conv.x + row * width + channel;
    float *const grad_x = conv.grad_x + row * width + channel;

    for (int direction = 0; direction < conv.directions; direction++) {
        const int stream = mixer * conv.directions + direction;
        const int place = stream * inner + channel % inner;
        // Tokens are counted as they are walked; `sign` leads from the walk to the sequence.
        const bool reverse = is_reverse(conv.reverse, stream);
        const auto at = [&](int step) { return (long long)(reverse ? length - 1 - step : step); };
        const int first = reverse ? length - end : begin, last = reverse ? length - begin : end;
        const float *const grad_u = conv.grad_u + row * streams * inner + place;
        const float bias = conv.bias[place];
        // By how many tokens back they reach.
        float weight[TAPS], grad_weight[TAPS], window[TAPS];
        float grad_bias = 0.0f;
#pragma unroll
        for (int back = 0; back < TAPS; back++) {
            weight[back] = back < taps ? conv.weight[place * taps + taps - 1 - back] : 0.0f;
            grad_weight[back] = window[back] = 0.0f;
        }
        // From the latest token to the earliest: a token gets its gradient from those after it.
        for (int step = min(last + taps - 1, length) - 1; step >= first; step--) {
            float values[TAPS];
            float sum = bias;
#pragma unroll
            for (int back = 0; back < TAPS; back++) {
                const bool there = back < taps && step >= back;
                values[back] = there ? x[at(step - back) * width] : 0.0f;
                sum = fmaf(weight[back], values[back], sum);
            }
            const float open = sigmoid(sum);
            const float grad =
                grad_u[at(step) * streams * inner] * open * fmaf(sum, 1.0f - open, 1.0f);
#pragma unroll
            for (int back = TAPS - 1; back > 0; back--) {
                window[back] = window[back - 1];
            }
            window[0] = grad;
            if (step >= last) {
                continue;
            }
            grad_bias += grad;
            float total = direction == 0 ? 0.0f : grad_x[at(step) * width];
#pragma unroll
            for (int back = 0; back < TAPS; back++) {
                grad_weight[back] = fmaf(grad, values[back], grad_weight[back]);
                total = fmaf(weight[back], window[back], total);
            }
            grad_x[at(step) * width] = total;
        }
        const long long of_part = part * streams * inner + place;
#pragma unroll
        for (int back = 0; back < TAPS; back++) {
            if (back < taps) {
                conv.grad_weight[of_part * taps + taps - 1 - back] = grad_weight[back];
            }
        }
        conv.grad_bias[of_part] = grad_bias;
    }

    for (int token = begin; token < end; token++) {
        const float *const parts =
            conv.parts_of_z + (row + token) * streams * inner + channel % inner;
        float sum = 0.0f;
        for (int direction = 0; direction < conv.directions; direction++) {
            sum += parts[(mixer * conv.directions + direction) * inner];
        }
        conv.grad_z[(row + token) * width + channel] = sum;
    }
}

#define CONV_BACKWARD(NAME, TAPS)                                                                  \
    extern "C" __global__ void __launch_bounds__(CONV_BACKWARD_THREADS)                            \
        NAME(const __grid_constant__ ConvBackwardArguments arguments) {                            \
        conv_backward<TAPS>(arguments);                                                            \
    }

CONV_BACKWARD(conv_backward_4, 4)
CONV_BACKWARD(conv_backward_16, 16)
