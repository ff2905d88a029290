// Texts in which one token stands again and again: the sums of the CPU's flash attention in half precision then err one way.
#include "capture/proof/witness.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
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

// A query that sees `n` cells with one key and one value, and what the engine's own kernel makes of it.
struct OneTokenAgain {
    LayerInfo layer;
    std::vector<float> query, out = std::vector<float>(dim);
    std::vector<ggml_fp16_t> q, k, v;
    Ranges visible;
    HeadSample sample;

    OneTokenAgain(int64_t n, int threads, uint32_t seed) {
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
        compute(n, threads);
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
    }
    Witness together() const {
        Prover prove;
        const std::vector<HeadSample> two{sample, sample};
        std::vector<Witness> w(2);
        prove(two, w);
        return w[0];
    }

private:
    static const uint8_t* bytes(const std::vector<ggml_fp16_t>& x) {
        return static_cast<const uint8_t*>(static_cast<const void*>(x.data()));
    }
    void compute(int64_t n, int threads) {
        const std::unique_ptr<ggml_context, decltype(&ggml_free)> ctx(
            ggml_init({(size_t(1) << 22) + static_cast<size_t>(n * dim) * 8, nullptr, false}), ggml_free);
        const auto tensor = [&](ggml_type type, int64_t rows, const void* data) {
            ggml_tensor* t = ggml_new_tensor_3d(ctx.get(), type, dim, rows, 1);
            std::memcpy(t->data, data, ggml_nbytes(t));
            return t;
        };
        ggml_tensor* result =
            ggml_flash_attn_ext(ctx.get(), tensor(GGML_TYPE_F32, 1, query.data()), tensor(GGML_TYPE_F16, n, k.data()),
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

} // namespace

TEST(HalfSums, OfOneTokenAgainAndAgainAreProven) {
    for (const int64_t n : {60, 200, 511, 600, 1000, 3000}) {
        for (const int threads : {1, 2, 3}) {
            for (uint32_t seed = 0; seed < 10; ++seed) {
                const OneTokenAgain text(n, threads, seed);
                SCOPED_TRACE(testing::Message() << n << " cells, " << threads << " threads, seed " << seed);
                const Witness alone = witness_head(text.sample), together = text.together();
                EXPECT_TRUE(proven(alone)) << alone.error << " against " << alone.tolerance;
                EXPECT_TRUE(proven(together)) << together.error << " against " << together.tolerance;
            }
        }
    }
}

TEST(HalfSums, AnotherOutputIsNotProven) {
    for (const int64_t n : {60, 200, 600, 1000}) {
        for (uint32_t seed = 0; seed < 10; ++seed) {
            OneTokenAgain text(n, 2, seed);
            const Witness good = witness_head(text.sample);
            for (float& x : text.out) x *= 1 + 3 * good.tolerance;
            EXPECT_FALSE(proven(witness_head(text.sample))) << n << " cells, seed " << seed;
            EXPECT_FALSE(proven(text.together())) << n << " cells, seed " << seed;
            std::fill(text.out.begin(), text.out.end(), std::nanf(""));
            EXPECT_FALSE(proven(witness_head(text.sample)));
        }
    }
}
