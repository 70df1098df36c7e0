// The gate of a feed-forward network: y = activation(gate) * up, of rows that hold
// `gate` and then `up`. A thread for each number.
#include "base.cuh"

extern "C" __global__ void gate(Slice<const float> x, Slice<float> y, u32 width, u32 gelu) {
    u32 i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= width) return;
    u64 row = blockIdx.y;
    float open = x[row * 2 * width + i], up = x[(row * 2 + 1) * width + i];
    // x sigmoid(x), or x (1 + tanh t) / 2 = x sigmoid(2 t), t = sqrt(2/pi) (x + 0.044715 x^3)
    float steep = gelu ? open * (1.0f + open * open * 0.044715f) * 1.5957692f : open;
    y[row * width + i] = open / (1.0f + exponential(-steep)) * up;
}
EXPORT(gate)
