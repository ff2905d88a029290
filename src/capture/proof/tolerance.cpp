#include "capture/proof/tolerance.h"

#include "attention/engine_arithmetic.h"
#include "attention/kernels/simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace attnscope::capture {

namespace {

constexpr double half_unit = 0x1.0p-11;
constexpr double bf16_unit = 0x1.0p-8;

double norm(std::span<const double> x) {
    double total = 0;
    for (const double v : x) total += v * v;
    return std::sqrt(total);
}

bool any_at_least(const float* x, int64_t n, float bound) { // NaN counts
    int found = 0;
    for (int64_t i = 0; i < n; ++i) found |= static_cast<int>(!(x[i] < bound));
    return found != 0;
}

// q8_1, the type that queries are converted to beside q4_1 and q5_1 keys, has no to_float in ggml. A block: the scale
// and the scaled sum of its elements (both f16), then 32 elements.
void q8_1_to_floats(const uint8_t* from, float* to, int64_t n) {
    constexpr int64_t block = 32;
    const size_t bytes = dtype_row_bytes(DType::q8_1, block);
    for (int64_t at = 0; at + block <= n; at += block, from += bytes) {
        uint16_t scale;
        std::memcpy(&scale, from, sizeof scale);
        float d = 0;
        attention::f16_to_f32(&scale, &d, 1);
        for (int64_t i = 0; i < block; ++i) {
            to[at + i] = d * static_cast<float>(static_cast<int8_t>(from[2 * sizeof scale + size_t(i)]));
        }
    }
}

void row_to_floats(DType type, const uint8_t* from, float* to, int64_t n) {
    if (type == DType::f32 || type == DType::f16 || type == DType::bf16)
        attention::to_floats(type, from, to, n);
    else if (type == DType::q8_1)
        q8_1_to_floats(from, to, n);
    else
        attention::engine_arithmetic(type).to_float(from, to, n);
}

// Which kernel of a GPU's multiplied a query with quantised keys is not known: some round it to eight bits as the CPU does, some do
// not (CUDA's for more than two tokens). The squares of what that is, evenly spread over a step of its block, in the unit of `squares`.
void add_rounding(DType type, const uint8_t* q, std::span<float> squares) {
    if (type != DType::q8_0 && type != DType::q8_1) return;
    constexpr size_t block = 32;
    const size_t bytes = dtype_row_bytes(type, block);
    for (size_t at = 0; at + block <= squares.size(); at += block, q += bytes) {
        uint16_t half;
        std::memcpy(&half, q, sizeof half);
        float step = 0;
        attention::f16_to_f32(&half, &step, 1);
        const auto add = static_cast<float>(double(step) * double(step) / (12 * half_unit * half_unit));
        for (size_t d = 0; d < block; ++d) squares[at + d] += add;
    }
}

void square(float* x, size_t n) {
    for (size_t i = 0; i < n; ++i) x[i] *= x[i];
}

// Only columns with some weight matter, and of many (more than 64 cannot have a weight above 1/64) a sample says enough.
template <class F> void each_that_matters(std::span<const Range> visible, const float* row, F&& f) {
    constexpr float some = 1e-4f, much = 1.0f / 64;
    constexpr int64_t step = 64;
    int64_t n = 0;
    for (const Range& r : visible) n += r.end - r.begin;
    const int64_t sample = std::max<int64_t>(1, n / 64);
    for (const Range& r : visible) {
        for (int64_t j = (r.begin + sample - 1) / sample * sample; j < r.end; j += sample) {
            if (!(row[j] < some)) f(j);
        }
        for (int64_t at = r.begin; at < r.end; at += step) {
            const int64_t end = std::min(at + step, r.end);
            if (!any_at_least(row + at, end - at, much)) continue;
            for (int64_t j = at; j < end; ++j) {
                if (!(row[j] < much)) f(j);
            }
        }
    }
}

// |q o k|^2 where float32 does not hold it.
double exact_square(const capture::HeadSample& s, const uint8_t* q, const uint8_t* k) {
    const auto dim = static_cast<size_t>(s.layer->head_dim);
    std::vector<float> x(dim), y(dim);
    row_to_floats(s.layer->q_type, q, x.data(), s.layer->head_dim);
    row_to_floats(s.layer->k_type, k, y.data(), s.layer->head_dim);
    double total = 0;
    for (size_t d = 0; d < dim; ++d) {
        const double z = static_cast<double>(x[d]) * static_cast<double>(y[d]);
        total += z * z;
    }
    return total;
}

} // namespace

