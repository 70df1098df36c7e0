// Rows divided by the root of their mean square. A block for each row.
#include "base.cuh"

// y[row] = x[source] / rms * weight, or adds that to y[row]. The source is the row
// itself unless `sources` names another.
extern "C" __global__ void rms_norm(Slice<const float> x, Slice<const float> weight,
                                Slice<float> y, Slice<const u32> sources, u32 width,
                                float epsilon, u32 add) {
    u64 source = sources.empty() ? blockIdx.x : sources[blockIdx.x];
    u64 from = source * width, to = (u64)blockIdx.x * width;
    float sum = 0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum = fmaf(x[from + i], x[from + i], sum);
    float scale = 1.0f / sqrtf(block_sum(sum) / (float)width + epsilon);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float normed = x[from + i] * scale * weight[i];
        y[to + i] = add ? y[to + i] + normed : normed;
    }
}
EXPORT(rms_norm)
