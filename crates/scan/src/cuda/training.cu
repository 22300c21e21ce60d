// What training needs between convolutions, scans and products of matrices. No sum depends on the order
// in which blocks run, so that the same values give the same bits.

constexpr int WARP = 32;
constexpr int NORM_THREADS = 256;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// Mirrors `NormArguments`.
struct NormArguments {
    const float *x;       // [rows, width]
    const float *weight;  // [groups, width]
    const float *bias;    // [groups, width]
    float *out;           // [groups, rows, width]
    const float *grad;    // [groups, rows, width]
    float *grad_x;        // [rows, width], to which is added
    float2 *statistics;   // [rows], mean and reciprocal deviation
    float *partial;       // [blocks, 2, groups, width], of weights, then of biases
    int rows;
    int width;
    int groups;
    int rows_of_block;
    float eps;
};

__device__ __forceinline__ float2 norm_statistics(const float *row, int width, float eps) {
    const int lane = threadIdx.x % WARP;
    float sum = 0.0f;
    for (int i = lane; i < width; i += WARP) {
        sum += row[i];
    }
    const float mean = warp_sum(sum) / width;
    float squares = 0.0f;
    for (int i = lane; i < width; i += WARP) {
        const float distance = row[i] - mean;
        squares = fmaf(distance, distance, squares);
    }
    return float2{mean, 1.0f / sqrtf(warp_sum(squares) / width + eps)};
}

// The same rows through the norms of all groups; a warp is a row.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_forward(const __grid_constant__ NormArguments norm) {
    const long long row = (long long)blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= norm.rows) {
        return;
    }
    const float *const x = norm.x + row * norm.width;
    const float2 of = norm_statistics(x, norm.width, norm.eps);
    for (int group = 0; group < norm.groups; group++) {
        float *const out = norm.out + ((long long)group * norm.rows + row) * norm.width;
        for (int i = threadIdx.x % WARP; i < norm.width; i += WARP) {
            const int place = group * norm.width + i;
            out[i] = fmaf((x[i] - of.x) * of.y, norm.weight[place], norm.bias[place]);
        }
    }
}

// The gradient of the rows, summed over groups; a warp is a row.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_backward(const __grid_constant__ NormArguments norm) {
    const long long row = (long long)blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= norm.rows) {
        return;
    }
    const int lane = threadIdx.x % WARP;
    const float *const x = norm.x + row * norm.width;
    const float2 of = norm_statistics(x, norm.width, norm.eps);
    if (lane == 0) {
        norm.statistics[row] = of;
    }
    // All groups normalise the same values, so their gradients add up before that.
    const auto inner = [&](int i) {
        float sum = 0.0f;
        for (int group = 0; group < norm.groups; group++) {
            const long long place = ((long long)group * norm.rows + row) * norm.width + i;
            sum = fmaf(norm.grad[place], norm.weight[group * norm.width + i], sum);
        }
        return sum;
    };
    float sum = 0.0f, both = 0.0f;
    for (int i = lane; i < norm.width; i += WARP) {
        const float value = inner(i);
        sum += value;
        both = fmaf(value, (x[i] - of.x) * of.y, both);
    }
    const float mean = warp_sum(sum) / norm.width;
    const float mean_both = warp_sum(both) / norm.width;
    float *const grad_x = norm.grad_x + row * norm.width;
    for (int i = lane; i < norm.width; i += WARP) {
        const float normal = (x[i] - of.x) * of.y;
        grad_x[i] += of.y * (inner(i) - mean - normal * mean_both);
    }
}

// Sums for the gradients of weights and biases, over the rows of a block; a thread is a column.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_columns(const __grid_constant__ NormArguments norm) {
    const int first = blockIdx.x * norm.rows_of_block;
    const int last = min(first + norm.rows_of_block, norm.rows);
    const int columns = norm.groups * norm.width;
    float *const partial = norm.partial + (long long)blockIdx.x * 2 * columns;
    for (int column = threadIdx.x; column < columns; column += NORM_THREADS) {
        const int group = column / norm.width, i = column % norm.width;
        float weight = 0.0f, bias = 0.0f;
        for (int row = first; row < last; row++) {
            const float2 of = norm.statistics[row];
            const float grad = norm.grad[((long long)group * norm.rows + row) * norm.width + i];
            const float normal = (norm.x[(long long)row * norm.width + i] - of.x) * of.y;
            weight = fmaf(grad, normal, weight);
            bias += grad;
        }
        partial[column] = weight;
        partial[columns + column] = bias;
    }
}

// Mirrors `Sum` and `SumArguments`.
struct Sum {
    const float *parts;  // [count, len]
    const float *factor; // [len] or null
    float *out;          // [len]
    int count;
    int len;
    int first_block;
};

constexpr int SUMS = 8;
constexpr int SUM_THREADS = 128;

struct SumArguments {
    Sum sums[SUMS];
    int count;
};

// Several sums over parts at once; a thread is a place.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    sum_parts(const __grid_constant__ SumArguments arguments) {
    int which = 0;
    while (which + 1 < arguments.count && blockIdx.x >= arguments.sums[which + 1].first_block) {
        which++;
    }
    const Sum &sum = arguments.sums[which];
    const long long place =
        (long long)(blockIdx.x - sum.first_block) * SUM_THREADS + threadIdx.x;
    if (place >= sum.len) {
        return;
    }
    float total = 0.0f;
    for (int part = 0; part < sum.count; part++) {
        total += sum.parts[(long long)part * sum.len + place];
    }
    sum.out[place] = sum.factor ? total * sum.factor[place] : total;
}

