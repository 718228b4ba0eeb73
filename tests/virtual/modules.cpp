// The driver: modules, functions, occupancy, launches.

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>

#include "device.h"
#include "driver.h"

using namespace virtual_device;

namespace {

struct Module {};

Objects<Module> modules;

// Start of a fatbin, an ELF file, or PTX text, whose first word is a comment or a directive.
bool is_image(const void* image)
{
    constexpr uintptr_t first_page = 4096;  // an empty slice may point at any small number
    if ((uintptr_t)image < first_page) return false;
    const auto* bytes = static_cast<const unsigned char*>(image);
    if (bytes[0] == 0x50 && bytes[1] == 0xED) return bytes[2] == 0x55 && bytes[3] == 0xBA;
    if (bytes[0] == 0x7F) return bytes[1] == 'E' && bytes[2] == 'L' && bytes[3] == 'F';
    while (std::isspace(*bytes)) ++bytes;
    const auto* text = reinterpret_cast<const char*>(bytes);
    return !std::strncmp(text, "//", 2) || !std::strncmp(text, ".version", 8);
}

Result load(Handle* module, const void* image)
{
    PTYCHO_NEEDS_CONTEXT;
    if (!is_image(image)) return kInvalidImage;
    *module = modules.add(new Module);
    return kSuccess;
}

bool fits(const Kernel& kernel, const Shape& shape)
{
    const dim3 b = shape.blocks, t = shape.threads;
    if (b.x == 0 || b.y == 0 || b.z == 0 || t.x == 0 || t.y == 0 || t.z == 0) return false;
    if (b.x > 2147483647u || b.y > kMaxGridYZ || b.z > kMaxGridYZ) return false;
    if (t.x > kMaxThreads || t.y > kMaxThreads || t.z > kMaxBlockZ) return false;
    if (t.x * t.y * t.z > kMaxThreads) return false;
    if (shape.dynamic_shared > (size_t)kernel.dynamic_limit) return false;
    return kernel.static_shared + shape.dynamic_shared <= kMaxShared;
}

Result occupancy(int* blocks, int threads, size_t dynamic_shared)
{
    if (threads <= 0 || threads > kMaxThreads) return kInvalidValue;
    const int warps = (threads + kWarp - 1) / kWarp;
    const int by_threads = kThreadsPerMultiprocessor / (warps * kWarp);
    const auto by_shared = kSharedPerMultiprocessor / (dynamic_shared + kReservedShared);
    *blocks = (int)std::min<size_t>(std::min(by_threads, kBlocksPerMultiprocessor), by_shared);
    return kSuccess;
}

}  // namespace

// Modules and functions. A module is any image that looks like one: its kernels are those that
// this library was built with.

PTYCHO_ENTRY cuModuleLoadData(Handle* module, const void* image) { return load(module, image); }

PTYCHO_ENTRY cuModuleLoadDataEx(Handle* module, const void* image, unsigned, int*, void**)
{
    return load(module, image);
}

PTYCHO_ENTRY cuModuleLoadFatBinary(Handle* module, const void* image)
{
    return load(module, image);
}

PTYCHO_ENTRY cuModuleUnload(Handle module) { return modules.destroy(module); }

PTYCHO_ENTRY cuModuleGetFunction(Handle* function, Handle module, const char* name)
{
    PTYCHO_NEEDS_CONTEXT;
    if (!modules.find(module)) return kInvalidHandle;
    *function = Kernel::find(name);
    return *function ? kSuccess : kNotFound;
}

PTYCHO_ENTRY cuModuleGetGlobal_v2(Pointer*, size_t*, Handle, const char*) { return kNotFound; }

enum FunctionAttribute { kThreads = 0, kShared = 1, kRegisters = 4, kPtx = 5, kBinary = 6,
                         kDynamicLimit = 8, kCarveout = 9 };

