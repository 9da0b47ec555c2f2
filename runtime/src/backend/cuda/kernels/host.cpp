// Runs the kernels on the host, for tests: a grid is a loop over blocks, a block a set of fibers.
#include "common.h"

#include <csetjmp>
#include <cstdlib>
#include <ucontext.h>

#include <vector>

thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef void (*Kernel)(const void*);

namespace {

const size_t STACK_BYTES = 64 << 10;

// Threads that wait for each other.
struct Barrier {
    u32 arrived = 0;
    u32 generation = 0;
    u32 size = 0;
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    void* stack = malloc(STACK_BYTES);
    bool started = false;
    bool done = true;

    ~Fiber() { free(stack); }
};

struct Block {
    std::vector<Fiber*> fibers;
    Barrier block;
    std::vector<Barrier> warps;
    std::vector<u64> rooms;
    std::vector<u32> fragments;
    Kernel kernel;
    const void* arguments;
    u32 running;
    u32 alive;
    // Counts whatever lets a thread go on: a round without is a deadlock.
    u64 progress;
    ucontext_t origin;
    jmp_buf scheduler;
};

thread_local Block* current;

void run_fiber() {
    Block* block = current;
    block->kernel(block->arguments);
    block = current;
    Fiber* fiber = block->fibers[block->running];
    fiber->done = true;
    block->alive--;
    block->progress++;
    // Threads that have ended are not waited for.
    Barrier& barrier = block->block;
    barrier.size--;
    if (barrier.size > 0 && barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        barrier.generation++;
    }
    _longjmp(block->scheduler, 1);
}

void yield() {
    Block* block = current;
    if (_setjmp(block->fibers[block->running]->at) == 0) _longjmp(block->scheduler, 1);
}

void wait(Barrier& barrier) {
    const u32 generation = barrier.generation;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        barrier.generation++;
        current->progress++;
        return;
    }
    while (barrier.generation == generation) yield();
}

// Lets a thread run until it waits or ends.
void resume(Block* block, u32 thread) {
    Fiber* fiber = block->fibers[thread];
    block->running = thread;
    threadIdx = {thread, 0, 0};
    if (_setjmp(block->scheduler) != 0) return;
    if (fiber->started) _longjmp(fiber->at, 1);
    fiber->started = true;
    block->progress++;
    swapcontext(&block->origin, &fiber->start);
}

// False when threads wait for others that never come.
bool run_block(Block* block, bool backwards) {
    const u32 threads = (u32)block->fibers.size();
    block->block = Barrier{0, 0, threads};
    for (Barrier& warp : block->warps) warp = Barrier{0, 0, 32};
    block->alive = threads;
    for (Fiber* fiber : block->fibers) {
        getcontext(&fiber->start);
        fiber->start.uc_stack.ss_sp = fiber->stack;
        fiber->start.uc_stack.ss_size = STACK_BYTES;
        fiber->start.uc_link = nullptr;
        makecontext(&fiber->start, run_fiber, 0);
        fiber->started = fiber->done = false;
    }
    while (block->alive > 0) {
        const u64 before = block->progress;
        for (u32 i = 0; i < threads; i++) {
            const u32 thread = backwards ? threads - 1 - i : i;
            if (!block->fibers[thread]->done) resume(block, thread);
        }
        if (block->progress == before) return false;
    }
    return true;
}

}  // namespace

void __syncthreads() { wait(current->block); }
void __syncwarp(u32) { wait(current->warps[threadIdx.x / 32]); }
u64* warp_room() { return &current->rooms[threadIdx.x / 32 * 32]; }
u32* fragment_room() { return &current->fragments[threadIdx.x / 32 * 32 * 8]; }

// Runs a grid. `waits`: threads wait for each other. `backwards`: the order in which threads of a block run.
// Returns 0, or 1 when threads wait for others that never come.
extern "C" i32 whit_run_grid(Kernel kernel, const u32* grid, u32 threads, i32 waits, i32 backwards,
                             const void* arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    Block block{};
    Block* before = current;
    if (waits) {
        block.kernel = kernel;
        block.arguments = arguments;
        block.warps.resize((threads + 31) / 32);
        block.rooms.resize((threads + 31) / 32 * 32);
        block.fragments.resize((threads + 31) / 32 * 32 * 8);
        for (u32 i = 0; i < threads; i++) {
            block.fibers.push_back(new Fiber);
        }
        current = &block;
    }
    i32 status = 0;
    for (u32 z = 0; z < grid[2] && status == 0; z++) {
        for (u32 y = 0; y < grid[1] && status == 0; y++) {
            for (u32 x = 0; x < grid[0] && status == 0; x++) {
                blockIdx = {x, y, z};
                if (waits) {
                    status = run_block(&block, backwards != 0) ? 0 : 1;
                    continue;
                }
                for (u32 i = 0; i < threads; i++) {
                    threadIdx = {backwards ? threads - 1 - i : i, 0, 0};
                    kernel(arguments);
                }
            }
        }
    }
    for (Fiber* fiber : block.fibers) delete fiber;
    current = before;
    return status;
}
