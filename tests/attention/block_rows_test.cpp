// Rows of many tokens from one pass over the keys, against those of each token alone and against float64.
#include "attention/block_rows.h"
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

int32_t pick(std::mt19937& rng, int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(rng);
}

std::vector<const attention::BlockKernels*> all_block_kernels() {
    std::vector<const attention::BlockKernels*> all{&attention::scalar_block_kernels()};
    for (const attention::BlockKernels* kernels :
         {attention::avx2_block_kernels(), attention::avx512_block_kernels()}) {
        if (kernels) all.push_back(kernels);
    }
    return all;
}

// Keys of a layer as a source lays them out: chunks of all KV heads, floating-point ones in tiles.
struct Chunks {
    std::vector<std::vector<uint8_t>> bytes;
    std::vector<const uint8_t*> starts;

    explicit Chunks(const Sample& s) {
        const size_t head = dtype_row_bytes(s.layer.k_type, s.layer.head_dim),
                     element = dtype_row_bytes(s.layer.k_type, dtype_block(s.layer.k_type));
        const auto dim = static_cast<size_t>(s.layer.head_dim);
        for (int64_t j = 0; j < s.n_columns(); ++j) {
            if (j % attention::chunk_columns == 0)
                bytes.emplace_back(s.layer.k_bytes() * size_t(attention::chunk_columns), uint8_t(0xff)); // NaN
            for (size_t h = 0; h < size_t(s.layer.n_head_kv); ++h) {
                uint8_t* const to = bytes.back().data() + h * head * size_t(attention::chunk_columns);
                const auto c = static_cast<size_t>(j % attention::chunk_columns);
                const uint8_t* const key = s.keys[size_t(j)].data() + h * head;
                if (!attention::keys_in_tiles(s.layer.k_type)) std::memcpy(to + c * head, key, head);
                for (size_t d = 0; attention::keys_in_tiles(s.layer.k_type) && d < dim; ++d)
                    std::memcpy(to + ((c / 16 * dim + d) * 16 + c % 16) * element, key + d * element, element);
            }
        }
        for (const auto& chunk : bytes) starts.push_back(chunk.data());
    }
};

// Several tokens of one layer.
struct Tokens {
    Sample keys; // its query is not used
    Chunks chunks;
    std::vector<std::vector<uint8_t>> q;
    std::vector<Ranges> visible;
    std::vector<int32_t> positions;
    int32_t head = 0;
    bool batched = false;

