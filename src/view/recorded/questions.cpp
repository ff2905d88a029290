#include "view/recorded/questions.h"

#include "attention/dots.h"
#include "base/parallel_for.h"
#include "view/recorded/blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>

namespace attnscope::view {

namespace {

bool is_float(DType type) {
    return type == DType::f16 || type == DType::bf16 || type == DType::f32;
}

// One key of a layer, and what later queries give to it: a dot product a query. A call of attention_rows for each would cost twenty
// times as much.
class OneKey {
public:
    OneKey(const RecordedTensors& t, int32_t layer, int64_t token)
        : info_(t.geometry().layers[static_cast<size_t>(layer)]), layer_(layer), token_(token),
          plain_(is_float(info_.k_type) && is_float(info_.q_type) && !info_.by_distance()) {
        if (!plain_) return;
        const auto n = static_cast<size_t>(info_.n_head_kv) * static_cast<size_t>(info_.head_dim);
        std::vector<uint8_t> bytes(info_.k_bytes());
        const size_t head_bytes = bytes.size() / static_cast<size_t>(info_.n_head_kv);
        for (int32_t head = 0; head < info_.n_head_kv; ++head)
            t.tiles(layer).key(info_, head, token, bytes.data() + static_cast<size_t>(head) * head_bytes);
        key_.resize(n);
        attention::to_floats(info_.k_type, bytes.data(), key_.data(), static_cast<int64_t>(n));
    }
    bool plain() const { return plain_; }

    // of_heads: weights of the token's rows of `heads`, whose denominators are `lse`.
    void weights(const RecordedTensors& t, int64_t i, Range heads, std::span<const double> lse, std::vector<float>& q,
                 std::span<float> of_heads) const {
        std::fill(of_heads.begin(), of_heads.end(), 0.0f);
        const Ranges& visible = t.frame(i).visible[static_cast<size_t>(info_.mask_group)];
        if (std::none_of(visible.begin(), visible.end(),
                         [&](const Range& r) { return r.begin <= token_ && token_ < r.end; })) {
            return;
        }
        const auto dim = static_cast<size_t>(info_.head_dim);
        const size_t q_head_bytes = info_.q_bytes() / static_cast<size_t>(info_.n_head);
        q.resize(of_heads.size() * dim);
        attention::to_floats(info_.q_type, t.query(i, layer_) + static_cast<size_t>(heads.begin) * q_head_bytes,
                             q.data(), static_cast<int64_t>(q.size()));
        const int32_t group = info_.n_head / info_.n_head_kv;
        for (size_t h = 0; h < of_heads.size(); ++h) {
            const float* const k =
                key_.data() + static_cast<size_t>((heads.begin + static_cast<int64_t>(h)) / group) * dim;
            const float* const own = q.data() + h * dim;
            double lanes[8] = {};
            size_t d = 0;
            for (; d + 8 <= dim; d += 8) {
                for (size_t lane = 0; lane < 8; ++lane) lanes[lane] += double(own[d + lane]) * double(k[d + lane]);
            }
            for (; d < dim; ++d) lanes[0] += double(own[d]) * double(k[d]);
            double dot = 0;
            for (const double lane : lanes) dot += lane;
            double score = dot * double(info_.scale);
            if (info_.softcap > 0) score = double(info_.softcap) * std::tanh(score / double(info_.softcap));
            of_heads[h] = static_cast<float>(std::exp(score * double(info_.post_scale) - lse[h]));
        }
    }

private:
    const LayerInfo& info_;
    int32_t layer_;
    int64_t token_;
    bool plain_;
    std::vector<float> key_; // (n_head_kv, head_dim)
};

} // namespace

Result<std::vector<float>> column(const RecordedTensors& t, int64_t token, const Selection& s) {
    if (token < 0 || token >= t.size())
        return Error{ErrorKind::not_found, fmt::format("there is no token {}: the recording has {}", token, t.size())};
    if (Result<void> r = t.check(s); !r) return r.error();
    if (std::string why = t.why_unseen(token, s); !why.empty()) return Error{ErrorKind::not_found, std::move(why)};
    const auto n = static_cast<size_t>(t.size() - token);
    const std::vector<int32_t> layers = t.layers_of(s);
    std::vector<std::vector<std::span<const double>>> lse(layers.size()); // (layers, heads): of every token
    for (size_t l = 0; l < layers.size(); ++l) {
        const Range heads = t.heads_of(s, layers[l]);
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            Result<std::span<const double>> d = t.denominators(layers[l], static_cast<int32_t>(h));
            if (!d) return d.error();
            lse[l].push_back(*d);
        }
    }
    std::vector<OneKey> keys;
    for (const int32_t layer : layers) keys.emplace_back(t, layer, token);
    std::vector<float> out(n, 0.0f);
    std::mutex mutex;
    Result<void> status;
    constexpr size_t block = 64;
    base::parallel_for_all((n + block - 1) / block, [&](size_t b) {
        std::vector<float> of_heads, scratch;
        std::vector<double> row_lse;
        for (size_t k = b * block; k < std::min(n, (b + 1) * block); ++k) {
            const int64_t i = token + static_cast<int64_t>(k);
            const auto n_rows = static_cast<double>(t.has_rows(i) ? t.n_rows(s, i) : 0);
            if (n_rows == 0) { // what it gives is not known, which is not nothing
                out[k] = std::numeric_limits<float>::quiet_NaN();
                continue;
            }
            double sum = 0;
            float most = 0;
            for (size_t l = 0; l < layers.size(); ++l) {
                if (!t.has_rows(i, layers[l])) continue;
                const Range heads = t.heads_of(s, layers[l]);
                of_heads.resize(static_cast<size_t>(heads.end - heads.begin));
                row_lse.clear();
                for (const std::span<const double> head : lse[l]) row_lse.push_back(head[static_cast<size_t>(i)]);
                Result<void> r;
                if (keys[l].plain())
                    keys[l].weights(t, i, heads, row_lse, scratch, of_heads);
                else
                    r = t.part(i, layers[l], heads, {token, token + 1},
                               std::vector<float>(row_lse.begin(), row_lse.end()), of_heads);
                if (!r) {
                    const std::lock_guard lock(mutex);
                    status = r;
                    return;
                }
                for (const float w : of_heads) {
                    sum += double(w);
                    most = std::max(most, w);
                }
            }
            out[k] = s.max ? most : static_cast<float>(sum / n_rows);
        }
    });
    if (!status) return status.error();
    return out;
}

