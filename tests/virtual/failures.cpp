// The last words of a kernel. Compiled without -fsanitize=thread: see fiber.cpp.

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "block.h"

namespace virtual_device {

namespace {

std::string name_of(uint3 index)
{
    char text[48];
    std::snprintf(text, sizeof text, "(%u,%u,%u)", index.x, index.y, index.z);
    return text;
}

const char* collective_of(const Thread& t)
{
    if (t.state == State::at_block_barrier) return "__syncthreads";
    switch (t.collective.kind) {
        case Collective::sync: return "__syncwarp";
        case Collective::shuffle: return "a warp shuffle";
        case Collective::matrix: return "a product of matrices";
        default: return "a warp vote";
    }
}

std::string place_of(const Thread& t)
{
    if (t.state == State::ended) return "has ended";
    return std::string("waits at ") + collective_of(t) + ", " + t.site.file + ":" +
           std::to_string(t.site.line);
}

bool waits(const Thread& t)
{
    return t.state == State::at_block_barrier || t.state == State::at_warp_barrier;
}

// Whether `t` is why `waiting` cannot go on.
bool misses(const Thread& t, const Thread& waiting)
{
    if (waiting.state == State::at_block_barrier) return t.state != State::at_block_barrier;
    const bool named = t.number / kWarp == waiting.number / kWarp &&
                       (waiting.collective.mask >> t.number % kWarp & 1);
    return named && (t.state != State::at_warp_barrier || t.site.line != waiting.site.line ||
                     t.collective.mask != waiting.collective.mask);
}

}  // namespace

void Block::fail(const Thread& thread, const char* format, ...)
{
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "virtual device: kernel %s, block %s: thread %s %s\n", kernel->name,
                 name_of(index).c_str(), name_of(thread.index).c_str(), message);
    std::abort();
}

// Called when every thread of the block has ended or waits, and no barrier can open.
void Block::stuck()
{
    const Thread* first = nullptr;
    for (const Thread& waiting : all) {
        if (!waits(waiting)) continue;
        if (!first) first = &waiting;
        for (const Thread& t : all) {
            if (!misses(t, waiting)) continue;
            fail(waiting, "%s, which thread %s never reaches: it %s", place_of(waiting).c_str(),
                 name_of(t.index).c_str(), place_of(t).c_str());
        }
    }
    fail(*first, "%s, with a mask (0x%x) that names lanes which do not exist",
         place_of(*first).c_str(), first->collective.mask);
}

void Block::different_barriers(const Thread& a, const Thread& b)
{
    fail(a, "%s, but thread %s at a different one: it %s", place_of(a).c_str(),
         name_of(b.index).c_str(), place_of(b).c_str());
}

}  // namespace virtual_device