    Tokens(const LayerInfo& layer, size_t n_tokens, int64_t n_columns, std::mt19937& rng)
        : keys(make_sample(layer, n_columns, rng)), chunks(keys) {
        const int32_t kind = pick(rng, 0, 2);
        for (size_t t = 0; t < n_tokens; ++t) {
            q.push_back(make_sample(layer, 1, rng).q);
            positions.push_back(
                pick(rng, 0, static_cast<int32_t>(n_columns))); // far ones round the scores that ALiBi makes
            const int64_t end = std::max<int64_t>(1, n_columns - static_cast<int64_t>(n_tokens - 1 - t));
            if (kind == 0)
                visible.push_back({{0, end}});
            else if (kind == 1)
                visible.push_back({{std::max<int64_t>(0, end - 37), end}});
            else
                visible.push_back(pick(rng, 0, 5) == 0 ? Ranges{} : random_ranges(n_columns, rng));
        }
        head = pick(rng, 0, layer.n_head - 1);
        batched = pick(rng, 0, 1) == 1;
    }
    std::vector<float> alone(size_t t) const {
        RowsRequest r = keys.request();
        r.q = q[t].data();
        r.visible = visible[t];
        r.position = positions[t];
        r.head_begin = head;
        r.head_end = head + 1;
        r.batched = batched;
        std::vector<float> row(static_cast<size_t>(keys.n_columns()));
        EXPECT_TRUE(attention_rows(r, row));
        return row;
    }
    std::vector<double> reference(size_t t) const {
        Sample one = keys;
        one.q = q[t];
        one.visible = visible[t];
        one.position = positions[t];
        const auto n = static_cast<ptrdiff_t>(keys.n_columns());
        const auto rows = reference_rows(one).rows;
        return {rows.begin() + head * n, rows.begin() + (head + 1) * n};
    }
    // (tokens, columns)
    std::vector<std::vector<float>> together(const attention::BlockKernels& block, bool exact,
                                             attention::BlockRows& rows) const {
        const attention::RowsPlan plan = attention::plan_layer(keys.layer, batched).value();
        std::vector<attention::BlockQuery> queries;
        for (size_t t = 0; t < q.size(); ++t)
            queries.push_back({q[t].data() + size_t(head) * plan.q_head_bytes, visible[t], positions[t]});
        attention::BlockRequest r;
        r.layer = &keys.layer;
        r.plan = &plan;
        r.queries = queries;
        r.head = head;
        r.chunks = chunks.starts;
        r.chunk_offset = size_t(head / plan.group) * plan.k_head_bytes * size_t(attention::chunk_columns);
        r.n_columns = keys.n_columns();
        r.positions = keys.positions;
        r.batched = batched;
        r.exact = exact;
        attention::block_rows(attention::row_kernels(), block, r, rows);
        std::vector<std::vector<float>> all(q.size(), std::vector<float>(size_t(r.n_columns), 0.0f));
        for (const attention::BlockPiece& piece : rows.pieces) {
            for (size_t t = 0; t < q.size(); ++t) {
                for (int64_t j = piece.begin; j < piece.end; ++j) all[t][size_t(j)] = rows.row(t)[j] * piece.factors[t];
            }
        }
        return all;
    }
    std::string words() const {
        return std::string(dtype_name(keys.layer.k_type)) + " of " + std::to_string(keys.layer.head_dim) + ", " +
               std::to_string(q.size()) + " tokens, " + std::to_string(keys.n_columns()) + " columns" +
               (batched ? ", batched" : "");
    }
};

LayerInfo random_layer(std::mt19937& rng) {
    constexpr DType types[] = {DType::f16, DType::f16, DType::bf16, DType::f32, DType::q8_0};
    constexpr int32_t dims[] = {8, 16, 40, 64, 80, 96, 128, 256};
    const DType type = types[pick(rng, 0, 4)];
    int32_t dim = dims[pick(rng, 0, 7)];
    if (dtype_block(type) > 1) dim = (dim + 31) / 32 * 32;
    LayerInfo layer = make_layer(type, pick(rng, 1, 3), pick(rng, 1, 4), dim);
    if (pick(rng, 0, 1) && dtype_block(type) == 1) layer.on_device = true;
    if (layer.on_device && pick(rng, 0, 1)) layer.q_type = DType::f32;
    if (pick(rng, 0, 3) == 0) layer.softcap = 20.0f;
    if (pick(rng, 0, 3) == 0) layer.max_bias = 8.0f;
    if (pick(rng, 0, 3) == 0) {
        for (int32_t h = 0; h < layer.n_head; ++h) layer.sinks.push_back(0.5f * static_cast<float>(h) - 1.0f);
    }
    return layer;
}

bool sees(const Ranges& visible, int64_t j) {
    return std::any_of(visible.begin(), visible.end(), [&](const Range& r) { return r.begin <= j && j < r.end; });
}

} // namespace

TEST(BlockRows, ExactOnesAreBitForBitThoseOfEachTokenAlone) {
    std::mt19937 rng(21);
    attention::BlockRows rows; // kept from block to block, as a thread keeps it
    for (int i = 0; i < 80; ++i) {
        const Tokens tokens(random_layer(rng), static_cast<size_t>(pick(rng, 1, 40)),
                            i % 8 == 0 ? 700 : pick(rng, 1, 300), rng);
        const auto together = tokens.together(attention::block_kernels(), true, rows);
        for (size_t t = 0; t < together.size(); ++t) {
            const auto alone = tokens.alone(t);
            ASSERT_EQ(std::memcmp(alone.data(), together[t].data(), alone.size() * sizeof(float)), 0)
                << tokens.words() << ", token " << t;
        }
    }
}

