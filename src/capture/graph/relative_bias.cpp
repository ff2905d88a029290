#include "capture/graph/relative_bias.h"

#include "attention/engine_arithmetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace attnscope::capture {

namespace {
constexpr int64_t max_distance = 128; // of T5: every greater one shares the last bucket
} // namespace

int32_t relative_bucket(int64_t distance, int64_t n_buckets, bool both_ways) {
    int64_t first = 0;
    if (both_ways) {
        n_buckets /= 2;
        first = distance > 0 ? n_buckets : 0;
        distance = std::abs(distance);
    } else {
        distance = -std::min<int64_t>(distance, 0);
    }
    const int64_t max_exact = std::max<int64_t>(n_buckets / 2, 1);
    if (distance < max_exact) return static_cast<int32_t>(first + distance);
    // in the engine's own types: where a logarithm falls on a whole number, rounding decides
    const auto exact = static_cast<double>(max_exact);
    const float log_distance = std::log(static_cast<float>(static_cast<double>(distance) / exact));
    const double step = static_cast<double>(log_distance * static_cast<float>(n_buckets - max_exact)) /
                        std::log(static_cast<double>(max_distance) / exact);
    const auto large = static_cast<int64_t>(std::floor(static_cast<float>(exact + step)));
    return static_cast<int32_t>(first + std::min(large, n_buckets - 1));
}

bool read_relative_bias(const AttentionNode& node, LayerInfo& info) {
    const auto n_head = size_t(ne(node.bias, 0)), n_bucket = size_t(ne(node.bias, 1));
    const ggml_type kind = type(node.bias);
    if (!dtype_known(kind) || n_head % size_t(ggml().blck_size(kind)) != 0) return false;
    std::vector<uint8_t> bytes(nbytes(node.bias));
    ggml().backend_tensor_get(node.bias, bytes.data(), 0, bytes.size());
    std::vector<float> rows(n_head * n_bucket);
    const auto to_float = attention::engine_arithmetic(static_cast<DType>(kind)).to_float;
    for (size_t b = 0; b < n_bucket; ++b) {
        const uint8_t* row = bytes.data() + b * nb(node.bias, 1);
        if (kind == GGML_TYPE_F32)
            std::memcpy(rows.data() + b * n_head, row, n_head * sizeof(float));
        else if (to_float)
            to_float(row, rows.data() + b * n_head, static_cast<int64_t>(n_head));
        else
            return false;
    }
    info.bias_reach = max_distance;
    info.bias.clear();
    for (size_t h = 0; h < n_head; ++h) {
        for (int64_t d = -max_distance; d <= max_distance; ++d) {
            const auto bucket = size_t(relative_bucket(d, static_cast<int64_t>(n_bucket), node.graph_keys));
            info.bias.push_back(rows[bucket * n_head + h] * node.post_scale);
        }
    }
    return true;
}

bool buckets_fit(const AttentionNode& node, const uint8_t* buckets, std::span<const int32_t> queries,
                 std::span<const Ranges> visible, std::span<const int32_t> cells) {
    const auto n_kv = size_t(ne(node.buckets, 0));
    std::vector<int32_t> expected; // by distance
    for (int64_t d = -max_distance; d <= max_distance; ++d)
        expected.push_back(relative_bucket(d, ne(node.bias, 1), node.graph_keys));
    for (size_t j = 0; j < queries.size(); ++j) {
        for (const Range& r : visible[j]) {
            for (auto i = size_t(r.begin); i < size_t(r.end); ++i) {
                if (i >= n_kv || i >= cells.size()) return false;
                int32_t bucket = 0;
                std::memcpy(&bucket, buckets + (j * n_kv + i) * sizeof bucket, sizeof bucket);
                const int64_t distance = static_cast<int64_t>(cells[i]) - queries[j];
                if (bucket != expected[size_t(std::clamp(distance, -max_distance, max_distance) + max_distance)])
                    return false;
            }
        }
    }
    return true;
}

} // namespace attnscope::capture
