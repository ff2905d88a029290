// Texts in which one token stands again and again: the sums of the CPU's flash attention in half precision then err one way.
#include "capture/proof/witness.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

constexpr int64_t dim = 64;

std::vector<float> normal(std::mt19937& rng) {
    std::normal_distribution<float> number;
    std::vector<float> x(dim);
    for (float& v : x) v = number(rng);
    return x;
}
std::vector<ggml_fp16_t> halves(const std::vector<float>& x) {
    std::vector<ggml_fp16_t> h(x.size());
    ggml_fp32_to_fp16_row(x.data(), h.data(), static_cast<int64_t>(x.size()));
    return h;
}

// Queries that see `n` cells with one key and one value, and what the engine's own kernel makes of them, times `wrong`; the proof of
// the first.
struct OneTokenAgain {
    LayerInfo layer;
    std::vector<float> query, out = std::vector<float>(dim);
    std::vector<ggml_fp16_t> q, k, v;
    Ranges visible;
    HeadSample sample;

    OneTokenAgain(const OneTokenAgain&) = delete; // the sample points into it
    OneTokenAgain& operator=(const OneTokenAgain&) = delete;
    OneTokenAgain(int64_t n, int threads, uint32_t seed, int64_t n_queries = 1, float wrong = 1) {
        std::mt19937 rng(seed);
        query = normal(rng);
        q = halves(query);
        const std::vector<ggml_fp16_t> key = halves(normal(rng)), value = halves(normal(rng));
        for (int64_t j = 0; j < n; ++j) {
            k.insert(k.end(), key.begin(), key.end());
            v.insert(v.end(), value.begin(), value.end());
        }
        layer.n_head = layer.n_head_kv = 1;
        layer.head_dim = layer.head_dim_v = static_cast<int32_t>(dim);
        layer.scale = 0.125f;
        visible = {{0, n}};
        compute(n, threads, n_queries);
        for (float& x : out) x *= wrong;
        sample.layer = &layer;
        sample.q = bytes(q);
        sample.k = bytes(k);
        sample.k_stride = sample.v_cell_stride = dim * sizeof(ggml_fp16_t);
        sample.v_dim_stride = sizeof(ggml_fp16_t);
        sample.v = bytes(v);
        sample.n_cells = n;
        sample.visible = visible;
        sample.position = static_cast<int32_t>(n - 1);
        sample.out = out.data();
        sample.flash = true;
        sample.batched = n_queries > 1;
    }
    Witness alone() const {
        HalfSums half_sums;
        return witness_head(sample, half_sums);
    }
    Witness together() const {
        Prover prove;
        return together(prove);
    }
    Witness together(Prover& prove) const {
        const std::vector<HeadSample> two{sample, sample};
        std::vector<Witness> w(2);
        prove(two, w);
        return w[0];
    }

private:
    static const uint8_t* bytes(const std::vector<ggml_fp16_t>& x) {
        return static_cast<const uint8_t*>(static_cast<const void*>(x.data()));
    }
    void compute(int64_t n, int threads, int64_t n_queries) {
        const std::unique_ptr<ggml_context, decltype(&ggml_free)> ctx(
            ggml_init({(size_t(1) << 22) + static_cast<size_t>(n * dim) * 8, nullptr, false}), ggml_free);
        const auto tensor = [&](ggml_type type, int64_t rows, const void* data) {
            ggml_tensor* t = ggml_new_tensor_3d(ctx.get(), type, dim, rows, 1);
            std::memcpy(t->data, data, ggml_nbytes(t));
            return t;
        };
        std::vector<float> queries;
        for (int64_t i = 0; i < n_queries; ++i) queries.insert(queries.end(), query.begin(), query.end());
        ggml_tensor* result = ggml_flash_attn_ext(ctx.get(), tensor(GGML_TYPE_F32, n_queries, queries.data()),
                                                  tensor(GGML_TYPE_F16, n, k.data()),
                                                  tensor(GGML_TYPE_F16, n, v.data()), nullptr, layer.scale, 0.0f, 0.0f);
        ggml_cgraph* graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, result);
        ASSERT_EQ(ggml_graph_compute_with_ctx(ctx.get(), graph, threads), GGML_STATUS_SUCCESS);
        std::memcpy(out.data(), result->data, out.size() * sizeof(float));
    }
};

bool proven(const Witness& w) {
    return w.error <= w.tolerance;
}

constexpr int64_t ways = 16; // to share more than 512 cells out among threads