TEST(BlockRows, OthersAreWithinAMillionthOfFloat64AndZeroWhereNothingIsSeen) {
    std::mt19937 rng(22);
    for (const attention::BlockKernels* kernels : all_block_kernels()) {
        attention::BlockRows rows;
        for (int i = 0; i < 60; ++i) {
            LayerInfo layer = random_layer(rng);
            if (attention::keys_in_tiles(layer.k_type))
                layer.on_device = true; // an engine's own products of halves may be in half precision
            const Tokens tokens(layer, static_cast<size_t>(pick(rng, 1, 40)), i % 8 == 0 ? 700 : pick(rng, 1, 300),
                                rng);
            const auto together = tokens.together(*kernels, false, rows);
            for (size_t t = 0; t < together.size(); ++t) {
                const auto want = tokens.reference(t);
                for (size_t j = 0; j < want.size(); ++j) {
                    ASSERT_NEAR(static_cast<double>(together[t][j]), want[j], 1e-6)
                        << kernels->name << ", " << tokens.words() << ", token " << t;
                    if (sees(tokens.visible[t], int64_t(j))) continue;
                    ASSERT_EQ(together[t][j], 0.0f) << kernels->name << ", " << tokens.words();
                }
            }
        }
    }
}

// What the engine makes NaN stays NaN, and is not spread over what a token does not see.
TEST(BlockRows, NotFiniteScoresSpoilTheRowsThatSeeThemAndNoOthers) {
    std::mt19937 rng(23);
    for (const attention::BlockKernels* kernels : all_block_kernels()) {
        for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()}) {
            Tokens tokens(make_layer(DType::f32, 1, 1, 16), 8, 600, rng);
            tokens.batched = true;
            for (size_t t = 0; t < 8; ++t) {
                const std::vector<float> one(16, 1.0f);
                tokens.q[t] = encode(DType::f32, one);
                tokens.visible[t] = t < 4 ? Ranges{{0, 300}, {310, 500}} : Ranges{{0, 300}};
            }
            tokens.visible[3] = {{400, 401}}; // sees nothing else
            tokens.keys.keys[400] = encode(DType::f32, std::vector<float>(16, bad));
            std::memcpy(tokens.keys.store[0].data() + 400 * tokens.keys.layer.k_bytes(), tokens.keys.keys[400].data(),
                        tokens.keys.layer.k_bytes());
            tokens.chunks = Chunks(tokens.keys);
            attention::BlockRows rows;
            const auto together = tokens.together(*kernels, false, rows);
            for (size_t t = 0; t < 8; ++t) {
                const auto alone = tokens.alone(t);
                for (size_t j = 0; j < alone.size(); ++j) {
                    ASSERT_EQ(std::isnan(alone[j]), std::isnan(together[t][j]))
                        << kernels->name << ", " << bad << ", token " << t << ", column " << j;
                    if (std::isnan(alone[j])) continue;
                    ASSERT_NEAR(alone[j], together[t][j], 1e-6f) << kernels->name << ", " << bad << ", token " << t;
                }
            }
        }
    }
}

TEST(BlockRows, KernelsFoldAndScaleAnyLength) {
    std::mt19937 rng(24);
    std::normal_distribution<float> normal;
    for (const attention::BlockKernels* kernels : all_block_kernels()) {
        for (const int64_t n : {1, 7, 8, 15, 16, 33, 256}) {
            const size_t n_rows = 1 + size_t(n) % 9, stride = size_t(n) + 3;
            std::vector<float> rows(n_rows * stride), factors(n_rows), sums(size_t(n), 1.0f),
                scaled(size_t(n) + 1, 7.0f);
            for (float& x : rows) x = normal(rng);
            for (float& x : factors) x = normal(rng);
            kernels->fold(rows.data(), stride, factors.data(), int64_t(n_rows), n, sums.data());
            kernels->scale(rows.data(), 0.5f, n, scaled.data());
            for (size_t j = 0; j < size_t(n); ++j) {
                double want = 1;
                for (size_t r = 0; r < n_rows; ++r)
                    want += static_cast<double>(factors[r]) * static_cast<double>(rows[r * stride + j]);
                EXPECT_NEAR(static_cast<double>(sums[j]), want, 1e-5) << kernels->name << ", " << n;
                EXPECT_EQ(scaled[j], 0.5f * rows[j]) << kernels->name << ", " << n;
            }
            EXPECT_EQ(scaled[size_t(n)], 7.0f) << kernels->name;
        }
    }
}

