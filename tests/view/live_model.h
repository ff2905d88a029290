// A session of random queries and keys: frames as the tap delivers them, and their rows in float64.
#pragma once

#include "attention/reference.h"

#include <attnscope/types.h>

#include <cstdint>
#include <random>
#include <vector>

namespace attnscope::test {

struct LiveShape {
    int32_t n_layer = 3;
    int32_t n_head_kv = 2;
    int32_t group = 2;
    int32_t head_dim = 32;
    DType k_type = DType::f16;
    // the second layer has no attention, the third half the KV heads, the last uses the first's keys
    bool uneven = false;
    bool sliding = false; // a second mask group that sees the last 20 columns
    bool extras = false;  // softcap, learned sinks, ALiBi
};

class LiveModel {
public:
    LiveModel(const LiveShape& shape, uint32_t seed);

    const Geometry& geometry() const { return geometry_; }
    // The next frame. Its keys are remembered for reference().
    Frame next(bool batched = false);
    void truncate(int64_t n) { keys_.resize(static_cast<size_t>(n)); }

    // (layer, head, n_columns) float64; zeros where there is no row.
    std::vector<double> reference(const Frame& frame) const;
    // The same by attention_rows, in float32.
    std::vector<float> rows(const Frame& frame) const;

private:
    Sample sample(const Frame& frame, int32_t layer) const;

    Geometry geometry_;
    std::mt19937 rng_;
    std::vector<std::vector<uint8_t>> keys_; // one a column: Frame::k
    std::vector<int32_t> positions_;
};

LiveShape random_live_shape(std::mt19937& rng);

} // namespace attnscope::test
