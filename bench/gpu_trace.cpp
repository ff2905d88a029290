// Where a token's time goes on a GPU, between the calls that the engine makes to CUDA's runtime. For one GPU.
//
//   LD_PRELOAD=build-cuda/lib/libgpu_trace.so GPU_TRACE=trace.txt build-cuda/bin/attnscope bench -m MODEL -fa on ...
//   bench/gpu_trace.py trace.txt
//
// Each call becomes one line when the process ends: letter, thread, stream, bytes, microseconds at its begin and its end, and, of
// launches of graphs, how long the GPU took. Costs two events a launch and two readings of the clock a call, in plain and in
// capturing turns alike.
#include <cuda_runtime_api.h>

#include <dlfcn.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace {

struct Call {
    char kind;
    int event; // the first of two; -1: none
    long thread;
    const void* stream;
    size_t bytes;
    double begin, end;
};
constexpr size_t most_calls = 4'000'000;
constexpr int most_events = 60'000;

struct Trace {
    std::unique_ptr<Call[]> calls{new Call[most_calls]}; // not initialised: takes memory as it is filled
    std::unique_ptr<cudaEvent_t[]> events{new cudaEvent_t[most_events]};
    std::atomic<size_t> n_calls{0};
    std::atomic<int> n_events{0};
    int made = 0;
};

Trace& trace() {
    static auto* const t = new Trace; // outlives everything that may still call
    return *t;
}

double now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

template <typename F> F real(const char* name) {
    return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

void note(char kind, const void* stream, size_t bytes, double begin, int event = -1) {
    static thread_local const long thread = syscall(SYS_gettid);
    const size_t i = trace().n_calls++;
    if (i < most_calls) trace().calls[i] = {kind, event, thread, stream, bytes, begin, now()};
}

void write() {
    const char* path = std::getenv("GPU_TRACE");
    FILE* file = path ? std::fopen(path, "w") : nullptr;
    if (!file) return;
    cudaDeviceSynchronize();
    Trace& t = trace();
    for (size_t i = 0; i < t.n_calls && i < most_calls; ++i) {
        const Call& c = t.calls[i];
        float ms = 0;
        if (c.event >= 0) cudaEventElapsedTime(&ms, t.events[size_t(c.event)], t.events[size_t(c.event) + 1]);
        std::fprintf(file, "%c %ld %p %zu %.2f %.2f %.2f\n", c.kind, c.thread, c.stream, c.bytes, c.begin, c.end,
                     1e3 * static_cast<double>(ms));
    }
    std::fclose(file);
}

// Two events around a launch; -1: there are no more.
int events_of_a_launch() {
    Trace& t = trace();
    if (t.n_events + 2 > most_events) return -1;
    const int first = t.n_events.fetch_add(2);
    // many at once, or the first would wait often
    for (; t.made < first + 2; ++t.made) cudaEventCreate(&t.events[size_t(t.made)]);
    return first;
}

} // namespace

// A call of the runtime, passed on and noted.
#define PASS_ON(letter, name, stream, bytes, ...)                                                                      \
    static const auto next = real<decltype(&name)>(#name);                                                             \
    const double begin = now();                                                                                        \
    const cudaError_t result = next(__VA_ARGS__);                                                                      \
    note(letter, stream, bytes, begin);                                                                                \
    return result

extern "C" {

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    static const auto next = real<decltype(&cudaGraphLaunch)>("cudaGraphLaunch");
    static const auto record = real<cudaError_t (*)(cudaEvent_t, cudaStream_t)>("cudaEventRecord");
    static const int once = std::atexit(write); // before the runtime, which was there first, ends
    (void)once;
    const int event = events_of_a_launch();
    if (event >= 0) record(trace().events[size_t(event)], stream);
    const double begin = now();
    const cudaError_t result = next(graph, stream);
    note('G', stream, 0, begin, event);
    if (event >= 0) record(trace().events[size_t(event) + 1], stream);
    return result;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    PASS_ON('S', cudaStreamSynchronize, stream, 0, stream);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    PASS_ON('C', cudaMemcpyAsync, stream, bytes, to, from, bytes, kind, stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    PASS_ON('W', cudaStreamWaitEvent, stream, 0, stream, event, flags);
}

} // extern "C"