TEST(BlockRows, FromScatteredKeysOfAnyTokensAreThoseOfEachTokenAlone) {
    std::mt19937 rng(25);
    for (int i = 0; i < 60; ++i) {
        LayerInfo given = random_layer(rng);
        if (attention::keys_in_tiles(given.k_type)) given.on_device = true; // as above
        Tokens tokens(given, static_cast<size_t>(pick(rng, 1, 120)), i % 8 == 0 ? 700 : pick(rng, 1, 300), rng);
        tokens.keys.lay_out(rng);
        const LayerInfo& layer = tokens.keys.layer;
        std::vector<TokenQuery> queries;
        for (size_t t = 0; t < tokens.q.size(); ++t)
            queries.push_back({tokens.q[t].data(), tokens.visible[t], tokens.positions[t]});
        BlockRowsRequest r;
        r.layer = &layer;
        r.tokens = queries;
        r.keys = tokens.keys.blocks;
        r.n_columns = tokens.keys.n_columns();
        r.positions = tokens.keys.positions;
        r.head_begin = pick(rng, 0, layer.n_head - 1);
        r.head_end = pick(rng, r.head_begin + 1, layer.n_head);
        r.batched = tokens.batched;
        r.exact = i % 2 == 0;
        r.n_threads = pick(rng, 1, 3);
        const auto n = static_cast<size_t>(r.n_columns);
        std::vector<float> rows(size_t(r.head_end - r.head_begin) * queries.size() * n, 7.0f);
        const auto done = attention_rows_block(r, rows);
        ASSERT_TRUE(done) << done.error().message;
        for (tokens.head = r.head_begin; tokens.head < r.head_end; ++tokens.head) {
            for (size_t t = 0; t < queries.size(); ++t) {
                const auto alone = tokens.alone(t);
                const float* const row = rows.data() + (size_t(tokens.head - r.head_begin) * queries.size() + t) * n;
                for (size_t j = 0; j < n; ++j) {
                    if (r.exact)
                        ASSERT_EQ(alone[j], row[j]) << tokens.words();
                    else
                        ASSERT_NEAR(alone[j], row[j], 2e-6f) << tokens.words();
                }
            }
        }
    }
}

TEST(BlockRows, RequestsThatMakeNoSenseNameTheToken) {
    std::mt19937 rng(26);
    const Tokens tokens(make_layer(DType::f16, 1, 2, 32), 3, 50, rng);
    const Ranges all{{0, 50}}, beyond{{0, 51}};
    std::vector<TokenQuery> queries(3, {tokens.q[0].data(), all, 0});
    BlockRowsRequest r;
    r.layer = &tokens.keys.layer;
    r.tokens = queries;
    r.keys = tokens.keys.blocks;
    r.n_columns = 50;
    r.head_end = 2;
    std::vector<float> rows(2 * 3 * 50);
    EXPECT_TRUE(attention_rows_block(r, rows));
    EXPECT_FALSE(attention_rows_block(r, std::span(rows).first(rows.size() - 1)));
    queries[2].visible = beyond;
    const auto refused = attention_rows_block(r, rows);
    ASSERT_FALSE(refused);
    EXPECT_TRUE(refused.error().message.starts_with("token 2: ")) << refused.error().message;
    queries[2] = {nullptr, all, 0};
    EXPECT_FALSE(attention_rows_block(r, rows));
    r.tokens = {};
    EXPECT_TRUE(attention_rows_block(r, {}));
    r.layer = nullptr;
    EXPECT_FALSE(attention_rows_block(r, rows));
}
