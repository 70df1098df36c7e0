// y = x W^T + b, or y += x W^T, in a fixed order of additions: a product has the same
// bits however many rows there are.
//
// A warp has OUTPUTS outputs of M rows. A lane adds what it takes of the inputs, every
// 32nd piece; then the lanes are added as a tree. Rows that are multiplied with weights
// in blocks are quantised (quantise.cu), and multiplied as integers.
//
// Grid: rows by M, so that blocks that need the same weights are neighbours; outputs by
// OUTPUTS * WARPS.
#include "weight.cuh"

static const u32 OUTPUTS = 4;

struct Rows {
    Slice<const float> numbers;
    Slice<const u8> bytes;
    Slice<const float> scales;
};

// Four times four products of bytes.
__device__ inline int dot(uint4 a, uint4 b, int sum) {
    sum = __dp4a((int)a.x, (int)b.x, sum);
    sum = __dp4a((int)a.y, (int)b.y, sum);
    sum = __dp4a((int)a.z, (int)b.z, sum);
    return __dp4a((int)a.w, (int)b.w, sum);
}

__device__ inline uint4 each(uint4 x, u32 shift, u32 mask) {
    return make_uint4(x.x >> shift & mask, x.y >> shift & mask, x.z >> shift & mask,
                      x.w >> shift & mask);
}

__device__ inline uint4 either(uint4 a, uint4 b) {
    return make_uint4(a.x | b.x, a.y | b.y, a.z | b.z, a.w | b.w);
}

// Eight numbers as they are.
struct Eight {
    static const u32 STEP = 8;
    float numbers[8];

    __device__ void load_row(const Rows &x, u64 row, u32 k, u64 inputs) {
        load_floats(x.numbers.wide(row * inputs + k), x.numbers.wide(row * inputs + k + 4));
    }

    __device__ void load_floats(uint4 a, uint4 b) {
        u32 words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (u32 i = 0; i < 8; i++) numbers[i] = __uint_as_float(words[i]);
    }

    template <class Convert> __device__ void load_halves(uint4 x, Convert convert) {
        u32 words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (u32 i = 0; i < 8; i++) numbers[i] = convert((u16)(words[i / 2] >> (i % 2 * 16)));
    }

    __device__ float add(const Eight &x, float sum) const {
#pragma unroll
        for (u32 i = 0; i < 8; i++) sum = fmaf(numbers[i], x.numbers[i], sum);
        return sum;
    }
};

struct ProductF32 : Eight {
    typedef Eight Input;
    __device__ void load(const Matrix &m, u64 row, u32 k) {
        u64 at = (row * m.inputs + k) * 4;
        load_floats(m.bytes.wide(at), m.bytes.wide(at + 16));
    }
};

struct ProductF16 : Eight {
    typedef Eight Input;
    __device__ void load(const Matrix &m, u64 row, u32 k) {
        load_halves(m.bytes.wide((row * m.inputs + k) * 2), of_half);
    }
};

struct ProductBf16 : Eight {
    typedef Eight Input;
    __device__ void load(const Matrix &m, u64 row, u32 k) {
        load_halves(m.bytes.wide((row * m.inputs + k) * 2), of_bf16);
    }
};

// Half of a block.
struct ProductQ8_0 {
    static const u32 STEP = 16;
    uint4 numbers;
    float scale;

    struct Input {
        uint4 numbers;
        float scale;
        __device__ void load_row(const Rows &x, u64 row, u32 k, u64 inputs) {
            numbers = x.bytes.wide(row * inputs + k);
            scale = x.scales[(row * inputs + k) / 32];
        }
    };

    __device__ void load(const Matrix &m, u64 row, u32 k) {
        numbers = m.bytes.wide(row * m.inputs + k);
        scale = of_half(m.scales[(row * m.inputs + k) / 32]);
    }

    __device__ float add(const Input &x, float sum) const {
        return fmaf((float)dot(numbers, x.numbers, 0), scale * x.scale, sum);
    }
};

// Twice sixteen numbers of a block of 256 that share bytes: those from `low` and from
// `high` on.
template <class Place> struct Pair {
    uint4 low, high;
    int low_sum, high_sum;
    float scale;

    __device__ void load_row(const Rows &x, u64 row, u32 k, u64 inputs) {
        u64 block = row * inputs + k / 256 * 256;
        low = x.bytes.wide(block + Place::low(k / 32 % 8));
        high = x.bytes.wide(block + Place::high(k / 32 % 8));
        uint4 ones = make_uint4(0x01010101, 0x01010101, 0x01010101, 0x01010101);
        low_sum = dot(low, ones, 0);
        high_sum = dot(high, ones, 0);
        scale = x.scales[block / 256];
    }
};

struct PlaceQ4_K {
    __device__ static u32 low(u32 piece) { return piece / 2 * 64 + piece % 2 * 16; }
    __device__ static u32 high(u32 piece) { return low(piece) + 32; }
};

struct ProductQ4_K {
    static const u32 STEP = 32;
    typedef Pair<PlaceQ4_K> Input;
    uint4 low, high;
    int low_scale, high_scale, low_min, high_min;
    float scale, min;

    __device__ void load(const Matrix &m, u64 row, u32 k) {
        u64 block = (row * m.inputs + k) / 256 * Q4_K_BLOCK;
        u32 piece = k / 32 % 8, s, n;
        uint4 bytes = m.bytes.wide(block + 16 + piece * 16);
        low = each(bytes, 0, 0x0f0f0f0f);
        high = each(bytes, 4, 0x0f0f0f0f);
        q4_k_part(m, block, piece / 2 * 2, s, n);
        low_scale = (int)s;
        low_min = (int)n;
        q4_k_part(m, block, piece / 2 * 2 + 1, s, n);
        high_scale = (int)s;
        high_min = (int)n;
        scale = of_half(two_bytes(m, block));
        min = of_half(two_bytes(m, block + 2));
    }

