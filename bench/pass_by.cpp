// Turns an attached program's capture off and on while it runs, for measuring, and tells when each graph was where: preloaded in front
// of our library, it calls ggml's own functions past ours while its file (PASS_BY) says so. One process is then compared with itself: two
// equal servers on a GPU differ by more than what is to be measured. For programs whose ggml is a shared library. See attach_turns.py.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

// Nanoseconds of the monotonic clock; 0: did not happen.
struct Graph {
    uint64_t given;    // the scheduler has been asked to compute it
    uint64_t launched; // its (last) device is asked to
    uint64_t running;  // and that call has come back
    uint64_t returned; // the scheduler's has, too: the program asks for the logits
    uint64_t awaited;  // the program waits for the devices
    uint64_t done;     // and has them: it waits for the second time, as whoever reads logits does
};
constexpr size_t most_graphs = 1 << 16;

struct File {
    volatile uint64_t pass_by; // 0: captured
    std::atomic<uint64_t> n_graphs;
    std::atomic<uint64_t> n_built; // graphs that were given memory: the others are used again
    uint64_t unused;
    Graph graphs[most_graphs]; // the newest ones, each at its number modulo most_graphs
};

File* file() {
    static File* const opened = [] {
        const char* path = std::getenv("PASS_BY");
        const int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        if (fd < 0 || ftruncate(fd, sizeof(File)) != 0) return static_cast<File*>(nullptr);
        void* mapped = mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        return mapped == MAP_FAILED ? nullptr : static_cast<File*>(mapped);
    }();
    return opened;
}

uint64_t now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

Graph* newest() {
    File* f = file();
    const uint64_t n = f ? f->n_graphs.load(std::memory_order_relaxed) : 0;
    return n > 0 ? &f->graphs[(n - 1) % most_graphs] : nullptr;
}

void given() {
    File* f = file();
    if (!f) return;
    const uint64_t n = f->n_graphs.load(std::memory_order_relaxed);
    f->graphs[n % most_graphs] = {now(), 0, 0, 0, 0, 0};
    f->n_graphs.store(n + 1, std::memory_order_release);
}

void awaited() {
    Graph* graph = newest();
    if (!graph) return;
    if (graph->awaited == 0)
        graph->awaited = now();
    else if (graph->done == 0)
        graph->done = now();
}

void built() {
    if (File* f = file()) f->n_built.fetch_add(1, std::memory_order_relaxed);
}

// In the library that defines it, whoever stands before that.
void* of_ggml(const char* name) {
    struct Search {
        const char* name;
        void* found;
    } search{name, nullptr};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto* s = static_cast<Search*>(data);
            if (!info->dlpi_name || !std::strstr(info->dlpi_name, "libggml-base")) return 0;
            void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
            s->found = library ? dlsym(library, s->name) : nullptr;
            return s->found ? 1 : 0;
        },
        &search);
    if (!search.found) {
        std::fprintf(stderr, "pass_by: no libggml-base is loaded that has %s\n", name);
        std::abort();
    }
    return search.found;
}

struct Functions {
    void* real;
    void* next; // ours, where we have one; of a ggml that is loaded for its caller alone nothing else is found
    explicit Functions(const char* name) : real(of_ggml(name)), next(dlsym(RTLD_NEXT, name)) {
        if (!next) next = real;
    }
    void* chosen() const { return file() && file()->pass_by ? real : next; }
};

} // namespace

struct ggml_backend;
struct ggml_backend_sched;
struct ggml_cgraph;
struct ggml_tensor;

// Our library looks where a call comes from: each of these ends in a jump, not in a call, so that it still comes from the program.
#define PASS(result, name, parameters, arguments, first)                                                               \
    extern "C" __attribute__((visibility("default"))) result name parameters {                                         \
        static const Functions functions(#name);                                                                       \
        first;                                                                                                         \
        return reinterpret_cast<result(*) parameters>(functions.chosen()) arguments;                                   \
    }

PASS(bool, ggml_backend_sched_alloc_graph, (ggml_backend_sched * sched, ggml_cgraph* graph), (sched, graph), built())
PASS(int, ggml_backend_sched_graph_compute_async, (ggml_backend_sched * sched, ggml_cgraph* graph), (sched, graph),
     given())
PASS(void, ggml_backend_tensor_get_async,
     (ggml_backend * backend, const ggml_tensor* tensor, void* data, size_t offset, size_t size),
     (backend, tensor, data, offset, size), if (Graph* g = newest(); g && g->returned == 0) g->returned = now())

PASS(void, ggml_backend_sched_synchronize, (ggml_backend_sched * sched), (sched), awaited())

// The scheduler's own calls, for each device.
extern "C" __attribute__((visibility("default"))) int ggml_backend_graph_compute_async(ggml_backend* backend,
                                                                                       ggml_cgraph* graph) {
    static const Functions functions("ggml_backend_graph_compute_async");
    Graph* newest_graph = newest();
    const bool counts = newest_graph && newest_graph->returned == 0;
    if (counts) newest_graph->launched = now();
    const int status = reinterpret_cast<int (*)(ggml_backend*, ggml_cgraph*)>(functions.real)(backend, graph);
    if (counts) newest_graph->running = now();
    return status;
}
