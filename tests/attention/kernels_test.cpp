// The inner loops by themselves: accuracy, and one instruction set against the other.
#include "attention/numbers.h"
#include "attention/reference.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

double ulp_of(double x) {
    const auto f = static_cast<float>(std::abs(x));
    return static_cast<double>(std::nextafter(f, infinity) - f);
}

} // namespace

TEST(Kernels, HalvesConvertExactlyAllOfThem) {
    for (uint32_t h = 0; h < 65536; ++h) {
        const float want = ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(h));
        const float got = attention::f16_to_float(static_cast<uint16_t>(h));
        if (std::isnan(want)) {
            ASSERT_TRUE(std::isnan(got));
        } else {
            ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want)) << h;
        }
    }
}

TEST(Kernels, ExponentialsAreWithinTwoUlp) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> x;
        for (float v = -87.3f; v < 0.0f; v += 0.00137f) x.push_back(v);
        x.push_back(0.0f);
        std::vector<float> y = x;
        const double sum = kernels->exponentials(y.data(), static_cast<int64_t>(y.size()), 0.0f);
        double want_sum = 0;
        for (size_t i = 0; i < x.size(); ++i) {
            const double want = std::exp(static_cast<double>(x[i]));
            ASSERT_NEAR(static_cast<double>(y[i]), want, 2 * ulp_of(want)) << kernels->name << " " << x[i];
            want_sum += want;
        }
        EXPECT_EQ(y.back(), 1.0f);
        EXPECT_NEAR(sum, want_sum, 1e-7 * want_sum);
    }
}

TEST(Kernels, ExponentialsUnderflowToZero) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> x{-infinity, -1e30f, -104.1f, -1000.0f, -infinity, -infinity, -infinity, -200.0f, -150.0f};
        EXPECT_EQ(kernels->exponentials(x.data(), static_cast<int64_t>(x.size()), 0.0f), 0.0);
        for (const float v : x) EXPECT_EQ(v, 0.0f);
    }
}

TEST(Kernels, TanhIsAccurateEverywhere) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> x;
        for (float v = 1e-6f; v < 60.0f; v *= 1.003f) x.insert(x.end(), {v, -v});
        std::vector<float> y = x;
        kernels->scores(y.data(), static_cast<int64_t>(y.size()), 1.0f, 1.0f, 1.0f);
        for (size_t i = 0; i < x.size(); ++i) {
            const double want = std::tanh(static_cast<double>(x[i]));
            ASSERT_NEAR(static_cast<double>(y[i]), want, 4 * ulp_of(want)) << kernels->name << " " << x[i];
        }
    }
}

TEST(Kernels, TheLargestScoreIsFoundAmongNans) {
    for (const attention::RowKernels* kernels : all_kernels()) {
        for (size_t n = 1; n < 20; ++n) {
            for (size_t at = 0; at < n; ++at) {
                std::vector<float> x(n, std::nanf(""));
                x[at] = 3.0f;
                EXPECT_EQ(kernels->scores(x.data(), static_cast<int64_t>(n), 2.0f, 0.0f, 1.0f), 6.0f);
            }
        }
    }
}

TEST(Kernels, TilesGiveTheBitsThatRowsGive) {
    std::mt19937 rng(12);
    std::normal_distribution<float> normal;
    for (const attention::RowKernels* kernels : all_kernels()) {
        for (int trial = 0; trial < 200; ++trial) {
            const auto dim = static_cast<int32_t>(1 + rng() % 140);
            const auto n_q = static_cast<int32_t>(1 + rng() % 9);
            const auto n_tiles = static_cast<int64_t>(1 + rng() % 5);
            const int64_t n = n_tiles * attention::tile_columns;
            const DType type = trial % 3 == 0 ? DType::f16 : trial % 3 == 1 ? DType::bf16 : DType::f32;
            const size_t size = type == DType::f32 ? 4 : 2;
            const auto stride = static_cast<size_t>(dim);
            std::vector<float> x(static_cast<size_t>(n) * stride), q(static_cast<size_t>(n_q) * stride);
            for (float& v : x) v = normal(rng);
            for (float& v : q) v = normal(rng);
            const std::vector<uint8_t> rows = encode(type, x);
            std::vector<uint8_t> tiles(rows.size());
            for (int64_t c = 0; c < n; ++c) {
                for (int32_t d = 0; d < dim; ++d) {
                    const auto from = static_cast<size_t>(c * dim + d) * size;
                    const auto to =
                        static_cast<size_t>((c / attention::tile_columns * dim + d) * attention::tile_columns +
                                            c % attention::tile_columns);
                    std::copy_n(rows.begin() + static_cast<ptrdiff_t>(from), size,
                                tiles.begin() + static_cast<ptrdiff_t>(to * size));
                }
            }
            const auto width = static_cast<size_t>(n);
            std::vector<float> want(static_cast<size_t>(n_q) * width), got(want.size());
            const bool batched = rng() % 2 == 0;
            const attention::DotTask by_rows{q.data(),      stride, n_q,         dim,   rows.data(),
                                             stride * size, n,      want.data(), width, batched};
            attention::TileTask by_tiles{q.data(), stride, n_q, dim, tiles.data(), n_tiles, got.data(), width, batched};
            (type == DType::f16    ? kernels->dots_f16
             : type == DType::bf16 ? kernels->dots_bf16
                                   : kernels->dots_f32)(by_rows);
            auto* const by = type == DType::f16    ? kernels->tiles_f16
                             : type == DType::bf16 ? kernels->tiles_bf16
                                                   : kernels->tiles_f32;
            by(by_tiles);
            for (size_t i = 0; i < want.size(); ++i) {
                ASSERT_EQ(got[i], want[i]) << kernels->name << ", head_dim " << dim << ", " << n_q << " heads, "
                                           << dtype_name(type) << (batched ? ", batched" : "") << ", value " << i;
            }
            by_tiles.any_order = true;
            by_tiles.ahead = tiles.data();
            by(by_tiles);
            for (size_t i = 0; i < want.size(); ++i) { // |q| |k| bounds what orders can differ by
                double magnitude = 0;
                for (size_t d = 0; d < stride; ++d)
                    magnitude += std::fabs(static_cast<double>(q[i / width * stride + d]) *
                                           static_cast<double>(x[i % width * stride + d]));
                ASSERT_NEAR(static_cast<double>(got[i]), static_cast<double>(want[i]), 1e-6 * magnitude + 1e-30)
                    << kernels->name << ", head_dim " << dim << ", " << n_q << " heads, " << dtype_name(type)
                    << ", value " << i;
            }
        }
    }
}

TEST(Kernels, TheLargestOfTwoKeepsNans) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const attention::RowKernels* kernels : all_kernels()) {
        std::vector<float> max{1, nan, 3, 4, 5, 6, 7, 8, 1, nan, 3};
        const std::vector<float> x{2, 2, nan, 1, 9, 6, -1, 9, 2, 2, nan};
        kernels->largest(max.data(), x.data(), static_cast<int64_t>(x.size()));
        for (const size_t i : {1u, 2u, 9u, 10u}) EXPECT_TRUE(std::isnan(max[i])) << kernels->name << " " << i;
        EXPECT_EQ(max[0], 2.0f);
        EXPECT_EQ(max[3], 4.0f);
        EXPECT_EQ(max[4], 9.0f);
        EXPECT_EQ(max[7], 9.0f);
        EXPECT_EQ(max[8], 2.0f);
    }
}