Result<Difference> difference(const RecordedTensors& a, const RecordedTensors& b, const Progress& progress) {
    Difference d;
    d.n_layer = a.geometry().n_layer();
    d.n_head = a.geometry().max_heads();
    if (b.geometry().n_layer() != d.n_layer || b.geometry().max_heads() != d.n_head) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("the recordings are of models of other shapes: {} x {} and {} x {} layers and heads",
                                 d.n_layer, d.n_head, b.geometry().n_layer(), b.geometry().max_heads())};
    }
    while (d.n_tokens < std::min(a.size(), b.size()) && a.frame(d.n_tokens).token == b.frame(d.n_tokens).token)
        ++d.n_tokens;
    if (d.n_tokens == 0)
        return Error{ErrorKind::invalid_argument,
                     "the recordings differ in their first token: there is nothing to compare"};
    d.distance.assign(static_cast<size_t>(d.n_layer) * static_cast<size_t>(d.n_head),
                      std::numeric_limits<double>::quiet_NaN());
    std::atomic<int32_t> done{0};
    std::mutex mutex;
    Result<void> status;
    base::parallel_for_all(static_cast<size_t>(d.n_layer), [&](size_t l) {
        const auto layer = static_cast<int32_t>(l);
        const auto n_head = static_cast<size_t>(a.geometry().layers[l].n_head);
        const bool both = a.has_layer(layer) && b.has_layer(layer) && b.geometry().layers[l].n_head == int32_t(n_head);
        std::vector<double> sum(n_head, 0.0);
        std::vector<float> of_a, of_b;
        int64_t n = 0;
        for (int64_t i = 1; both && i < d.n_tokens; ++i) {
            {
                const std::lock_guard lock(mutex);
                if (!status) return;
                if (progress && i % 64 == 0 && !progress((done + double(i) / double(d.n_tokens)) / d.n_layer))
                    status = Error{ErrorKind::io, "stopped before it was done"};
            }
            if (!a.has_rows(i, layer) || !b.has_rows(i, layer) || a.n_columns(i) != b.n_columns(i)) continue;
            const auto width = static_cast<size_t>(a.n_columns(i));
            of_a.resize(n_head * width);
            of_b.resize(n_head * width);
            Result<void> r = a.rows(i, layer, {0, int64_t(n_head)}, of_a);
            if (r) r = b.rows(i, layer, {0, int64_t(n_head)}, of_b);
            if (!r) {
                const std::lock_guard lock(mutex);
                status = r;
                return;
            }
            for (size_t h = 0; h < n_head; ++h) {
                double apart = 0;
                for (size_t j = h * width; j < (h + 1) * width; ++j)
                    apart += std::abs(double(of_a[j]) - double(of_b[j]));
                sum[h] += 0.5 * apart;
            }
            ++n;
        }
        for (size_t h = 0; n > 0 && h < n_head; ++h)
            d.distance[l * static_cast<size_t>(d.n_head) + h] = sum[h] / double(n);
        ++done;
    });
    if (!status) return status.error();
    return d;
}

} // namespace attnscope::view
