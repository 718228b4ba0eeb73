// The driver: streams, capture, graphs, events.

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "driver.h"

using namespace virtual_device;

namespace {

struct Stream;

struct Capture {
    std::vector<Work> works;
    Stream* origin;
    int mode;  // 0 global, 1 of one thread, 2 relaxed
    std::thread::id thread;
    bool lost = false;
};

struct Stream {
    std::shared_ptr<Capture> capture;
    unsigned flags = 0;
    int priority = 0;
};

struct Event {
    unsigned flags = 0;
    bool recorded = false;
    double milliseconds = 0.0;
    std::weak_ptr<Capture> capture;  // where it was recorded in one
};

struct Graph {
    std::vector<Work> works;
};

constexpr unsigned kNoTiming = 2;  // flag of an event

Objects<Stream> streams;
Objects<Event> events;
Objects<Graph> graphs;
Objects<Graph> executables;
Stream default_stream;

// Guards captures: those of all streams, and the members that point to them.
std::mutex capture_mutex;
std::vector<std::shared_ptr<Capture>> captures;
std::vector<Stream*> joined;  // streams that capture, the origins included

// The default stream has three handles: none, the legacy one, and that of the thread.
Stream* find_stream(Handle handle)
{
    if ((uintptr_t)handle <= 2) return &default_stream;
    return streams.find(handle);
}

double now()
{
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(time).count();
}

void leave(const std::shared_ptr<Capture>& capture)
{
    for (Stream* stream : joined) {
        if (stream->capture == capture) stream->capture.reset();
    }
    joined.erase(std::remove_if(joined.begin(), joined.end(),
                                [](Stream* stream) { return !stream->capture; }),
                 joined.end());
    captures.erase(std::find(captures.begin(), captures.end(), capture));
}

Result create_stream(Handle* stream, unsigned flags, int priority)
{
    auto* made = new Stream;
    made->flags = flags;
    made->priority = priority;
    *stream = streams.add(made);
    return kSuccess;
}

Result instantiate(Handle* executable, Handle handle)
{
    const Graph* graph = graphs.find(handle);
    if (!graph) return kInvalidHandle;
    *executable = executables.add(new Graph(*graph));
    return kSuccess;
}

Result elapsed(float* milliseconds, Handle begin, Handle end)
{
    const Event* a = events.find(begin);
    const Event* b = events.find(end);
    if (!a || !b || !a->recorded || !b->recorded) return kInvalidHandle;
    if ((a->flags | b->flags) & kNoTiming) return kInvalidHandle;
    *milliseconds = (float)(b->milliseconds - a->milliseconds);
    return kSuccess;
}

Result check_event(Handle handle)
{
    const Event* event = events.find(handle);
    if (!event) return kInvalidHandle;
    return event->capture.expired() ? kSuccess : kCapturedEvent;
}

}  // namespace

namespace virtual_device {

Result check_no_capture()
{
    const std::lock_guard<std::mutex> lock(capture_mutex);
    for (const auto& capture : captures) {
        const bool mine = capture->thread == std::this_thread::get_id();
        if (capture->mode == 0 || (capture->mode == 1 && mine)) {
            capture->lost = true;
            return kCaptureUnsupported;
        }
    }
    return kSuccess;
}

Result check_stream(Handle handle)
{
    Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    if (!stream->capture) return kSuccess;
    stream->capture->lost = true;
    return kCaptureUnsupported;
}

Result submit(Handle handle, Work work)
{
    Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    {
        const std::lock_guard<std::mutex> lock(capture_mutex);
        if (stream->capture) {
            if (stream->capture->lost) return kCaptureInvalidated;
            stream->capture->works.push_back(std::move(work));
            return kSuccess;
        }
    }
    return work();
}

}  // namespace virtual_device

// Streams.

PTYCHO_ENTRY cuStreamCreate(Handle* stream, unsigned flags)
{
    PTYCHO_NEEDS_CONTEXT;
    return create_stream(stream, flags, 0);
}

PTYCHO_ENTRY cuStreamCreateWithPriority(Handle* stream, unsigned flags, int priority)
{
    PTYCHO_NEEDS_CONTEXT;
    return create_stream(stream, flags, priority);
}

PTYCHO_ENTRY cuStreamDestroy_v2(Handle stream) { return streams.destroy(stream); }
PTYCHO_ENTRY cuStreamSynchronize(Handle stream) { return check_stream(stream); }
PTYCHO_ENTRY cuStreamQuery(Handle stream) { return check_stream(stream); }

PTYCHO_ENTRY cuStreamGetFlags(Handle handle, unsigned* flags)
{
    const Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    *flags = stream->flags;
    return kSuccess;
}

PTYCHO_ENTRY cuStreamGetPriority(Handle handle, int* priority)
{
    const Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    *priority = stream->priority;
    return kSuccess;
}

PTYCHO_ENTRY cuStreamWaitEvent(Handle stream_handle, Handle event_handle, unsigned)
{
    Stream* stream = find_stream(stream_handle);
    const Event* event = events.find(event_handle);
    if (!stream || !event) return kInvalidHandle;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    const auto capture = event->capture.lock();
    if (!capture) return stream->capture && event->recorded ? kCaptureIsolation : kSuccess;
    if (stream->capture) return stream->capture == capture ? kSuccess : kCaptureMerge;
    stream->capture = capture;
    joined.push_back(stream);
    return kSuccess;
}