// One thread adds so many of one token beyond the bound, two do not.
constexpr int64_t n_again = 3000;
OneTokenAgain beyond_the_bound() {
    return {n_again, 1, 1};
}
OneTokenAgain within_the_bound() {
    return {n_again, 2, 1};
}
OneTokenAgain wrong() {
    return {n_again, 1, 1, 1, 100};
}

// One whose account is empty: it looks at nothing again.
Prover spent() {
    const OneTokenAgain text = wrong();
    Prover prove;
    while (prove.added_in_vain() < HalfSums::most_in_vain) text.together(prove);
    return prove;
}

TEST(HalfSums, OfOneTokenAgainAndAgainAreProven) {
    for (const int64_t n : {60, 200, 511, 600, 1000, 3000, 8000}) {
        for (const int threads : {1, 2, 3}) {
            for (const int64_t n_queries : {1, 5}) {
                for (uint32_t seed = 0; seed < (n > 3000 ? 1 : 10); ++seed) {
                    const OneTokenAgain text(n, threads, seed, n_queries);
                    SCOPED_TRACE(testing::Message() << n << " cells, " << threads << " threads, seed " << seed << ", "
                                                    << n_queries << " queries");
                    const Witness alone = text.alone(), together = text.together();
                    EXPECT_TRUE(proven(alone)) << alone.error << " against " << alone.tolerance;
                    EXPECT_TRUE(proven(together)) << together.error << " against " << together.tolerance;
                }
            }
        }
    }
}

TEST(HalfSums, AnotherOutputIsNotProven) {
    for (const int64_t n : {60, 200, 600, 1000}) {
        for (uint32_t seed = 0; seed < 10; ++seed) {
            OneTokenAgain text(n, 2, seed);
            const Witness good = text.alone();
            for (float& x : text.out) x *= 1 + 3 * good.tolerance;
            EXPECT_FALSE(proven(text.alone())) << n << " cells, seed " << seed;
            EXPECT_FALSE(proven(text.together())) << n << " cells, seed " << seed;
            std::fill(text.out.begin(), text.out.end(), std::nanf(""));
            EXPECT_FALSE(proven(text.alone()));
        }
    }
}

// The program waits for the proofs of a CPU: what is wrong must not cost it much, however many tokens it has and whatever they see.
TEST(HalfSums, AWrongCaptureCostsNoMoreThanIsStated) {
    constexpr int64_t n = 30000;
    const OneTokenAgain text(n, 1, 1, 1, 100);
    Prover prove;
    for (int i = 0; i < 200; ++i) ASSERT_FALSE(proven(text.together(prove)));
    EXPECT_GT(prove.added_in_vain(), 0);
    EXPECT_LE(prove.added_in_vain(), HalfSums::most_in_vain + n * ways);
}

// Outputs that are no numbers are not looked at again.
TEST(HalfSums, WhatIsInfiniteCostsNothing) {
    for (const float wrong : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        const OneTokenAgain text(n_again, 1, 1, 1, wrong);
        Prover prove;
        const Witness w = text.together(prove);
        EXPECT_FALSE(proven(w));
        EXPECT_FALSE(std::isnan(w.error));
        EXPECT_EQ(prove.added_in_vain(), 0);
    }
}

// What the second look saves is not in vain, however much of it there is.
TEST(HalfSums, ARightCaptureIsLookedAtAgainForEver) {
    const OneTokenAgain text = beyond_the_bound();
    Prover prove, without = spent();
    EXPECT_FALSE(proven(text.together(without)));
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(proven(text.together(prove))) << i;
    EXPECT_GT(30 * 2 * n_again * ways, HalfSums::most_in_vain);
    EXPECT_EQ(prove.added_in_vain(), 0);
}

// Where a part of a capture is wrong the proofs that hold pay for looking again.
TEST(HalfSums, ProofsThatHoldPayForLookingAgain) {
    const OneTokenAgain beyond = beyond_the_bound(), good = within_the_bound(), bad = wrong();
    constexpr int n_good = 40; // pairs; each earns a quarter of its cells
    Prover prove = spent();
    EXPECT_FALSE(proven(beyond.together(prove)));
    for (int i = 0; i < n_good; ++i) ASSERT_TRUE(proven(good.together(prove)));
    EXPECT_TRUE(proven(beyond.together(prove)));
    EXPECT_FALSE(proven(bad.together(prove)));
    EXPECT_FALSE(proven(beyond.together(prove)));
    EXPECT_LE(prove.added_in_vain(), HalfSums::most_in_vain + 2 * n_again * ways + (n_good + 1) * 2 * n_again / 4);
}

} // namespace
