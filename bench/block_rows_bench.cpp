// How long the attention of many tokens of one head takes, against the same products as a matrix.
//
//   bench_block_rows [positions = 32768] [head_dim = 64] [threads = 2] [repeats = 3]
//
// K and Q are F16; every token sees what lies before it: the lower triangle. In turns, and of each the fastest repeat
// counts:
//   FMA peak       as many multiplications and additions from registers: the machine's own limit
//   sgemm + exp    the same products by OpenBLAS from float32, plus the largest score and the exponentials of each row by our kernels,
//                  in whichever of two ways is faster: whole rows of 128 tokens, or pieces that stay in the second-level cache
//   ours           block_rows, weights folded into one mean a column and block of tokens
// Then all rows themselves, written out: what a pattern of one layer is, 9 heads of 2,048 tokens. The yardstick
// computes the whole square, as a matrix library does, and softmax over what is seen.
#include "attention/block_rows.h"
#include "attention/kernels/simd.h"

#include <ggml-cpu.h>
#include <ggml.h>

#ifdef ATTNSCOPE_OPENBLAS
#include <cblas.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

using namespace attnscope;

namespace {

std::atomic<float> sink_of_results; // keeps the compiler from dropping what is only timed

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Contest {
    const char* name;
    std::function<void()> run;
    double best = std::numeric_limits<double>::infinity();
    void repeat() {
        const double start = seconds_now();
        run();
        best = std::min(best, seconds_now() - start);
    }
};

// f(item, thread) for all items, the last, which are the longest, first.
template <class F> void share_out(int64_t n_items, int n_threads, F&& f) {
    std::atomic<int64_t> left{n_items};
    const auto work = [&](int thread) {
        for (int64_t i = --left; i >= 0; i = --left) f(i, thread);
    };
    std::vector<std::jthread> threads;
    for (int t = 1; t < n_threads; ++t) threads.emplace_back(work, t);
    work(0);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void multiply_add(int64_t n_fma) {
    __m256 sum[12];
    for (int i = 0; i < 12; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
    __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    for (int64_t i = 0; i < n_fma; i += 12) {
        for (auto& s : sum) s = _mm256_fmadd_ps(s, a, b);
        __asm__ volatile("" : "+x"(a), "+x"(b));
    }
    for (int i = 1; i < 12; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    sink_of_results = _mm256_cvtss_f32(sum[0]);
}
#endif

struct Head {
    int64_t n;
    LayerInfo layer;
    attention::RowsPlan plan;
    std::vector<ggml_fp16_t> q, k; // (n, head_dim)
    std::vector<float> q_float, k_float;
    std::vector<uint8_t> tiles; // chunks of tiles, one behind the other
    std::vector<const uint8_t*> chunks;
    std::vector<Range> visible; // one a token
};

Head make_head(int64_t n, int32_t head_dim) {
    Head h;
    h.n = n;
    h.layer.n_head = h.layer.n_head_kv = 1;
    h.layer.head_dim = head_dim;
    h.layer.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    h.plan = attention::plan_layer(h.layer, true).value();
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    const auto size = static_cast<size_t>(n * head_dim);
    for (size_t i = 0; i < size; ++i) {
        h.q.push_back(ggml_fp32_to_fp16(normal(rng)));
        h.k.push_back(ggml_fp32_to_fp16(normal(rng)));
        h.q_float.push_back(ggml_fp16_to_fp32(h.q.back()));
        h.k_float.push_back(ggml_fp16_to_fp32(h.k.back()));
    }
    const int64_t n_chunks = (n + attention::chunk_columns - 1) / attention::chunk_columns;
    const size_t chunk_bytes = static_cast<size_t>(attention::chunk_columns) * h.plan.k_head_bytes;
    h.tiles.resize(static_cast<size_t>(n_chunks) * chunk_bytes);
    auto* const tiled = static_cast<ggml_fp16_t*>(static_cast<void*>(h.tiles.data()));
    for (int64_t j = 0; j < n; ++j) {
        for (int32_t d = 0; d < head_dim; ++d)
            tiled[(j / attention::tile_columns * head_dim + d) * attention::tile_columns +
                  j % attention::tile_columns] = h.k[static_cast<size_t>(j * head_dim + d)];
    }
    for (int64_t c = 0; c < n_chunks; ++c) h.chunks.push_back(h.tiles.data() + static_cast<size_t>(c) * chunk_bytes);
    for (int64_t i = 0; i < n; ++i) h.visible.push_back({0, i + 1});
    return h;
}

void ours(const Head& h, int n_threads, std::vector<float>& means) {
    const auto block = static_cast<int64_t>(attention::block_queries(h.n, false));
    std::vector<attention::BlockRows> scratch(static_cast<size_t>(n_threads));
    means.assign(static_cast<size_t>((h.n + block - 1) / block * h.n), 0.0f);
    share_out((h.n + block - 1) / block, n_threads, [&](int64_t item, int thread) {
        const int64_t begin = item * block, end = std::min(h.n, begin + block);
        std::vector<attention::BlockQuery> queries;
        for (int64_t i = begin; i < end; ++i) {
            const auto* q = static_cast<const uint8_t*>(static_cast<const void*>(h.q.data() + i * h.layer.head_dim));
            queries.push_back({q, {&h.visible[static_cast<size_t>(i)], 1}, static_cast<int32_t>(i)});
        }
        attention::BlockRequest r;
        r.layer = &h.layer;
        r.plan = &h.plan;
        r.queries = queries;
        r.chunks = h.chunks;
        r.n_columns = end;
        r.batched = true;
        attention::BlockRows& rows = scratch[static_cast<size_t>(thread)];
        attention::block_rows(attention::row_kernels(), attention::block_kernels(), r, rows);
        for (const attention::BlockPiece& piece : rows.pieces) {
            attention::block_kernels().fold(rows.row(0) + piece.begin, rows.stride(), piece.factors, end - begin,
                                            piece.end - piece.begin, means.data() + item * h.n + piece.begin);
        }
    });
}

#ifdef ATTNSCOPE_OPENBLAS
// Scores of tokens [begin, end) on columns [from, to), then the exponentials: less than what makes weights of them.
void products(const Head& h, int64_t begin, int64_t end, int64_t from, int64_t to, float* out) {
    const auto dim = static_cast<int64_t>(h.layer.head_dim);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(end - begin), static_cast<int>(to - from),
                static_cast<int>(dim), 1.0f, h.q_float.data() + begin * dim, static_cast<int>(dim),
                h.k_float.data() + from * dim, static_cast<int>(dim), 0.0f, out, static_cast<int>(to - from));
}
double exponentials(const Head& h, int64_t begin, int64_t end, int64_t from, int64_t to, float* out) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) {
        float* const row = out + (i - begin) * (to - from);
        const int64_t n = std::min(to, i + 1) - from;
        if (n <= 0) continue;
        const float max = attention::row_kernels().scores(row, n, h.layer.scale, 0, 1);
        sum += attention::row_kernels().exponentials(row, n, max);
    }
    return sum;
}
void sgemm_and_exp(const Head& h, int n_threads, int64_t tokens, int64_t columns) {
    const int64_t width = std::min(columns, h.n);
    std::vector<std::vector<float>> out(static_cast<size_t>(n_threads),
                                        std::vector<float>(static_cast<size_t>(tokens * width)));
    share_out((h.n + tokens - 1) / tokens, n_threads, [&](int64_t item, int thread) {
        const int64_t begin = item * tokens, end = std::min(h.n, begin + tokens);
        double sum = 0;
        for (int64_t from = 0; from < end; from += width) {
            const int64_t to = std::min(end, from + width);
            float* const scores = out[static_cast<size_t>(thread)].data();
            products(h, begin, end, from, to, scores);
            sum += exponentials(h, begin, end, from, to, scores);
        }
        sink_of_results = static_cast<float>(sum);
    });
}
#endif

constexpr int64_t pattern_tokens = 2048, pattern_heads = 9;

void pattern(const Head& h, int n_threads, bool exact, std::vector<float>& rows) {
    std::vector<TokenQuery> queries;
    for (int64_t i = 0; i < h.n; ++i) {
        const auto* q = static_cast<const uint8_t*>(static_cast<const void*>(h.q.data() + i * h.layer.head_dim));
        queries.push_back({q, {&h.visible[static_cast<size_t>(i)], 1}, static_cast<int32_t>(i)});
    }
    const auto* k = static_cast<const uint8_t*>(static_cast<const void*>(h.k.data()));
    const KeyBlock block{k, 0, h.n, h.plan.k_head_bytes};
    BlockRowsRequest r;
    r.layer = &h.layer;
    r.tokens = queries;
    r.keys = {&block, 1};
    r.n_columns = h.n;
    r.head_end = 1;
    r.batched = true;
    r.exact = exact;
    r.n_threads = n_threads;
    for (int64_t head = 0; head < pattern_heads; ++head) {
        if (!attention_rows_block(r, std::span<float>(rows).subspan(static_cast<size_t>(head * h.n * h.n))))
            std::abort();
    }
}
#ifdef ATTNSCOPE_OPENBLAS
void square_pattern(const Head& h, int n_threads, std::vector<float>& rows) {
    constexpr int64_t tokens = 128;
    const int64_t n_blocks = (h.n + tokens - 1) / tokens;
    share_out(pattern_heads * n_blocks, n_threads, [&](int64_t item, int) {
        const int64_t begin = item % n_blocks * tokens, end = std::min(h.n, begin + tokens);
        float* const out = rows.data() + (item / n_blocks * h.n + begin) * h.n;
        products(h, begin, end, 0, h.n, out);
        for (int64_t i = begin; i < end; ++i) {
            float* const row = out + (i - begin) * h.n;
            const float max = attention::row_kernels().scores(row, i + 1, h.layer.scale, 0, 1);
            const double sum = attention::row_kernels().exponentials(row, i + 1, max);
            attention::row_kernels().multiply(row, i + 1, static_cast<float>(1 / sum));
            std::fill(row + i + 1, row + h.n, 0.0f);
        }
    });
}
#endif
void compare_patterns(int32_t head_dim, int n_threads, int64_t repeats) {
    const Head h = make_head(pattern_tokens, head_dim);
    std::vector<float> rows(static_cast<size_t>(pattern_heads * h.n * h.n));
    std::vector<Contest> contests;
#ifdef ATTNSCOPE_OPENBLAS
    contests.push_back({"sgemm + softmax, square", [&] { square_pattern(h, n_threads, rows); }});
#endif
    contests.push_back({"rows, engine's order", [&] { pattern(h, n_threads, true, rows); }});
    contests.push_back({"rows, any order", [&] { pattern(h, n_threads, false, rows); }});
    for (int64_t i = 0; i < repeats; ++i) {
        for (Contest& c : contests) c.repeat();
    }
    std::printf("pattern of %lld tokens, %lld heads of %d\n", static_cast<long long>(h.n),
                static_cast<long long>(pattern_heads), head_dim);
    for (const Contest& c : contests) std::printf("%-26s %8.3f s\n", c.name, c.best);
}

int64_t argument(int argc, char** argv, int i, int64_t otherwise) {
    return argc > i ? std::max<int64_t>(1, std::atoll(argv[i])) : otherwise;
}

} // namespace

