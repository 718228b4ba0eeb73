// Compiled without -fsanitize=thread: see fiber.cpp.

#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "settings.h"

namespace virtual_device {

__thread const ThreadPlace* place = nullptr;

namespace {

#if defined(PTYCHO_VIRTUAL_TSAN)
constexpr bool kFiberPerThread = true;  // the detector tells CUDA threads apart by their fibers
#else
constexpr bool kFiberPerThread = false;
#endif

constexpr int kPoison = 0xFF;  // every float and double made of it is NaN

void* poisoned(size_t bytes)
{
    void* memory = nullptr;
    if (posix_memalign(&memory, kSharedAlignment, bytes) != 0) {
        std::fprintf(stderr, "virtual device: no memory for shared arrays\n");
        std::abort();
    }
    return std::memset(memory, kPoison, bytes);
}

void run_fiber(void* argument)
{
    auto* runner = static_cast<Runner*>(argument);
    runner->block->run_threads(*runner);
}

}  // namespace

Runner::Runner(Block* block, unsigned number) : block(block), fiber(number, run_fiber, this) {}

Block::~Block() { end(); }

void Block::begin(Kernel& k, const Shape& shape, const Kernel::Body& b)
{
    kernel = &k;
    body = &b;
    blocks = shape.blocks;
    threads = shape.threads;
    dynamic_bytes = shape.dynamic_shared;
    dynamic = dynamic_bytes ? poisoned(dynamic_bytes) : nullptr;
    scheduler = sanitizer_thread();

    all.resize(threads.x * threads.y * threads.z);
    order.resize(all.size());
    std::iota(order.begin(), order.end(), 0u);
    if (settings().threads == Order::reverse) std::reverse(order.begin(), order.end());

    while (kFiberPerThread && runners.size() < all.size()) add_runner();
}

Runner* Block::add_runner()
{
    runners.push_back(std::make_unique<Runner>(this, (unsigned)runners.size()));
    return runners.back().get();
}

Runner* Block::runner_for(const Thread& t)
{
    if (kFiberPerThread) return runners[t.number].get();
    if (idle.empty()) return add_runner();
    Runner* runner = idle.back();
    idle.pop_back();
    return runner;
}

void Block::end()
{
    for (SharedArray& array : shared) std::free(array.memory);
    shared.clear();
    std::free(dynamic);
    dynamic = nullptr;
}

void Block::run(uint3 at)
{
    index = at;
    random.seed(at.x + 7919 * at.y + 104729 * at.z);
    for (SharedArray& array : shared) std::memset(array.memory, kPoison, array.bytes);
    if (dynamic) std::memset(dynamic, kPoison, dynamic_bytes);
    reset_threads();

    release(begin_tag);
    while (ended < all.size()) {
        progress = false;
        run_ready_threads();
        if (open_block_barrier()) progress = true;
        if (open_warp_barriers()) progress = true;
        if (!progress) stuck();
    }
    acquire(end_tag);
}

void Block::reset_threads()
{
    waiting = ended = in_warps = 0;
    for (unsigned i = 0; i < all.size(); ++i) {
        Thread& t = all[i];
        t.index = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
        t.block = this;
        t.owner = this;
        t.fiber = nullptr;
        t.state = State::ready;
        t.groups = 0;
        t.number = i;
    }
}

void Block::run_ready_threads()
{
    if (settings().threads == Order::shuffle) std::shuffle(order.begin(), order.end(), random);
    for (position = 0; position < order.size();) {
        Thread& t = all[order[position++]];
        if (t.state == State::ready) resume(t);
    }
    place = nullptr;
}

void Block::resume(Thread& t)
{
    progress = true;
    place = &t;
    if (t.fiber) return t.fiber->resume();

    Runner* runner = runner_for(t);
    runner->thread = &t;
    runner->fiber.resume();
}

// The next thread of this round, if it has not begun. A fiber whose thread has ended goes on with
// it at once: a block without barriers needs one fiber and one switch of stacks.
Thread* Block::next_beginner()
{
    if (kFiberPerThread) return nullptr;
    for (; position < order.size(); ++position) {
        Thread& t = all[order[position]];
        if (t.state != State::ready) continue;
        if (t.fiber) return nullptr;
        ++position;
        return &t;
    }
    return nullptr;
}

// Life of a fiber: it never returns.
void Block::run_threads(Runner& runner)
{
    for (;;) {
        for (Thread* t = runner.thread; t; t = next_beginner()) {
            place = t;
            t->fiber = &runner.fiber;
            run_one(*t);
            t->fiber = nullptr;
        }
        if (!kFiberPerThread) idle.push_back(&runner);
        runner.fiber.suspend();
    }
}

void Block::run_one(Thread& t)
{
    acquire(begin_tag);
    (*body)();
    release(end_tag);
    if (!t.copies.empty()) {
        const Site site = t.copies.front().site;
        fail(t, "ends with a cp.async of %s:%d that it never waited for", site.file, site.line);
    }
    t.state = State::ended;
    ++ended;
}

void Block::wait(Thread& t, State state, Site site)
{
    t.state = state;
    t.site = site;
    ++(state == State::at_block_barrier ? waiting : in_warps);
    t.fiber->suspend();
}

bool Block::open_block_barrier()
{
    // Also a thread that has ended counts as missing. Newer hardware forgives it; code that relies
    // on that is divergent all the same, and compute-sanitizer says so too.
    if (waiting == 0 || waiting < all.size()) return false;

    const Thread& first = all[order[0]];
    for (const Thread& t : all) {
        const bool same = t.site.line == first.site.line &&
                          (t.site.file == first.site.file ||
                           !std::strcmp(t.site.file, first.site.file));
        if (!same) different_barriers(first, t);
    }
    for (Thread& t : all) t.state = State::ready;
    waiting = 0;
    ++block_tags.turn;
    return true;
}

bool Block::open_warp_barriers()
{
    if (in_warps == 0) return false;
    bool opened = false;
    for (size_t begin = 0; begin < all.size(); begin += kWarp) {
        const auto size = (unsigned)std::min<size_t>(kWarp, all.size() - begin);
        Thread* lanes = &all[begin];
        for (unsigned i = 0; i < size; ++i) {
            if (lanes[i].state != State::at_warp_barrier) continue;
            if (open_warp_barrier(lanes, size, lanes[i].collective.mask)) opened = true;
        }
    }
    return opened;
}

// Opens it if all lanes of the mask have arrived, with the same mask at the same place.
bool Block::open_warp_barrier(Thread* lanes, unsigned size, unsigned mask)
{
    const Thread& first = lanes[__builtin_ctz(mask)];
    unsigned votes = 0;
    for (unsigned i = 0; i < kWarp; ++i) {
        if (!(mask >> i & 1)) continue;
        if (i >= size || lanes[i].state != State::at_warp_barrier) return false;
        const Thread& t = lanes[i];
        if (t.collective.mask != mask || t.collective.kind != first.collective.kind) return false;
        if (t.site.line != first.site.line) return false;
        votes |= (unsigned)(t.collective.given != 0) << i;
    }

    if (first.collective.kind == Collective::matrix) multiply(lanes);
    for (unsigned i = 0; i < size; ++i) {
        if (!(mask >> i & 1)) continue;
        Thread& t = lanes[i];
        if (t.collective.kind == Collective::shuffle) {
            const unsigned source = t.collective.source;
            if (!(mask >> source & 1)) fail(t, "shuffles from lane %u, which is not there", source);
            t.collective.taken = lanes[source].collective.given;
        } else {
            t.collective.taken = votes;
        }
        t.state = State::ready;
        --in_warps;
    }
    if (first.collective.kind == Collective::sync) ++warp_tags[first.number / kWarp].turn;
    return true;
}

namespace {

// The numbers of 16 bits that a word holds.
void halves(float word, double& low, double& high)
{
    uint32_t bits;
    std::memcpy(&bits, &word, sizeof bits);
    const uint32_t wide[2] = {bits << 16, bits & 0xFFFF0000};
    float x[2];
    std::memcpy(x, wide, sizeof x);
    low = x[0], high = x[1];
}

bool is_tf32(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return x != x || !(bits & 0x1FFF);
}

}  // namespace

// D += A B, of the fragments of 32 lanes. The hardware looks at the leading 11 significant bits of A
// and B only: what was not rounded to them before is an error; words of bfloat16 have 8. It adds the
// products in an order and to a precision of its own; here they are added exactly, and rounded once.
void Block::multiply(const Thread* lanes)
{
    const auto fragments = [&](unsigned i) -> const Fragments& {
        return *reinterpret_cast<const Fragments*>(lanes[i].collective.given);
    };
    const bool words = fragments(0).words;
    const unsigned depth = words ? 16 : 8;
    double a[16][16], b[16][8];
    for (unsigned i = 0; i < kWarp; ++i) {
        const Fragments& f = fragments(i);
        const unsigned g = i / 4, t = i % 4;
        for (unsigned k = 0; k < 6; ++k) {
            const float x = k < 4 ? f.a[k] : f.b[k - 4];
            // Row of A or column of B, and place along the sum.
            const unsigned at = k < 4 ? g + 8 * (k % 2) : g, n = t + 4 * (k < 4 ? k / 2 : k - 4);
            const auto number = [&](unsigned n) -> double& { return k < 4 ? a[at][n] : b[n][at]; };
            if (words) {
                halves(x, number(2 * n), number(2 * n + 1));
            } else if (is_tf32(x)) {
                number(n) = x;
            } else {
                fail(lanes[i], "multiplies %g by mma at %s:%d, which is not rounded to tf32",
                     (double)x, lanes[i].site.file, lanes[i].site.line);
            }
        }
    }
    for (unsigned i = 0; i < kWarp; ++i) {
        for (unsigned k = 0; k < 4; ++k) {
            const unsigned row = i / 4 + 8 * (k / 2), column = 2 * (i % 4) + k % 2;
            double sum = fragments(i).d[k];
            for (unsigned n = 0; n < depth; ++n) sum += a[row][n] * b[n][column];
            fragments(i).d[k] = (float)sum;
        }
    }
}

void* Block::shared_array(const void* site, size_t bytes, const char* name)
{
    size_t sum = bytes;
    for (const SharedArray& array : shared) {
        if (array.site == site) {
            acquire(shared_tag);
            return array.memory;
        }
        sum += array.bytes;
    }
    if (sum > kStaticShared || sum + dynamic_bytes > kMaxShared) {
        fail(running(), "needs %zu bytes of static shared memory with %s, beside %zu dynamic ones",
             sum, name, dynamic_bytes);
    }
    size_t known = kernel->static_shared;
    while (known < sum && !kernel->static_shared.compare_exchange_weak(known, sum)) {}

    // To the race detector, memory is written by whoever allocates it. That is not this thread's
    // doing, and the edge to the others must not order anything else that this thread has done.
    {
        AsScheduler scope(scheduler);
        shared.push_back({site, poisoned(bytes), bytes});
        release(shared_tag);
    }
    acquire(shared_tag);
    return shared.back().memory;
}

}  // namespace virtual_device
