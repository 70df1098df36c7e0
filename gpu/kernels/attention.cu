// Attention of rows over keys and values in pages (see place.cu).
//
// Positions divide into parts of SPLIT, counted from the beginning of the sequence. A
// part gives a sum of values, weighted by powers relative to its best score, and is
// merged with those before it, in their order. So a row has the same bits whatever
// else is computed with it, and whether one block merges as it goes (`attend`: many
// rows) or blocks do the parts and another merges (`attend_parts`, `merge`: few).
#include "base.cuh"

static const u32 SPLIT = 128;
// Queries of one group of heads that a block answers, and their widest.
static const u32 QUERIES = 8;
static const u32 WIDEST = 256;
// Numbers of a value that a thread has.
static const u32 COLUMNS = WIDEST / THREADS;

// A weighted sum in its making.
struct Sum {
    float most, total;
};

// What both have merged, and what each is to be multiplied with for that. Nothing
// merges with nothing as nothing.
__device__ inline Sum merged(Sum a, Sum b, float &of_a, float &of_b) {
    if (b.most == LOWEST || a.most == LOWEST) {
        of_a = a.most == LOWEST ? 0.0f : 1.0f;
        of_b = b.most == LOWEST ? 0.0f : 1.0f;
        return b.most == LOWEST ? a : b;
    }
    float most = fmaxf(a.most, b.most);
    of_a = exponential(a.most - most);
    of_b = exponential(b.most - most);
    Sum sum = {most, a.total * of_a + b.total * of_b};
    return sum;
}

struct Place {
    u64 row;
    u32 position, first_query, count, head, queries, heads, width, layer, layers;
    // Positions from which on the row sees.
    u32 start;
};

__device__ inline Place find(Slice<const u32> positions, u32 queries, u32 heads, u32 width,
                             u32 block, u32 layer, u32 layers, u32 window) {
    Place place;
    place.row = blockIdx.x;
    place.position = positions[place.row];
    place.first_query = blockIdx.y * block;
    place.count = block;
    place.head = place.first_query / (queries / heads);
    place.queries = queries;
    place.heads = heads;
    place.width = width;
    place.layer = layer;
    place.layers = layers;
    place.start = place.position < window ? 0 : place.position + 1 - window;
    return place;
}

// Brings the queries of a block where all its threads find them.
__device__ inline void bring(const Place &place, Slice<const float> qkv,
                             float (*shared)[WIDEST]) {
    u64 at = (place.row * (place.queries + 2 * place.heads) + place.first_query) * place.width;
    for (u32 i = threadIdx.x; i < place.count * place.width; i += THREADS)
        shared[i / place.width][i % place.width] = qkv[at + i];
    __syncthreads();
}

// One part: for each query its sum, and the numbers of the values in their threads.
__device__ inline void part(const Place &place, u32 split, float (*query)[WIDEST],
                            Slice<const u16> memory, Slice<const u32> tables,
                            Slice<const u32> pages, Sum (&sums)[QUERIES],
                            float (&values)[QUERIES][COLUMNS]) {
    __shared__ float scores[QUERIES][SPLIT];
    __shared__ Sum shared[QUERIES];
    __shared__ u64 keys[SPLIT / PAGE];
    u32 first = split * SPLIT, width = place.width;
    u32 start = max(first, place.start), end = min(first + SPLIT, place.position + 1);
    u64 values_after = (u64)place.heads * PAGE * width;
    if (threadIdx.x < SPLIT / PAGE) {
        u32 at = first + threadIdx.x * PAGE;
        if (at < end) {
            u64 page = pages[tables[place.row] + at / PAGE];
            u64 block = (page * place.layers + place.layer) * 2 * place.heads + place.head;
            keys[threadIdx.x] = block * PAGE * width;
        }
    }
    __syncthreads();

    // Eight threads for each position, sixteen bytes of its key at a time.
    for (u32 place_in = threadIdx.x / 8; place_in < SPLIT; place_in += THREADS / 8) {
        float dots[QUERIES] = {};
        u32 at = first + place_in;
        if (at >= start && at < end) {
            u64 key = keys[place_in / PAGE] + (u64)(place_in % PAGE) * width;
            for (u32 i = threadIdx.x % 8 * 8; i < width; i += 64) {
                uint4 eight = memory.wide(key + i);
                u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                for (u32 j = 0; j < 8; j++) {
                    float number = of_half((u16)(words[j / 2] >> (j % 2 * 16)));
#pragma unroll
                    for (u32 q = 0; q < QUERIES; q++)
                        if (q < place.count) dots[q] = fmaf(query[q][i + j], number, dots[q]);
                }
            }
        }
#pragma unroll
        for (u32 q = 0; q < QUERIES; q++) {
            if (q >= place.count) break;
            for (int step = 4; step > 0; step /= 2) dots[q] += __shfl_xor_sync(~0u, dots[q], step);
            if (threadIdx.x % 8 == 0) scores[q][place_in] = dots[q];
        }
    }
    __syncthreads();

    // A warp for each query.
    for (u32 q = warp(); q < place.count; q += WARPS) {
        float most = LOWEST, total = 0;
        for (u32 i = lane(); i < SPLIT; i += 32) {
            bool seen = first + i >= start && first + i < end;
            most = fmaxf(most, seen ? scores[q][i] : LOWEST);
        }
        most = warp_max(most);
        for (u32 i = lane(); i < SPLIT; i += 32) {
            bool seen = first + i >= start && first + i < end;
            float power = seen ? exponential(scores[q][i] - most) : 0.0f;
            scores[q][i] = power;
            total += power;
        }
        total = warp_sum(total);
        if (lane() == 0) {
            shared[q].most = most;
            shared[q].total = total;
        }
    }
    __syncthreads();

#pragma unroll
    for (u32 q = 0; q < QUERIES; q++) {
#pragma unroll
        for (u32 c = 0; c < COLUMNS; c++) values[q][c] = 0;
        if (q < place.count) sums[q] = shared[q];
    }
    for (u32 at = start; at < end; at++) {
        u32 i = at - first;
        u64 value = keys[i / PAGE] + values_after + (u64)(i % PAGE) * width;
#pragma unroll
        for (u32 c = 0; c < COLUMNS; c++) {
            u32 column = c * THREADS + threadIdx.x;
            if (column >= width) break;
            float number = of_half(memory[value + column]);
#pragma unroll
            for (u32 q = 0; q < QUERIES; q++)
                if (q < place.count) values[q][c] = fmaf(scores[q][i], number, values[q][c]);
        }
    }
    __syncthreads();
}

