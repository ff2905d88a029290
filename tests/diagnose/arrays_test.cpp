// Arrays in memory, and what is said of arrays that are not all attention.
#include "support/temp_dir.h"

#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int64_t n_token = 24, n_layer = 6, n_head = 4;

std::span<const uint8_t> bytes_of(std::span<const float> values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

// (token, layer, head, column): numbers for the columns that a token sees, 0 after them.
std::vector<float> scores(uint64_t seed, float spread) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> values;
    for (int64_t t = 0; t < n_token; ++t) {
        for (int64_t row = 0; row < n_layer * n_head; ++row) {
            for (int64_t c = 0; c < n_token; ++c) values.push_back(c <= t ? normal(random) : 0.0f);
        }
    }
    return values;
}

std::vector<float> weights(uint64_t seed) {
    std::vector<float> values = scores(seed, 1.5f);
    for (size_t row = 0; row < values.size(); row += n_token) {
        const size_t t = row / (n_token * n_layer * n_head);
        float sum = 0;
        for (size_t c = 0; c <= t; ++c) sum += values[row + c] = std::exp(values[row + c]);
        for (size_t c = 0; c <= t; ++c) values[row + c] /= sum;
    }
    return values;
}

Diagnosis diagnose(const std::vector<MemoryArray>& arrays) {
    auto reader = DumpReader::open_arrays(arrays);
    EXPECT_TRUE(reader) << reader.error().message;
    if (!reader) return {};
    auto diagnosis = diagnose_dump(**reader);
    EXPECT_TRUE(diagnosis) << diagnosis.error().message;
    return diagnosis ? std::move(*diagnosis) : Diagnosis{};
}

const std::vector<int64_t> shape{n_token, n_layer, n_head, n_token};

} // namespace

// The first tokens have rows of one positive column, which are no weights for it.
TEST(DiagnoseArrays, ScoresWithZerosAboveTheDiagonalAreScores) {
    for (const float spread : {0.2f, 1.0f, 3.0f}) {
        for (uint64_t seed = 1; seed <= 12; ++seed) {
            const std::vector<float> values = scores(seed, spread);
            const Diagnosis d = diagnose({{"x", "float32", shape, {bytes_of(values)}}});
            ASSERT_FALSE(d.findings.empty());
            EXPECT_TRUE(d.cause() == Cause::early_scores || d.cause() == Cause::raw_scores) << d.conclusion;
            EXPECT_EQ(d.findings.size(), 1u) << spread << " " << seed << ": " << d.conclusion;
            for (const Keep keep : d.keep) EXPECT_EQ(keep, Keep::scores);
        }
    }
}

TEST(DiagnoseArrays, PartsThatFollowOneAnotherAreOneArray) {
    const std::vector<float> values = weights(3);
    const std::span<const float> all = values;
    const Diagnosis whole = diagnose({{"x", "float32", shape, {bytes_of(all)}}});
    const size_t cut = all.size() / 3 + 1;
    const Diagnosis parts =
        diagnose({{"x", "float32", shape, {bytes_of(all.first(cut)), {}, bytes_of(all.subspan(cut))}}});
    EXPECT_EQ(whole.cause(), Cause::clean) << whole.conclusion;
    EXPECT_EQ(whole.dump.axes, "token 24, layer 6, head 4, key 24");
    EXPECT_EQ(parts.conclusion, whole.conclusion);
    ASSERT_EQ(parts.tokens.size(), whole.tokens.size());
    for (size_t t = 0; t < whole.tokens.size(); ++t)
        EXPECT_EQ(parts.tokens[t].numbers.sum, whole.tokens[t].numbers.sum);
    auto strange = DumpReader::open_arrays({{"x", "complex64", shape, {bytes_of(all)}}});
    ASSERT_FALSE(strange);
    EXPECT_EQ(strange.error().kind, ErrorKind::unsupported);
}

TEST(DiagnoseArrays, WhatIsNotLookedAtIsNamedInTheConclusion) {
    const std::vector<float> good = weights(1), noise = scores(2, 40);
    const Diagnosis d =
        diagnose({{"good", "float32", shape, {bytes_of(good)}}, {"other", "float32", shape, {bytes_of(noise)}}});
    EXPECT_EQ(d.cause(), Cause::clean);
    EXPECT_NE(d.conclusion.find("Not looked at: other."), std::string::npos) << d.conclusion;
}

// Two layers of six: a title that speaks of all of them would be wrong.
TEST(DiagnoseArrays, OneLayerThatWasCopiedIsNotCalledAll) {
    std::vector<float> values = weights(5);
    const auto layer = size_t(n_head * n_token);
    for (size_t t = 0; t < size_t(n_token); ++t) {
        const auto token = values.begin() + ptrdiff_t(t * layer * n_layer);
        std::copy_n(token + ptrdiff_t(layer), layer, token + ptrdiff_t(4 * layer));
    }
    const Diagnosis d = diagnose({{"x", "float32", shape, {bytes_of(values)}}});
    EXPECT_EQ(d.cause(), Cause::aliasing) << d.conclusion;
    EXPECT_EQ(d.conclusion.find("All layers"), std::string::npos) << d.conclusion;
}

