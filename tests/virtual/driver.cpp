// The driver: start, device, contexts, names of errors.

#include "driver.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "device.h"
#include "settings.h"

using namespace virtual_device;

namespace {

struct Context {};

std::atomic<bool> initialized{false};
Context primary;
Objects<Context> contexts;
thread_local std::vector<Handle> current_contexts;  // the last one is in force

Result check_device(int device)
{
    if (!initialized) return kNotInitialized;
    return device == 0 ? kSuccess : kInvalidDevice;
}

struct Attribute {
    int number;
    int value;
};

// By the numbers of CUdevice_attribute; all others are 0.
constexpr Attribute kAttributes[] = {
    {1, kMaxThreads},
    {2, kMaxThreads},                   // x of a block
    {3, kMaxThreads},
    {4, kMaxBlockZ},
    {5, 2147483647},                    // x of a grid
    {6, kMaxGridYZ},
    {7, kMaxGridYZ},
    {8, kStaticShared},
    {9, 64 << 10},                      // constant memory
    {10, kWarp},
    {11, 2147483647},                   // pitch
    {12, 65536},                        // registers of a block
    {13, 1000000},                      // clock, kHz
    {14, 512},                          // alignment of textures
    {15, 1},                            // copies overlap with kernels
    {16, kMultiprocessors},
    {19, 1},                            // maps host memory
    {31, 1},                            // concurrent kernels
    {36, 1000000},                      // memory clock, kHz
    {37, 64},                           // width of the memory bus
    {38, 1 << 20},                      // L2 cache
    {39, kThreadsPerMultiprocessor},
    {40, 1},                            // copy engines
    {41, 1},                            // unified addresses
    {75, 9},                            // compute capability 9.0
    {76, 0},
    {78, 1},                            // priorities of streams
    {81, kSharedPerMultiprocessor},
    {82, 65536},                        // registers of a multiprocessor
    {97, kMaxShared},
    {106, kBlocksPerMultiprocessor},
    {111, kReservedShared},
    {115, 1},                           // cuMemAllocAsync
};

Result create_context(Handle* context, int device)
{
    if (const Result result = check_device(device)) return result;
    *context = contexts.add(new Context);
    current_contexts.push_back(*context);
    return kSuccess;
}

bool is_context(Handle context) { return context == &primary || contexts.find(context); }

Result set_context(Handle context)
{
    if (!initialized) return kNotInitialized;
    if (context && !is_context(context)) return kInvalidContext;
    if (!current_contexts.empty()) current_contexts.pop_back();
    if (context) current_contexts.push_back(context);
    return kSuccess;
}

struct ErrorName {
    int number;
    const char* name;
    const char* text;
};

constexpr ErrorName kErrors[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {kCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {kCaptureMerge, "CUDA_ERROR_STREAM_CAPTURE_MERGE",
     "operation would result in a merge of separate capture sequences"},
    {kCaptureUnmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not ended in the same stream as it began"},
    {kCaptureIsolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {kCapturedEvent, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {kCaptureWrongThread, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

const ErrorName* find_error(int number)
{
    for (const ErrorName& error : kErrors) {
        if (error.number == number) return &error;
    }
    return nullptr;
}

}  // namespace

namespace virtual_device {

Result check_context()
{
    if (!initialized) return kNotInitialized;
    return current_contexts.empty() ? kInvalidContext : kSuccess;
}

}  // namespace virtual_device

// Start and device.

PTYCHO_ENTRY cuInit(unsigned)
{
    if (!settings().visible) return kNoDevice;
    initialized = true;
    return kSuccess;
}

PTYCHO_ENTRY cuDriverGetVersion(int* version)
{
    *version = settings().driver;
    return kSuccess;
}

PTYCHO_ENTRY cuDeviceGetCount(int* count)
{
    if (!initialized) return kNotInitialized;
    *count = 1;
    return kSuccess;
}

PTYCHO_ENTRY cuDeviceGet(int* device, int ordinal)
{
    *device = 0;
    return check_device(ordinal);
}

PTYCHO_ENTRY cuDeviceGetName(char* name, int length, int device)
{
    std::snprintf(name, (size_t)length, "ptycho-gpu virtual device");
    return check_device(device);
}

PTYCHO_ENTRY cuDeviceGetUuid_v2(char* uuid, int device)
{
    std::memcpy(uuid, "ptycho-gpu vdev", 16);
    return check_device(device);
}

PTYCHO_ENTRY cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

PTYCHO_ENTRY cuDeviceTotalMem_v2(size_t* bytes, int device)
{
    *bytes = settings().memory;
    return check_device(device);
}

PTYCHO_ENTRY cuDeviceGetAttribute(int* value, int number, int device)
{
    *value = 0;
    for (const Attribute& attribute : kAttributes) {
        if (attribute.number == number) *value = attribute.value;
    }
    return check_device(device);
}

// Contexts.

PTYCHO_ENTRY cuDevicePrimaryCtxRetain(Handle* context, int device)
{
    *context = &primary;
    return check_device(device);
}

PTYCHO_ENTRY cuDevicePrimaryCtxRelease_v2(int device) { return check_device(device); }
PTYCHO_ENTRY cuDevicePrimaryCtxReset_v2(int device) { return check_device(device); }
PTYCHO_ENTRY cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) { return check_device(device); }

PTYCHO_ENTRY cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active)
{
    *flags = 0;
    *active = 1;
    return check_device(device);
}

PTYCHO_ENTRY cuCtxCreate_v2(Handle* context, unsigned, int device)
{
    return create_context(context, device);
}

PTYCHO_ENTRY cuCtxCreate_v3(Handle* context, void*, int, unsigned, int device)
{
    return create_context(context, device);
}

PTYCHO_ENTRY cuCtxCreate_v4(Handle* context, void*, unsigned, int device)
{
    return create_context(context, device);
}

PTYCHO_ENTRY cuCtxDestroy_v2(Handle context)
{
    if (contexts.destroy(context)) return kInvalidContext;
    auto& stack = current_contexts;
    stack.erase(std::remove(stack.begin(), stack.end(), context), stack.end());
    return kSuccess;
}

PTYCHO_ENTRY cuCtxGetCurrent(Handle* context)
{
    if (!initialized) return kNotInitialized;
    *context = current_contexts.empty() ? nullptr : current_contexts.back();
    return kSuccess;
}

PTYCHO_ENTRY cuCtxSetCurrent(Handle context) { return set_context(context); }

PTYCHO_ENTRY cuCtxPushCurrent_v2(Handle context)
{
    if (!initialized) return kNotInitialized;
    if (!is_context(context)) return kInvalidContext;
    current_contexts.push_back(context);
    return kSuccess;
}

PTYCHO_ENTRY cuCtxPopCurrent_v2(Handle* context)
{
    PTYCHO_NEEDS_CONTEXT;
    if (context) *context = current_contexts.back();
    current_contexts.pop_back();
    return kSuccess;
}

PTYCHO_ENTRY cuCtxGetDevice(int* device)
{
    PTYCHO_NEEDS_CONTEXT;
    *device = 0;
    return kSuccess;
}

PTYCHO_ENTRY cuCtxSynchronize()
{
    PTYCHO_NEEDS_NO_CAPTURE;
    return kSuccess;
}

PTYCHO_ENTRY cuCtxGetApiVersion(Handle, unsigned* version)
{
    *version = 3020;
    return kSuccess;
}

PTYCHO_ENTRY cuCtxGetFlags(unsigned* flags)
{
    *flags = 0;
    return check_context();
}

PTYCHO_ENTRY cuCtxGetStreamPriorityRange(int* least, int* greatest)
{
    *least = 0;
    *greatest = -5;
    return check_context();
}

PTYCHO_ENTRY cuCtxSetFlags(unsigned) { return check_context(); }
PTYCHO_ENTRY cuCtxSetLimit(int, size_t) { return check_context(); }
PTYCHO_ENTRY cuCtxSetCacheConfig(int) { return check_context(); }
PTYCHO_ENTRY cuProfilerStart() { return kSuccess; }
PTYCHO_ENTRY cuProfilerStop() { return kSuccess; }

// Names of errors.

PTYCHO_ENTRY cuGetErrorName(int number, const char** name)
{
    const ErrorName* error = find_error(number);
    *name = error ? error->name : nullptr;
    return error ? kSuccess : kInvalidValue;
}

PTYCHO_ENTRY cuGetErrorString(int number, const char** text)
{
    const ErrorName* error = find_error(number);
    *text = error ? error->text : nullptr;
    return error ? kSuccess : kInvalidValue;
}
