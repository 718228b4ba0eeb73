// Fibers: functions that can be left in the middle and taken up again, each on its own stack.
//
// A fiber here never ends: it runs its entry function, which waits for work in a loop. The
// sanitizers are told of every change of stack, or they would take the fibers for one thread with
// a broken stack.

#pragma once

#include <cstddef>

namespace virtual_device {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;  // red zones make frames several times larger
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

class Fiber {
public:
    // `number` staggers the stacks: at equal offsets their frames would share one cache set.
    Fiber(unsigned number, void (*entry)(void*), void* argument);
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    void resume();   // called by the scheduler: runs the fiber until it suspends itself
    void suspend();  // called inside the fiber: goes back to the scheduler

private:
    static void begin();
    void arrived();

    void (*entry_)(void*);
    void* argument_;
    char* stack_ = nullptr;           // lowest usable byte
    void* pointer_ = nullptr;         // stack pointer of the fiber while it is left
    void* caller_pointer_ = nullptr;  // and of the scheduler while it is inside the fiber

    // What the sanitizers want to know.
    void* thread_ = nullptr;
    void* caller_thread_ = nullptr;
    void* frames_ = nullptr;
    void* caller_frames_ = nullptr;
    const void* caller_stack_ = nullptr;
    size_t caller_bytes_ = 0;
};

// Happens-before edges for ThreadSanitizer: what came before release(tag) is visible to what comes
// after acquire(tag). Nothing in other builds.
void release(void* tag);
void acquire(void* tag);

// While one lives, ThreadSanitizer takes what this fiber does for deeds of the scheduler.
class AsScheduler {
public:
    explicit AsScheduler(void* scheduler);
    ~AsScheduler();
    AsScheduler(const AsScheduler&) = delete;
    AsScheduler& operator=(const AsScheduler&) = delete;

private:
    void* self_;
};

// The running thread or fiber, as ThreadSanitizer names it.
void* sanitizer_thread();

}  // namespace virtual_device
