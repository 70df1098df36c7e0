// What all kernels share: slices of the device's memory, numbers of two bytes, sums
// over a warp or a block in a fixed order, and e^x.
//
// Compiled with -fmad=false: a product and a sum are fused where fmaf says so and
// nowhere else. Nothing here but fmaf and IEEE's operations makes a number, so the
// device and the double (../double), which compiles the same files, give the same bits.
#pragma once

#ifdef __CUDACC__
#include <cuda_fp16.h>
// The double's table of kernels.
#define EXPORT(name)
#define LDG(at) __ldg(at)
#else
#include "../double/machine.h"
#define LDG(at) (*(at))
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// As `Buffer` of the host: some of the device's memory. Only the double looks at
// the bounds.
template <class T> struct Slice {
    T *at;
    u64 bytes;

    __device__ void check(u64 end) const {
#ifndef __CUDACC__
        if (end > bytes) fail("byte %llu of a slice of %llu", end, bytes);
#else
        (void)end;
#endif
    }

    __device__ T &operator[](u64 index) const {
        check((index + 1) * sizeof(T));
        return at[index];
    }

    // Sixteen bytes from a number on, which begins at a multiple of sixteen bytes. What
    // is read so does not change while a kernel runs.
    __device__ uint4 wide(u64 index) const {
        check(index * sizeof(T) + 16);
        return LDG((const uint4 *)(at + index));
    }

    __device__ bool empty() const { return bytes == 0; }
};

// A row that only fills a batch up: it has no position.
static const u32 NOWHERE = 0xffffffffu;
// Positions in a page of keys and values.
static const u32 PAGE = 32;
// Threads of most blocks.
static const u32 THREADS = 128;
static const u32 WARPS = THREADS / 32;
// Below all numbers.
#define LOWEST (-INFINITY)

__device__ inline u32 lane() { return threadIdx.x % 32; }
__device__ inline u32 warp() { return threadIdx.x / 32; }

__device__ inline float of_bf16(u16 x) { return __uint_as_float((u32)x << 16); }
__device__ inline float of_half(u16 x) { return __half2float(__ushort_as_half(x)); }
__device__ inline u16 to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }

// To the nearest, of two equally near to the even one.
__device__ inline u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (u16)(bits >> 16 | 0x40);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Of all lanes, the same in each.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

// Of all threads of a block.
__device__ inline float block_sum(float x) {
    __shared__ float sums[WARPS];
    x = warp_sum(x);
    if (lane() == 0) sums[warp()] = x;
    __syncthreads();
    float total = 0;
    for (u32 i = 0; i < WARPS; i++) total += sums[i];
    __syncthreads();
    return total;
}

// e^x to some two units in the last place, between e^-87 and e^88; what is not a
// number stays one. x = n ln 2 + r, and a polynomial for e^r: S. L. Moshier, Cephes,
// expf. The same bits as `exp` in inference/src/kernel/row.rs.
__device__ inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float round = 12582912.0f;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.6933594f;
    r = r - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    p = p * r * r + (r + 1.0f);
    u32 power = (__float_as_uint(shifted) - (__float_as_uint(round) - 127)) << 23;
    return p * __uint_as_float(power);
}
