// The inner loops by themselves: accuracy, and one instruction set against the other.
#include "attention/numbers.h"
#include "attention/reference.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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
        const float got = f16_to_float(static_cast<uint16_t>(h));
        if (std::isnan(want)) {
            ASSERT_TRUE(std::isnan(got));
        } else {
            ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want)) << h;
        }
    }
}

TEST(Kernels, ExponentialsAreWithinTwoUlp) {
    for (const RowKernels* kernels : all_kernels()) {
        std::vector<float> x;
        for (float v = -87.3f; v < 0.0f; v += 0.00137f)
            x.push_back(v);
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
    for (const RowKernels* kernels : all_kernels()) {
        std::vector<float> x{-infinity, -1e30f,    -104.1f, -1000.0f, -infinity,
                             -infinity, -infinity, -200.0f, -150.0f};
        EXPECT_EQ(kernels->exponentials(x.data(), static_cast<int64_t>(x.size()), 0.0f), 0.0);
        for (const float v : x)
            EXPECT_EQ(v, 0.0f);
    }
}

TEST(Kernels, TanhIsAccurateEverywhere) {
    for (const RowKernels* kernels : all_kernels()) {
        std::vector<float> x;
        for (float v = 1e-6f; v < 60.0f; v *= 1.003f)
            x.insert(x.end(), {v, -v});
        std::vector<float> y = x;
        kernels->scores(y.data(), static_cast<int64_t>(y.size()), 1.0f, 1.0f, 1.0f);
        for (size_t i = 0; i < x.size(); ++i) {
            const double want = std::tanh(static_cast<double>(x[i]));
            ASSERT_NEAR(static_cast<double>(y[i]), want, 4 * ulp_of(want)) << kernels->name << " " << x[i];
        }
    }
}

TEST(Kernels, TheLargestScoreIsFoundAmongNans) {
    for (const RowKernels* kernels : all_kernels()) {
        for (size_t n = 1; n < 20; ++n) {
            for (size_t at = 0; at < n; ++at) {
                std::vector<float> x(n, std::nanf(""));
                x[at] = 3.0f;
                EXPECT_EQ(kernels->scores(x.data(), static_cast<int64_t>(n), 2.0f, 0.0f, 1.0f), 6.0f);
            }
        }
    }
}
