// Captures of attention made from random queries and keys, and every way of spoiling them that `diagnose`
// names. Deterministic: the same seed makes the same capture on every machine up to floating-point rounding.
#pragma once

#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace attnscope::test {

struct SyntheticShape {
    int32_t n_layer = 6;
    int32_t n_head = 8;
    int32_t n_head_kv = 2;
    int32_t head_dim = 64;
    int64_t window = 0; // sliding window of every second layer; 0: none
    bool window_everywhere = false;
    bool sinks = false; // learned sinks
    float softcap = 0;
    bool alibi = false;
    int32_t pure_sink_heads = 0; // heads of each layer that look at the first position only, exactly
    int32_t uniform_heads = 0;   // heads of each layer that look at everything alike, exactly
    bool half = false;           // rounded to float16, as many captures are
};

struct SyntheticToken {
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int64_t n_context = 0;
    int64_t stated_context = -1;
    int64_t own_column = -1;   // of a prompt's query
    std::vector<float> values; // (n_layer, n_head, n_context)

    DumpToken view(int64_t index) const;
    float* row(int32_t layer, int32_t head) { return values.data() + (int64_t(layer) * n_head + head) * n_context; }
};

struct SyntheticCapture {
    DumpInfo info;
    std::vector<SyntheticToken> tokens;
    Diagnosis diagnose() const;
};

class SyntheticModel {
public:
    SyntheticModel(const SyntheticShape& shape, uint64_t seed);
    const SyntheticShape& shape() const { return shape_; }

    // Scores of the token at `position` against positions 0..position: scaled, without a mask.
    SyntheticToken scores(int64_t position);
    // What a true capture holds.
    SyntheticToken attention(int64_t position);
    // Positions of `layer` that the token at `position` sees begin here.
    int64_t first_visible(int32_t layer, int64_t position) const;
    // Softmax over visible positions, with the sink where the model has one.
    void to_attention(SyntheticToken& scores, int64_t position) const;

private:
    void extend(int64_t n);
    SyntheticShape shape_;
    std::mt19937_64 random_;
    std::vector<std::vector<float>> keys_; // (layer, kv head) -> (position, head_dim)
    struct Head {
        float recency, first, sharpness, sink;
    };
    std::vector<Head> heads_; // (layer, head)
    uint64_t seed_;
};

// One way of spoiling a capture.
struct Damage {
    Cause cause;
    std::string name;
};
std::vector<Damage> damages(); // clean and learned sinks among them
// A capture of random shape and length with this damage.
SyntheticCapture make_damaged(const Damage& damage, uint64_t seed);
// The same of one shape: a prompt, or a way of storing or evicting, for models whose attention looks odd.
SyntheticCapture make_damaged(const Damage& damage, const SyntheticShape& shape, int64_t n_tokens, uint64_t seed);
SyntheticCapture make_clean(const SyntheticShape& shape, int64_t first_position, int64_t n_tokens, uint64_t seed);
SyntheticShape random_shape(uint64_t seed);

float round_to_half(float x);

} // namespace attnscope::test
