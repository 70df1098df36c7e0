// Rows as i8, -127 to 127, with a scale for each 32 or 256 numbers. A number that is
// none makes the scale of its block none. A warp for each block of numbers; grid: rows,
// blocks by WARPS.
//
// The same rule as inference/src/kernel/input.rs.
#include "base.cuh"

template <u32 BLOCK>
__device__ inline void quantise(Slice<const float> x, Slice<u8> y, Slice<float> scales,
                                u32 width) {
    u64 row = blockIdx.x;
    u32 block = blockIdx.y * WARPS + warp();
    if (block >= width / BLOCK) return;
    u64 at = row * width + block * BLOCK;
    float most = 0, probe = 0;
    for (u32 i = lane(); i < BLOCK; i += 32) {
        float number = x[at + i];
        most = fmaxf(most, fabsf(number));
        probe += number * 0.0f;
    }
    most = warp_max(most);
    probe = warp_sum(probe);
    // Below this the inverse is infinite; it is far below what a model can mean.
    bool some = most > 1e-30f;
    float inverse = some ? 127.0f / most : 0.0f;
    for (u32 i = lane(); i < BLOCK; i += 32) {
        float number = x[at + i] * inverse;
        y[at + i] = (u8)(signed char)(int)rintf(number == number ? number : 0.0f);
    }
    if (lane() == 0) scales[at / BLOCK] = (some ? most / 127.0f : 0.0f) + probe;
}

extern "C" __global__ void quantise_32(Slice<const float> x, Slice<u8> y, Slice<float> scales,
                                       u32 width) {
    quantise<32>(x, y, scales, width);
}
EXPORT(quantise_32)

extern "C" __global__ void quantise_256(Slice<const float> x, Slice<u8> y, Slice<float> scales,
                                        u32 width) {
    quantise<256>(x, y, scales, width);
}
EXPORT(quantise_256)
