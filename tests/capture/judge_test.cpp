// Verdicts of frames that come together are those of frames that come one by one.
#include "capture/proof/judge.h"
#include "recording/synthetic.h"

#include <gtest/gtest.h>

#include <cstring>

using namespace attnscope;
using namespace attnscope::test;
using namespace attnscope::capture;

TEST(Judge, FindsTheSameInManyFramesAsInEach) {
    const Geometry geometry = mixed_geometry();
    std::vector<Frame> frames;
    for (int64_t i = 0; i < 200; ++i) {
        Frame f = make_frame(geometry, i);
        f.witnesses.clear();
        f.witnesses.push_back({0, 0, 1e-6f, 1e-3f, geometry.layers[0].sinks.empty() ? 1.0f : 0.5f, 0});
        if (i % 10 == 3) std::memset(f.k.data(), 0xFF, 64);            // not finite
        if (i % 10 == 4) f.q.clear();                                  // rows not kept
        if (i % 10 == 6) f.q = frames.back().q, f.k = frames.back().k; // the frame before once more
        if (i % 10 == 8) f.witnesses[0].error = 1;
        frames.push_back(std::move(f));
    }
    std::vector<Frame> together = frames;
    Judge one_by_one(geometry), all(geometry);
    for (Frame& f : frames) one_by_one.judge(f);
    all.judge(together);
    std::vector<Frame> known = frames; // what can be found out beforehand was
    std::vector<capture::FrameFacts> facts;
    for (const Frame& f : known) facts.push_back(inspect(geometry, f));
    Judge told(geometry);
    told.judge(known, std::move(facts));
    uint32_t seen = 0;
    for (size_t i = 0; i < frames.size(); ++i) {
        EXPECT_EQ(together[i].verdict, frames[i].verdict) << i;
        EXPECT_EQ(known[i].verdict, frames[i].verdict) << i;
        seen |= frames[i].verdict;
        EXPECT_EQ((frames[i].verdict & verdict_stale) != 0, i % 10 == 6) << i;
        EXPECT_EQ((frames[i].verdict & verdict_not_finite) != 0, i % 10 == 3) << i;
    }
    EXPECT_EQ(seen & (verdict_stale | verdict_not_finite | verdict_witness_failed),
              verdict_stale | verdict_not_finite | verdict_witness_failed);
}

TEST(Judge, OneLayerMayComputeTheSameOfTheSameToken) {
    for (const int32_t n_layer : {1, 2}) {
        Geometry geometry;
        Frame frame;
        for (int32_t l = 0; l < n_layer; ++l) {
            LayerInfo layer;
            layer.layer = layer.k_layer = l;
            layer.n_head = layer.n_head_kv = 1;
            layer.head_dim = layer.head_dim_v = 2;
            layer.q_type = layer.k_type = DType::f16;
            geometry.layers.push_back(layer);
            for (uint8_t i = 0; i < 4; ++i) {
                frame.q.push_back(static_cast<uint8_t>(1 + l * 8 + i));
                frame.k.push_back(static_cast<uint8_t>(5 + l * 8 + i));
            }
        }
        Judge judge(geometry);
        Frame again = frame;
        judge.judge(frame);
        judge.judge(again);
        EXPECT_EQ(frame.verdict & verdict_stale, 0u);
        EXPECT_EQ((again.verdict & verdict_stale) != 0, n_layer > 1);
    }
}
