#include "support/capture_maker.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace attnscope::test {

namespace {

// std::normal_distribution differs between libraries; the sum of four uniforms is near enough to a normal.
float normal(std::mt19937_64& random) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += float(random() >> 40) * 0x1p-24f - 0.5f;
    return sum * std::sqrt(3.0f);
}

float uniform(std::mt19937_64& random, float low, float high) {
    return low + (high - low) * float(random() >> 40) * 0x1p-24f;
}

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

} // namespace

float round_to_half(float x) {
    if (!std::isfinite(x)) return x;
    if (std::abs(x) >= 65520.0f) return std::copysign(std::numeric_limits<float>::infinity(), x);
    int exponent = 0;
    std::frexp(x, &exponent);
    const int bits = std::max(exponent - 11, -24); // 11 significant bits, subnormals below 2^-14
    return std::ldexp(std::nearbyint(std::ldexp(x, -bits)), bits);
}

DumpToken SyntheticToken::view(int64_t index) const {
    DumpToken token;
    token.index = token.number = index;
    token.source = "synthetic";
    token.n_layer = n_layer;
    token.n_head = n_head;
    token.n_context = n_context;
    token.stated_context = stated_context;
    token.own_column = own_column;
    token.values = values;
    return token;
}

Diagnosis SyntheticCapture::diagnose() const {
    Diagnoser diagnoser(info);
    for (size_t i = 0; i < tokens.size(); ++i) diagnoser.add(tokens[i].view(int64_t(i)));
    return diagnoser.finish();
}

SyntheticModel::SyntheticModel(const SyntheticShape& shape, uint64_t seed) : shape_(shape), random_(seed), seed_(seed) {
    keys_.resize(size_t(shape.n_layer) * size_t(shape.n_head_kv));
    for (int32_t i = 0; i < shape.n_layer * shape.n_head; ++i) {
        heads_.push_back({uniform(random_, 0.0f, 0.15f), uniform(random_, 0.0f, 4.0f), uniform(random_, 0.6f, 2.0f),
                          uniform(random_, 0.5f, 4.0f)});
    }
}

void SyntheticModel::extend(int64_t n) {
    for (size_t i = 0; i < keys_.size(); ++i) {
        // each key depends on the seed, the head and the position alone, so that captures may begin anywhere
        for (int64_t p = int64_t(keys_[i].size()) / shape_.head_dim; p < n; ++p) {
            std::mt19937_64 random(seed_ * 7919 + i * 104729 + uint64_t(p) * 1299709 + 1);
            for (int32_t d = 0; d < shape_.head_dim; ++d) keys_[i].push_back(normal(random));
        }
    }
}

int64_t SyntheticModel::first_visible(int32_t layer, int64_t position) const {
    const bool windowed = shape_.window > 0 && (shape_.window_everywhere || layer % 2 == 0);
    return windowed ? std::max<int64_t>(0, position + 1 - shape_.window) : 0;
}

SyntheticToken SyntheticModel::scores(int64_t position) {
    extend(position + 1);
    SyntheticToken token;
    token.n_layer = shape_.n_layer;
    token.n_head = shape_.n_head;
    token.n_context = position + 1;
    token.stated_context = position + 1;
    token.values.resize(size_t(shape_.n_layer) * size_t(shape_.n_head) * size_t(position + 1));
    std::mt19937_64 random(seed_ * 31 + uint64_t(position) * 2654435761u + 5);
    std::vector<float> query(static_cast<size_t>(shape_.head_dim));
    const float scale = 1.0f / std::sqrt(float(shape_.head_dim));
    for (int32_t l = 0; l < shape_.n_layer; ++l) {
        for (int32_t h = 0; h < shape_.n_head; ++h) {
            const Head& head = heads_[size_t(l * shape_.n_head + h)];
            for (float& x : query) x = normal(random) * head.sharpness;
            const auto& keys = keys_[size_t(l * shape_.n_head_kv + h / (shape_.n_head / shape_.n_head_kv))];
            float* row = token.row(l, h);
            for (int64_t p = 0; p <= position; ++p) {
                float dot = 0;
                const float* key = keys.data() + p * shape_.head_dim;
                for (int32_t d = 0; d < shape_.head_dim; ++d) dot += query[size_t(d)] * key[d];
                float score = dot * scale + (p == 0 ? head.first : 0.0f);
                if (shape_.softcap > 0) score = shape_.softcap * std::tanh(score / shape_.softcap);
                const float distance = float(position - p);
                score -= shape_.alibi ? distance * std::exp2(-8.0f * float(h + 1) / float(shape_.n_head))
                                      : std::min(3.0f, head.recency * distance);
                row[p] = score;
            }
        }
    }
    return token;
}

void SyntheticModel::to_attention(SyntheticToken& token, int64_t position) const {
    for (int32_t l = 0; l < token.n_layer; ++l) {
        const int64_t first = first_visible(l, position);
        for (int32_t h = 0; h < token.n_head; ++h) {
            float* row = token.row(l, h);
            if (h < shape_.pure_sink_heads + shape_.uniform_heads) {
                const bool sink = h < shape_.pure_sink_heads;
                for (int64_t p = 0; p <= position; ++p) {
                    row[p] = p < first ? 0.0f : sink ? (p == first ? 1.0f : 0.0f) : 1.0f / float(position + 1 - first);
                }
                continue;
            }
            float most = shape_.sinks ? heads_[size_t(l * shape_.n_head + h)].sink : minus_infinity;
            for (int64_t p = first; p <= position; ++p) most = std::max(most, row[p]);
            double sum = shape_.sinks ? std::exp(double(heads_[size_t(l * shape_.n_head + h)].sink - most)) : 0.0;
            for (int64_t p = first; p <= position; ++p) sum += std::exp(double(row[p] - most));
            for (int64_t p = 0; p <= position; ++p) {
                row[p] = p < first ? 0.0f : float(std::exp(double(row[p] - most)) / sum);
                if (shape_.half) row[p] = round_to_half(row[p]);
            }
        }
    }
}

SyntheticToken SyntheticModel::attention(int64_t position) {
    SyntheticToken token = scores(position);
    to_attention(token, position);
    return token;
}

SyntheticShape random_shape(uint64_t seed) {
    std::mt19937_64 random(seed * 977 + 13);
    static constexpr int32_t shapes[][4] = {{4, 8, 2, 64},  {6, 14, 2, 64}, {8, 4, 4, 32}, {3, 12, 4, 128},
                                            {10, 6, 1, 64}, {2, 16, 8, 96}, {12, 4, 2, 64}};
    const auto& chosen = shapes[random() % std::size(shapes)];
    SyntheticShape shape;
    shape.n_layer = chosen[0];
    shape.n_head = chosen[1];
    shape.n_head_kv = chosen[2];
    shape.head_dim = chosen[3];
    return shape;
}

SyntheticCapture make_clean(const SyntheticShape& shape, int64_t first_position, int64_t n_tokens, uint64_t seed) {
    SyntheticModel model(shape, seed);
    SyntheticCapture capture;
    capture.info.path = "synthetic";
    capture.info.format = "synthetic";
    capture.info.storage = shape.half ? "float16" : "float32";
    for (int64_t t = 0; t < n_tokens; ++t) capture.tokens.push_back(model.attention(first_position + t));
    capture.info.n_tokens = n_tokens;
    return capture;
}

} // namespace attnscope::test
