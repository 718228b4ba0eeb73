// Checks the virtual device: right kernels compute, faulty ones are caught, the driver refuses what
// a real one would refuse. Each kernel runs in a process of its own, since a caught fault ends it.
//
//   check KERNEL   runs one kernel of check.cu: exit 0 right, 1 wrong; or it aborts
//   check          runs all and prints how many were caught

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using Handle = void*;
using Pointer = unsigned long long;

extern "C" {
int cuInit(unsigned);
int cuDeviceGet(int*, int);
int cuDevicePrimaryCtxRetain(Handle*, int);
int cuCtxSetCurrent(Handle);
int cuCtxSynchronize();
int cuModuleLoadData(Handle*, const void*);
int cuModuleGetFunction(Handle*, Handle, const char*);
int cuFuncSetAttribute(Handle, int, int);
int cuMemAlloc_v2(Pointer*, size_t);
int cuMemFree_v2(Pointer);
int cuMemcpyHtoD_v2(Pointer, const void*, size_t);
int cuMemcpyDtoH_v2(void*, Pointer, size_t);
int cuMemsetD8Async(Pointer, unsigned char, size_t, Handle);
int cuLaunchKernel(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                   Handle, void**, void**);
int cuStreamCreate(Handle*, unsigned);
int cuStreamSynchronize(Handle);
int cuStreamBeginCapture_v2(Handle, int);
int cuStreamEndCapture(Handle, Handle*);
int cuGraphInstantiateWithFlags(Handle*, Handle, unsigned long long);
int cuGraphLaunch(Handle, Handle);
}

namespace {

constexpr unsigned kBlocks = 5, kThreads = 256, kCount = kBlocks * kThreads;
constexpr const char* kImage = ".version 8.0\n";

int failures = 0;

void expect(int result, int wanted, const char* call)
{
    if (result == wanted) return;
    std::fprintf(stderr, "%s returned %d, not %d\n", call, result, wanted);
    ++failures;
}

#define EXPECT(wanted, call) expect(call, wanted, #call)

struct Device {
    Handle module = nullptr, kernel = nullptr;
    Pointer x = 0, y = 0;
    std::vector<float> in, out;

    explicit Device(const char* name) : in(kCount), out(kCount)
    {
        Handle context = nullptr;
        EXPECT(0, cuInit(0));
        EXPECT(201, cuMemAlloc_v2(&x, 4));
        EXPECT(0, cuDevicePrimaryCtxRetain(&context, 0));
        EXPECT(0, cuCtxSetCurrent(context));
        EXPECT(200, cuModuleLoadData(&module, "\0"));
        EXPECT(0, cuModuleLoadData(&module, kImage));
        EXPECT(500, cuModuleGetFunction(&kernel, module, "no_such_kernel"));
        EXPECT(0, cuModuleGetFunction(&kernel, module, name));
        EXPECT(0, cuMemAlloc_v2(&x, kCount * sizeof(float)));
        EXPECT(0, cuMemAlloc_v2(&y, kCount * sizeof(float)));
        for (unsigned i = 0; i < kCount; ++i) in[i] = (float)(1 + i % 97);
        EXPECT(0, cuMemcpyHtoD_v2(x, in.data(), kCount * sizeof(float)));
    }

    int launch(unsigned dynamic_shared, Handle stream = nullptr, unsigned threads = kThreads)
    {
        void* arguments[] = {&x, &y};
        return cuLaunchKernel(kernel, kBlocks, 1, 1, threads, 1, 1, dynamic_shared, stream,
                              arguments, nullptr);
    }

