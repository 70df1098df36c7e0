// Numbers as halves of either kind, for products by tensor cores: weights that are in
// blocks, and rows. Grid: rows, columns by THREADS.
#include "weight.cuh"

template <class Format>
__device__ inline void as_halves(Slice<const u8> bytes, Slice<const u16> scales, Slice<u16> y,
                                 u32 inputs) {
    Matrix matrix = {bytes, scales, inputs};
    u64 row = blockIdx.x;
    u32 i = blockIdx.y * THREADS + threadIdx.x;
    if (i < inputs) y[row * inputs + i] = to_half(Format::number(matrix, row, i));
}

#define NARROW(name, Format)                                                                  \
    extern "C" __global__ void name(Slice<const u8> bytes, Slice<const u16> scales,           \
                                    Slice<u16> y, u32 inputs) {                               \
        as_halves<Format>(bytes, scales, y, inputs);                                          \
    }                                                                                         \
    EXPORT(name)

NARROW(narrow_f32, F32)
NARROW(narrow_q8_0, Q8_0)
NARROW(narrow_q4_k, Q4_K)
NARROW(narrow_q6_k, Q6_K)

extern "C" __global__ void narrow_rows(Slice<const float> x, Slice<u16> y, u32 width, u32 bf16) {
    u64 row = blockIdx.x;
    u32 i = blockIdx.y * THREADS + threadIdx.x;
    if (i >= width) return;
    // What is too large for a half becomes the largest, not infinite.
    float number = x[row * width + i], most = bf16 ? INFINITY : 65504.0f;
    number = number > most ? most : number < -most ? -most : number;
    y[row * width + i] = bf16 ? to_bf16(number) : to_half(number);
}
EXPORT(narrow_rows)

// A bias for each row, to which a product is added.
extern "C" __global__ void spread(Slice<const float> bias, Slice<float> y, u32 width, u32 stride,
                                  u32 offset) {
    u32 i = blockIdx.y * THREADS + threadIdx.x;
    if (i < width) y[(u64)blockIdx.x * stride + offset + i] = bias[i];
}
EXPORT(spread)
