// What becomes of the rows of queries, keys and values: the heads of queries and keys
// are normalised, if there are weights for that, and turned; queries are scaled where
// they are, keys and values go to the sequence's page, as halves.
//
//   page        [layer][keys, values][head][position % PAGE][width]
//
// A warp for each head of a row.
#include "base.cuh"

extern "C" __global__ void place(Slice<float> qkv, Slice<const float> q_norm,
                                 Slice<const float> k_norm, Slice<const float> cosines,
                                 Slice<const float> sines, Slice<const u32> positions,
                                 Slice<const u32> tables, Slice<const u32> pages,
                                 Slice<u16> memory, u32 queries, u32 heads, u32 width,
                                 u32 layer, u32 layers, float scale, float epsilon) {
    u32 head = blockIdx.y * WARPS + warp(), all = queries + 2 * heads;
    u64 row = blockIdx.x;
    u32 position = positions[row];
    if (head >= all || position == NOWHERE) return;
    u64 at = (row * all + head) * width;
    u32 half = width / 2;
    bool query = head < queries, value = head >= queries + heads;
    Slice<const float> weight = query ? q_norm : k_norm;
    float factor = 1;
    if (!value && !weight.empty()) {
        float sum = 0;
        for (u32 i = lane(); i < width; i += 32) sum = fmaf(qkv[at + i], qkv[at + i], sum);
        factor = 1.0f / sqrtf(warp_sum(sum) / (float)width + epsilon);
    }
    u64 page = pages[tables[row] + position / PAGE];
    u64 block = ((page * layers + layer) * 2 + (value ? 1 : 0)) * heads +
                (head - queries - (value ? heads : 0));
    u64 slot = (block * PAGE + position % PAGE) * width;
    for (u32 i = lane(); i < half; i += 32) {
        float a = qkv[at + i], b = qkv[at + half + i];
        if (!value) {
            if (!weight.empty()) {
                a = a * factor * weight[i];
                b = b * factor * weight[half + i];
            }
            float cosine = cosines[row * half + i], sine = sines[row * half + i];
            float turned = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = turned;
        }
        if (query) {
            qkv[at + i] = a * scale;
            qkv[at + half + i] = b * scale;
        } else {
            memory[slot + i] = to_half(a);
            memory[slot + half + i] = to_half(b);
        }
    }
}
EXPORT(place)
