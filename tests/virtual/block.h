// One block of CUDA threads, and the worker that runs block after block.
//
// Each CUDA thread runs until it ends or waits. When no thread of the block can go on, barriers
// where all have arrived open, and a new round begins. Nothing else ever interrupts a thread, so
// that threads at a missing barrier see each other's work either whole or not at all, as the order
// of threads has it.

#pragma once

#include <memory>
#include <random>
#include <vector>

#include "device.h"
#include "fiber.h"

namespace virtual_device {

enum class State { ready, at_block_barrier, at_warp_barrier, ended };

// What a thread brings to a warp collective and takes from it.
struct Collective {
    enum Kind { sync, shuffle, vote, matrix } kind;
    unsigned mask;
    unsigned source;  // of a shuffle: lane
    uint64_t given;   // of a matrix: address of the lane's Fragments
    uint64_t taken;
};

struct PendingCopy {
    void* shared;
    const void* global;  // null: zeros
    size_t bytes;
    int group;
    Site site;
};

struct Block;

struct Thread : ThreadPlace {
    Block* owner;
    Fiber* fiber;  // null before the thread begins and after it ended
    State state;
    Site site;  // where it waits
    Collective collective;
    std::vector<PendingCopy> copies;
    int groups;  // committed so far
    unsigned number;
};

struct SharedArray {
    const void* site;
    void* memory;
    size_t bytes;
};

// A pair of tags for ThreadSanitizer, used in turns. With a single one, a thread late at one
// barrier would also see what others released at the next.
struct Tags {
    alignas(8) char tags[2][8];
    unsigned turn;
    void* now() { return tags[turn & 1]; }
};

// A fiber that runs one CUDA thread after the other.
struct Runner {
    Runner(Block* block, unsigned number);
    Block* block;
    Thread* thread = nullptr;
    Fiber fiber;
};

struct Block : BlockPlace {
    Block() = default;
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    // The blocks of one launch run between begin and end.
    void begin(Kernel& kernel, const Shape& shape, const Kernel::Body& body);
    void run(uint3 index);
    void end();

    // Parts of a run.
    void reset_threads();
    void run_ready_threads();
    Thread* next_beginner();
    void resume(Thread& thread);
    Runner* add_runner();
    Runner* runner_for(const Thread& thread);
    void run_threads(Runner& runner);
    void run_one(Thread& thread);
    bool open_block_barrier();
    bool open_warp_barriers();
    bool open_warp_barrier(Thread* lanes, unsigned size, unsigned mask);
    void multiply(const Thread* lanes);
    void wait(Thread& thread, State state, Site site);
    void* shared_array(const void* site, size_t bytes, const char* name);

    // Ends of the program.
    [[noreturn]] void stuck();
    [[noreturn]] void different_barriers(const Thread& a, const Thread& b);
    [[noreturn]] void fail(const Thread& thread, const char* format, ...)
        __attribute__((format(printf, 3, 4)));

    Kernel* kernel = nullptr;
    const Kernel::Body* body = nullptr;
    std::vector<Thread> all;
    std::vector<unsigned> order;
    size_t position = 0;  // in `order`, of the running round
    bool progress = false;
    unsigned waiting = 0;  // threads at the block barrier
    unsigned ended = 0;
    unsigned in_warps = 0;  // threads at warp barriers
    std::mt19937 random;

    std::vector<std::unique_ptr<Runner>> runners;
    std::vector<Runner*> idle;

    std::vector<SharedArray> shared;
    void* dynamic = nullptr;
    size_t dynamic_bytes = 0;

    void* scheduler = nullptr;  // as ThreadSanitizer names it
    alignas(8) char begin_tag[8];
    alignas(8) char end_tag[8];
    alignas(8) char shared_tag[8];
    Tags block_tags{};
    Tags warp_tags[kMaxThreads / kWarp]{};
};

// The CUDA thread that runs on this operating system thread.
inline Thread& running() { return *const_cast<Thread*>(static_cast<const Thread*>(place)); }

}  // namespace virtual_device
