// Requests that make no sense are refused in words, and nothing is written.
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr int64_t far = std::numeric_limits<int64_t>::max();

class Arguments : public testing::Test {
protected:
    std::mt19937 rng{1};
    Sample s = make_sample(make_layer(DType::f16, 2, 2, 64), 10, rng);
    RowsRequest r = s.request();
    std::vector<float> out = std::vector<float>(40, 7.0f);
    std::vector<float> lse;
    std::vector<Range> visible;
    std::vector<KeyBlock> keys;

    void refuse(ErrorKind kind = ErrorKind::invalid_argument) {
        const auto result = attention_rows(r, out, lse);
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().kind, kind);
        EXPECT_FALSE(result.error().message.empty());
        for (const float w : out) ASSERT_EQ(w, 7.0f);
    }
    void refuse_visible(std::vector<Range> v) {
        visible = std::move(v);
        r.visible = visible;
        refuse();
    }
    void refuse_keys(std::vector<KeyBlock> k) {
        keys = std::move(k);
        r.keys = keys;
        refuse();
    }
    void refuse_layer(const std::function<void(LayerInfo&)>& change, ErrorKind kind = ErrorKind::invalid_argument) {
        LayerInfo l = s.layer;
        change(l);
        r.layer = &l;
        refuse(kind);
        r.layer = &s.layer;
    }
};

} // namespace

TEST_F(Arguments, Missing) {
    r.layer = nullptr;
    refuse();
    r = s.request();
    r.q = nullptr;
    refuse();
}

TEST_F(Arguments, VisibleColumnsOutsideOrOutOfOrder) {
    refuse_visible({{0, 11}});
    refuse_visible({{-1, 3}});
    refuse_visible({{5, 4}});
    refuse_visible({{4, 6}, {0, 2}});
    refuse_visible({{0, 5}, {4, 6}});
    refuse_visible({{0, far}});
    refuse_visible({{std::numeric_limits<int64_t>::min(), far}});
}

TEST_F(Arguments, KeysThatDoNotCoverWhatIsVisible) {
    const uint8_t* k = s.store[0].data();
    refuse_keys({});
    refuse_keys({{k, 0, 9, 256}});
    refuse_keys({{k, 1, 9, 256}});
    refuse_keys({{k, 0, 4, 256}, {k, 5, 5, 256}});
    refuse_keys({{k, 0, 0, 256}});
}

TEST_F(Arguments, KeysThatCannotBe) {
    const uint8_t* k = s.store[0].data();
    refuse_keys({{nullptr, 0, 10, 256}});
    refuse_keys({{k, 0, 10, 255}}); // rows would overlap
    refuse_keys({{k, 0, 10, 0}});
    refuse_keys({{k, 0, -1, 256}});
    refuse_keys({{k, -1, 11, 256}});
    refuse_keys({{k, 0, 6, 256}, {k, 5, 5, 256}});
    refuse_keys({{k, 5, 5, 256}, {k, 0, 5, 256}});
    refuse_keys({{k, 0, far, 256}}); // longer than an address space
    refuse_keys({{k, 0, 10, std::numeric_limits<size_t>::max()}});
    refuse_keys({{k, 0, 10, 256}, {k, far, far, 256}});
}

TEST_F(Arguments, HeadsTheLayerDoesNotHave) {
    for (const auto& [begin, end] :
         {std::pair{0, 5}, {-1, 2}, {3, 2}, {2, 2}, {0, std::numeric_limits<int32_t>::max()}}) {
        r.head_begin = begin, r.head_end = end;
        refuse();
    }
}

TEST_F(Arguments, NoRoomForTheResult) {
    r.n_columns = 11;
    refuse();
    r.n_columns = far;
    refuse();
    r.n_columns = -1;
    refuse();
    r = s.request();
    lse.resize(3);
    refuse();
}

