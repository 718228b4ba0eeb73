// What kernels call, and launches. Compiled without -fsanitize=thread: see fiber.cpp.

#include "device.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "block.h"
#include "settings.h"

namespace virtual_device {

void sync_block(Site site)
{
    Thread& t = running();
    void* tag = t.owner->block_tags.now();
    release(tag);
    t.owner->wait(t, State::at_block_barrier, site);
    acquire(tag);
}

namespace {

uint64_t collect(Collective::Kind kind, unsigned mask, unsigned source, uint64_t given, Site site)
{
    Thread& t = running();
    if (!(mask >> lane() & 1)) {
        t.owner->fail(t, "calls a warp function at %s:%d with a mask (0x%x) that leaves it out",
                      site.file, site.line, mask);
    }
    t.collective = {kind, mask, source, given, 0};
    t.owner->wait(t, State::at_warp_barrier, site);
    return t.collective.taken;
}

}  // namespace

// Orders memory, which a shuffle or a vote does not: hence the tags.
void sync_warp(unsigned mask, Site site)
{
    Thread& t = running();
    void* tag = t.owner->warp_tags[t.number / kWarp].now();
    release(tag);
    collect(Collective::sync, mask, 0, 0, site);
    acquire(tag);
}

uint64_t shuffle(uint64_t bits, unsigned source, unsigned mask, Site site)
{
    return collect(Collective::shuffle, mask, source, bits, site);
}

unsigned ballot(bool predicate, unsigned mask, Site site)
{
    return (unsigned)collect(Collective::vote, mask, 0, predicate, site);
}

void multiply(Fragments& fragments, Site site)
{
    collect(Collective::matrix, ~0u, 0, (uint64_t)(uintptr_t)&fragments, site);
}

unsigned lane() { return running().number % kWarp; }

void fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

void* shared_array(const void* site, size_t bytes, const char* name)
{
    return running().owner->shared_array(site, bytes, name);
}

void* dynamic_shared() { return running().owner->dynamic; }

void copy_begin(void* shared, const void* global, size_t bytes, bool valid, Site site)
{
    Thread& t = running();
    const auto misaligned = [bytes](const void* p) { return (uintptr_t)p % bytes != 0; };
    if (misaligned(shared) || (valid && misaligned(global))) {
        t.owner->fail(t, "copies %zu bytes by cp.async from or to an address that is no multiple "
                      "of that, at %s:%d", bytes, site.file, site.line);
    }
    t.copies.push_back({shared, valid ? global : nullptr, bytes, t.groups, site});
}

void copy_commit() { ++running().groups; }

void copy_wait(int pending_groups)
{
    Thread& t = running();
    auto copy = t.copies.begin();
    for (; copy != t.copies.end() && copy->group < t.groups - pending_groups; ++copy) {
        if (copy->global) {
            std::memcpy(copy->shared, copy->global, copy->bytes);
        } else {
            std::memset(copy->shared, 0, copy->bytes);
        }
    }
    t.copies.erase(t.copies.begin(), copy);
}

void trap(Site site)
{
    Thread& t = running();
    t.owner->fail(t, "stops at the trap or failed assertion of %s:%d", site.file, site.line);
}

namespace {

Kernel*& first_kernel()
{
    static Kernel* first = nullptr;
    return first;
}

uint3 unravel(size_t i, dim3 blocks)
{
    return {(unsigned)(i % blocks.x), (unsigned)(i / blocks.x % blocks.y),
            (unsigned)(i / blocks.x / blocks.y)};
}

// One per worker, kept from launch to launch with its stacks.
std::vector<std::unique_ptr<Block>>& kept_blocks()
{
    static auto* kept = new std::vector<std::unique_ptr<Block>>;  // threads may outlive statics
    return *kept;
}

}  // namespace

Kernel::Kernel(const char* name, Bind bind) : name(name), bind(bind), next_(first_kernel())
{
    first_kernel() = this;
}

Kernel* Kernel::find(const char* name)
{
    Kernel* kernel = first_kernel();
    while (kernel && std::strcmp(kernel->name, name) != 0) kernel = kernel->next_;
    return kernel;
}

void launch(Kernel& kernel, const Shape& shape, const Kernel::Body& body)
{
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);

    const size_t count = (size_t)shape.blocks.x * shape.blocks.y * shape.blocks.z;
    const size_t workers = std::min<size_t>(settings().workers, count);
    auto& kept = kept_blocks();
    while (kept.size() < workers) kept.push_back(std::make_unique<Block>());

    std::atomic<size_t> next{0};
    const auto work = [&](size_t worker) {
        Block& block = *kept[worker];
        block.begin(kernel, shape, body);
        for (size_t i = next++; i < count; i = next++) {
            const bool reverse = settings().blocks == Order::reverse;
            block.run(unravel(reverse ? count - 1 - i : i, shape.blocks));
        }
        block.end();
    };
    std::vector<std::thread> others;
    for (size_t worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
    work(0);
    for (std::thread& other : others) other.join();
}

}  // namespace virtual_device
