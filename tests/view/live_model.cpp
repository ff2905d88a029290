#include "view/live_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

namespace attnscope::test {

namespace {

void append(std::vector<uint8_t>& to, const std::vector<uint8_t>& bytes) {
    to.insert(to.end(), bytes.begin(), bytes.end());
}

std::vector<uint8_t> random_heads(DType type, int32_t n_head, int32_t head_dim, float spread, std::mt19937& rng) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> x(static_cast<size_t>(n_head) * static_cast<size_t>(head_dim));
    for (float& v : x) v = normal(rng);
    return encode(type, x);
}

} // namespace

LiveModel::LiveModel(const LiveShape& shape, uint32_t seed) : rng_(seed) {
    geometry_.n_mask_groups = shape.sliding ? 2 : 1;
    for (int32_t i = 0; i < shape.n_layer; ++i) {
        LayerInfo layer = make_layer(shape.k_type, shape.n_head_kv, shape.group, shape.head_dim);
        layer.layer = i;
        layer.k_layer = i;
        layer.mask_group = shape.sliding && i % 2 == 1 ? 1 : 0;
        if (shape.extras) {
            layer.softcap = 20.0f;
            layer.post_scale = 1.25f;
            layer.max_bias = i % 2 == 0 ? 8.0f : 0.0f;
            for (int32_t h = 0; h < layer.n_head; ++h) layer.sinks.push_back(0.3f * static_cast<float>(h) - 1.0f);
        }
        geometry_.layers.push_back(std::move(layer));
    }
    if (shape.uneven) {
        geometry_.layers[1].absent = "recurrent";
        LayerInfo& fewer = geometry_.layers[2];
        fewer.n_head_kv = (fewer.n_head_kv + 1) / 2;
        fewer.n_head = fewer.n_head_kv * shape.group;
        fewer.sinks.resize(shape.extras ? static_cast<size_t>(fewer.n_head) : 0);
        if (shape.n_layer > 3) geometry_.layers.back().k_layer = 0;
    }
}

Frame LiveModel::next(bool batched) {
    Frame frame;
    frame.index = static_cast<int64_t>(keys_.size());
    frame.position = static_cast<int32_t>(frame.index * 2); // gaps, so that ALiBi cannot take the column for it
    frame.batched = batched;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        const LayerInfo& layer = geometry_.layers[static_cast<size_t>(i)];
        if (!layer.captured()) continue;
        append(frame.q, random_heads(layer.q_type, layer.n_head, layer.head_dim, 2.0f, rng_));
        if (geometry_.owns_k(i))
            append(frame.k, random_heads(layer.k_type, layer.n_head_kv, layer.head_dim, 1.0f, rng_));
    }
    const int64_t n = frame.index + 1;
    frame.visible.push_back({{0, n}});
    if (geometry_.n_mask_groups == 2) frame.visible.push_back({{std::max<int64_t>(0, n - 20), n}});
    keys_.push_back(frame.k);
    positions_.resize(keys_.size());
    positions_.back() = frame.position;
    return frame;
}

Sample LiveModel::sample(const Frame& frame, int32_t i) const {
    Sample s;
    s.layer = geometry_.layers[static_cast<size_t>(i)];
    const auto q = frame.q.begin() + static_cast<ptrdiff_t>(geometry_.q_offset(i));
    s.q.assign(q, q + static_cast<ptrdiff_t>(s.layer.q_bytes()));
    const auto offset = static_cast<ptrdiff_t>(geometry_.k_offset(s.layer.k_layer));
    std::vector<uint8_t> all;
    for (int64_t c = 0; c <= frame.index; ++c) {
        const auto k = keys_[static_cast<size_t>(c)].begin() + offset;
        s.keys.emplace_back(k, k + static_cast<ptrdiff_t>(s.layer.k_bytes()));
        append(all, s.keys.back());
        s.positions.push_back(positions_[static_cast<size_t>(c)]);
    }
    s.store.push_back(std::move(all));
    s.blocks = {{s.store[0].data(), 0, s.n_columns(), s.layer.k_bytes()}};
    s.visible = frame.visible[static_cast<size_t>(s.layer.mask_group)];
    s.position = frame.position;
    return s;
}

std::vector<double> LiveModel::reference(const Frame& frame) const {
    const auto n = static_cast<size_t>(frame.index + 1);
    const auto heads = static_cast<size_t>(geometry_.max_heads());
    std::vector<double> all(static_cast<size_t>(geometry_.n_layer()) * heads * n, 0.0);
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        if (!geometry_.layers[static_cast<size_t>(i)].captured()) continue;
        const auto rows = reference_rows(sample(frame, i)).rows;
        std::copy(rows.begin(), rows.end(), all.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(i) * heads * n));
    }
    return all;
}

std::vector<float> LiveModel::rows(const Frame& frame) const {
    const auto n = static_cast<size_t>(frame.index + 1);
    const auto heads = static_cast<size_t>(geometry_.max_heads());
    std::vector<float> all(static_cast<size_t>(geometry_.n_layer()) * heads * n, 0.0f);
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        const LayerInfo& layer = geometry_.layers[static_cast<size_t>(i)];
        if (!layer.captured()) continue;
        const Sample s = sample(frame, i);
        RowsRequest request = s.request();
        request.batched = frame.batched;
        const auto ok = attention_rows(request, std::span<float>(all).subspan(static_cast<size_t>(i) * heads * n,
                                                                              static_cast<size_t>(layer.n_head) * n));
        EXPECT_TRUE(ok) << (ok ? "" : ok.error().message);
    }
    return all;
}

LiveShape random_live_shape(std::mt19937& rng) {
    constexpr DType types[] = {DType::f16, DType::f16, DType::bf16, DType::f32, DType::q8_0, DType::q4_0, DType::q5_1};
    constexpr int32_t dims[] = {32, 64, 80, 96, 128};
    LiveShape shape;
    shape.k_type = types[rng() % std::size(types)];
    shape.head_dim = dims[rng() % std::size(dims)];
    if (dtype_block(shape.k_type) > 1 && shape.head_dim == 80) shape.head_dim = 64;
    shape.n_layer = 3 + static_cast<int32_t>(rng() % 3);
    shape.n_head_kv = 1 + static_cast<int32_t>(rng() % 3);
    shape.group = 1 + static_cast<int32_t>(rng() % 9);
    shape.uneven = rng() % 2 == 0;
    shape.sliding = rng() % 2 == 0;
    shape.extras = rng() % 3 == 0;
    return shape;
}

} // namespace attnscope::test
