// How long all rows of one token take, against what the machine allows.
//
//   bench_rows [positions = 8192] [threads = 2] [repeats = 15]
//
// The shape is that of a 7B model with grouped heads (28 layers, 28 query heads, 4 KV heads of 128, F16). Two
// floors are measured in the same run, on the same threads:
//   read K    every byte of K once, from memory
//   F16 dots  as many dot products by ggml's own kernel (ggml_vec_dot_f16), operands in the first-level cache
// and, for a harder look at ourselves, our own dot products on cached keys. They take turns, and of each the
// fastest repeat counts: that is the one that other programs disturbed least.
#include "attention/kernels/simd.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <vector>

using namespace attnscope;

namespace {

constexpr int32_t n_layer = 28;
constexpr int32_t n_head = 28;
constexpr int32_t n_head_kv = 4;
constexpr int32_t head_dim = 128;

std::atomic<float> sink_of_results; // keeps the compiler from dropping what is only timed

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Something timed, and its fastest repeat.
struct Contest {
    std::function<void()> run;
    double ms = std::numeric_limits<double>::infinity();

    void repeat() {
        const double start = seconds_now();
        run();
        ms = std::min(ms, (seconds_now() - start) * 1e3);
    }
};

// Runs f(layer) for all layers on n threads, as attention_rows_parallel shares its work out.
template <class F> void each_layer(int32_t n_threads, F&& f) {
    std::atomic<int32_t> next{0};
    auto work = [&] {
        for (int32_t l = next++; l < n_layer; l = next++) f(l);
    };
    std::vector<std::jthread> threads;
    for (int32_t t = 1; t < n_threads; ++t) threads.emplace_back(work);
    work();
}

uint64_t sum_words(const std::vector<uint8_t>& bytes) {
    const auto* words = static_cast<const uint64_t*>(static_cast<const void*>(bytes.data()));
    uint64_t sum[8] = {};
    const size_t n = bytes.size() / 8 / 8 * 8;
    for (size_t i = 0; i < n; i += 8) {
        for (size_t l = 0; l < 8; ++l) sum[l] += words[i + l];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

int64_t argument(int argc, char** argv, int i, int64_t otherwise) {
    return argc > i ? std::max<int64_t>(1, std::atoll(argv[i])) : otherwise;
}

} // namespace

int main(int argc, char** argv) {
    const int64_t n = argument(argc, argv, 1, 8192);
    const auto n_threads = static_cast<int32_t>(argument(argc, argv, 2, 2));
    const auto repeats = static_cast<int>(argument(argc, argv, 3, 15));
    ggml_cpu_init();

    LayerInfo layer;
    layer.n_head = n_head;
    layer.n_head_kv = n_head_kv;
    layer.head_dim = head_dim;
    layer.scale = 0.088388346f; // 1 / sqrt(128)
    std::mt19937 rng(7);
    std::vector<ggml_fp16_t> noise(1 << 16);
    std::normal_distribution<float> normal;
    for (auto& h : noise) h = ggml_fp32_to_fp16(normal(rng));
    auto random_halves = [&](size_t bytes) {
        std::vector<uint8_t> v(bytes);
        auto* halves = static_cast<ggml_fp16_t*>(static_cast<void*>(v.data()));
        for (size_t i = 0; i < bytes / 2; ++i) halves[i] = noise[(i * 40503u + rng() % 7) % noise.size()];
        return v;
    };
    const std::vector<uint8_t> q = random_halves(layer.q_bytes());
    std::vector<std::vector<uint8_t>> k;
    std::vector<std::vector<float>> rows;
    std::vector<KeyBlock> blocks;
    for (int32_t l = 0; l < n_layer; ++l) {
        k.push_back(random_halves(layer.k_bytes() * static_cast<size_t>(n)));
        rows.emplace_back(static_cast<size_t>(n_head) * static_cast<size_t>(n));
        blocks.push_back({k.back().data(), 0, n, layer.k_bytes()});
    }
    const Range everything{0, n};
    std::vector<RowsRequest> requests;
    std::vector<std::span<float>> outs;
    for (size_t l = 0; l < n_layer; ++l) {
        RowsRequest r;
        r.layer = &layer;
        r.q = q.data();
        r.keys = {&blocks[l], 1};
        r.visible = {&everything, 1};
        r.n_columns = n;
        r.head_end = n_head;
        requests.push_back(r);
        outs.emplace_back(rows[l]);
    }

    Contest read_k{[&] {
        each_layer(n_threads,
                   [&](int32_t l) { sink_of_results = static_cast<float>(sum_words(k[static_cast<size_t>(l)])); });
    }};

    // 32 keys of one KV head: 8 KiB, with the query well inside a first-level cache
    constexpr int64_t n_cached = 32;
    const auto vec_dot = ggml_get_type_traits_cpu(GGML_TYPE_F16)->vec_dot;
    Contest engine_dots{[&] {
        each_layer(n_threads, [&](int32_t) {
            float sum = 0;
            for (int32_t h = 0; h < n_head; ++h) {
                for (int64_t j = 0; j < n; ++j) {
                    float dot = 0;
                    vec_dot(head_dim, &dot, 0, k[0].data() + (j % n_cached) * head_dim * 2, 0,
                            q.data() + h * head_dim * 2, 0, 1);
                    sum += dot;
                }
            }
            sink_of_results = sum;
        });
    }};

    struct alignas(64) Line {
        float f[16];
    };
    const std::vector<Line> float_q(7 * head_dim / 16, Line{{1.0f}});
    Contest our_dots{[&] {
        each_layer(n_threads, [&](int32_t) {
            float out[7 * n_cached];
            for (int64_t j = 0; j < n * n_head_kv; j += n_cached) {
                attention::row_kernels().dots_f16({float_q[0].f, head_dim, n_head / n_head_kv, head_dim, k[0].data(),
                                                   head_dim * 2, n_cached, out, n_cached});
            }
            sink_of_results = out[0];
        });
    }};

    bool ok = true;
    Contest ours{[&] { ok = ok && attention_rows_parallel(requests, outs, n_threads).ok(); }};

    for (int i = 0; i < repeats; ++i) {
        for (Contest* one : {&read_k, &engine_dots, &our_dots, &ours}) one->repeat();
    }
    if (!ok) return 1;

    const double mb = static_cast<double>(layer.k_bytes()) * static_cast<double>(n) * n_layer / 1e6;
    std::printf("%lld positions, %d threads, %s\n", static_cast<long long>(n), n_threads, attention_simd_name());
    std::printf("floor: read K          %8.2f ms  (%.0f MB, %.1f GB/s)\n", read_k.ms, mb, mb / read_k.ms);
    std::printf("floor: F16 dots (ggml) %8.2f ms\n", engine_dots.ms);
    std::printf("our dots, keys cached  %8.2f ms\n", our_dots.ms);
    std::printf("all rows of a token    %8.2f ms\n", ours.ms);
    std::printf("against the larger floor         %5.2f\n", ours.ms / std::max(read_k.ms, engine_dots.ms));
    std::printf("against max(read K, our dots)    %5.2f\n", ours.ms / std::max(read_k.ms, our_dots.ms));
    return 0;
}
