// Matrices [outputs][inputs] as the device holds them, and numbers of them.
//
//   F32, F16, BF16  a row after the other
//   Q8_0            numbers i8 [outputs][inputs]; scales, halves [outputs][inputs / 32]
//   Q4_K            blocks of 144 bytes for 256 numbers, as in the file
//   Q6_K            blocks of 224 bytes for 256 numbers: low four bits 128, high two bits
//                   64, scales i8 16, scale of all 2, and 14 of nothing
//
// Source: block_q8_0, block_q4_K and block_q6_K of ggml.
#pragma once
#include "base.cuh"

struct Matrix {
    Slice<const u8> bytes;
    Slice<const u16> scales;
    u64 inputs;
};

struct F32 {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        u64 at = (row * m.inputs + i) * 4;
        m.bytes.check(at + 4);
        return *(const float *)(m.bytes.at + at);
    }
};

__device__ inline u16 two_bytes(const Matrix &m, u64 at) {
    m.bytes.check(at + 2);
    return *(const u16 *)(m.bytes.at + at);
}

struct F16 {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        return of_half(two_bytes(m, (row * m.inputs + i) * 2));
    }
};

struct Bf16 {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        return of_bf16(two_bytes(m, (row * m.inputs + i) * 2));
    }
};

struct Q8_0 {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        u64 at = row * m.inputs + i;
        return (float)(signed char)m.bytes[at] * of_half(m.scales[at / 32]);
    }
};

static const u32 Q4_K_BLOCK = 144;

// Scale and min of a part of 32 numbers, six bits each; those of the last four parts
// have their upper two bits above those of the first four.
__device__ inline void q4_k_part(const Matrix &m, u64 block, u32 part, u32 &scale, u32 &min) {
    u64 at = block + 4;
    if (part < 4) {
        scale = m.bytes[at + part] & 63;
        min = m.bytes[at + part + 4] & 63;
    } else {
        u8 low = m.bytes[at + part + 4];
        scale = (low & 15) | m.bytes[at + part - 4] >> 6 << 4;
        min = low >> 4 | m.bytes[at + part] >> 6 << 4;
    }
}

struct Q4_K {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        u64 block = (row * m.inputs + i) / 256 * Q4_K_BLOCK;
        u32 part = i % 256 / 32, scale, min;
        q4_k_part(m, block, part, scale, min);
        u32 q = m.bytes[block + 16 + part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15;
        return of_half(two_bytes(m, block)) * (float)scale * (float)q -
               of_half(two_bytes(m, block + 2)) * (float)min;
    }
};

static const u32 Q6_K_BLOCK = 224;

struct Q6_K {
    __device__ static float number(const Matrix &m, u64 row, u32 i) {
        u64 block = (row * m.inputs + i) / 256 * Q6_K_BLOCK;
        u32 half = i % 256 / 128, quarter = i % 128 / 32, l = i % 32;
        u32 low = m.bytes[block + half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
        u32 high = m.bytes[block + 128 + half * 32 + l] >> (quarter * 2) & 3;
        signed char scale = (signed char)m.bytes[block + 192 + i % 256 / 16];
        return of_half(two_bytes(m, block + 208)) * (float)scale * (float)((int)(low | high << 4) - 32);
    }
};
