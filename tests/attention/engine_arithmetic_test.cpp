#include "attention/engine_arithmetic.h"
#include "attention/kernels/halves_f16c.h"
#include "base/halves.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace attnscope {
namespace {

TEST(PlainHalves, EveryHalfIsTheFloatThatTheEngineMakesOfIt) {
    for (uint32_t h = 0; h < 65536; ++h) {
        const auto half = static_cast<uint16_t>(h);
        float engine = 0;
        attention::f16_to_f32(&half, &engine, 1);
        const float ours = base::f16_to_float(half);
        if (std::isnan(engine)) {
            ASSERT_TRUE(std::isnan(ours)) << h;
            continue;
        }
        ASSERT_EQ(std::bit_cast<uint32_t>(ours), std::bit_cast<uint32_t>(engine)) << h;
    }
}

// Every float between two halves is near one of them: these lie at, and on both sides of, each half and each middle.
TEST(PlainHalves, FloatsAreRoundedAsTheEngineRoundsThem) {
    for (uint32_t h = 0; h < 0x7C00; ++h) {
        const uint32_t here = std::bit_cast<uint32_t>(base::f16_to_float(static_cast<uint16_t>(h)));
        const uint32_t next =
            std::bit_cast<uint32_t>(h == 0x7BFF ? 65536.0f : base::f16_to_float(static_cast<uint16_t>(h + 1)));
        const float middle = (std::bit_cast<float>(here) + std::bit_cast<float>(next)) / 2;
        for (const uint32_t at : {here, std::bit_cast<uint32_t>(middle)}) {
            for (const uint32_t bits : {at - 1, at, at + 1}) {
                for (const uint32_t sign : {0u, 0x80000000u}) {
                    const float x = std::bit_cast<float>(bits | sign);
                    if (std::isnan(x)) continue;
                    uint16_t engine = 0;
                    attention::f32_to_f16(&x, &engine, 1);
                    ASSERT_EQ(base::float_to_f16(x), engine) << x;
                }
            }
        }
    }
    for (const float x : {65520.0f, 1e30f, INFINITY, -INFINITY, 1e-30f}) {
        uint16_t engine = 0;
        attention::f32_to_f16(&x, &engine, 1);
        EXPECT_EQ(base::float_to_f16(x), engine) << x;
    }
}

// Programs that are attached to get their halves from it.
TEST(PlainHalves, TheProcessorsInstructionGivesTheSame) {
    const attention::WriteF16 write = attention::write_f16_by_instruction();
    if (!write) GTEST_SKIP() << "this processor has none";
    std::vector<float> floats;
    for (uint32_t top = 0; top < 65536; ++top) {
        for (const uint32_t low : {0u, 1u, 0x0FFFu, 0x1000u, 0x1001u, 0x7FFFu, 0x8000u, 0xFFFFu})
            floats.push_back(std::bit_cast<float>(top << 16 | low));
    }
    for (const size_t n : {floats.size(), size_t(13), size_t(8), size_t(7), size_t(0)}) {
        std::vector<uint16_t> halves(n + 1, 0x1234);
        write(floats.data() + (floats.size() - n), halves.data(), static_cast<int64_t>(n));
        EXPECT_EQ(halves[n], 0x1234);
        for (size_t i = 0; i < n; ++i)
            ASSERT_EQ(halves[i], base::float_to_f16(floats[floats.size() - n + i])) << floats[floats.size() - n + i];
    }
}

TEST(PlainHalves, TheProcessorsInstructionReadsTheSame) {
    const attention::ReadF16 read = attention::read_f16_by_instruction();
    if (!read) GTEST_SKIP() << "this processor has none";
    std::vector<uint16_t> halves(65536);
    std::iota(halves.begin(), halves.end(), uint16_t{0});
    for (const size_t n : {halves.size(), size_t(13), size_t(8), size_t(7), size_t(0)}) {
        std::vector<float> floats(n + 1, 4.5f);
        read(halves.data() + (halves.size() - n), floats.data(), static_cast<int64_t>(n));
        EXPECT_EQ(floats[n], 4.5f);
        for (size_t i = 0; i < n; ++i) {
            const uint16_t half = halves[halves.size() - n + i];
            const float plain = base::f16_to_float(half);
            if (std::isnan(plain))
                ASSERT_TRUE(std::isnan(floats[i])) << half;
            else
                ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(plain)) << half;
        }
    }
}

TEST(PlainHalves, FloatsBecomeTheEnginesBfloats) {
    for (uint32_t top = 0; top < 65536; ++top) {
        for (const uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
            const float x = std::bit_cast<float>(top << 16 | low);
            uint16_t engine = 0;
            attention::f32_to_bf16(&x, &engine, 1);
            if (std::isnan(x)) continue;
            ASSERT_EQ(base::float_to_bf16(x), engine) << top << " " << low;
        }
    }
}

} // namespace
} // namespace attnscope
