#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace virtual_device {

namespace {

[[noreturn]] void refuse(const char* name, const char* value, const char* allowed)
{
    std::fprintf(stderr, "virtual device: %s is '%s', but must be %s\n", name, value, allowed);
    std::abort();
}

Order read_order(const char* name, bool may_shuffle)
{
    const char* value = std::getenv(name);
    if (!value || !std::strcmp(value, "forward")) return Order::forward;
    if (!std::strcmp(value, "reverse")) return Order::reverse;
    if (may_shuffle && !std::strcmp(value, "shuffle")) return Order::shuffle;
    refuse(name, value, may_shuffle ? "forward, reverse or shuffle" : "forward or reverse");
}

long read_number(const char* name, long fallback, long least, long most)
{
    const char* value = std::getenv(name);
    if (!value) return fallback;
    char* end = nullptr;
    const long number = std::strtol(value, &end, 10);
    if (end != value && *end == '\0' && number >= least && number <= most) return number;

    char allowed[80];
    std::snprintf(allowed, sizeof allowed, "a whole number from %ld to %ld", least, most);
    refuse(name, value, allowed);
}

// The one device is number 0. As with a real driver, an empty list or a number that does not exist
// hides it.
bool read_visible()
{
    const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
    return !value || !std::strcmp(value, "0") || !std::strncmp(value, "0,", 2);
}

Settings read()
{
    Settings s;
    s.threads = read_order("PTYCHO_VIRTUAL_THREADS", true);
    s.blocks = read_order("PTYCHO_VIRTUAL_BLOCKS", false);
    s.workers = (int)read_number("PTYCHO_VIRTUAL_WORKERS", s.workers, 1, 256);
    s.memory = (size_t)read_number("PTYCHO_VIRTUAL_MEMORY", 4096, 1, 1 << 20) << 20;
    s.driver = (int)read_number("PTYCHO_VIRTUAL_DRIVER", s.driver, 1000, 99999);
    s.visible = read_visible();
    return s;
}

}  // namespace

const Settings& settings()
{
    static const Settings read_once = read();
    return read_once;
}

}  // namespace virtual_device
