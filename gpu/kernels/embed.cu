// Rows of a matrix as f32, scaled: embeddings of tokens. A block for each row.
#include "weight.cuh"

template <class Format>
__device__ inline void rows_of(Slice<const u8> bytes, Slice<const u16> scales,
                               Slice<const u32> tokens, Slice<float> y, u32 inputs, float scale) {
    Matrix matrix = {bytes, scales, inputs};
    u64 row = blockIdx.x;
    for (u32 i = threadIdx.x; i < inputs; i += THREADS)
        y[row * inputs + i] = Format::number(matrix, tokens[row], i) * scale;
}

#define EMBED(name, Format)                                                                   \
    extern "C" __global__ void name(Slice<const u8> bytes, Slice<const u16> scales,           \
                                    Slice<const u32> tokens, Slice<float> y, u32 inputs,      \
                                    float scale) {                                            \
        rows_of<Format>(bytes, scales, tokens, y, inputs, scale);                             \
    }                                                                                         \
    EXPORT(name)

EMBED(embed_f32, F32)
EMBED(embed_f16, F16)
EMBED(embed_bf16, Bf16)
EMBED(embed_q8_0, Q8_0)
EMBED(embed_q4_k, Q4_K)
EMBED(embed_q6_k, Q6_K)
