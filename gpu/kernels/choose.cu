// The likeliest tokens of each row of logits, the likeliest first, of equally likely
// ones the first first. If a logit is not a number, neither is any that comes out. A
// block for each row.
#include "base.cuh"

struct Candidate {
    float logit;
    u32 token;
};

// Whether `a` comes before `b`.
__device__ inline bool before(Candidate a, Candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

__device__ inline Candidate first_of(Candidate a, Candidate b) { return before(b, a) ? b : a; }

extern "C" __global__ void choose(Slice<const float> logits, Slice<float> best, Slice<u32> tokens,
                                  u32 width, u32 count) {
    __shared__ Candidate firsts[WARPS];
    u64 row = blockIdx.x;
    // Zero, or not a number; an infinite one is for the host to refuse.
    float probe = 0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float logit = logits[row * width + i];
        probe += logit == logit ? 0.0f : logit;
    }
    probe = block_sum(probe);
    Candidate last = {INFINITY, 0};
    bool any = false;
    for (u32 n = 0; n < count; n++) {
        Candidate found = {LOWEST, NOWHERE};
        for (u32 i = threadIdx.x; i < width; i += THREADS) {
            Candidate next = {logits[row * width + i], i};
            if ((!any || before(last, next)) && before(next, found)) found = next;
        }
        for (int step = 16; step > 0; step /= 2) {
            Candidate other;
            other.logit = __shfl_xor_sync(~0u, found.logit, step);
            other.token = __shfl_xor_sync(~0u, found.token, step);
            found = first_of(found, other);
        }
        if (lane() == 0) firsts[warp()] = found;
        __syncthreads();
        for (u32 i = 0; i < WARPS; i++) found = first_of(found, firsts[i]);
        __syncthreads();
        last = found;
        any = true;
        if (threadIdx.x == 0) {
            best[row * count + n] = found.logit + probe;
            tokens[row * count + n] = found.token;
        }
    }
}
EXPORT(choose)
