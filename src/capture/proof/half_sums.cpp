#include "capture/proof/half_sums.h"

#include "attention/engine_arithmetic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace attnscope::capture {

namespace {

constexpr int64_t cells_that_are_shared_out = 512; // fewer are one thread's
constexpr int64_t most_threads = 16;

void round_to_halves(std::span<float> x, std::span<uint16_t> halves) {
    attention::f32_to_f16(x.data(), halves.data(), static_cast<int64_t>(x.size()));
    attention::f16_to_f32(halves.data(), x.data(), static_cast<int64_t>(x.size()));
}

// This head's V at one cell, as the kernel is given it.
void read_values(const HeadSample& s, int64_t cell, std::span<float> to, std::span<uint16_t> halves) {
    const uint8_t* at = s.v + static_cast<size_t>(cell) * s.v_cell_stride;
    const auto n = static_cast<int64_t>(to.size());
    const size_t size = dtype_row_bytes(s.v_type, 1);
    if (s.v_dim_stride == size) {
        attention::engine_arithmetic(s.v_type).to_float(at, to.data(), n);
    } else {
        for (size_t d = 0; d < to.size(); ++d)
            attention::engine_arithmetic(s.v_type).to_float(at + d * s.v_dim_stride, &to[d], 1);
    }
    if (s.v_type != s.v_used) round_to_halves(to, halves);
}

// What one thread makes of some cells. Its numbers are in units of the largest weight so far.
struct Part {
    std::vector<float> sum, v;
    std::vector<uint16_t> halves;
    float largest = 0;

    explicit Part(size_t dim) : sum(dim), v(dim), halves(dim) {}

    void rescale(float weight) {
        const double scale = static_cast<double>(largest) / static_cast<double>(weight);
        for (float& x : sum) x = static_cast<float>(static_cast<double>(x) * scale);
        round_to_halves(sum, halves);
        largest = weight;
    }
    void add(const HeadSample& s, int64_t cell, float weight) {
        if (weight > largest) rescale(weight);
        read_values(s, cell, v, halves);
        const double relative = static_cast<double>(weight) / static_cast<double>(largest);
        for (size_t d = 0; d < sum.size(); ++d)
            sum[d] = static_cast<float>(static_cast<double>(sum[d]) + static_cast<double>(v[d]) * relative);
        round_to_halves(sum, halves);
    }
    // Cells [begin, end), to `all`.
    void add(const HeadSample& s, std::span<const float> row, int64_t begin, int64_t end, std::span<double> all) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        largest = 0;
        for (const Range& r : s.visible) {
            for (int64_t j = std::max(begin, r.begin); j < std::min(end, r.end); ++j) {
                const float weight = row[static_cast<size_t>(j)];
                if (weight != 0) add(s, j, weight); // what underflows adds nothing
            }
        }
        for (size_t d = 0; d < sum.size(); ++d) all[d] += static_cast<double>(sum[d]) * static_cast<double>(largest);
    }
};

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

// One token's: a batch's queries are shared out, not their cells.
int64_t ways_to_share(const HeadSample& s) {
    return s.batched || s.n_cells < cells_that_are_shared_out ? 1 : most_threads;
}

float error_of_half_sums(const HeadSample& s, std::span<const float> row) {
    double least = std::numeric_limits<double>::infinity();
    const auto dim = static_cast<size_t>(s.layer->head_dim_v);
    Part thread(dim);
    for (int64_t n = 1; n <= ways_to_share(s); ++n) {
        std::vector<double> sum(dim, 0.0);
        const int64_t part = (s.n_cells + n - 1) / n;
        for (int64_t begin = 0; begin < s.n_cells; begin += part)
            thread.add(s, row, begin, std::min(begin + part, s.n_cells), sum);
        const double error = distance(sum, s.out);
        if (error < least) least = error; // not where it is NaN
    }
    return static_cast<float>(least);
}

void HalfSums::earn(int64_t n_cells) {
    left_ = std::min(most_in_vain, left_ + n_cells);
}

void HalfSums::look_again(const HeadSample& s, std::span<const float> row, Witness& w) {
    int64_t n_cells = 0;
    for (const Range& r : s.visible) n_cells += r.end - r.begin;
    if (w.error <= w.tolerance) return earn(n_cells / 4);
    if (!added_in_halves(s)) return;
    if (std::isnan(w.error)) w.error = std::numeric_limits<float>::infinity();
    if (std::isinf(w.error) || left_ <= 0) return; // no sum comes near to what is infinite
    const float error = error_of_half_sums(s, row);
    if (error < w.error) w.error = error;
    if (w.error <= w.tolerance) return earn(n_cells / 4);
    const int64_t added = n_cells * ways_to_share(s);
    left_ -= added;
    in_vain_ += added;
}

} // namespace attnscope::capture