// One block for all parts of a row and a group of queries. Grid: rows, groups.
extern "C" __global__ void attend(Slice<const float> qkv, Slice<const u16> memory,
                                  Slice<const u32> positions, Slice<const u32> tables,
                                  Slice<const u32> pages, Slice<float> y, u32 queries, u32 heads,
                                  u32 width, u32 block, u32 layer, u32 layers, u32 window) {
    __shared__ float query[QUERIES][WIDEST];
    Place place = find(positions, queries, heads, width, block, layer, layers, window);
    if (place.position == NOWHERE) return;
    bring(place, qkv, query);
    Sum all[QUERIES], sums[QUERIES];
    float results[QUERIES][COLUMNS] = {}, values[QUERIES][COLUMNS];
    for (u32 q = 0; q < QUERIES; q++) {
        all[q].most = LOWEST;
        all[q].total = 0;
    }
    for (u32 split = place.start / SPLIT; split <= place.position / SPLIT; split++) {
        part(place, split, query, memory, tables, pages, sums, values);
#pragma unroll
        for (u32 q = 0; q < QUERIES; q++) {
            if (q >= place.count) break;
            float before, now;
            all[q] = merged(all[q], sums[q], before, now);
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++)
                results[q][c] = results[q][c] * before + values[q][c] * now;
        }
    }
#pragma unroll
    for (u32 q = 0; q < QUERIES; q++)
#pragma unroll
        for (u32 c = 0; c < COLUMNS; c++) {
            u32 column = c * THREADS + threadIdx.x;
            if (q < place.count && column < width)
                y[(place.row * queries + place.first_query + q) * width + column] =
                    results[q][c] / all[q].total;
        }
}
EXPORT(attend)

// A block for each part. Grid: rows, groups, parts.
extern "C" __global__ void attend_parts(Slice<const float> qkv, Slice<const u16> memory,
                                        Slice<const u32> positions, Slice<const u32> tables,
                                        Slice<const u32> pages, Slice<float> parts,
                                        Slice<float> parts_sums, u32 queries, u32 heads, u32 width,
                                        u32 block, u32 layer, u32 layers, u32 window) {
    __shared__ float query[QUERIES][WIDEST];
    Place place = find(positions, queries, heads, width, block, layer, layers, window);
    u32 split = blockIdx.z;
    if (place.position == NOWHERE || split > place.position / SPLIT || split < place.start / SPLIT)
        return;
    bring(place, qkv, query);
    Sum sums[QUERIES];
    float values[QUERIES][COLUMNS];
    part(place, split, query, memory, tables, pages, sums, values);
#pragma unroll
    for (u32 q = 0; q < QUERIES; q++) {
        if (q >= place.count) break;
        u64 at = (place.row * gridDim.z + split) * queries + place.first_query + q;
        if (threadIdx.x == 0) {
            parts_sums[at * 2] = sums[q].most;
            parts_sums[at * 2 + 1] = sums[q].total;
        }
#pragma unroll
        for (u32 c = 0; c < COLUMNS; c++) {
            u32 column = c * THREADS + threadIdx.x;
            if (column < width) parts[at * width + column] = values[q][c];
        }
    }
}
EXPORT(attend_parts)

// Grid: rows, queries.
extern "C" __global__ void merge(Slice<const float> parts, Slice<const float> parts_sums,
                                 Slice<const u32> positions, Slice<float> y, u32 queries, u32 width,
                                 u32 splits, u32 window) {
    u64 row = blockIdx.x;
    u32 position = positions[row];
    if (position == NOWHERE) return;
    u32 start = position < window ? 0 : position + 1 - window;
    Sum all = {LOWEST, 0};
    float results[COLUMNS] = {};
    for (u32 split = start / SPLIT; split <= position / SPLIT; split++) {
        u64 at = (row * splits + split) * queries + blockIdx.y;
        Sum sum = {parts_sums[at * 2], parts_sums[at * 2 + 1]};
        float before, now;
        all = merged(all, sum, before, now);
        for (u32 c = 0; c < COLUMNS; c++) {
            u32 column = c * THREADS + threadIdx.x;
            if (column < width) results[c] = results[c] * before + parts[at * width + column] * now;
        }
    }
    for (u32 c = 0; c < COLUMNS; c++) {
        u32 column = c * THREADS + threadIdx.x;
        if (column < width)
            y[(row * queries + blockIdx.y) * width + column] = results[c] / all.total;
    }
}
EXPORT(merge)
