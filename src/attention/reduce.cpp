// What is made of rows.
#include "attention/kernels/simd.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace attnscope {

using namespace attention;

namespace {

constexpr size_t tile = 1024; // columns whose partial results stay in the first-level cache while all rows pass by

struct Shape {
    size_t n_rows = 0;
    size_t n_columns = 0;
};

// Whole rows only, and no more columns than `out` has room for.
Shape shape_of(std::span<const float> rows, int64_t n_columns) {
    if (n_columns <= 0) return {};
    const auto n = static_cast<size_t>(n_columns);
    return {rows.size() / n, n};
}

// NaN is the smallest of all, so that it can neither hide a weight nor break the order.
bool outranks(const ColumnWeight& a, const ColumnWeight& b) {
    const bool a_nan = std::isnan(a.weight);
    const bool b_nan = std::isnan(b.weight);
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && a.weight != b.weight) return a.weight > b.weight;
    return a.column < b.column;
}

} // namespace

void reduce_mean(std::span<const float> rows, int64_t n_columns, std::span<float> out) {
    const Shape shape = shape_of(rows, n_columns);
    const size_t n = std::min(shape.n_columns, out.size());
    const double share = shape.n_rows ? 1.0 / static_cast<double>(shape.n_rows) : 0.0;
    for (size_t begin = 0; begin < n; begin += tile) {
        const size_t width = std::min(tile, n - begin);
        std::array<double, tile> sum{};
        for (size_t r = 0; r < shape.n_rows; ++r) {
            const float* row = rows.data() + r * shape.n_columns + begin;
            for (size_t j = 0; j < width; ++j) sum[j] += static_cast<double>(row[j]);
        }
        for (size_t j = 0; j < width; ++j) out[begin + j] = static_cast<float>(sum[j] * share);
    }
}

void reduce_max(std::span<const float> rows, int64_t n_columns, std::span<float> out) {
    const Shape shape = shape_of(rows, n_columns);
    const size_t n = std::min(shape.n_columns, out.size());
    if (shape.n_rows == 0) {
        std::fill_n(out.begin(), n, 0.0f);
        return;
    }
    for (size_t begin = 0; begin < n; begin += tile) {
        const size_t width = std::min(tile, n - begin);
        float* max = out.data() + begin;
        std::copy_n(rows.data() + begin, width, max);
        for (size_t r = 1; r < shape.n_rows; ++r) {
            const float* row = rows.data() + r * shape.n_columns + begin;
            // a NaN stays: a broken row must show
            for (size_t j = 0; j < width; ++j) max[j] = !(row[j] <= max[j]) && max[j] == max[j] ? row[j] : max[j];
        }
    }
}

double row_entropy(std::span<const float> row) {
    return row_kernels().entropy(row.data(), static_cast<int64_t>(row.size()));
}

double row_first_share(std::span<const float> row) {
    return row.empty() ? 0.0 : static_cast<double>(row[0]);
}

std::vector<ColumnWeight> row_top_k(std::span<const float> row, size_t k) {
    std::vector<ColumnWeight> best;
    k = std::min(k, row.size());
    if (k == 0) return best;
    best.reserve(k);
    // A heap whose front is the weakest of the best; most entries lose against it and cost one comparison.
    for (size_t j = 0; j < row.size(); ++j) {
        const ColumnWeight entry{static_cast<int64_t>(j), row[j]};
        if (best.size() < k) {
            best.push_back(entry);
            std::push_heap(best.begin(), best.end(), outranks);
        } else if (outranks(entry, best.front())) {
            std::pop_heap(best.begin(), best.end(), outranks);
            best.back() = entry;
            std::push_heap(best.begin(), best.end(), outranks);
        }
    }
    std::sort_heap(best.begin(), best.end(), outranks);
    return best;
}

} // namespace attnscope