// Mirrors `DecayArguments`.
struct DecayArguments {
    const float *a_log;
    float *a;
    int len;
};

// a = -exp(a_log)
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    decay(const __grid_constant__ DecayArguments arguments) {
    const int place = blockIdx.x * SUM_THREADS + threadIdx.x;
    if (place < arguments.len) {
        arguments.a[place] = -expf(arguments.a_log[place]);
    }
}

// Mirrors `PatchArguments`.
struct PatchArguments {
    const float *fbank;  // [batch, n_frames, n_mels]
    float *patches;      // [batch, rows, columns, patch_f, patch_t]
    int batch;
    int n_frames;
    int n_mels;
    int rows;     // over frequency
    int columns;  // over time
    int patch_f;
    int patch_t;
    int stride_f;
    int stride_t;
};

// Cuts patches out; a thread is a value.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    cut_patches(const __grid_constant__ PatchArguments cut) {
    const int size = cut.patch_f * cut.patch_t;
    const long long values = (long long)cut.batch * cut.rows * cut.columns * size;
    const long long place = (long long)blockIdx.x * SUM_THREADS + threadIdx.x;
    if (place >= values) {
        return;
    }
    const int within = place % size;
    const int patch = place / size % (cut.rows * cut.columns);
    const long long batch = place / size / (cut.rows * cut.columns);
    const int mel = patch / cut.columns * cut.stride_f + within / cut.patch_t;
    const int frame = patch % cut.columns * cut.stride_t + within % cut.patch_t;
    cut.patches[place] = cut.fbank[(batch * cut.n_frames + frame) * cut.n_mels + mel];
}

// Mirrors `BiasArguments`.
struct BiasArguments {
    float *x;  // [rows, width]
    const float *bias;
    float *partial;  // [blocks, width]
    int rows;
    int width;
    int rows_of_block;
};

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    add_bias(const __grid_constant__ BiasArguments add) {
    const long long place = (long long)blockIdx.x * SUM_THREADS + threadIdx.x;
    if (place < (long long)add.rows * add.width) {
        add.x[place] += add.bias[place % add.width];
    }
}

// Sums over the rows of a block; a thread is a column.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    bias_columns(const __grid_constant__ BiasArguments add) {
    const int first = blockIdx.x * add.rows_of_block;
    const int last = min(first + add.rows_of_block, add.rows);
    for (int column = threadIdx.x; column < add.width; column += SUM_THREADS) {
        float sum = 0.0f;
        for (int row = first; row < last; row++) {
            sum += add.x[(long long)row * add.width + column];
        }
        add.partial[(long long)blockIdx.x * add.width + column] = sum;
    }
}

// Mirrors `SoftmaxArguments`.
struct SoftmaxArguments {
    float *shares;  // [rows, width]: of scores in place, or what came of them
    float *grad;    // [rows, width]: of shares, in place that of scores; or null
    int rows;
    int width;
    float scale;  // of scores
};

// A warp is a row.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    softmax_forward(const __grid_constant__ SoftmaxArguments softmax) {
    const long long row = (long long)blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= softmax.rows) {
        return;
    }
    const int lane = threadIdx.x % WARP;
    float *const shares = softmax.shares + row * softmax.width;
    float most = -__int_as_float(0x7f800000);
    for (int i = lane; i < softmax.width; i += WARP) {
        most = fmaxf(most, shares[i]);
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
    }
    float sum = 0.0f;
    for (int i = lane; i < softmax.width; i += WARP) {
        const float power = exp2_fast((shares[i] - most) * (softmax.scale * LOG2_E));
        shares[i] = power;
        sum += power;
    }
    const float part = 1.0f / warp_sum(sum);
    for (int i = lane; i < softmax.width; i += WARP) {
        shares[i] *= part;
    }
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    softmax_backward(const __grid_constant__ SoftmaxArguments softmax) {
    const long long row = (long long)blockIdx.x * (NORM_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= softmax.rows) {
        return;
    }
    const int lane = threadIdx.x % WARP;
    const float *const shares = softmax.shares + row * softmax.width;
    float *const grad = softmax.grad + row * softmax.width;
    float sum = 0.0f;
    for (int i = lane; i < softmax.width; i += WARP) {
        sum = fmaf(grad[i], shares[i], sum);
    }
    const float mean = warp_sum(sum);
    for (int i = lane; i < softmax.width; i += WARP) {
        grad[i] = softmax.scale * shares[i] * (grad[i] - mean);
    }
}

// Mirrors `GeluArguments`.
struct GeluArguments {
    const float *x;
    float *out;  // the result, or in place of its gradient that of `x`
    long long len;
};

constexpr float SQRT_1_2 = 0.7071067811865476f;
constexpr float SQRT_1_2_PI = 0.3989422804014327f;

// x times the share of the normal distribution below it.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    gelu_forward(const __grid_constant__ GeluArguments gelu) {
    const long long place = (long long)blockIdx.x * SUM_THREADS + threadIdx.x;
    if (place < gelu.len) {
        const float x = gelu.x[place];
        gelu.out[place] = 0.5f * x * (1.0f + erff(x * SQRT_1_2));
    }
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    gelu_backward(const __grid_constant__ GeluArguments gelu) {
    const long long place = (long long)blockIdx.x * SUM_THREADS + threadIdx.x;
    if (place < gelu.len) {
        const float x = gelu.x[place];
        const float below = 0.5f * (1.0f + erff(x * SQRT_1_2));
        const float density = SQRT_1_2_PI * exp2_fast(-0.5f * LOG2_E * x * x);
        gelu.out[place] *= fmaf(x, density, below);
    }
}
