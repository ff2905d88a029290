// What lies in some cells of a device's cache comes into its mirrors, however the cache lies.
#include "capture/device/read_back.h"

#include "support/made_device.h"

#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::capture;
using attnscope::test::MadeDevice;
using attnscope::test::MadeStreams;

namespace {

constexpr int64_t n_heads = 2, key_dim = 4, value_dim = 3, n_streams = 3;
constexpr size_t half = 2;

// Keys and values of one layer in f16, as llama.cpp has them.
struct Cache {
    ggml_backend_ptr engine;
    ggml_context_ptr context;
    ggml_backend_buffer_ptr memory;
    ggml_tensor *k = nullptr, *v = nullptr;
    AttentionNode node;
    std::vector<uint8_t> keys, values;
    int64_t cells = 0; // of a stream
    bool by_element = false;

    // `first`: the stream that the graph computes.
    Cache(int64_t cells_of_stream, int64_t streams, int64_t first, bool elements)
        : cells(cells_of_stream), by_element(elements) {
        MadeDevice::steer();
        ggml_backend_dev_t device = ggml_backend_dev_by_name("TEST0");
        engine.reset(ggml_backend_dev_init(device, nullptr));
        context.reset(ggml_init({16 * ggml_tensor_overhead(), nullptr, true}));
        k = ggml_new_tensor_3d(context.get(), GGML_TYPE_F16, n_heads * key_dim, cells, streams);
        v = ggml_new_tensor_3d(context.get(), GGML_TYPE_F16, n_heads * value_dim, cells, streams);
        memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_dev_buffer_type(device)));
        node.flash = !elements;
        node.k_cache = k;
        node.cache_streams = streams, node.stream_cells = cells, node.first_stream = first;
        const auto at = static_cast<size_t>(first);
        const size_t row = n_heads * key_dim * half, value_row = n_heads * value_dim * half;
        const auto n = static_cast<size_t>(cells);
        node.k = permuted(
            ggml_view_4d(context.get(), k, key_dim, n_heads, cells, 1, key_dim * half, row, n * row, at * n * row));
        if (elements)
            node.v = permuted(ggml_view_4d(context.get(), v, cells, n_heads, value_dim, 1, n * value_dim * half,
                                           n * half, n * value_row, at * n * value_row));
        else
            node.v = permuted(ggml_view_4d(context.get(), v, value_dim, n_heads, cells, 1, value_dim * half, value_row,
                                           n * value_row, at * n * value_row));
        node.q = node.out = node.k; // nobody looks
        std::mt19937 random(7);
        for (auto [tensor, bytes] : {std::pair{k, &keys}, std::pair{v, &values}}) {
            bytes->resize(ggml_nbytes(tensor));
            for (uint8_t& b : *bytes) b = static_cast<uint8_t>(random());
            ggml_backend_tensor_set(tensor, bytes->data(), 0, bytes->size());
        }
    }
    ggml_tensor* permuted(ggml_tensor* view) const { return ggml_permute(context.get(), view, 0, 2, 1, 3); }

    std::vector<uint8_t> key(int64_t cell) const {
        const auto at = keys.begin() + cell * n_heads * key_dim * int64_t(half);
        return {at, at + n_heads * key_dim * int64_t(half)};
    }
    std::vector<uint8_t> value(int64_t cell) const {
        constexpr int64_t n = n_heads * value_dim;
        std::vector<uint8_t> row;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t of_stream = cell / cells * cells * n, in_stream = cell % cells;
            const int64_t element = of_stream + (by_element ? i * cells + in_stream : in_stream * n + i);
            row.insert(row.end(), values.begin() + element * int64_t(half),
                       values.begin() + (element + 1) * int64_t(half));
        }
        return row;
    }
};

std::vector<uint8_t> row_of(Mirror& mirror, int64_t cell) {
    return {mirror.row(cell), mirror.row(cell) + mirror.row_bytes()};
}

// These cells, and no others.
void expect_read(Cache& cache, int64_t streams, const Ranges& cells) {
    Mirrors mirrors;
    Mirror &k = mirrors[cache.k], &v = mirrors[cache.v];
    const int64_t n = streams * cache.cells;
    ASSERT_TRUE(k.reserve(n_heads * key_dim * half, n) && v.reserve(n_heads * value_dim * half, n));
    std::memset(k.row(0), 0xCC, size_t(n) * k.row_bytes());
    std::memset(v.row(0), 0xCC, size_t(n) * v.row_bytes());
    ASSERT_TRUE(read_back(cache.node, cache.engine.get(), cells, mirrors));
    for (int64_t c = 0; c < n; ++c) {
        const bool read =
            std::any_of(cells.begin(), cells.end(), [&](const Range& r) { return c >= r.begin && c < r.end; });
        ASSERT_EQ(row_of(k, c), read ? cache.key(c) : std::vector<uint8_t>(k.row_bytes(), 0xCC)) << c;
        ASSERT_EQ(row_of(v, c), read ? cache.value(c) : std::vector<uint8_t>(v.row_bytes(), 0xCC)) << c;
    }
}

class MadeDeviceReadBack : public testing::Test {
protected:
    // nothing comes before somebody waits for it
    void SetUp() override { MadeDevice::steer().streams.set_order(MadeStreams::Order::engine_first); }
    void TearDown() override { EXPECT_TRUE(MadeDevice::steer().reset()); }
};

} // namespace

TEST_F(MadeDeviceReadBack, CellsComeIntoTheMirrorsHoweverTheyLie) {
    for (const bool elements : {false, true}) {
        SCOPED_TRACE(elements);
        Cache one(40, 1, 0, elements);
        expect_read(one, 1, {{0, 1}});
        expect_read(one, 1, {{3, 5}, {9, 40}});
        Cache several(16, n_streams, 1, elements);
        expect_read(several, n_streams, {{2, 4}, {17, 20}, {47, 48}});
        expect_read(several, n_streams, {{10, 40}}); // the end of one, all of the next, and the beginning of the third
        Cache large(2500, 1, 0, elements);
        expect_read(large, 1, {{7, 2400}});
    }
}

// Never a part of them, and nothing that is not there.
TEST_F(MadeDeviceReadBack, WhatDoesNotLieAsItMustIsNotRead) {
    Cache cache(16, 1, 0, true);
    Mirrors mirrors;
    EXPECT_FALSE(read_back(cache.node, cache.engine.get(), {{0, 1}}, mirrors)); // no graph has stored there
    ASSERT_TRUE(mirrors[cache.k].reserve(n_heads * key_dim * half, 16));
    EXPECT_FALSE(read_back(cache.node, cache.engine.get(), {{0, 1}}, mirrors));
    ASSERT_TRUE(mirrors[cache.v].reserve(n_heads * value_dim * half, 16));
    EXPECT_TRUE(read_back(cache.node, cache.engine.get(), {{0, 1}}, mirrors));
    EXPECT_FALSE(read_back(cache.node, nullptr, {{0, 1}}, mirrors));
    EXPECT_FALSE(read_back(cache.node, cache.engine.get(), {{15, 17}}, mirrors));
    EXPECT_FALSE(read_back(cache.node, cache.engine.get(), {{-1, 1}}, mirrors));
    ASSERT_TRUE(mirrors[cache.k].reserve(n_heads * key_dim, 16));
    EXPECT_FALSE(read_back(cache.node, cache.engine.get(), {{0, 1}}, mirrors));
}
