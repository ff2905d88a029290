// What writing a recording costs, as docs/performance.md quotes it: CPU time of the writer's thread and of
// push(), per token, and the size of the file.
//   bench_recording FOLDER [frames] [tokens per second; 0: as fast as it goes] [page bytes] [chunk frames]
#include "recording/writer.h"

#include <attnscope/recording.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <thread>

using namespace attnscope;

namespace {

struct Shape {
    const char* name;
    int32_t n_layer, n_head, n_head_kv, head_dim;
};

Geometry geometry_of(const Shape& shape) {
    Geometry geometry;
    for (int32_t i = 0; i < shape.n_layer; ++i) {
        LayerInfo layer;
        layer.layer = layer.k_layer = i;
        layer.n_head = shape.n_head;
        layer.n_head_kv = shape.n_head_kv;
        layer.head_dim = layer.head_dim_v = shape.head_dim;
        geometry.layers.push_back(layer);
    }
    return geometry;
}

double cpu_seconds(clockid_t clock) {
    timespec t{};
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

std::vector<uint8_t> random_bytes(size_t n, uint64_t seed) {
    std::vector<uint8_t> bytes(n);
    for (uint8_t& b : bytes)
        b = static_cast<uint8_t>((seed = seed * 6364136223846793005ULL + 1442695040888963407ULL) >> 56) & 0xbb;
    return bytes;
}

int measure_reading(const std::string& path, int64_t n) {
    using Clock = std::chrono::steady_clock;
    const auto ms = [](Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); };
    double rows_ms = 1e9;
    double keys_ms = 1e9;
    double frame_ms = 1e9;
    auto recording = Recording::open(path);
    if (!recording) return 1;
    for (int repeat = 0; repeat < 3; ++repeat) {
        auto begin = Clock::now();
        if (auto rows = (*recording)->rows(n - 1); !rows) return 1;
        rows_ms = std::min(rows_ms, ms(Clock::now() - begin));
        begin = Clock::now();
        for (int32_t i = 0; i < (*recording)->info().geometry.n_layer(); ++i) {
            if (auto keys = (*recording)->keys(i, 0, n); !keys) return 1;
        }
        keys_ms = std::min(keys_ms, ms(Clock::now() - begin));
        begin = Clock::now();
        if (auto frame = (*recording)->frame(n / 2, true, false); !frame) return 1;
        frame_ms = std::min(frame_ms, ms(Clock::now() - begin));
    }
    std::printf("%8s rows of the last token %.1f ms, all keys %.1f ms, a frame with its "
                "queries %.2f ms\n",
                "", rows_ms, keys_ms, frame_ms);
    return 0;
}

int measure(const Shape& shape, const std::string& folder, int64_t n, double rate,
            std::optional<recording::Layout> forced) {
    const Geometry geometry = geometry_of(shape);
    const recording::Layout layout = forced.value_or(recording::choose_layout(geometry));
    const std::string path = folder + "/bench.attn";
    const auto q = random_bytes(geometry.q_bytes(), 1);
    const auto k = random_bytes(geometry.k_bytes(), 2);

    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    const double process = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    const double producer = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    double pushing = 0;
    double closing = 0;
    {
        auto writer = recording::create_writer(path, {}, {.overwrite = true}, layout);
        if (!writer || !(*writer)->begin(geometry)) return 1;
        for (int64_t i = 0; i < n; ++i) {
            Frame frame;
            frame.index = i;
            frame.position = static_cast<int32_t>(i);
            frame.q = q;
            frame.k = k;
            frame.visible = {{{0, i + 1}}};
            frame.witnesses = {{0, 0, 0.0f, 0.0f, 1.0f, 0.5}};
            const double before = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
            if (!(*writer)->push(std::move(frame))) return 1;
            pushing += cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - before;
            if (rate > 0) {
                std::this_thread::sleep_until(begin +
                                              std::chrono::duration_cast<Clock::duration>(
                                                  std::chrono::duration<double>(static_cast<double>(i) / rate)));
            }
        }
        const auto last = Clock::now();
        if (auto closed = (*writer)->close(); !closed) return 1;
        closing = std::chrono::duration<double>(Clock::now() - last).count();
    }
    const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
    const double writer_cpu =
        cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - process - (cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - producer);
    const auto bytes = static_cast<double>(std::filesystem::file_size(path));
    const double data = static_cast<double>(n) * static_cast<double>(geometry.q_bytes() + geometry.k_bytes());
    std::printf("%-8s page %5d chunk %3d: writer %6.1f us CPU/token, push %5.1f us, %7.0f tokens/s, %6.0f MB/s, "
                "close %.0f ms, size %.4f\n",
                shape.name, layout.page_bytes, layout.chunk_frames, writer_cpu / static_cast<double>(n) * 1e6,
                pushing / static_cast<double>(n) * 1e6, static_cast<double>(n) / wall, data / wall / 1e6, closing * 1e3,
                bytes / data);
    if (const int rc = measure_reading(path, n); rc != 0) return rc;
    std::filesystem::remove(path);
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: bench_recording FOLDER [frames] [tokens/s] [page bytes] [chunk frames]\n");
        return 2;
    }
    const int64_t n = argc > 2 ? std::atoll(argv[2]) : 2000;
    const double rate = argc > 3 ? std::atof(argv[3]) : 0;
    std::optional<recording::Layout> layout;
    if (argc > 5) layout = recording::Layout{std::atoi(argv[4]), std::atoi(argv[5])};
    constexpr Shape shapes[] = {{"SmolLM2", 30, 9, 3, 64}, {"7B", 28, 28, 4, 128}, {"0.5B", 24, 14, 2, 64}};
    for (const Shape& shape : shapes) {
        if (const int rc = measure(shape, argv[1], n, rate, layout); rc != 0) return rc;
    }
    return 0;
}
