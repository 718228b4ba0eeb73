// What the parts of the driver share: results, handles, streams.
//
// Everything is executed by the call that asks for it: a launch returns when the kernel is done.
// Only the work of a stream that captures is put aside, for graphs to replay.

#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#define PTYCHO_ENTRY extern "C" __attribute__((visibility("default"))) int

namespace virtual_device {

using Handle = void*;
using Pointer = unsigned long long;  // into device memory; here an address of this process

// Numbers of the driver interface.
enum Result : int {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidImage = 200,
    kInvalidContext = 201,
    kInvalidHandle = 400,
    kNotFound = 500,
    kNotReady = 600,
    kNotSupported = 801,
    kCaptureUnsupported = 900,
    kCaptureInvalidated = 901,
    kCaptureMerge = 902,
    kCaptureUnmatched = 903,
    kCaptureIsolation = 905,
    kCapturedEvent = 907,
    kCaptureWrongThread = 908,
};

using Work = std::function<Result()>;

// Objects that live until they are destroyed by their handle; others are told apart from them.
template <class T>
class Objects {
public:
    Handle add(T* object)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        live_.insert(object);
        return object;
    }

    T* find(Handle handle)
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        return live_.count(handle) ? static_cast<T*>(handle) : nullptr;
    }

    Result destroy(Handle handle)
    {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (live_.erase(handle) == 0) return kInvalidHandle;
        }
        delete static_cast<T*>(handle);
        return kSuccess;
    }

private:
    std::mutex mutex_;
    std::set<Handle> live_;
};

// kNotInitialized before cuInit, kInvalidContext in a thread without a context, else kSuccess.
Result check_context();

// For calls that must not come while a stream captures: kCaptureUnsupported then, and the capture
// is lost, as with a real driver.
Result check_no_capture();

// kCaptureUnsupported where this stream captures.
Result check_stream(Handle stream);

// Executes the work, or records it where the stream captures.
Result submit(Handle stream, Work work);

}  // namespace virtual_device

// First line of an entry point.
#define PTYCHO_NEEDS_CONTEXT                                                                  \
    if (const auto result = ::virtual_device::check_context()) return result
#define PTYCHO_NEEDS_NO_CAPTURE                                                               \
    PTYCHO_NEEDS_CONTEXT;                                                                     \
    if (const auto result = ::virtual_device::check_no_capture()) return result
