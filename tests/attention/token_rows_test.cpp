// One pass over the keys and values of several tokens gives what a pass for each gives.
#include "attention/numbers.h"
#include "attention/reference.h"
#include "attention/token_rows.h"
#include "attention/weigh_tokens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int32_t head_dims[] = {16, 40, 64, 80, 96, 128, 256};

int32_t pick(std::mt19937& rng, int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(rng);
}

std::vector<float> normal_numbers(size_t n, std::mt19937& rng) {
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    for (float& v : x) v = normal(rng);
    return x;
}

// Tokens of a prompt, of a sliding window, of several sequences side by side, or anything; some see nothing.
std::vector<Ranges> random_visible(size_t n_tokens, int64_t n_columns, std::mt19937& rng) {
    const int32_t kind = pick(rng, 0, 3);
    std::vector<Ranges> all;
    for (size_t t = 0; t < n_tokens; ++t) {
        const int64_t end = std::max<int64_t>(1, n_columns - static_cast<int64_t>(n_tokens - 1 - t));
        if (kind == 0)
            all.push_back({{0, end}});
        else if (kind == 1)
            all.push_back({{std::max<int64_t>(0, end - 37), end}});
        else if (kind == 2)
            all.push_back(
                {{n_columns * int64_t(t) / int64_t(n_tokens), n_columns * int64_t(t + 1) / int64_t(n_tokens)}});
        else
            all.push_back(pick(rng, 0, 5) == 0 ? Ranges{} : random_ranges(n_columns, rng));
    }
    return all;
}

struct Group {
    Sample keys;                         // of all KV heads; its query is not used
    std::vector<std::vector<uint8_t>> q; // one layer's a token
    std::vector<Ranges> visible;
    std::vector<int32_t> positions; // of the tokens
    std::vector<uint8_t> k;
    int32_t head = 0;
    bool batched = false;

    Group(const LayerInfo& layer, size_t n_tokens, int64_t n_columns, std::mt19937& rng)
        : keys(make_sample(layer, n_columns, rng)) {
        for (size_t t = 0; t < n_tokens; ++t) {
            q.push_back(make_sample(layer, 1, rng).q);
            positions.push_back(pick(rng, 0, 5000));
        }
        visible = random_visible(n_tokens, n_columns, rng);
        for (const std::vector<uint8_t>& key : keys.keys) k.insert(k.end(), key.begin(), key.end());
        head = pick(rng, 0, layer.n_head - 1);
        batched = pick(rng, 0, 3) != 0;
    }
    RowsRequest alone(size_t t, const KeyBlock& block) const {
        RowsRequest r;
        r.layer = &keys.layer;
        r.q = q[t].data();
        r.keys = {&block, 1};
        r.visible = visible[t];
        r.n_columns = keys.n_columns();
        r.position = positions[t];
        r.positions = keys.positions;
        r.head_begin = head;
        r.head_end = head + 1;
        r.batched = batched;
        return r;
    }
    void together(const attention::RowKernels& kernels, attention::TokenRows& rows) const {
        const LayerInfo& layer = keys.layer;
        const Result<attention::RowsPlan> plan = attention::plan_layer(layer, batched);
        ASSERT_TRUE(plan.ok());
        std::vector<attention::TokenRowsRequest::Token> tokens;
        for (size_t t = 0; t < q.size(); ++t)
            tokens.push_back({q[t].data() + size_t(head) * plan->q_head_bytes, visible[t], positions[t]});
        attention::TokenRowsRequest r;
        r.layer = &layer;
        r.plan = &*plan;
        r.tokens = tokens;
        r.head = head;
        r.k = k.data() + size_t(head / plan->group) * plan->k_head_bytes;
        r.k_stride = layer.k_bytes();
        r.n_columns = keys.n_columns();
        r.positions = keys.positions;
        r.batched = batched;
        attention::token_rows(kernels, r, rows);
    }
};

