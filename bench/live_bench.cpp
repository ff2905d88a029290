// What live attention costs per token, against what the machine allows.
//
//   bench_live [positions = 512] [threads = 1] [repeats = 40] [shape = smollm2 | 7b] [cold = 1]
//
// smollm2: 30 layers, 9 query heads, 3 KV heads of 64, F16. 7b: 28 layers, 28 heads, 4 KV heads of 128. Each contestant
// answers the newest token; two floors are measured in the same run on the same threads:
//   read K    every byte of K once, as it lies in the store
//   dots      the dot products alone, keys in the first-level cache; in the engine's order of additions, and in any
// With cold = 1 other memory (64 MiB) is read before each repeat, as a decode reads the model's weights between two
// tokens; with 0 the caches stay as they are. They take turns; the median counts.
#include "attention/group_rows.h"
#include "attention/kernels/simd.h"
#include "view/key_reader.h"

#include <attnscope/attention_view.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;

namespace {

volatile uint64_t sink_of_results; // keeps the compiler from dropping what is only timed

double ms_now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Contest {
    std::string name;
    std::function<void()> run;
    std::vector<double> ms;

    double quantile(double q) {
        std::sort(ms.begin(), ms.end());
        return ms[std::min(ms.size() - 1, static_cast<size_t>(q * static_cast<double>(ms.size())))];
    }
};

uint64_t sum_words(const uint8_t* bytes, size_t n) {
    uint64_t sum[8] = {};
    for (size_t i = 0; i + 64 <= n; i += 64) {
        uint64_t words[8];
        std::memcpy(words, bytes + i, 64);
        for (size_t l = 0; l < 8; ++l) sum[l] += words[l];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// Runs f(part) for `n` parts on as many threads.
void on_threads(int32_t n, const std::function<void(int32_t)>& f) {
    std::vector<std::jthread> threads;
    for (int32_t t = 1; t < n; ++t) threads.emplace_back(f, t);
    f(0);
}

} // namespace

int main(int argc, char** argv) {
    const auto argument = [&](int i, int64_t otherwise) {
        return argc > i ? std::max<int64_t>(0, std::atoll(argv[i])) : otherwise;
    };
    const int64_t n = std::max<int64_t>(1, argument(1, 512));
    const auto n_threads = static_cast<int32_t>(std::max<int64_t>(1, argument(2, 1)));
    const auto repeats = static_cast<int>(std::max<int64_t>(1, argument(3, 40)));
    const bool large = argc > 4 && std::string(argv[4]) == "7b";
    const bool cold = argument(5, 1) != 0;

    Geometry geometry;
    for (int32_t i = 0; i < (large ? 28 : 30); ++i) {
        LayerInfo layer;
        layer.layer = layer.k_layer = i;
        layer.n_head = large ? 28 : 9;
        layer.n_head_kv = large ? 4 : 3;
        layer.head_dim = large ? 128 : 64;
        layer.scale = large ? 0.088388346f : 0.125f;
        geometry.layers.push_back(layer);
    }
    std::mt19937 rng(7);
    const auto halves = [&](size_t bytes) { // between -2 and 2
        std::vector<uint8_t> v(bytes);
        for (size_t i = 0; i < bytes; i += 2) {
            const uint32_t r = rng();
            v[i] = static_cast<uint8_t>(r);
            v[i + 1] = static_cast<uint8_t>((r >> 8 & 0x83) | 0x3c) & 0xbf;
        }
        return v;
    };
    auto keys = KeyStore::create(geometry, n);
    if (!keys) return std::printf("%s\n", keys.error().message.c_str()), 1;
    Frame frame;
    std::vector<double> append_ms;
    for (int64_t i = 0; i < n; ++i) {
        frame.index = i;
        frame.position = static_cast<int32_t>(i);
        frame.k = halves(geometry.k_bytes());
        const double start = ms_now();
        if (auto ok = (*keys)->append(frame); !ok) return std::printf("%s\n", ok.error().message.c_str()), 1;
        append_ms.push_back(ms_now() - start);
    }
    frame.q = halves(geometry.q_bytes());
    frame.visible = {{{0, n}}};

    std::vector<Contest> contests;
    view::KeyBuffer no_buffer;
    const auto layer_keys = view::key_reader(**keys)->layer_keys(0, {0, n}, no_buffer);
    if (!layer_keys) return 1;
    const std::span<const uint8_t* const> chunks = layer_keys->chunks; // of all layers
    const size_t chunk_bytes = (*keys)->bytes() / chunks.size();
    contests.push_back(
        {"floor: read K",
         [&] {
             on_threads(n_threads, [&](int32_t t) {
                 uint64_t sum = 0;
                 const int64_t used =
                     (n + attention::tile_columns - 1) / attention::tile_columns * attention::tile_columns;
                 for (int64_t c = 0; c < static_cast<int64_t>(chunks.size()); ++c) {
                     const auto columns = std::min(attention::chunk_columns, used - c * attention::chunk_columns);
                     const size_t run = static_cast<size_t>(attention::chunk_columns) * geometry.layers[0].k_bytes() /
                                        static_cast<size_t>(geometry.layers[0].n_head_kv);
                     const size_t part =
                         run * static_cast<size_t>(columns) / static_cast<size_t>(attention::chunk_columns);
                     for (size_t at = static_cast<size_t>(t) * run; at < chunk_bytes;
                          at += run * static_cast<size_t>(n_threads))
                         sum += sum_words(chunks[static_cast<size_t>(c)] + at, part);
                 }
                 sink_of_results = sum;
             });
         },
         {}});
    const int64_t n_tiles = (n + attention::tile_columns - 1) / attention::tile_columns;
    const LayerInfo& layer = geometry.layers[0];
    const int32_t group = layer.n_head / layer.n_head_kv;
    std::vector<float> q(static_cast<size_t>(group * layer.head_dim) + 16, 1.0f);
    for (const bool any_order : {false, true}) {
        contests.push_back({any_order ? "floor: dots, any order" : "floor: dots, keys cached",
                            [&, any_order] {
                                on_threads(n_threads, [&](int32_t t) {
                                    std::vector<float> out(static_cast<size_t>(group * attention::tile_columns));
                                    attention::TileTask task{.q = q.data(),
                                                             .q_stride = static_cast<size_t>(layer.head_dim),
                                                             .n_q = group,
                                                             .head_dim = layer.head_dim,
                                                             .tiles = chunks[0],
                                                             .n_tiles = 1,
                                                             .out = out.data(),
                                                             .out_stride = static_cast<size_t>(attention::tile_columns),
                                                             .any_order = any_order};
                                    const int64_t all = int64_t{geometry.n_layer()} * layer.n_head_kv * n_tiles;
                                    for (int64_t i = t; i < all; i += n_threads)
                                        attention::row_kernels().tiles_f16(task);
                                    sink_of_results = static_cast<uint64_t>(out[0]);
                                });
                            },
                            {}});
    }
    std::vector<std::unique_ptr<AttentionView>> views;
    bool ok = true;
    const auto enter = [&](const char* name, AttentionRequest request) {
        auto view = AttentionView::create(**keys, request, {.n_prompt = n / 2, .n_threads = n_threads});
        ok = ok && view.ok();
        if (!view) return;
        views.push_back(std::move(*view));
        contests.push_back({name,
                            [&, v = views.back().get()] {
                                const auto answer = v->answer(frame);
                                ok = ok && answer.ok();
                                if (answer) sink_of_results = static_cast<uint64_t>(answer.value().values[0] * 1e6f);
                            },
                            {}});
    };
    enter("mean", {.reduce = Reduce::mean});
    enter("max", {.reduce = Reduce::max});
    enter("per_layer", {.reduce = Reduce::per_layer});
    enter("entropy", {.reduce = Reduce::entropy});
    enter("none (all rows)", {});
    if (!ok) return 1;

    std::vector<uint8_t> other(size_t(64) << 20, 1);
    for (int i = 0; i < repeats; ++i) {
        for (Contest& contest : contests) {
            if (cold) sink_of_results = sum_words(other.data(), other.size());
            const double start = ms_now();
            contest.run();
            contest.ms.push_back(ms_now() - start);
        }
    }
    if (!ok) return 1;
    std::sort(append_ms.begin(), append_ms.end());
    std::printf("%s, %lld positions, %d threads, %s, caches %s; K %.1f MB\n", large ? "7b" : "smollm2",
                static_cast<long long>(n), n_threads, attention_simd_name(), cold ? "cold" : "warm",
                static_cast<double>(geometry.k_bytes()) * static_cast<double>(n) / 1e6);
    for (Contest& c : contests)
        std::printf("%-26s %8.3f ms  (quartiles %.3f to %.3f)\n", c.name.c_str(), c.quantile(0.5), c.quantile(0.25),
                    c.quantile(0.75));
    std::printf("%-26s %8.3f ms\n", "append a frame", append_ms[append_ms.size() / 2]);
    return 0;
}