// The errors of the products are independent, each at most u |q_d k_d|: the squares are dot products of squares.
std::span<const double> ScoreErrors::of(std::span<const capture::HeadSample> samples,
                                        std::span<const float* const> rows) {
    constexpr size_t cells_at_once = 256;
    const capture::HeadSample& first = samples.front();
    const LayerInfo& layer = *first.layer;
    errors_.assign(samples.size(), 0.0);
    if (!first.device && (!first.flash || !first.batched || layer.q_type == DType::f32)) return errors_;
    cells_.clear();
    if (tokens_.size() < size_t(first.n_cells)) tokens_.resize(size_t(first.n_cells), 0);
    for (size_t t = 0; t < samples.size(); ++t) {
        each_that_matters(samples[t].visible, rows[t], [&](int64_t cell) {
            if (tokens_[size_t(cell)] == 0) cells_.push_back(cell);
            tokens_[size_t(cell)] |= uint32_t{1} << t;
        });
    }

    const auto dim = static_cast<size_t>(layer.head_dim);
    const size_t q_row = dtype_row_bytes(layer.q_type, layer.head_dim),
                 k_row = dtype_row_bytes(layer.k_type, layer.head_dim);
    const auto query = [&](size_t t) { return samples[t].q + size_t(first.head) * q_row; };
    const uint8_t* keys = first.k + size_t(first.head / (layer.n_head / layer.n_head_kv)) * k_row;
    q_squares_.resize(samples.size() * dim);
    k_.resize(std::min(cells_at_once, cells_.size()) * dim);
    for (size_t t = 0; t < samples.size(); ++t) {
        row_to_floats(layer.q_type, query(t), q_squares_.data() + t * dim, layer.head_dim);
    }
    square(q_squares_.data(), q_squares_.size());
    for (size_t t = 0; t < samples.size() && first.device; ++t)
        add_rounding(layer.q_type, query(t), std::span(q_squares_).subspan(t * dim, dim));
    q_.assign(static_cast<const uint8_t*>(static_cast<const void*>(q_squares_.data())), DType::f32, samples.size(),
              layer.head_dim);
    dots_.resize(samples.size() * cells_at_once);
    for (size_t at = 0; at < cells_.size(); at += cells_at_once) {
        const size_t n = std::min(cells_at_once, cells_.size() - at);
        for (size_t c = 0; c < n; ++c)
            row_to_floats(layer.k_type, keys + size_t(cells_[at + c]) * first.k_stride, k_.data() + c * dim,
                          layer.head_dim);
        square(k_.data(), n * dim);
        attention::DotTask task;
        task.q = q_.head(0);
        task.q_stride = q_.stride();
        task.n_q = static_cast<int32_t>(samples.size());
        task.head_dim = layer.head_dim;
        task.k = static_cast<const uint8_t*>(static_cast<const void*>(k_.data()));
        task.k_stride = dim * sizeof(float);
        task.n = static_cast<int64_t>(n);
        task.out = dots_.data();
        task.out_stride = cells_at_once;
        task.batched = true;
        attention::row_kernels().dots_f32(task);
        for (size_t c = 0; c < n; ++c) {
            const int64_t cell = cells_[at + c];
            for (uint32_t& tokens = tokens_[size_t(cell)]; tokens != 0; tokens &= tokens - 1) {
                const auto t = static_cast<size_t>(std::countr_zero(tokens));
                auto total = static_cast<double>(dots_[t * cells_at_once + c]);
                if (!std::isfinite(total)) total = exact_square(first, query(t), keys + size_t(cell) * first.k_stride);
                errors_[t] = std::max(errors_[t], total);
            }
        }
    }
    const double scale = static_cast<double>(std::fabs(layer.scale * layer.post_scale));
    for (double& e : errors_) e = 4 * half_unit * scale * std::sqrt(e);
    return errors_;
}

bool takes_largest(const capture::HeadSample& s) {
    return s.v_used == DType::f16 && !s.flash && !s.device;
}

void compare(const capture::HeadSample& s, const Weighed& ours, Witness& w) {
    double difference = 0, engine = 0;
    for (size_t d = 0; d < ours.sum.size(); ++d) {
        const auto theirs = static_cast<double>(s.out[d]);
        difference += (ours.sum[d] - theirs) * (ours.sum[d] - theirs);
        engine += theirs * theirs;
    }
    const double size = std::max(std::sqrt(engine), 1e-30);
    const double a = norm(ours.magnitude);
    const auto n = static_cast<double>(ranges_count({s.visible.begin(), s.visible.end()}));
    double tolerance = 1e-5 * a; // our own sums over at most 1,024 cells, and float32 ones of the engine
    if (takes_largest(s)) {
        tolerance += half_unit * a + n * 0x1.0p-25 * ours.largest * std::sqrt(static_cast<double>(ours.sum.size()));
    } else if (s.v_used == DType::bf16 && !s.flash && !s.device) {
        tolerance += bf16_unit * a; // its exponents are those of float32: nothing becomes subnormal
    } else if (s.v_used == DType::f16 || s.device) {
        // GPUs round P to half precision and may add in it, with flash attention or without
        tolerance += 4 * half_unit * std::sqrt(n) * a;
    }
    if (s.v_used != s.v_type) tolerance += half_unit * a; // f32 values, rounded for the kernel
    tolerance += 2 * ours.score_error * a;
    w.error = static_cast<float>(std::sqrt(difference) / size);
    w.tolerance = static_cast<float>(tolerance / size);
}

} // namespace attnscope::capture