    __device__ float add(const Input &x, float sum) const {
        int dots = dot(low, x.low, 0) * low_scale + dot(high, x.high, 0) * high_scale;
        int mins = x.low_sum * low_min + x.high_sum * high_min;
        sum = fmaf((float)dots, scale * x.scale, sum);
        return fmaf((float)mins, -(min * x.scale), sum);
    }
};

struct PlaceQ6_K {
    __device__ static u32 low(u32 piece) {
        return piece / 4 * 128 + piece % 4 / 2 * 32 + piece % 2 * 16;
    }
    __device__ static u32 high(u32 piece) { return low(piece) + 64; }
};

struct ProductQ6_K {
    static const u32 STEP = 32;
    typedef Pair<PlaceQ6_K> Input;
    uint4 low, high;
    int low_scale, high_scale;
    float scale;

    __device__ void load(const Matrix &m, u64 row, u32 k) {
        u64 block = (row * m.inputs + k) / 256 * Q6_K_BLOCK;
        u32 piece = k / 32 % 8, half = piece / 4, quarter = piece % 4 / 2, side = piece % 2;
        uint4 bits = m.bytes.wide(block + half * 64 + quarter * 32 + side * 16);
        uint4 more = m.bytes.wide(block + 128 + half * 32 + side * 16);
        uint4 low_bits = each(more, quarter * 2, 0x03030303);
        uint4 high_bits = each(more, 4 + quarter * 2, 0x03030303);
        low = either(each(bits, 0, 0x0f0f0f0f), up(low_bits));
        high = either(each(bits, 4, 0x0f0f0f0f), up(high_bits));
        low_scale = (signed char)m.bytes[block + 192 + half * 8 + quarter * 2 + side];
        high_scale = (signed char)m.bytes[block + 192 + half * 8 + quarter * 2 + side + 4];
        scale = of_half(two_bytes(m, block + 208));
    }

    __device__ static uint4 up(uint4 x) {
        return make_uint4(x.x << 4, x.y << 4, x.z << 4, x.w << 4);
    }

    __device__ float add(const Input &x, float sum) const {
        int dots = (dot(low, x.low, 0) - 32 * x.low_sum) * low_scale +
                   (dot(high, x.high, 0) - 32 * x.high_sum) * high_scale;
        return fmaf((float)dots, scale * x.scale, sum);
    }
};

template <class Format, u32 M>
__device__ inline void product(const Matrix &weights, const Rows &x, Slice<const float> bias,
                               Slice<float> y, u32 rows, u32 outputs, u32 stride, u32 offset,
                               u32 add) {
    u32 first = (blockIdx.y * WARPS + warp()) * OUTPUTS, row = blockIdx.x * M;
    if (first >= outputs) return;
    float sums[OUTPUTS][M] = {};
    for (u32 k = lane() * Format::STEP; k < weights.inputs; k += 32 * Format::STEP) {
        Format pieces[OUTPUTS];
        // Outputs and rows that are not there are those at the end once more.
#pragma unroll
        for (u32 o = 0; o < OUTPUTS; o++) pieces[o].load(weights, min(first + o, outputs - 1), k);
#pragma unroll
        for (u32 m = 0; m < M; m++) {
            typename Format::Input input;
            input.load_row(x, min(row + m, rows - 1), k, weights.inputs);
#pragma unroll
            for (u32 o = 0; o < OUTPUTS; o++) sums[o][m] = pieces[o].add(input, sums[o][m]);
        }
    }
#pragma unroll
    for (u32 o = 0; o < OUTPUTS; o++)
#pragma unroll
        for (u32 m = 0; m < M; m++) {
            float sum = warp_sum(sums[o][m]);
            if (lane() != (o * M + m) % 32 || first + o >= outputs || row + m >= rows) continue;
            u64 to = (u64)(row + m) * stride + offset + first + o;
            if (add) y[to] += sum;
            else y[to] = bias.empty() ? sum : sum + bias[first + o];
        }
}

#define PRODUCT(name, Format, M)                                                              \
    extern "C" __global__ void name(                                                          \
        Slice<const u8> bytes, Slice<const u16> scales, Slice<const float> x,                 \
        Slice<const u8> quantised, Slice<const float> x_scales, Slice<const float> bias,      \
        Slice<float> y, u32 rows, u32 inputs, u32 outputs, u32 stride, u32 offset, u32 add) { \
        Matrix weights = {bytes, scales, inputs};                                             \
        Rows input = {x, quantised, x_scales};                                                \
        product<Format, M>(weights, input, bias, y, rows, outputs, stride, offset, add);      \
    }                                                                                         \
    EXPORT(name)

#define PRODUCTS(name, Format)  \
    PRODUCT(name##_1, Format, 1) \
    PRODUCT(name##_2, Format, 2) \
    PRODUCT(name##_4, Format, 4) \
    PRODUCT(name##_8, Format, 8)

PRODUCTS(product_f32, ProductF32)
PRODUCTS(product_f16, ProductF16)
PRODUCTS(product_bf16, ProductBf16)
PRODUCTS(product_q8_0, ProductQ8_0)
PRODUCTS(product_q4_k, ProductQ4_K)
PRODUCTS(product_q6_k, ProductQ6_K)