TEST(DiagnoseArrays, AShapeThatDoesNotFitIsRefusedBeforeItsNumbersAreJudged) {
    const TempDir dir;
    const std::vector<float> values = weights(7);
    const std::string path = dir.file("x.bin");
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), int64_t(values.size() * 4));
    CaptureOptions options;
    options.shape = {n_token, n_layer, n_head, n_token + 1};
    auto reader = DumpReader::open(path, options);
    ASSERT_FALSE(reader);
    EXPECT_NE(reader.error().message.find("[24, 6, 4, 24] does"), std::string::npos) << reader.error().message;
    // A file that ends with a whole token was cut there, and is read.
    options.shape = {n_token + 2, n_layer, n_head, n_token};
    EXPECT_TRUE(DumpReader::open(path, options));
}

TEST(DiagnoseArrays, TokensThatAllUseTheLastColumnAreSpokenOf) {
    std::vector<float> values = scores(11, 1.5f), causal = weights(11);
    std::mt19937_64 random(2);
    std::normal_distribution<float> normal(0, 1.5f);
    for (size_t row = 0; row < values.size(); row += n_token) {
        float sum = 0;
        for (size_t c = row; c < row + n_token; ++c) sum += values[c] = std::exp(normal(random));
        for (size_t c = row; c < row + n_token; ++c) values[c] /= sum;
    }
    CaptureOptions options;
    options.axes = "token,layer,head,key";
    for (const bool both_ways : {false, true}) {
        auto reader =
            DumpReader::open_arrays({{"x", "float32", shape, {bytes_of(both_ways ? values : causal)}}}, options);
        ASSERT_TRUE(reader);
        const auto d = diagnose_dump(**reader);
        ASSERT_TRUE(d);
        EXPECT_EQ(d->cause(), Cause::clean) << d->conclusion;
        EXPECT_EQ(d->dump.notes.size(), both_ways ? 1u : 0u);
        if (both_ways) {
            EXPECT_NE(d->dump.notes[0].find("look at later ones"), std::string::npos);
        }
    }
}

// Layers of a window to both sides (ModernBERT, Gemma Embedding) beside such as see all: no ring of cells.
TEST(DiagnoseArrays, AWindowToBothSidesIsNoRing) {
    constexpr int64_t n = 60, window = 8;
    std::mt19937_64 random(5);
    std::normal_distribution<float> normal(0, 0.5f);
    std::vector<float> map; // (layer, head, query, key)
    for (int64_t row = 0; row < n_layer * n_head * n; ++row) {
        const int64_t q = row % n, l = row / (n_head * n);
        float sum = 0;
        std::vector<float> weights(n);
        for (int64_t c = 0; c < n; ++c) {
            if (l % 3 == 0 || std::abs(c - q) <= window) sum += weights[size_t(c)] = std::exp(normal(random));
        }
        for (const float x : weights) map.push_back(x / sum);
    }
    CaptureOptions options;
    options.axes = "layer,head,query,key";
    auto reader = DumpReader::open_arrays({{"x", "float32", {n_layer, n_head, n, n}, {bytes_of(map)}}}, options);
    ASSERT_TRUE(reader) << reader.error().message;
    const auto whole = diagnose_dump(**reader);
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->cause(), Cause::not_causal) << whole->conclusion; // "right for an encoder"
    // token by token, as our export writes them
    std::vector<std::vector<float>> tokens(n);
    std::vector<MemoryArray> arrays;
    for (int64_t q = 0; q < n; ++q) {
        for (int64_t r = 0; r < n_layer * n_head; ++r)
            tokens[size_t(q)].insert(tokens[size_t(q)].end(), map.begin() + (r * n + q) * n,
                                     map.begin() + (r * n + q + 1) * n);
        arrays.push_back(
            {"token_" + std::to_string(100 + q), "float32", {n_layer, n_head, n}, {bytes_of(tokens[size_t(q)])}});
    }
    reader = DumpReader::open_arrays(arrays);
    ASSERT_TRUE(reader) << reader.error().message;
    const auto apart = diagnose_dump(**reader);
    ASSERT_TRUE(apart);
    EXPECT_EQ(apart->cause(), Cause::clean) << apart->conclusion;
}

// What is read is as large as the shape says: gigabytes, where nobody looked whether they are there.
TEST(DiagnoseArrays, AnArrayOfMoreThanItsBytesIsRefusedBeforeItIsRead) {
    const std::vector<float> values = weights(7);
    for (const std::vector<int64_t>& claimed : {std::vector<int64_t>{n_token, n_layer, n_head, n_token + 1},
                                                {2, 2, 2, int64_t(1) << 28},
                                                {int64_t(1) << 62, 8, 8, 8},
                                                {2, -1, 2, 4}}) {
        const auto reader = DumpReader::open_arrays({{"x", "float32", claimed, {bytes_of(values)}}}, {});
        ASSERT_FALSE(reader);
        EXPECT_EQ(reader.error().kind, ErrorKind::damaged);
        EXPECT_NE(reader.error().message.find("has only " + std::to_string(values.size() * 4) + " bytes"),
                  std::string::npos)
            << reader.error().message;
    }
}
