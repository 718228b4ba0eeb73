// The driver: memory of the device and of the host, copies and fills.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "driver.h"
#include "settings.h"

using namespace virtual_device;

namespace {

constexpr size_t kAlignment = 256;  // what cuMemAlloc promises
constexpr int kPoison = 0xFF;       // every float and double made of it is NaN

struct Allocation {
    size_t bytes;
    bool host;
};

std::mutex mutex;
std::map<uintptr_t, Allocation> live;
size_t used = 0;  // bytes of the device

// Each allocation is a heap block of its own, so that AddressSanitizer sees a kernel leave it.
Result allocate(uintptr_t* address, size_t bytes, bool host)
{
    if (!address || bytes == 0) return kInvalidValue;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!host && bytes > settings().memory - used) return kOutOfMemory;
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes) != 0) return kOutOfMemory;
    std::memset(memory, kPoison, bytes);
    *address = (uintptr_t)memory;
    live[*address] = {bytes, host};
    if (!host) used += bytes;
    return kSuccess;
}

Result allocate_device(Pointer* pointer, size_t bytes)
{
    uintptr_t address = 0;
    const Result result = allocate(&address, bytes, false);
    if (!result) *pointer = address;
    return result;
}

// Also what is freed twice, or was never allocated, is invalid.
Result deallocate(uintptr_t address, bool host)
{
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = live.find(address);
    if (found == live.end() || found->second.host != host) return kInvalidValue;
    if (!host) used -= found->second.bytes;
    live.erase(found);
    std::free((void*)address);
    return kSuccess;
}

// Whether all these bytes are in one live allocation of the device.
bool on_device(Pointer pointer, size_t bytes)
{
    if (bytes == 0) return true;
    const std::lock_guard<std::mutex> lock(mutex);
    auto after = live.upper_bound(pointer);
    if (after == live.begin()) return false;
    const auto& [begin, allocation] = *--after;
    const size_t offset = pointer - begin;
    return !allocation.host && offset <= allocation.bytes && bytes <= allocation.bytes - offset;
}

// One end of a copy.
struct End {
    uintptr_t address;
    bool device;
    bool holds(size_t bytes) const
    {
        return device ? on_device(address, bytes) : address != 0 || bytes == 0;
    }
};

End device(Pointer pointer) { return {(uintptr_t)pointer, true}; }
End host(const void* pointer) { return {(uintptr_t)pointer, false}; }

// Checked when it is asked for, and again when it is done: a graph may come after a free.
Work copy(End to, End from, size_t bytes)
{
    return [=] {
        if (!to.holds(bytes) || !from.holds(bytes)) return kInvalidValue;
        std::memmove((void*)to.address, (const void*)from.address, bytes);
        return kSuccess;
    };
}

Result copy_now(End to, End from, size_t bytes)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return copy(to, from, bytes)();
}

Result copy_later(End to, End from, size_t bytes, Handle stream)
{
    PTYCHO_NEEDS_CONTEXT;
    if (!to.holds(bytes) || !from.holds(bytes)) return kInvalidValue;
    return submit(stream, copy(to, from, bytes));
}

template <class T>
Work fill(Pointer to, T value, size_t count)
{
    return [=] {
        if (!on_device(to, count * sizeof(T))) return kInvalidValue;
        for (size_t i = 0; i < count; ++i) ((T*)to)[i] = value;
        return kSuccess;
    };
}

template <class T>
Result fill_now(Pointer to, T value, size_t count)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return to % sizeof(T) ? kInvalidValue : fill(to, value, count)();
}

template <class T>
Result fill_later(Pointer to, T value, size_t count, Handle stream)
{
    PTYCHO_NEEDS_CONTEXT;
    if (to % sizeof(T) || !on_device(to, count * sizeof(T))) return kInvalidValue;
    return submit(stream, fill(to, value, count));
}

Result allocate_host(void** pointer, size_t bytes)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    uintptr_t address = 0;
    const Result result = allocate(&address, bytes, true);
    if (!result) *pointer = (void*)address;
    return result;
}

}  // namespace

// Allocation.