LayerInfo random_layer(std::mt19937& rng) {
    constexpr DType types[] = {DType::f16, DType::bf16, DType::f32, DType::q8_0, DType::q4_0};
    const DType type = types[pick(rng, 0, 4)];
    int32_t dim = head_dims[pick(rng, 0, 6)];
    if (dtype_block(type) > 1) dim = (dim + 31) / 32 * 32;
    LayerInfo layer = make_layer(type, pick(rng, 1, 3), pick(rng, 1, 7), dim);
    if (pick(rng, 0, 1) && dtype_block(type) == 1) layer.on_device = true;
    if (layer.on_device && pick(rng, 0, 1)) layer.q_type = DType::f32;
    if (pick(rng, 0, 3) == 0) layer.softcap = 20.0f;
    if (pick(rng, 0, 3) == 0) layer.max_bias = 8.0f;
    if (pick(rng, 0, 3) == 0) layer.sinks = normal_numbers(size_t(layer.n_head), rng);
    return layer;
}

} // namespace

TEST(TokenRows, AreBitForBitThoseOfEachTokenAlone) {
    std::mt19937 rng(11);
    attention::TokenRows rows; // kept from group to group, as a thread keeps it
    for (int i = 0; i < 150; ++i) {
        const auto n_tokens = static_cast<size_t>(pick(rng, 1, 16));
        const int64_t n = i % 10 == 0 ? 1024 : pick(rng, 1, 400);
        const Group group(random_layer(rng), n_tokens, n, rng);
        const KeyBlock block{group.k.data(), 0, n, group.keys.layer.k_bytes()};
        for (const attention::RowKernels* kernels : all_kernels()) {
            group.together(*kernels, rows);
            for (size_t t = 0; t < n_tokens; ++t) {
                std::vector<float> row(static_cast<size_t>(n));
                ASSERT_TRUE(attention::attention_rows_with(*kernels, group.alone(t, block), row).ok());
                ASSERT_EQ(std::memcmp(row.data(), rows.row(t), row.size() * sizeof(float)), 0)
                    << kernels->name << ", " << dtype_name(group.keys.layer.k_type) << " of "
                    << group.keys.layer.head_dim << ", token " << t << " of " << n_tokens << ", " << n << " columns"
                    << (group.batched ? ", batched" : "");
            }
        }
    }
}

TEST(TokenRows, SharedColumnsAreThoseOfTheirTokensAndNoOthers) {
    std::mt19937 rng(12);
    for (int i = 0; i < 200; ++i) {
        const auto n_tokens = static_cast<size_t>(pick(rng, 1, 16));
        const int64_t n = pick(rng, 1, 300);
        const std::vector<Ranges> visible = random_visible(n_tokens, n, rng);
        std::vector<uint32_t> expected(static_cast<size_t>(n)), found(static_cast<size_t>(n));
        for (size_t t = 0; t < n_tokens; ++t) {
            for (const Range& r : visible[t]) {
                for (int64_t j = r.begin; j < r.end; ++j) expected[size_t(j)] |= uint32_t{1} << t;
            }
        }
        std::vector<attention::SharedColumns> shared;
        attention::share_columns(std::vector<std::span<const Range>>(visible.begin(), visible.end()), shared);
        int64_t before = 0;
        for (const attention::SharedColumns& s : shared) {
            EXPECT_GE(s.begin, before);
            EXPECT_LT(s.begin, s.end);
            EXPECT_NE(s.tokens, 0u);
            for (int64_t j = s.begin; j < s.end; ++j) found[size_t(j)] = s.tokens;
            before = s.end;
        }
        EXPECT_EQ(found, expected);
    }
}

namespace {

// V of one head, along dims or along cells, between values of others.
struct Values {
    attention::TokenValues view;
    std::vector<uint8_t> bytes;
    std::vector<double> x; // (cells, dim)

    Values(DType type, int32_t dim, int64_t n, bool along_dims, std::mt19937& rng) {
        const size_t size = dtype_row_bytes(type, 1);
        view.type = type;
        view.dim = dim;
        view.cell_stride = along_dims ? size_t(dim) * size * 3 : size;
        view.dim_stride = along_dims ? size : size_t(n + 5) * size;
        bytes.resize(view.cell_stride * size_t(n) + view.dim_stride * size_t(dim));
        for (int64_t j = 0; j < n; ++j) {
            for (int32_t d = 0; d < dim; ++d) {
                const std::vector<uint8_t> element = encode(type, normal_numbers(1, rng));
                std::memcpy(bytes.data() + size_t(j) * view.cell_stride + size_t(d) * view.dim_stride, element.data(),
                            size);
                x.push_back(static_cast<double>(type == DType::f16    ? attention::F16Elements::at(element.data(), 0)
                                                : type == DType::bf16 ? attention::Bf16Elements::at(element.data(), 0)
                                                                      : attention::F32Elements::at(element.data(), 0)));
            }
        }
        view.v = bytes.data();
    }
};

} // namespace