PTYCHO_ENTRY cuLaunchHostFunc(Handle stream, void (*function)(void*), void* data)
{
    PTYCHO_NEEDS_CONTEXT;
    return submit(stream, [=] {
        function(data);
        return kSuccess;
    });
}

// Capture and graphs.

PTYCHO_ENTRY cuStreamBeginCapture_v2(Handle handle, int mode)
{
    PTYCHO_NEEDS_CONTEXT;
    Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    if (stream == &default_stream) return kCaptureUnsupported;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    if (stream->capture) return kInvalidValue;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    captures.push_back(stream->capture);
    joined.push_back(stream);
    return kSuccess;
}

PTYCHO_ENTRY cuStreamEndCapture(Handle handle, Handle* graph)
{
    Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    *graph = nullptr;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    const auto capture = stream->capture;
    if (!capture) return kInvalidValue;
    if (capture->origin != stream) return kCaptureUnmatched;
    const bool mine = capture->thread == std::this_thread::get_id();
    if (capture->mode != 2 && !mine) return kCaptureWrongThread;
    leave(capture);
    if (capture->lost) return kCaptureInvalidated;
    *graph = graphs.add(new Graph{std::move(capture->works)});
    return kSuccess;
}

PTYCHO_ENTRY cuStreamIsCapturing(Handle handle, int* status)
{
    const Stream* stream = find_stream(handle);
    if (!stream) return kInvalidHandle;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    *status = !stream->capture ? 0 : stream->capture->lost ? 2 : 1;
    return kSuccess;
}

PTYCHO_ENTRY cuGraphCreate(Handle* graph, unsigned)
{
    *graph = graphs.add(new Graph);
    return kSuccess;
}

PTYCHO_ENTRY cuGraphInstantiateWithFlags(Handle* executable, Handle graph, unsigned long long)
{
    PTYCHO_NEEDS_CONTEXT;
    return instantiate(executable, graph);
}

PTYCHO_ENTRY cuGraphInstantiate_v2(Handle* executable, Handle graph, Handle*, char*, size_t)
{
    PTYCHO_NEEDS_CONTEXT;
    return instantiate(executable, graph);
}

PTYCHO_ENTRY cuGraphUpload(Handle executable, Handle)
{
    return executables.find(executable) ? kSuccess : kInvalidHandle;
}

PTYCHO_ENTRY cuGraphLaunch(Handle handle, Handle stream)
{
    PTYCHO_NEEDS_CONTEXT;
    const Graph* executable = executables.find(handle);
    if (!executable) return kInvalidHandle;
    const auto replay = [works = executable->works] {
        for (const Work& work : works) {
            if (const Result result = work()) return result;
        }
        return kSuccess;
    };
    return submit(stream, replay);
}

// How many nodes a graph has; the nodes themselves have no handles here.
PTYCHO_ENTRY cuGraphGetNodes(Handle handle, Handle* nodes, size_t* count)
{
    const Graph* graph = graphs.find(handle);
    if (!graph) return kInvalidHandle;
    if (nodes) return kNotSupported;
    *count = graph->works.size();
    return kSuccess;
}

PTYCHO_ENTRY cuGraphExecDestroy(Handle executable) { return executables.destroy(executable); }
PTYCHO_ENTRY cuGraphDestroy(Handle graph) { return graphs.destroy(graph); }

// Events.

PTYCHO_ENTRY cuEventCreate(Handle* event, unsigned flags)
{
    PTYCHO_NEEDS_CONTEXT;
    auto* made = new Event;
    made->flags = flags;
    *event = events.add(made);
    return kSuccess;
}

PTYCHO_ENTRY cuEventDestroy_v2(Handle event) { return events.destroy(event); }

PTYCHO_ENTRY cuEventRecord(Handle event_handle, Handle stream_handle)
{
    PTYCHO_NEEDS_CONTEXT;
    Event* event = events.find(event_handle);
    Stream* stream = find_stream(stream_handle);
    if (!event || !stream) return kInvalidHandle;
    const std::lock_guard<std::mutex> lock(capture_mutex);
    event->capture = stream->capture;
    event->recorded = true;
    event->milliseconds = now();
    return kSuccess;
}

PTYCHO_ENTRY cuEventRecordWithFlags(Handle event, Handle stream, unsigned)
{
    return cuEventRecord(event, stream);
}

PTYCHO_ENTRY cuEventSynchronize(Handle event) { return check_event(event); }
PTYCHO_ENTRY cuEventQuery(Handle event) { return check_event(event); }

PTYCHO_ENTRY cuEventElapsedTime(float* milliseconds, Handle begin, Handle end)
{
    return elapsed(milliseconds, begin, end);
}

PTYCHO_ENTRY cuEventElapsedTime_v2(float* milliseconds, Handle begin, Handle end)
{
    return elapsed(milliseconds, begin, end);
}