PTYCHO_ENTRY cuMemGetInfo_v2(size_t* free, size_t* total)
{
    PTYCHO_NEEDS_CONTEXT;
    const std::lock_guard<std::mutex> lock(mutex);
    *total = settings().memory;
    *free = *total - used;
    return kSuccess;
}

PTYCHO_ENTRY cuMemAlloc_v2(Pointer* pointer, size_t bytes)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return allocate_device(pointer, bytes);
}

PTYCHO_ENTRY cuMemFree_v2(Pointer pointer)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return pointer ? deallocate((uintptr_t)pointer, false) : kSuccess;
}

// Memory that belongs to a graph is not supported.
PTYCHO_ENTRY cuMemAllocAsync(Pointer* pointer, size_t bytes, Handle stream)
{
    PTYCHO_NEEDS_CONTEXT;
    if (const Result result = check_stream(stream)) return result;
    return allocate_device(pointer, bytes);
}

PTYCHO_ENTRY cuMemFreeAsync(Pointer pointer, Handle stream)
{
    PTYCHO_NEEDS_CONTEXT;
    if (const Result result = check_stream(stream)) return result;
    return deallocate((uintptr_t)pointer, false);
}

PTYCHO_ENTRY cuMemHostAlloc(void** pointer, size_t bytes, unsigned)
{
    return allocate_host(pointer, bytes);
}

PTYCHO_ENTRY cuMemAllocHost_v2(void** pointer, size_t bytes)
{
    return allocate_host(pointer, bytes);
}

PTYCHO_ENTRY cuMemFreeHost(void* pointer)
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return deallocate((uintptr_t)pointer, true);
}

PTYCHO_ENTRY cuMemHostRegister_v2(void*, size_t, unsigned) { return kSuccess; }
PTYCHO_ENTRY cuMemHostUnregister(void*) { return kSuccess; }

PTYCHO_ENTRY cuMemAllocManaged(Pointer*, size_t, unsigned) { return kNotSupported; }

// Copies.

PTYCHO_ENTRY cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes)
{
    return copy_now(device(to), host(from), bytes);
}

PTYCHO_ENTRY cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Handle stream)
{
    return copy_later(device(to), host(from), bytes, stream);
}

PTYCHO_ENTRY cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes)
{
    return copy_now(host(to), device(from), bytes);
}

PTYCHO_ENTRY cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Handle stream)
{
    return copy_later(host(to), device(from), bytes, stream);
}

PTYCHO_ENTRY cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes)
{
    return copy_now(device(to), device(from), bytes);
}

PTYCHO_ENTRY cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Handle stream)
{
    return copy_later(device(to), device(from), bytes, stream);
}

// Either end may be on either side: what is not on the device is on the host.
PTYCHO_ENTRY cuMemcpy(Pointer to, Pointer from, size_t bytes)
{
    return copy_now({(uintptr_t)to, on_device(to, 1)}, {(uintptr_t)from, on_device(from, 1)},
                    bytes);
}

PTYCHO_ENTRY cuMemcpyAsync(Pointer to, Pointer from, size_t bytes, Handle stream)
{
    return copy_later({(uintptr_t)to, on_device(to, 1)}, {(uintptr_t)from, on_device(from, 1)},
                      bytes, stream);
}

// Fills.

PTYCHO_ENTRY cuMemsetD8_v2(Pointer to, unsigned char value, size_t count)
{
    return fill_now(to, value, count);
}

PTYCHO_ENTRY cuMemsetD8Async(Pointer to, unsigned char value, size_t count, Handle stream)
{
    return fill_later(to, value, count, stream);
}

PTYCHO_ENTRY cuMemsetD16_v2(Pointer to, unsigned short value, size_t count)
{
    return fill_now(to, value, count);
}

PTYCHO_ENTRY cuMemsetD16Async(Pointer to, unsigned short value, size_t count, Handle stream)
{
    return fill_later(to, value, count, stream);
}

PTYCHO_ENTRY cuMemsetD32_v2(Pointer to, unsigned value, size_t count)
{
    return fill_now(to, value, count);
}

PTYCHO_ENTRY cuMemsetD32Async(Pointer to, unsigned value, size_t count, Handle stream)
{
    return fill_later(to, value, count, stream);
}