    void fetch() { EXPECT(0, cuMemcpyDtoH_v2(out.data(), y, kCount * sizeof(float))); }
};

bool sums_are_right(const Device& d)
{
    for (unsigned b = 0; b < kBlocks; ++b) {
        float sum = 0.0f;
        for (unsigned i = 0; i < kThreads; ++i) sum += d.in[b * kThreads + i];
        if (!(d.out[b] == sum)) return false;
    }
    return true;
}

// The other kernels reverse each block, or copy it.
bool copy_is_right(const Device& d, bool reversed)
{
    for (unsigned i = 0; i < kCount; ++i) {
        const unsigned t = i % kThreads;
        const float wanted = d.in[reversed ? i - t + kThreads - 1 - t : i];
        if (!(d.out[i] == wanted)) return false;
    }
    return true;
}

// The number of 11 significant bits next to x, away from zero where two are; of 8, the even one.
double nearest(float x, int bits)
{
    int exponent;
    const double part = std::ldexp(std::frexp((double)x, &exponent), bits);
    return std::ldexp(bits == 8 ? std::nearbyint(part) : std::round(part), exponent - bits);
}

// By the definition of the product: what the fragments of a lane are is not asked.
bool products_are_right(const Device& d, int bits)
{
    const unsigned depth = bits == 8 ? 16 : 8, step = bits == 8 ? 2 : 3;
    for (unsigned i = 0; i < kCount; ++i) {
        const float* x = &d.in[i / kThreads * kThreads];
        const unsigned t = i % kThreads;
        double wanted = x[t];
        if (t < 128) {
            wanted = 0.0;
            for (unsigned k = 0; k < depth; ++k)
                wanted += nearest(x[t / 8 + k] / 3.0f, bits) * nearest(x[step * k + t % 8], bits);
        }
        if (!(d.out[i] == (float)wanted)) return false;
    }
    return true;
}

int run(const std::string& name)
{
    Device d(name.c_str());
    EXPECT(0, d.launch(name == "check_warp_sum" ? 8 * sizeof(float) : 0));
    d.fetch();
    const bool sums = name == "check_sum" || name == "check_warp_sum";
    const bool reversed = name == "check_copy" || name.find("barrier") != std::string::npos;
    const bool words = name == "check_half_words";
    const bool product = words || name == "check_product" || name == "check_not_rounded";
    const bool right = sums      ? sums_are_right(d)
                       : product ? products_are_right(d, words ? 8 : 11)
                                 : copy_is_right(d, reversed);
    std::printf("%s\n", right ? "right" : "wrong values");
    return right && failures == 0 ? 0 : 1;
}

// Graph replay, and what the driver must refuse.
int run_driver()
{
    Device d("check_sum");
    Handle stream = nullptr, graph = nullptr, executable = nullptr;
    EXPECT(1, d.launch(0, nullptr, 1025));
    EXPECT(1, d.launch(0, nullptr, 0));
    EXPECT(1, d.launch(100 << 10));
    EXPECT(1, cuFuncSetAttribute(d.kernel, 8, 228 << 10));
    EXPECT(0, cuFuncSetAttribute(d.kernel, 8, 100 << 10));
    EXPECT(0, d.launch(100 << 10));
    EXPECT(1, cuMemcpyHtoD_v2(d.x + 4, d.in.data(), kCount * sizeof(float)));
    EXPECT(1, cuMemcpyDtoH_v2(d.out.data(), d.x - 4, 4));

    EXPECT(0, cuStreamCreate(&stream, 1));
    EXPECT(0, cuStreamBeginCapture_v2(stream, 1));
    EXPECT(0, cuMemsetD8Async(d.y, 0, kCount * sizeof(float), stream));
    EXPECT(0, d.launch(0, stream));
    EXPECT(0, cuStreamEndCapture(stream, &graph));
    EXPECT(0, cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (float& x : d.in) x *= 2.0f;
    EXPECT(0, cuMemcpyHtoD_v2(d.x, d.in.data(), kCount * sizeof(float)));
    EXPECT(0, cuGraphLaunch(executable, stream));
    d.fetch();
    if (!sums_are_right(d) || d.out[kBlocks] != 0.0f) ++failures;

    EXPECT(0, cuStreamBeginCapture_v2(stream, 0));
    EXPECT(900, cuStreamSynchronize(stream));
    EXPECT(901, cuStreamEndCapture(stream, &graph));
    EXPECT(0, cuCtxSynchronize());

    Pointer none = 0;
    EXPECT(2, cuMemAlloc_v2(&none, size_t(1) << 50));
    EXPECT(0, cuMemFree_v2(d.y));
    EXPECT(1, cuMemFree_v2(d.y));
    EXPECT(1, cuGraphLaunch(executable, stream));
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}

struct Case {
    const char* kernel;
    const char* order;   // of threads
    const char* output;  // that shows the fault; null: must be right
};

#if defined(__SANITIZE_ADDRESS__)
const Case kExtra[] = {
    {"check_shared_overrun", "forward", "heap-buffer-overflow"},
    {"check_global_overrun", "forward", "heap-buffer-overflow"},
};
constexpr const char* kMissing = "wrong values";
#elif defined(__SANITIZE_THREAD__)
const Case kExtra[] = {
    {"check_no_barrier", "forward", "data race"},
    {"check_no_second_barrier", "shuffle", "data race"},
};
constexpr const char* kMissing = "data race";
#else
const Case kExtra[] = {{"check_copy", "shuffle", nullptr}};
constexpr const char* kMissing = "wrong values";
#endif

const Case kCases[] = {
    {"driver", "forward", nullptr},
    {"check_sum", "forward", nullptr},
    {"check_sum", "reverse", nullptr},
    {"check_sum", "shuffle", nullptr},
    {"check_warp_sum", "forward", nullptr},
    {"check_warp_sum", "shuffle", nullptr},
    {"check_copy", "reverse", nullptr},
    {"check_product", "forward", nullptr},
    {"check_product", "shuffle", nullptr},
    {"check_half_words", "forward", nullptr},
    {"check_half_words", "shuffle", nullptr},
    {"check_not_rounded", "forward", "not rounded"},
    {"check_half_product", "forward", "never reaches"},
    {"check_no_barrier", "reverse", kMissing},
    {"check_no_barrier", "shuffle", kMissing},
    {"check_no_second_barrier", "forward", kMissing},
    {"check_divergent", "forward", "__syncthreads"},
    {"check_two_barriers", "forward", "at a different one"},
    {"check_half_warp", "reverse", "never reaches"},
    {"check_late_wait", "forward", "wrong values"},
    {"check_no_wait", "forward", "never waited for"},
    {"check_misaligned", "forward", "misaligned address"},
    {"check_misaligned_copy", "forward", "no multiple"},
    {"check_large", "forward", "static shared memory"},
    {"check_sum", "sideways", "PTYCHO_VIRTUAL_THREADS is 'sideways'"},
};

// Runs the case in a child and tells whether it went as it should.
bool passes(const std::string& self, const Case& c)
{
    const std::string command = std::string("PTYCHO_VIRTUAL_THREADS=") + c.order + " '" + self +
                                "' " + c.kernel + " 2>&1";
    std::string output;
    FILE* child = popen(command.c_str(), "r");
    if (!child) return false;
    char buffer[4096];
    while (const size_t n = std::fread(buffer, 1, sizeof buffer, child)) output.append(buffer, n);
    const int status = pclose(child);

    const bool pass = c.output ? status != 0 && output.find(c.output) != std::string::npos
                               : status == 0;
    std::printf("%s %s, %s", pass ? "ok    " : "FAILED", c.kernel, c.order);
    const auto line = output.find("virtual device: ");
    if (!pass) std::printf("\n%s", output.c_str());
    else if (c.output && line != std::string::npos)
        std::printf(": %s", output.substr(line, output.find('\n', line) - line).c_str());
    std::printf("\n");
    return pass;
}

}  // namespace

int main(int count, char** arguments)
{
    if (count > 1 && !std::strcmp(arguments[1], "driver")) return run_driver();
    if (count > 1) return run(arguments[1]);

    int caught = 0, all = 0, right = 0, clean = 0;
    const auto one = [&](const Case& c) {
        const bool pass = passes(arguments[0], c);
        ++(c.output ? all : clean);
        if (pass) ++(c.output ? caught : right);
    };
    for (const Case& c : kCases) one(c);
    for (const Case& c : kExtra) one(c);
    std::printf("right %d of %d\ncaught %d of %d\n", right, clean, caught, all);
    return right == clean && caught == all ? 0 : 1;
}
