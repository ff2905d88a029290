// Values as bytes and back, and characters as columns.
#include <attnscope/attention_request.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

using namespace attnscope;

namespace {

std::vector<float> random_weights(size_t n, std::mt19937& rng) {
    std::vector<float> x(n);
    for (float& v : x) v = std::pow(static_cast<float>(rng() % 1000) / 999.0f, 8.0f);
    return x;
}

} // namespace

TEST(Formats, KeepWhatTheyPromise) {
    std::mt19937 rng(1);
    for (int trial = 0; trial < 50; ++trial) {
        const auto row = static_cast<int64_t>(1 + rng() % 40);
        const auto values = random_weights(static_cast<size_t>(row) * (rng() % 5), rng);
        for (const auto format : {AttentionFormat::f32, AttentionFormat::f16, AttentionFormat::u8}) {
            const auto bytes = encode_values(values, row, format);
            ASSERT_EQ(bytes.size(), encoded_bytes(values.size(), row, format));
            const auto back = decode_values(bytes, values.size(), row, format);
            ASSERT_TRUE(back);
            for (size_t i = 0; i < values.size(); ++i) {
                const auto begin = values.begin() + static_cast<ptrdiff_t>(i / static_cast<size_t>(row)) * row;
                const float largest = *std::max_element(begin, begin + row);
                const float tolerance = format == AttentionFormat::f32   ? 0.0f
                                        : format == AttentionFormat::f16 ? values[i] * 0x1p-11f + 0x1p-25f
                                                                         : largest / 255 * 1.0001f; // one step
                ASSERT_NEAR(back.value()[i], values[i], tolerance);
            }
            for (size_t begin = 0; begin < values.size() && format == AttentionFormat::u8;
                 begin += static_cast<size_t>(row)) {
                // rows keep their sum within half a step
                double was = 0, is = 0;
                float largest = 0;
                for (size_t i = begin; i < begin + static_cast<size_t>(row); ++i) {
                    was += static_cast<double>(values[i]);
                    is += static_cast<double>(back.value()[i]);
                    largest = std::max(largest, values[i]);
                }
                ASSERT_NEAR(is, was, static_cast<double>(largest) / 255 * 0.51 + 1e-6);
            }
        }
    }
}

TEST(Formats, U8PutsTheScalesFirst) {
    const float values[] = {0.0f, 0.5f, 0.25f, 0.0f};
    const auto bytes = encode_values(values, 2, AttentionFormat::u8);
    ASSERT_EQ(bytes.size(), 12u);
    EXPECT_EQ(bytes[8], 0);
    EXPECT_EQ(bytes[9], 255);
    EXPECT_EQ(bytes[10], 255);
    EXPECT_EQ(bytes[11], 0);
}

TEST(Formats, ABrokenValueShowsInItsRowAlone) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    const float values[] = {nan, 0.5f, 0.25f, 0.5f, inf, 0.5f};
    const auto back = decode_values(encode_values(values, 2, AttentionFormat::u8), 6, 2, AttentionFormat::u8);
    ASSERT_TRUE(back);
    EXPECT_TRUE(std::isnan(back.value()[0]));
    EXPECT_TRUE(std::isnan(back.value()[1]));
    EXPECT_NEAR(back.value()[3], 0.5f, 1e-6f);
    EXPECT_FALSE(std::isfinite(back.value()[4]));
}

TEST(Formats, BytesOfAnotherSizeAreRefused) {
    const std::vector<uint8_t> bytes(12);
    EXPECT_FALSE(decode_values(bytes, 4, 4, AttentionFormat::f32));
    EXPECT_FALSE(decode_values(bytes, std::numeric_limits<size_t>::max() / 4 + 4, 1, AttentionFormat::f32));
    EXPECT_TRUE(decode_values(bytes, 3, 3, AttentionFormat::f32));
    EXPECT_TRUE(decode_values(bytes, 8, 8, AttentionFormat::u8));
}

TEST(Names, AreTheirOwnInverse) {
    std::string names;
    for (int i = 0; i <= static_cast<int>(Reduce::first_share); ++i) { // the last one there is
        EXPECT_EQ(reduce_from_name(reduce_name(static_cast<Reduce>(i))).value(), static_cast<Reduce>(i));
        names += (i ? ", " : "") + std::string(reduce_name(static_cast<Reduce>(i)));
    }
    EXPECT_EQ(reduce_from_name("sum").error().message, "reduce is not one of " + names);
    EXPECT_FALSE(attention_format_from_name("F32"));
    EXPECT_FALSE(accumulate_from_name(""));
}

TEST(Characters, HaveTheColumnsOfTheTokensThatSpellThem) {
    // "Ünï 🐝s" in six tokens, two of which share the bee's four bytes
    const std::vector<std::string> pieces{"<s>", " Ü", "nï", " \xf0\x9f", "\x90\x9d", "s"};
    const std::string text = "Ünï \xf0\x9f\x90\x9ds";
    const Range characters[] = {{0, 1}, {0, 3}, {1, 2}, {3, 4}, {4, 5}, {5, 6}, {0, 6}, {2, 2}, {6, 6}};
    const auto columns = columns_of_characters(pieces, text, characters, 10);
    ASSERT_TRUE(columns) << columns.error().message;
    EXPECT_EQ(columns.value()[0], (Range{11, 12}));
    EXPECT_EQ(columns.value()[1], (Range{11, 13}));
    EXPECT_EQ(columns.value()[2], (Range{12, 13}));
    EXPECT_EQ(columns.value()[3], (Range{13, 14}));
    EXPECT_EQ(columns.value()[4], (Range{13, 15}));
    EXPECT_EQ(columns.value()[5], (Range{15, 16}));
    EXPECT_EQ(columns.value()[6], (Range{11, 16}));
    EXPECT_EQ(columns.value()[7].begin, columns.value()[7].end);
    EXPECT_EQ(columns.value()[8].begin, columns.value()[8].end);
}

TEST(Characters, ThatNoTokenSpellsAreRefused) {
    const std::vector<std::string> pieces{"he", "llo"};
    const Range all[] = {{0, 5}}, beyond[] = {{0, 6}}, backwards[] = {{3, 2}};
    EXPECT_TRUE(columns_of_characters(pieces, "hello", all));
    EXPECT_FALSE(columns_of_characters(pieces, "Hello", all));
    EXPECT_FALSE(columns_of_characters(pieces, "hello", beyond));
    EXPECT_FALSE(columns_of_characters(pieces, "hello", backwards));
    for (const char* bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82"})
        EXPECT_FALSE(columns_of_characters(std::vector<std::string>{bad}, bad, {})) << bad;
}
