#include <attnscope/types.h>

#include <gtest/gtest.h>

using namespace attnscope;

TEST(Types, RowBytesMatchTheBlockLayout) {
    EXPECT_EQ(dtype_row_bytes(DType::f16, 64), 128u);
    EXPECT_EQ(dtype_row_bytes(DType::q8_0, 128), 136u);
    EXPECT_EQ(dtype_row_bytes(DType::q4_0, 64), 36u);
}

TEST(Types, OffsetsSkipLayersThatShareKeys) {
    Geometry g;
    g.layers.resize(3);
    for (int i = 0; i < 3; ++i) {
        auto& l = g.layers[size_t(i)];
        l.layer = i, l.n_head = 4, l.n_head_kv = 2, l.head_dim = 32, l.k_layer = i;
    }
    g.layers[1].k_layer = 0;
    EXPECT_EQ(g.q_offset(2), 2u * 4 * 64);
    EXPECT_EQ(g.k_offset(2), 2u * 64);
    EXPECT_EQ(g.k_bytes(), 2u * 2 * 64);
    EXPECT_EQ(g.n_rows(), 12);
}

TEST(Types, VerdictIsWords) {
    EXPECT_EQ(verdict_text(0), "ok");
    EXPECT_EQ(verdict_text(verdict_stale | verdict_row_sum), "row sum, previous frame again");
}
