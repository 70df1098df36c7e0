// The machine of machine.h: launches, fibers and what they wait for.

#include "machine.h"

#include <cstdio>
#include <memory>
#include <vector>

#include "../kernels/all.cu"

thread_local Index threadIdx, blockIdx, gridDim;
Kernel *Kernel::all;

namespace {

enum class State { Runs, Warp, Block, Done };

struct Fiber {
    void *stack;
    State state;
    // Which of two places the lane shows the next thing at.
    unsigned turn;
};

const size_t STACK = 64 * 1024;
const unsigned MOST = 256;

// One for each thread of the host.
struct Machine {
    std::unique_ptr<char[]> stacks;
    Fiber fibers[MOST];
    uint64_t shown[MOST][2];
    unsigned running;
    void *caller;
    const Kernel *kernel;
    void **arguments;
    bool failed;
    char message[160];
};

thread_local Machine machine;

// Saves what a call keeps, and goes on with another stack.
extern "C" void gpu_double_switch(void **from, void *to);
asm(R"(
.text
.globl gpu_double_switch
.hidden gpu_double_switch
.type gpu_double_switch, @function
gpu_double_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gpu_double_switch, .-gpu_double_switch
)");

void wait(State state) {
    Fiber &fiber = machine.fibers[machine.running];
    fiber.state = state;
    gpu_double_switch(&fiber.stack, machine.caller);
}

void begin() {
    machine.kernel->call(machine.arguments);
    wait(State::Done);
}

void prepare(unsigned thread) {
    char *end = machine.stacks.get() + (thread + 1) * STACK;
    void **top = reinterpret_cast<void **>((reinterpret_cast<uintptr_t>(end) & ~uintptr_t(15)) - 64);
    // Six registers, where to begin, and a return address that is never used.
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void *>(begin);
    machine.fibers[thread] = {top, State::Runs, 0};
}

void go_on(unsigned thread) {
    machine.running = thread;
    threadIdx = {thread, 0, 0};
    gpu_double_switch(&machine.caller, machine.fibers[thread].stack);
}

// Whether all threads of a range are in this state.
bool all(unsigned from, unsigned to, State state) {
    for (unsigned i = from; i < to; i++)
        if (machine.fibers[i].state != state) return false;
    return true;
}

void release(unsigned from, unsigned to) {
    for (unsigned i = from; i < to; i++) machine.fibers[i].state = State::Runs;
}

// Runs a warp until it waits for the block or is done.
void run_warp(unsigned from, unsigned to, bool backwards) {
    for (;;) {
        for (unsigned i = from; i < to && !machine.failed; i++) {
            unsigned thread = backwards ? to - 1 - (i - from) : i;
            if (machine.fibers[thread].state == State::Runs) go_on(thread);
        }
        if (machine.failed || !all(from, to, State::Warp)) return;
        release(from, to);
    }
}

void run_block(unsigned threads, bool backwards) {
    for (unsigned i = 0; i < threads; i++) prepare(i);
    while (!machine.failed) {
        for (unsigned i = 0; i < threads; i += 32) {
            unsigned from = backwards ? threads - 32 - i : i;
            run_warp(from, from + 32, backwards);
        }
        if (machine.failed || all(0, threads, State::Done)) return;
        if (!all(0, threads, State::Block)) {
            snprintf(machine.message, sizeof machine.message,
                     "threads of a block wait for others that do not come");
            machine.failed = true;
        }
        release(0, threads);
    }
}

const Kernel *find(const char *name) {
    const Kernel *kernel = Kernel::all;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    return kernel;
}

}  // namespace

void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(machine.message, sizeof machine.message, format, values);
    va_end(values);
    machine.failed = true;
    wait(State::Done);
    __builtin_unreachable();
}

void __syncthreads() { wait(State::Block); }

void wait_for_warp() { wait(State::Warp); }

uint64_t &shown(unsigned lane) {
    unsigned turn = machine.fibers[machine.running].turn;
    return machine.shown[machine.running / 32 * 32 + lane][turn];
}

void turn_shown() { machine.fibers[machine.running].turn ^= 1; }

// Runs a kernel, if there is one of this name with arguments of these sizes. Gives what
// went wrong, or nothing.
extern "C" const char *gpu_double_launch(const char *name, const unsigned grid[3],
                                         unsigned threads, void **arguments,
                                         const unsigned *sizes, unsigned count, bool backwards) {
    const Kernel *kernel = find(name);
    if (!kernel) return "there is no such kernel";
    if (kernel->count != count || !std::equal(sizes, sizes + count, kernel->sizes))
        return "the kernel has other arguments";
    if (threads == 0 || threads > MOST || threads % 32) return "no block has so many threads";
    if (!machine.stacks) machine.stacks.reset(new char[MOST * STACK]);
    machine.kernel = kernel;
    machine.arguments = arguments;
    machine.failed = false;
    gridDim = {grid[0], grid[1], grid[2]};
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t block = backwards ? blocks - 1 - i : i;
        blockIdx = {(unsigned)(block % grid[0]), (unsigned)(block / grid[0] % grid[1]),
                    (unsigned)(block / grid[0] / grid[1])};
        run_block(threads, backwards);
        if (machine.failed) return machine.message;
    }
    return nullptr;
}