TEST_F(Arguments, LayersThatCannotBe) {
    constexpr int32_t huge = std::numeric_limits<int32_t>::max();
    refuse_layer([](LayerInfo& l) { l.absent = "recurrent"; });
    refuse_layer([](LayerInfo& l) { l.n_head_kv = 3; });
    refuse_layer([](LayerInfo& l) { l.n_head_kv = 0; });
    refuse_layer([](LayerInfo& l) { l.n_head_kv = -2; });
    refuse_layer([](LayerInfo& l) { l.n_head = 0; });
    refuse_layer([](LayerInfo& l) { l.n_head = huge, l.n_head_kv = huge, l.head_dim = huge; });
    refuse_layer([](LayerInfo& l) { l.head_dim = huge; });
    refuse_layer([](LayerInfo& l) { l.head_dim = 0; });
    refuse_layer([](LayerInfo& l) { l.head_dim = -64; });
    refuse_layer([](LayerInfo& l) { l.q_type = l.k_type = DType::q8_0, l.head_dim = 48; });
    refuse_layer([](LayerInfo& l) { l.sinks = {1.0f, 2.0f}; });
}

TEST_F(Arguments, AlibiWithoutPositions) {
    r.positions = {};
    refuse_layer([](LayerInfo& l) { l.max_bias = 8.0f; });
    refuse_layer([](LayerInfo& l) { l.bias.assign(size_t(l.n_head) * 3, 0.0f), l.bias_reach = 1; });
}

TEST_F(Arguments, ABiasThatIsNoTableOfHeadsAndDistances) {
    refuse_layer([](LayerInfo& l) { l.bias.assign(size_t(l.n_head) * 3, 0.0f), l.bias_reach = 2; });
    refuse_layer([](LayerInfo& l) { l.bias.assign(size_t(l.n_head) * 3, 0.0f), l.bias_reach = -2; });
    refuse_layer([](LayerInfo& l) { l.bias.assign(size_t(l.n_head) * 3 - 1, 0.0f), l.bias_reach = 1; });
}

TEST_F(Arguments, RulesThatGiveNoRowsYetAreRefused) {
    refuse_layer([](LayerInfo& l) { l.key_source = KeySource::sequence; }, ErrorKind::unsupported);
}

TEST_F(Arguments, TypesThatTheEngineDoesNotMultiply) {
    const auto pair = [&](DType q, DType k) {
        refuse_layer([&](LayerInfo& l) { l.q_type = q, l.k_type = k; }, ErrorKind::unsupported);
    };
    pair(DType::bf16, DType::f16);
    pair(DType::f16, DType::f32);
    pair(DType::f16, DType::q8_0);
    pair(DType::q8_0, DType::q4_1); // q8_1 goes with q4_1
    pair(DType::q8_1, DType::q8_1); // ggml has no such product
    pair(DType::q8_0, DType::f16);
    pair(static_cast<DType>(999), DType::f16);
    pair(DType::f16, static_cast<DType>(-5));
}

TEST_F(Arguments, SeveralRequestsFailAsOne) {
    RowsRequest good = s.request();
    RowsRequest bad = s.request();
    bad.head_end = 9;
    const RowsRequest requests[] = {good, bad};
    std::vector<float> more(40, 7.0f);
    const std::span<float> outs[] = {out, more};
    const auto result = attention_rows_parallel(requests, outs, 2);
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().message.find("request 1"), std::string::npos);
    for (const float w : out) ASSERT_EQ(w, 7.0f);
    EXPECT_FALSE(attention_rows_parallel(requests, {outs, 1}, 2).ok());
    EXPECT_TRUE(attention_rows_parallel({}, {}, 2).ok());
}

TEST_F(Arguments, AnyNumberOfThreadsGivesTheSameRows) {
    std::vector<float> want(40);
    std::vector<float> want_lse(4);
    ASSERT_TRUE(attention_rows(r, want, want_lse));
    const std::vector<RowsRequest> requests(5, r);
    for (const int32_t n : {-1, 0, 1, 2, 3, 100}) {
        std::vector<std::vector<float>> rows(5, std::vector<float>(40));
        std::vector<std::vector<float>> denominators(5, std::vector<float>(4));
        std::vector<std::span<float>> outs(rows.begin(), rows.end());
        std::vector<std::span<float>> lses(denominators.begin(), denominators.end());
        ASSERT_TRUE(attention_rows_parallel(requests, outs, n, lses));
        for (const auto& one : rows) EXPECT_EQ(one, want);
        for (const auto& one : denominators) EXPECT_EQ(one, want_lse);
    }
}
