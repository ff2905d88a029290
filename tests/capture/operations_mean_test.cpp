// The mean of a token's rows in ggml's operations, against float64, on the CPU's back end.
#include "capture/mean/operations_mean.h"

#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

struct Tensors {
    ggml_context_ptr ctx;
    std::vector<ggml_backend_buffer_ptr> buffers;

    Tensors() : ctx(ggml_init({ggml_tensor_overhead() * 64, nullptr, true})) {}
    ggml_tensor* make(ggml_type type, int64_t n) {
        ggml_tensor* t = ggml_new_tensor_1d(ctx.get(), type, n);
        buffers.emplace_back(ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), ggml_nbytes(t)));
        ggml_backend_tensor_alloc(buffers.back().get(), t, ggml_backend_buffer_get_base(buffers.back().get()));
        return t;
    }
};

struct Shape {
    ggml_type k_type;
    int32_t n_head, n_head_kv, head_dim;
    float softcap;
    bool sinks, subset;
    double tolerance; // the CPU multiplies with queries rounded to the keys' partner type
};

} // namespace

TEST(OperationsMean, IsThatOfTheRowsOfTheChosenHeads) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const Shape shapes[] = {{GGML_TYPE_F32, 4, 2, 32, 0, false, false, 1e-6},
                            {GGML_TYPE_F16, 14, 2, 64, 0, false, true, 2e-4},
                            {GGML_TYPE_F16, 8, 8, 64, 30.0f, false, false, 2e-4},
                            {GGML_TYPE_F16, 6, 3, 96, 0, true, true, 2e-4},
                            {GGML_TYPE_Q8_0, 8, 2, 64, 0, false, false, 3e-3}};
    for (const Shape& shape : shapes) {
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        auto mean = OperationsMean::create(cpu);
        ASSERT_TRUE(mean);
        // Two layers that see all, two that see a window; their caches have different lengths, and cells nobody sees lie between.
        const int64_t n_cells[2] = {64, 32};
        const Ranges visible[2] = {{{0, 20}, {25, 50}}, {{10, 31}}};
        Tensors tensors;
        std::vector<OperationsMean::Layer> layers;
        std::vector<float> weights, sinks[4];
        std::vector<double> expected[2];
        for (int g = 0; g < 2; ++g) expected[g].assign(size_t(n_cells[g]), 0.0);
        const size_t head_bytes = ggml_row_size(shape.k_type, shape.head_dim),
                     cell = head_bytes * size_t(shape.n_head_kv);
        for (int l = 0; l < 4; ++l) {
            const int g = l / 2;
            OperationsMean::Layer m;
            m.n_head = shape.n_head, m.n_head_kv = shape.n_head_kv, m.head_dim = shape.head_dim;
            m.scale = 1 / std::sqrt(float(shape.head_dim)), m.softcap = shape.softcap;
            m.group = g, m.n_cells = n_cells[g], m.k_cell = cell, m.k_offset = cell; // the first cell is another's
            m.k_cache = tensors.make(shape.k_type, shape.head_dim * shape.n_head_kv * (n_cells[g] + 1));
            std::vector<float> k(size_t(shape.head_dim * shape.n_head_kv * (n_cells[g] + 1)));
            for (float& x : k) x = normal(random);
            if (shape.k_type == GGML_TYPE_F32) {
                std::memcpy(m.k_cache->data, k.data(), k.size() * 4);
            } else {
                ggml_get_type_traits_cpu(shape.k_type)->from_float(k.data(), m.k_cache->data, int64_t(k.size()));
                ggml_get_type_traits(shape.k_type)->to_float(m.k_cache->data, k.data(), int64_t(k.size()));
            }
            ggml_tensor* q = tensors.make(GGML_TYPE_F32, int64_t(shape.head_dim) * shape.n_head + 16);
            auto* q_data = static_cast<float*>(q->data);
            for (int64_t i = 0; i < ggml_nelements(q); ++i) q_data[i] = normal(random);
            m.q_buffer = q->buffer, m.q_offset = 64, m.q_head = size_t(shape.head_dim) * 4;
            if (shape.sinks) {
                for (int32_t h = 0; h < shape.n_head; ++h) sinks[l].push_back(normal(random));
                m.sinks = sinks[l].data();
            }
            for (int32_t h = 0; h < shape.n_head; ++h) {
                const float w = shape.subset && (l == 1 || h % 3 == 0) ? 0.0f : 0.01f;
                weights.push_back(w);
                std::vector<double> score(static_cast<size_t>(n_cells[g]), -INFINITY);
                double top = shape.sinks ? double(sinks[l][size_t(h)]) : -double(INFINITY);
                for (const Range& r : visible[g]) {
                    for (int64_t c = r.begin; c < r.end; ++c) {
                        double dot = 0;
                        for (int32_t d = 0; d < shape.head_dim; ++d) {
                            dot += double(q_data[16 + h * shape.head_dim + d]) *
                                   double(k[size_t(((c + 1) * shape.n_head_kv + h / (shape.n_head / shape.n_head_kv)) *
                                                       shape.head_dim +
                                                   d)]);
                        }
                        double s = dot * double(m.scale);
                        if (shape.softcap > 0) s = double(shape.softcap) * std::tanh(s / double(shape.softcap));
                        score[size_t(c)] = s;
                        top = std::max(top, s);
                    }
                }
                double sum = shape.sinks ? std::exp(double(sinks[l][size_t(h)]) - top) : 0;
                for (const double s : score) sum += std::exp(s - top);
                for (size_t c = 0; c < score.size(); ++c) expected[g][c] += double(w) * std::exp(score[c] - top) / sum;
            }
            layers.push_back(m);
        }
        // Twice in each slot: memory is used again.
        for (int round = 0; round < 4; ++round) {
            ASSERT_TRUE(mean->start(round % 2, nullptr, layers, {visible[0], visible[1]}, weights)) << shape.head_dim;
            const auto& sums = mean->wait(round % 2);
            ASSERT_EQ(sums.size(), 2u);
            for (size_t g = 0; g < 2; ++g) {
                ASSERT_EQ(sums[g].size(), expected[g].size());
                for (size_t c = 0; c < sums[g].size(); ++c)
                    EXPECT_NEAR(double(sums[g][c]), expected[g][c], shape.tolerance) << c;
            }
        }
    }
}