PTYCHO_ENTRY cuFuncGetAttribute(int* value, int attribute, Handle function)
{
    const auto* kernel = static_cast<const Kernel*>(function);
    if (!kernel) return kInvalidHandle;
    switch (attribute) {
        case kThreads: *value = kMaxThreads; break;
        case kShared: *value = (int)kernel->static_shared; break;
        case kRegisters: *value = 32; break;
        case kPtx:
        case kBinary: *value = 90; break;
        case kDynamicLimit: *value = kernel->dynamic_limit; break;
        case kCarveout: *value = -1; break;
        default: *value = 0;
    }
    return kSuccess;
}

PTYCHO_ENTRY cuFuncSetAttribute(Handle function, int attribute, int value)
{
    auto* kernel = static_cast<Kernel*>(function);
    if (!kernel) return kInvalidHandle;
    if (attribute == kCarveout) return kSuccess;
    if (attribute != kDynamicLimit) return kInvalidValue;
    if (value < 0 || value + kernel->static_shared > kMaxShared) return kInvalidValue;
    int limit = kernel->dynamic_limit;
    while (limit < value && !kernel->dynamic_limit.compare_exchange_weak(limit, value)) {}
    return kSuccess;
}

PTYCHO_ENTRY cuFuncSetCacheConfig(Handle, int) { return kSuccess; }
PTYCHO_ENTRY cuFuncSetSharedMemConfig(Handle, int) { return kSuccess; }
PTYCHO_ENTRY cuFuncLoad(Handle) { return kSuccess; }

PTYCHO_ENTRY cuFuncGetName(const char** name, Handle function)
{
    if (!function) return kInvalidHandle;
    *name = static_cast<const Kernel*>(function)->name;
    return kSuccess;
}

PTYCHO_ENTRY cuOccupancyMaxActiveBlocksPerMultiprocessor(
    int* blocks, Handle, int threads, size_t dynamic_shared)
{
    return occupancy(blocks, threads, dynamic_shared);
}

PTYCHO_ENTRY cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, Handle, int threads, size_t dynamic_shared, unsigned)
{
    return occupancy(blocks, threads, dynamic_shared);
}

PTYCHO_ENTRY cuOccupancyMaxPotentialBlockSize(
    int* blocks, int* threads, Handle, size_t (*)(int), size_t, int limit)
{
    *blocks = kMultiprocessors;
    *threads = limit > 0 ? std::min(limit, kMaxThreads) : kMaxThreads;
    return kSuccess;
}

PTYCHO_ENTRY cuOccupancyMaxPotentialBlockSizeWithFlags(
    int* blocks, int* threads, Handle function, size_t (*shared)(int), size_t bytes, int limit,
    unsigned)
{
    return cuOccupancyMaxPotentialBlockSize(blocks, threads, function, shared, bytes, limit);
}

PTYCHO_ENTRY cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, Handle, int blocks, int)
{
    if (blocks <= 0) return kInvalidValue;
    *bytes = std::min<size_t>(kMaxShared, kSharedPerMultiprocessor / blocks - kReservedShared);
    return kSuccess;
}

PTYCHO_ENTRY cuLaunchKernel(Handle function, unsigned blocks_x, unsigned blocks_y,
                            unsigned blocks_z, unsigned threads_x, unsigned threads_y,
                            unsigned threads_z, unsigned dynamic_shared, Handle stream,
                            void** arguments, void** extra)
{
    PTYCHO_NEEDS_CONTEXT;
    auto* kernel = static_cast<Kernel*>(function);
    if (!kernel) return kInvalidHandle;
    const Shape shape{{blocks_x, blocks_y, blocks_z}, {threads_x, threads_y, threads_z},
                      dynamic_shared};
    if (extra || !fits(*kernel, shape)) return kInvalidValue;
    return submit(stream, [kernel, shape, body = kernel->bind(arguments)] {
        launch(*kernel, shape, body);
        return kSuccess;
    });
}

PTYCHO_ENTRY cuLaunchCooperativeKernel(Handle, unsigned, unsigned, unsigned, unsigned, unsigned,
                                       unsigned, unsigned, Handle, void**)
{
    return kNotSupported;
}
