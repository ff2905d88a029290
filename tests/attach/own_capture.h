// A recording of a program that computes with the very code of our own engine is that of `attnscope capture`, bit for bit.
#pragma once

#include "attention/engine_arithmetic.h"
#include "support/shell.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace attnscope::test {

// Queries as a capture of ours would have kept them: in float32, and the numbers of f16 that they are, where a CPU's flash attention
// would multiply those of more tokens unrounded.
inline std::vector<uint8_t> as_kept(const Geometry& theirs, const Geometry& ours, const std::vector<uint8_t>& q) {
    std::vector<uint8_t> kept;
    for (int32_t l = 0; l < theirs.n_layer(); ++l) {
        const LayerInfo& layer = theirs.layers[size_t(l)];
        const uint8_t* from = q.data() + theirs.q_offset(l);
        if (ours.layers[size_t(l)].q_type == layer.q_type) {
            kept.insert(kept.end(), from, from + layer.q_bytes());
            continue;
        }
        EXPECT_TRUE(layer.q_type == DType::f16 && ours.layers[size_t(l)].q_type == DType::f32);
        std::vector<uint16_t> halves(layer.q_bytes() / sizeof(uint16_t));
        std::memcpy(halves.data(), from, layer.q_bytes());
        std::vector<float> floats(halves.size());
        attention::f16_to_f32(halves.data(), floats.data(), int64_t(halves.size()));
        const auto* bytes = reinterpret_cast<const uint8_t*>(floats.data());
        kept.insert(kept.end(), bytes, bytes + floats.size() * sizeof(float));
    }
    return kept;
}

// What was run, and where files of the comparison may lie.
struct OwnCapture {
    std::string program, model, stem, prompt_ids;
    bool flash;
    std::string more = {}; // further options of attnscope capture
};

// `tokens`: what the program says that it decoded, 25 of its own at least.
inline void expect_rows_of_our_own_capture(const std::string& recorded, const std::vector<int32_t>& tokens,
                                           const OwnCapture& run) {
    const std::string ids = run.stem + ".ids", path = run.stem + ".attn";
    std::ofstream(ids) << run.prompt_ids;
    const Answer ours = shell_all(run.program + " capture -m " + run.model + " --input-ids " + ids +
                                  " -n 25 --temp 0 --ignore-eos -c 512 -t 2 -fa " + (run.flash ? "on" : "off") +
                                  run.more + " -o " + path);
    ASSERT_EQ(ours.code, 0) << ours.output;
    auto theirs = Recording::open(recorded), own = Recording::open(path);
    ASSERT_TRUE(theirs && own);
    EXPECT_TRUE((*theirs)->info().complete);
    EXPECT_EQ((*theirs)->info().model.sha256, (*own)->info().model.sha256);
    ASSERT_EQ((*theirs)->info().n_frames, int64_t(tokens.size()));
    const int64_t n = std::min((*own)->info().n_frames, (*theirs)->info().n_frames);
    ASSERT_GE(n, 30);
    for (int64_t i = 0; i < n; ++i) {
        auto a = (*theirs)->frame(i, true, true), b = (*own)->frame(i, true, true);
        ASSERT_TRUE(a && b);
        EXPECT_EQ(a->token, tokens[size_t(i)]);
        ASSERT_EQ(a->token, b->token) << i;
        EXPECT_EQ(a->position, b->position);
        EXPECT_EQ(a->verdict, verdict_ok);
        EXPECT_FALSE(a->witnesses.empty());
        EXPECT_EQ(as_kept((*theirs)->info().geometry, (*own)->info().geometry, a->q), b->q) << i;
        EXPECT_EQ(a->k, b->k) << i;
        auto rows = (*theirs)->rows(i), own_rows = (*own)->rows(i);
        ASSERT_TRUE(rows && own_rows);
        EXPECT_EQ(rows->weights, own_rows->weights) << i;
        EXPECT_EQ((*theirs)->token_text(a->token), (*own)->token_text(a->token));
    }
}

} // namespace attnscope::test
