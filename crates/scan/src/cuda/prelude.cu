// What the kernels share. Compiled by NVRTC without headers, and with `--ftz=true`.

// An IEEE half as it lies in memory; everything is computed in single precision.
struct Half {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float value) {
    return value;
}

__device__ __forceinline__ float to_float(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

__device__ __forceinline__ void from_float(float &to, float value) {
    to = value;
}

__device__ __forceinline__ void from_float(Half &to, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
}

__device__ __forceinline__ float load(const float *from) {
    return __ldg(from);
}

// `WIDTH` neighbouring values, moved at once as words, and taken apart where they are used: a thread
// waits for a load at the first instruction that touches what was loaded.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
    using Type = unsigned short;
};
template <>
struct Word<4> {
    using Type = unsigned;
};
template <>
struct Word<8> {
    using Type = uint2;
};
template <>
struct Word<16> {
    using Type = uint4;
};

template <typename T, int WIDTH>
struct Vector {
    typename Word<sizeof(T) * WIDTH>::Type word;

    __device__ __forceinline__ float operator[](int index) const {
        return to_float(reinterpret_cast<const T *>(&word)[index]);
    }

    __device__ __forceinline__ void set(int index, float value) {
        from_float(reinterpret_cast<T *>(&word)[index], value);
    }
};

// Through the cache for what no thread of the launch writes.
template <typename T, int WIDTH>
__device__ __forceinline__ Vector<T, WIDTH> load(const Vector<T, WIDTH> *from) {
    return Vector<T, WIDTH>{__ldg(&from->word)};
}

// The same value, from which the compiler cannot tell where it comes from: it is computed or loaded
// where this stands, and kept in registers.
__device__ __forceinline__ unsigned short kept(unsigned short word) {
    asm volatile("" : "+h"(word));
    return word;
}

__device__ __forceinline__ unsigned kept(unsigned word) {
    asm volatile("" : "+r"(word));
    return word;
}

__device__ __forceinline__ uint2 kept(uint2 words) {
    return uint2{kept(words.x), kept(words.y)};
}

constexpr float LOG2_E = 1.4426950408889634f;

// 2^x in one instruction, within 2 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

__device__ __forceinline__ float silu(float x) {
    return __fdividef(x, 1.0f + exp2_fast(-LOG2_E * x));
}

// ln(1 + e^x), to full relative accuracy where it is tiny: with e = e^-|x|, ln(1 + e) is
// 2 atanh(e / (2 + e)), whose argument is at most 1/3.
__device__ __forceinline__ float softplus(float x) {
    const float e = exp2_fast(-LOG2_E * fabsf(x));
    const float s = __fdividef(e, e + 2.0f);
    const float q = s * s;
    float sum = 0.1400339f;
    sum = fmaf(sum, q, 0.14001513f);
    sum = fmaf(sum, q, 0.20010719f);
    sum = fmaf(sum, q, 0.3333321f);
    // `x > 0 ? x : 0` would lose a NaN.
    return (x <= 0.0f ? 0.0f : x) + fmaf(sum * q, s + s, s + s);
}

// One bit a stream, on which walks the tokens from the last to the first.
constexpr int REVERSE_WORDS = 32;

__device__ __forceinline__ bool is_reverse(const unsigned *reverse, int stream) {
    return (reverse[stream / 32] >> (stream % 32)) & 1u;
}
