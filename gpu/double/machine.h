// A machine on which CUDA's kernels run on the processor, one block after another: what
// of CUDA they use, for a C++ compiler that knows nothing of it.
//
// A thread of a block is a fiber. It runs until it waits for its warp or its block; so
// nothing is ever done at the same time, but everything in an order that can be turned
// around. Slices know their bounds (`Slice` in ../kernels/base.cuh).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __shared__ static thread_local

using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};

struct uint4 {
    unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Of the fiber that runs.
extern thread_local Index threadIdx, blockIdx, gridDim;

// Ends the launch.
[[noreturn]] void fail(const char *format, ...);

// Waits for all threads of the block, or of the warp.
void __syncthreads();
void wait_for_warp();
// Where lanes of the running fiber's warp show each other something.
uint64_t &shown(unsigned lane);
// Once more a place that no other lane still reads.
void turn_shown();

template <class T> T __shfl_xor_sync(unsigned, T x, int step) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "too large");
    turn_shown();
    memcpy(&shown(threadIdx.x % 32), &x, sizeof(T));
    wait_for_warp();
    memcpy(&x, &shown(threadIdx.x % 32 ^ (unsigned)step), sizeof(T));
    return x;
}

template <class To, class From> To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From), "another size");
    To to;
    memcpy(&to, &x, sizeof(To));
    return to;
}

inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += (int)(signed char)(a >> i) * (int)(signed char)(b >> i);
    return sum;
}

struct half {
    unsigned short bits;
};

inline half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(half x) { return x.bits; }

inline float __half2float(half x) {
    unsigned sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // The exponents differ by 112; so subnormal numbers come out right, too.
    float number = __uint_as_float(rest << 13) * __uint_as_float((127 + 112) << 23);
    return __uint_as_float(sign | __float_as_uint(number));
}

// To the nearest, of two equally near to the even one.
inline half __float2half_rn(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {(unsigned short)(sign | 0x7e00)};
    // Half of what stands above the largest half.
    if (rest >= 0x477ff000) return {(unsigned short)(sign | 0x7c00)};
    if (rest < 0x38800000) {
        // Units of 2^-24, which the lowest bits of 1/2 are.
        float units = __uint_as_float(rest) + 0.5f;
        return {(unsigned short)(sign | (__float_as_uint(units) - 0x3f000000))};
    }
    unsigned odd = rest >> 13 & 1;
    return {(unsigned short)(sign | (((rest + 0xfff + odd) >> 13) - (112 << 10)))};
}

// A kernel, and how to call it with pointers to its arguments.
struct Kernel {
    const char *name;
    void (*call)(void **arguments);
    // The size of each argument.
    const unsigned *sizes;
    unsigned count;
    Kernel *next;

    static Kernel *all;
};

template <class F> struct Caller;

template <class... A> struct Caller<void (*)(A...)> {
    static constexpr unsigned count = sizeof...(A);
    static constexpr unsigned sizes[] = {sizeof(A)...};

    template <void (*kernel)(A...), size_t... I>
    static void with(void **arguments, std::index_sequence<I...>) {
        kernel(*static_cast<A *>(arguments[I])...);
    }

    template <void (*kernel)(A...)> static void call(void **arguments) {
        with<kernel>(arguments, std::index_sequence_for<A...>());
    }
};

struct Entry {
    Kernel kernel;
    explicit Entry(Kernel of) : kernel(of) {
        kernel.next = Kernel::all;
        Kernel::all = &kernel;
    }
};

#define EXPORT(name)                                                                     \
    static Entry entry_##name({#name, Caller<decltype(&name)>::call<name>,               \
                               Caller<decltype(&name)>::sizes, Caller<decltype(&name)>::count, \
                               nullptr});
