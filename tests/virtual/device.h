// The executor of kernels: what cuda.h offers to kernels, and what the driver calls.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace virtual_device {

// Limits of the device, those of an H100 where kernels may depend on them.
constexpr int kMaxThreads = 1024;               // of a block
constexpr int kMaxBlockZ = 64;
constexpr int kMaxGridYZ = 65535;
constexpr int kWarp = 32;
constexpr int kStaticShared = 48 << 10;         // bytes; more only as dynamic, and when asked for
constexpr int kMaxShared = 227 << 10;           // bytes of one block
constexpr int kSharedAlignment = 128;

constexpr int kMultiprocessors = 8;
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kBlocksPerMultiprocessor = 32;
constexpr int kSharedPerMultiprocessor = 228 << 10;
constexpr int kReservedShared = 1 << 10;        // of each block

// A place in the source of a kernel; as a default argument it is that of the caller.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE())
    {
        return {file, line};
    }
};

// Where the running CUDA thread is.
struct BlockPlace {
    uint3 index;
    dim3 threads;  // of a block
    dim3 blocks;   // of the grid
};

struct ThreadPlace {
    uint3 index;
    const BlockPlace* block;
};

extern __thread const ThreadPlace* place;

// What the kernels call through cuda.h.

void sync_block(Site site);
void sync_warp(unsigned mask, Site site);
void fence();

// Gives `bits` to the other lanes of `mask` and returns those of lane `source`.
uint64_t shuffle(uint64_t bits, unsigned source, unsigned mask, Site site);
// The lanes of `mask` where `predicate` holds, one bit each.
unsigned ballot(bool predicate, unsigned mask, Site site);
unsigned lane();

// What a lane brings to a product of matrices, and where its part of the sums lies: see mma_tf32 and
// mma_bf16 in kernels/prims.cuh.
struct Fragments {
    float a[4];
    float b[2];
    float* d;    // [4]
    bool words;  // of two bfloat16 each
};
void multiply(Fragments& fragments, Site site);

// The array of this block that belongs to `site`, an address that names the declaration.
void* shared_array(const void* site, size_t bytes, const char* name);
void* dynamic_shared();

// Copies that land only in copy_wait, so that a kernel that does not wait reads poison.
void copy_begin(void* shared, const void* global, size_t bytes, bool valid, Site site);
void copy_commit();
void copy_wait(int pending_groups);

[[noreturn]] void trap(Site site);

// A kernel that the driver can find by its name.
struct Kernel {
    using Body = std::function<void()>;      // one call is one CUDA thread
    using Bind = Body (*)(void** arguments);  // copies the arguments, so that graphs can replay

    Kernel(const char* name, Bind bind);
    static Kernel* find(const char* name);

    const char* const name;
    const Bind bind;
    // Bytes; raised by MAX_DYNAMIC_SHARED_SIZE_BYTES, and never lowered again: modules, each of which
    // has limits of its own on a GPU, share their kernels here.
    std::atomic<int> dynamic_limit{kStaticShared};
    std::atomic<size_t> static_shared{0};  // bytes, as far as launches have shown

private:
    Kernel* const next_;
};

template <auto kernel>
struct Binder;

template <class... Args, void (*kernel)(Args...)>
struct Binder<kernel> {
    template <size_t... i>
    static Kernel::Body copy(void** arguments, std::index_sequence<i...>)
    {
        std::tuple<Args...> values(*static_cast<Args*>(arguments[i])...);
        return [values] { std::apply(kernel, values); };
    }

    static Kernel::Body bind(void** arguments)
    {
        return copy(arguments, std::index_sequence_for<Args...>{});
    }
};

struct Shape {
    dim3 blocks;
    dim3 threads;
    size_t dynamic_shared;  // bytes
};

// Runs all blocks and returns when they are done.
void launch(Kernel& kernel, const Shape& shape, const Kernel::Body& body);

}  // namespace virtual_device
