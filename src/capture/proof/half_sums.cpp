#include "capture/proof/half_sums.h"

#include "attention/engine_arithmetic.h"
#include "base/halves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace attnscope::capture {

namespace {

constexpr int64_t cells_that_are_shared_out = 512; // fewer are one thread's
constexpr int64_t most_threads = 16;

// This head's V at one cell, as the kernel is given it.
void read_values(const HeadSample& s, int64_t cell, std::span<float> to) {
    const uint8_t* at = s.v + static_cast<size_t>(cell) * s.v_cell_stride;
    const size_t size = dtype_row_bytes(s.v_type, 1);
    if (s.v_dim_stride == size) {
        attention::engine_arithmetic(s.v_type).to_float(at, to.data(), static_cast<int64_t>(to.size()));
    } else {
        for (size_t d = 0; d < to.size(); ++d)
            attention::engine_arithmetic(s.v_type).to_float(at + d * s.v_dim_stride, &to[d], 1);
    }
    if (s.v_type != s.v_used)
        for (float& x : to) x = base::f16_to_float(base::float_to_f16(x));
}

float half(double x) {
    return base::f16_to_float(base::float_to_f16(static_cast<float>(x)));
}

// Adds what a thread makes of cells [begin, end) to `sum`. Its numbers are in units of the largest weight so far.
void add_part(const HeadSample& s, std::span<const float> row, int64_t begin, int64_t end, std::span<double> sum) {
    std::vector<float> part(sum.size(), 0.0f), v(sum.size());
    float largest = 0;
    for (const Range& r : s.visible) {
        for (int64_t j = std::max(begin, r.begin); j < std::min(end, r.end); ++j) {
            const float p = row[static_cast<size_t>(j)];
            if (p == 0) continue; // what underflows adds nothing
            if (p > largest) {
                const double scale = static_cast<double>(largest) / static_cast<double>(p);
                for (float& x : part) x = half(static_cast<double>(x) * scale);
                largest = p;
            }
            read_values(s, j, v);
            const double weight = static_cast<double>(p) / static_cast<double>(largest);
            for (size_t d = 0; d < part.size(); ++d)
                part[d] = half(static_cast<double>(part[d]) + static_cast<double>(v[d]) * weight);
        }
    }
    for (size_t d = 0; d < sum.size(); ++d) sum[d] += static_cast<double>(part[d]) * static_cast<double>(largest);
}

double distance(std::span<const double> sum, const float* out) {
    double difference = 0, size = 0;
    for (size_t d = 0; d < sum.size(); ++d) {
        const auto theirs = static_cast<double>(out[d]);
        difference += (sum[d] - theirs) * (sum[d] - theirs);
        size += theirs * theirs;
    }
    return std::sqrt(difference) / std::max(std::sqrt(size), 1e-30);
}

// Could this output have been added in half precision?
bool added_in_halves(const HeadSample& s) {
    const bool readable = s.v_type == DType::f16 || s.v_type == DType::f32;
    return s.flash && !s.device && s.v_used == DType::f16 && readable;
}

} // namespace

float error_of_half_sums(const HeadSample& s, std::span<const float> row) {
    double least = std::numeric_limits<double>::infinity();
    const int64_t threads = s.n_cells < cells_that_are_shared_out ? 1 : most_threads;
    for (int64_t n = 1; n <= threads; ++n) {
        std::vector<double> sum(static_cast<size_t>(s.layer->head_dim_v), 0.0);
        const int64_t part = (s.n_cells + n - 1) / n;
        for (int64_t begin = 0; begin < s.n_cells; begin += part)
            add_part(s, row, begin, std::min(begin + part, s.n_cells), sum);
        const double error = distance(sum, s.out);
        if (error < least) least = error; // not where it is NaN
    }
    return static_cast<float>(least);
}

void look_again(const HeadSample& s, std::span<const float> row, Witness& w) {
    if (w.error <= w.tolerance || !added_in_halves(s)) return;
    const float error = error_of_half_sums(s, row);
    if (!(error >= w.error)) w.error = error; // that of a NaN is infinity
}

} // namespace attnscope::capture
