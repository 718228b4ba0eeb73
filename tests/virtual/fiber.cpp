// This file and fibers.cpp are compiled without -fsanitize=thread also in the ThreadSanitizer
// build, which sets PTYCHO_VIRTUAL_TSAN instead: the detector shall see the accesses of kernels,
// ordered by barriers alone, and not those of the scheduler.

#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(PTYCHO_VIRTUAL_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

// void ptycho_switch_stack(void** save, void* load)
//
// Pushes the registers that a called function must preserve, stores the stack pointer in *save,
// goes over to the stack `load`, which the same function left earlier, and pops there.
extern "C" void ptycho_switch_stack(void** save, void* load);

#if defined(__x86_64__)

asm(R"(
    .text
    .globl  ptycho_switch_stack
    .hidden ptycho_switch_stack
    .type   ptycho_switch_stack, @function
ptycho_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq  %rsp, (%rdi)
    movq  %rsi, %rsp
    popq  %r15
    popq  %r14
    popq  %r13
    popq  %r12
    popq  %rbx
    popq  %rbp
    ret
    .size ptycho_switch_stack, . - ptycho_switch_stack
)");

constexpr int kFrameWords = 8;   // six registers, the return address, and a zero above it
constexpr int kReturnWord = 6;

#elif defined(__aarch64__)

asm(R"(
    .text
    .globl  ptycho_switch_stack
    .hidden ptycho_switch_stack
    .type   ptycho_switch_stack, %function
ptycho_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8,  d9,  [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8,  d9,  [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size ptycho_switch_stack, . - ptycho_switch_stack
)");

constexpr int kFrameWords = 20;
constexpr int kReturnWord = 11;  // x30

#else
#error "the virtual device switches stacks on x86-64 and aarch64 only"
#endif

namespace virtual_device {

namespace {

__thread Fiber* beginning = nullptr;  // the fiber that is entered for the first time

// A stack with an inaccessible page below it, so that an overflow stops at once.
char* map_stack()
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
        std::perror("virtual device: no memory for a stack");
        std::abort();
    }
    return (char*)memory + page;
}

}  // namespace

Fiber::Fiber(unsigned number, void (*entry)(void*), void* argument)
    : entry_(entry), argument_(argument), stack_(map_stack())
{
    constexpr size_t stagger = 17 * 64;  // an odd number of cache lines
    char* top = stack_ + kStackBytes - number * stagger % (16 << 10);
    auto* frame = (uintptr_t*)top - kFrameWords;
    for (int i = 0; i < kFrameWords; ++i) frame[i] = 0;
    frame[kReturnWord] = (uintptr_t)&Fiber::begin;
    pointer_ = frame;
#if defined(PTYCHO_VIRTUAL_TSAN)
    thread_ = __tsan_create_fiber(0);
#endif
}

void Fiber::begin()
{
    Fiber* self = beginning;
    self->arrived();
    self->entry_(self->argument_);
    std::abort();  // an entry function never returns
}

// First deed on the stack of the fiber after each switch to it.
void Fiber::arrived()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(frames_, &caller_stack_, &caller_bytes_);
#endif
}

__attribute__((noinline)) void Fiber::resume()
{
    beginning = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&caller_frames_, stack_, kStackBytes);
#endif
#if defined(PTYCHO_VIRTUAL_TSAN)
    constexpr unsigned no_sync = 1;  // a switch orders nothing: only barriers do
    caller_thread_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(thread_, no_sync);
#endif
    ptycho_switch_stack(&caller_pointer_, pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(caller_frames_, nullptr, nullptr);
#endif
}

__attribute__((noinline)) void Fiber::suspend()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&frames_, caller_stack_, caller_bytes_);
#endif
#if defined(PTYCHO_VIRTUAL_TSAN)
    constexpr unsigned no_sync = 1;
    __tsan_switch_to_fiber(caller_thread_, no_sync);
#endif
    ptycho_switch_stack(&pointer_, caller_pointer_);
    arrived();
}

#if defined(PTYCHO_VIRTUAL_TSAN)

void release(void* tag) { __tsan_release(tag); }
void acquire(void* tag) { __tsan_acquire(tag); }
void* sanitizer_thread() { return __tsan_get_current_fiber(); }

AsScheduler::AsScheduler(void* scheduler) : self_(__tsan_get_current_fiber())
{
    __tsan_switch_to_fiber(scheduler, 1);
}

AsScheduler::~AsScheduler() { __tsan_switch_to_fiber(self_, 1); }

#else

void release(void*) {}
void acquire(void*) {}
void* sanitizer_thread() { return nullptr; }
AsScheduler::AsScheduler(void*) : self_(nullptr) {}
AsScheduler::~AsScheduler() { (void)self_; }

#endif

}  // namespace virtual_device