int main(int argc, char** argv) {
    const int64_t n = argument(argc, argv, 1, 32768);
    const auto head_dim = static_cast<int32_t>(argument(argc, argv, 2, 64));
    const auto n_threads = static_cast<int>(argument(argc, argv, 3, 2));
    const int64_t repeats = argument(argc, argv, 4, 3);
    ggml_cpu_init();
    const Head h = make_head(n, head_dim);
    const double n_products = 0.5 * static_cast<double>(n) * static_cast<double>(n + 1) * head_dim;

    std::vector<float> means;
    std::vector<Contest> contests;
#if defined(__x86_64__)
    contests.push_back({"FMA peak", [&] {
                            share_out(n_threads, n_threads, [&](int64_t, int) {
                                multiply_add(static_cast<int64_t>(n_products / 8 / n_threads));
                            });
                        }});
#endif
#ifdef ATTNSCOPE_OPENBLAS
    openblas_set_num_threads(1); // our threads call it, each for its own tokens
    contests.push_back({"sgemm + exp, whole rows", [&] { sgemm_and_exp(h, n_threads, 128, n); }});
    contests.push_back({"sgemm + exp, in cache", [&] { sgemm_and_exp(h, n_threads, 192, 512); }});
    std::printf("OpenBLAS: %s, kernel %s\n", openblas_get_config(), openblas_get_corename());
#endif
    contests.push_back({"ours", [&] { ours(h, n_threads, means); }});
    for (int64_t i = 0; i < repeats; ++i) {
        for (Contest& c : contests) c.repeat();
    }
    std::printf("%lld positions, head_dim %d, %d threads, %s; %.1f Gflop\n", static_cast<long long>(n), head_dim,
                n_threads, attention::block_kernels().name, 2 * n_products / 1e9);
    double baseline = std::numeric_limits<double>::infinity();
    for (const Contest& c : contests) {
        std::printf("%-26s %8.3f s  %7.1f Gflop/s\n", c.name, c.best, 2 * n_products / c.best / 1e9);
        if (std::string_view(c.name).starts_with("sgemm")) baseline = std::min(baseline, c.best);
    }
    if (baseline < 1e9) std::printf("ours against sgemm + exp   %8.2f\n", contests.back().best / baseline);
    compare_patterns(head_dim, n_threads, std::max<int64_t>(repeats, 5));
    double total = 0;
    for (const float m : means) total += static_cast<double>(m);
    std::printf("weights of all rows sum to %.6f of %lld\n", total, static_cast<long long>(n)); // the result is one
    return std::abs(total / static_cast<double>(n) - 1) < 1e-4 ? 0 : 1;
}
