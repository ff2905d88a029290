// What proving one head costs, by itself and for sixteen neighbours of a prompt together: nanoseconds a cell and proof.
//
//   bench_proof [repeats = 40]
//
// One thread; K and V in f16, of 4 KV heads, in mirrors of a device's caches; flash attention. Several caches take turns, so
// that long contexts come from memory as they do when every group proves another layer. The fastest repeat counts.
#include "capture/device/mirror.h"
#include "capture/proof/witness.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

using namespace attnscope;

namespace {

constexpr int32_t n_head_kv = 4;
constexpr int32_t n_head = 28;
constexpr size_t n_tokens = capture::max_proofs_together;
constexpr size_t n_caches = 4;

std::vector<ggml_fp16_t> random_halves(size_t n, std::mt19937& rng) {
    std::vector<ggml_fp16_t> noise(40503);
    std::normal_distribution<float> normal;
    for (auto& h : noise) h = ggml_fp32_to_fp16(normal(rng));
    std::vector<ggml_fp16_t> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = noise[i % noise.size()];
    return v;
}

const uint8_t* bytes(const std::vector<ggml_fp16_t>& v) {
    return static_cast<const uint8_t*>(static_cast<const void*>(v.data()));
}

struct Cache {
    capture::Mirror k, v;
};

// Proofs of the last n_tokens cells of a causal prompt.
struct Prompt {
    LayerInfo layer;
    std::vector<Cache> caches;
    std::vector<ggml_fp16_t> q;
    std::vector<float> out;
    std::vector<Ranges> visible;
    std::vector<int64_t> columns;

    Prompt(int32_t dim, int64_t n_cells, std::mt19937& rng) {
        layer.n_head = n_head;
        layer.n_head_kv = n_head_kv;
        layer.head_dim = layer.head_dim_v = dim;
        layer.scale = 0.088388346f;
        layer.on_device = true;
        const auto n = static_cast<size_t>(n_cells * n_head_kv * dim);
        for (size_t c = 0; c < n_caches; ++c) {
            caches.emplace_back();
            for (capture::Mirror* m : {&caches.back().k, &caches.back().v}) {
                m->reserve(layer.k_bytes(), n_cells);
                std::memcpy(m->row(0), random_halves(n, rng).data(), n * sizeof(ggml_fp16_t));
            }
        }
        q = random_halves(n_tokens * n_head * size_t(dim), rng);
        out.assign(size_t(dim), 0.1f);
        for (size_t t = 0; t < n_tokens; ++t)
            visible.push_back({{0, n_cells - static_cast<int64_t>(n_tokens) + 1 + static_cast<int64_t>(t)}});
        columns.resize(size_t(n_cells));
        std::iota(columns.begin(), columns.end(), 0);
    }
    std::vector<capture::HeadSample> samples(size_t cache) const {
        std::vector<capture::HeadSample> all(n_tokens);
        for (size_t t = 0; t < n_tokens; ++t) {
            capture::HeadSample& s = all[t];
            s.layer = &layer;
            s.q = bytes(q) + t * layer.q_bytes();
            s.k = caches[cache].k.data();
            s.k_stride = s.v_cell_stride = layer.k_bytes();
            s.n_cells = static_cast<int64_t>(columns.size());
            s.visible = visible[t];
            s.position = static_cast<int32_t>(visible[t][0].end - 1);
            s.v = caches[cache].v.data();
            s.v_dim_stride = sizeof(ggml_fp16_t);
            s.out = out.data();
            s.flash = s.batched = s.device = true;
            s.columns = columns;
        }
        return all;
    }
};

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void time_proofs_that_fail(int32_t dim, int64_t n, std::mt19937& rng) {
    const Prompt prompt(dim, n, rng);
    capture::HeadSample wrong = prompt.samples(0).back();
    wrong.device = false;
    const std::vector<float> out(size_t(dim), 3.0f);
    wrong.out = out.data();
    const auto prove = [&](capture::Prover& prover, bool batched) {
        wrong.batched = batched;
        Witness w;
        prover({&wrong, 1}, {&w, 1});
        if (w.error <= w.tolerance) std::abort();
    };
    std::array<double, 2> one{};
    for (const size_t batched : {0, 1}) {
        capture::Prover prover;
        const Clock::time_point start = Clock::now();
        prove(prover, batched != 0);
        one[batched] = ms_since(start);
    }
    capture::Prover prover;
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < 200; ++i) prove(prover, false);
    std::printf("%8d %8lld %12.2f %12.2f %12.1f\n", dim, static_cast<long long>(n), one[0], one[1], ms_since(start));
}

} // namespace

int main(int argc, char** argv) {
    const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 40;
    ggml_cpu_init();
    std::mt19937 rng(7);
    std::printf("%s\n%8s %8s %12s %12s\n", attention_simd_name(), "head_dim", "cells", "alone", "together");
    for (const int32_t dim : {64, 128}) {
        for (const int64_t n : {512, 8192, 30000}) {
            const Prompt prompt(dim, n, rng);
            capture::Prover prove;
            std::array<double, 2> best;
            best.fill(std::numeric_limits<double>::infinity());
            for (int i = 0; i < repeats; ++i) {
                const std::vector<capture::HeadSample> samples = prompt.samples(size_t(i) % n_caches);
                std::array<Witness, n_tokens> results;
                for (const size_t together : {0, 1}) {
                    const size_t step = together ? n_tokens : 1;
                    const auto start = std::chrono::steady_clock::now();
                    for (size_t t = 0; t < n_tokens; t += step)
                        prove(std::span(samples).subspan(t, step), std::span(results).subspan(t, step));
                    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
                    best[together] =
                        std::min(best[together], s * 1e9 / static_cast<double>(n) / static_cast<double>(n_tokens));
                }
            }
            std::printf("%8d %8lld %12.2f %12.2f\n", dim, static_cast<long long>(n), best[0], best[1]);
        }
    }
    std::printf("\nthat fail\n%8s %8s %12s %12s %12s\n", "head_dim", "cells", "alone, ms", "of many, ms", "200, ms");
    for (const int32_t dim : {64, 128}) {
        for (const int64_t n : {512, 8192, 30000}) time_proofs_that_fail(dim, n, rng);
    }
    return 0;
}