TEST(TokenRows, WeighValuesAsFloat64Does) {
    std::mt19937 rng(13);
    attention::TokenRows rows;
    attention::TokenSums sums;
    for (int i = 0; i < 60; ++i) {
        const auto n_tokens = static_cast<size_t>(pick(rng, 1, 16));
        const int64_t n = i % 10 == 0 ? 2100 : pick(rng, 1, 300);
        const int32_t dim = head_dims[pick(rng, 0, 6)];
        const Group group(make_layer(DType::f16, 1, 1, 64), n_tokens, n, rng);
        constexpr DType types[] = {DType::f16, DType::bf16, DType::f32};
        const Values v(types[i % 3], dim, n, i % 2 == 0, rng);
        ASSERT_TRUE(attention::values_readable(v.view));
        for (const attention::RowKernels* kernels : all_kernels()) {
            group.together(*kernels, rows);
            attention::weigh_tokens(*kernels, v.view, rows, n_tokens, true, sums);
            for (size_t t = 0; t < n_tokens; ++t) {
                double largest = 0;
                std::vector<double> sum(static_cast<size_t>(dim)), magnitude(static_cast<size_t>(dim));
                for (const Range& r : group.visible[t]) {
                    for (int64_t j = r.begin; j < r.end; ++j) {
                        for (size_t d = 0; d < size_t(dim); ++d) {
                            const double x = v.x[size_t(j) * size_t(dim) + d];
                            sum[d] += static_cast<double>(rows.row(t)[j]) * x;
                            magnitude[d] += static_cast<double>(rows.row(t)[j]) * std::fabs(x);
                            largest = std::max(largest, std::fabs(x));
                        }
                    }
                }
                EXPECT_EQ(static_cast<double>(sums.largest[t]), largest);
                for (size_t d = 0; d < size_t(dim); ++d) {
                    ASSERT_NEAR(sums.sum(t)[d], sum[d], 2e-6 * magnitude[d])
                        << kernels->name << ", " << n << " cells of " << dim;
                    ASSERT_NEAR(sums.magnitude(t)[d], magnitude[d], 2e-6 * magnitude[d]) << kernels->name;
                }
            }
        }
    }
}

TEST(TokenRows, ValuesThatATokenDoesNotSeeDoNotReachIt) {
    std::mt19937 rng(14);
    constexpr size_t n_tokens = 16;
    constexpr int64_t n = 100;
    Group group(make_layer(DType::f16, 1, 1, 64), n_tokens, n, rng);
    for (size_t t = 0; t < n_tokens; ++t) group.visible[t] = {{0, n - 15 + int64_t(t)}};
    Values v(DType::f32, 64, n, true, rng);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(v.bytes.data() + size_t(n - 1) * v.view.cell_stride, &nan, sizeof nan); // the last token's own
    attention::TokenRows rows;
    attention::TokenSums sums;
    for (const attention::RowKernels* kernels : all_kernels()) {
        group.together(*kernels, rows);
        attention::weigh_tokens(*kernels, v.view, rows, n_tokens, true, sums);
        for (size_t t = 0; t < n_tokens; ++t) EXPECT_EQ(std::isnan(sums.sum(t)[0]), t == n_tokens - 1) << kernels->name;
    }
}

TEST(TokenRows, OtherLayoutsOfValuesAreNotRead) {
    EXPECT_FALSE(attention::values_readable({nullptr, 8, 4, DType::f16, 64}));
    EXPECT_FALSE(attention::values_readable({nullptr, 34, 0, DType::q8_0, 40})); // no whole blocks
    EXPECT_TRUE(attention::values_readable({nullptr, 34, 34, DType::q8_0, 32}));
}
