#include "formats/array_probe.h"

#include "base/bounded_json.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace attnscope::formats {

namespace {

constexpr int64_t whole_elements = int64_t(1) << 22; // an array in Fortran order is looked at up to this size
constexpr int64_t row_elements = int64_t(1) << 20;   // longer rows are not looked at
constexpr int64_t read_elements = int64_t(1) << 23;  // all that is read for a look
constexpr int64_t bases = 8, steps_at_a_place = 8;

class Rows {
public:
    explicit Rows(StoredArray& array) : array_(array), shape_(array.layout.shape) {
        const auto all = base::shape_elements(shape_, INT64_MAX / 8);
        width_ = shape_.empty() ? 0 : shape_.back();
        good_ = all && width_ > 0 && width_ <= row_elements;
        if (!good_ || !array.layout.fortran || shape_.size() < 2) return;
        good_ = *all <= whole_elements;
        if (!good_) return;
        whole_.resize(static_cast<size_t>(*all));
        good_ = static_cast<bool>(array_.read(0, whole_.size(), whole_.data()));
    }
    bool good() const { return good_ && left_ > 0; }
    // The row at `index` (of all axes but the last); empty when it cannot be read.
    const std::vector<float>& row(const std::vector<int64_t>& index) {
        row_.resize(static_cast<size_t>(width_));
        left_ -= width_;
        if (!whole_.empty()) {
            int64_t at = 0, stride = 1;
            for (size_t i = 0; i < index.size(); ++i) at += index[i] * stride, stride *= shape_[i];
            for (int64_t c = 0; c < width_; ++c)
                row_[static_cast<size_t>(c)] = whole_[static_cast<size_t>(at + c * stride)];
            return row_;
        }
        int64_t at = 0;
        for (size_t i = 0; i < index.size(); ++i) at = at * shape_[i] + index[i];
        if (left_ < 0 || !array_.read(at * width_, row_.size(), row_.data())) row_.clear();
        return row_;
    }

private:
    StoredArray& array_;
    const std::vector<int64_t>& shape_;
    int64_t width_ = 0, left_ = read_elements;
    bool good_ = false;
    std::vector<float> whole_, row_;
};

bool is_empty(float x) {
    return x == 0.0f || x <= probe_mask;
}

struct Used {
    int64_t first = -1, last = -1;
};

// `columns`: how many of the row are looked at.
Used used(const std::vector<float>& row, size_t columns) {
    Used u;
    for (size_t c = 0; c < std::min(columns, row.size()); ++c) {
        if (is_empty(row[c]) || std::isnan(row[c])) continue;
        if (u.first < 0) u.first = static_cast<int64_t>(c);
        u.last = static_cast<int64_t>(c);
    }
    return u;
}

void judge(const std::vector<float>& row, ArrayProbe& probe) {
    double sum = 0;
    float min = 0, max = 0;
    bool masked = false, any = false;
    for (const float x : row) {
        if (std::isnan(x) || x <= probe_mask) {
            masked = true;
            continue;
        }
        any = any || x != 0.0f;
        sum += static_cast<double>(x);
        min = std::min(min, x);
        max = std::max(max, x);
    }
    if (!any) return;
    ++probe.rows;
    probe.min = std::min(probe.min, min);
    probe.max = std::max(probe.max, max);
    probe.masked += masked;
    probe.ones += min >= 0 && std::abs(sum - 1) <= 0.01;
    // percent and bytes too: whole rows of one sign whose numbers are not all large
    probe.weights += min >= 0;
}

// How the used part of rows changes along `axis`: the furthest of several rows at each step, because one row alone may
// leave its last column out.
void steps_along(size_t axis, Rows& rows, const std::vector<int64_t>& shape, std::mt19937_64& random,
                 ArrayProbe& probe) {
    const int64_t n = shape[axis];
    std::vector<int64_t> places = {0, (n - steps_at_a_place) / 2, n - steps_at_a_place - 1};
    std::vector<std::vector<int64_t>> at;
    for (int64_t b = 0; b < bases; ++b) {
        std::vector<int64_t> index(shape.size() - 1, 0);
        for (size_t i = 0; i < index.size(); ++i)
            index[i] = b == 0 ? shape[i] / 2 : static_cast<int64_t>(random() % static_cast<uint64_t>(shape[i]));
        at.push_back(std::move(index));
    }
    // once without the last column, which may be a sink's and is used by every row then
    for (const size_t columns : {static_cast<size_t>(shape.back()), static_cast<size_t>(shape.back()) - 1}) {
        int64_t steps = 0, grown = 0, begun = 0, changed = 0, next = 0;
        for (const int64_t place : places) {
            Used before;
            const int64_t end = std::min(n - 1, std::max<int64_t>(0, place) + steps_at_a_place);
            for (int64_t s = std::max(next, place); s <= end; ++s) {
                Used now;
                for (auto& index : at) {
                    index[axis] = s;
                    const Used u = used(rows.row(index), columns);
                    if (u.last < 0) continue;
                    now.last = std::max(now.last, u.last);
                    now.first = now.first < 0 ? u.first : std::min(now.first, u.first);
                }
                if (before.last >= 0 && now.last >= 0) {
                    ++steps;
                    grown += now.last == before.last + 1;
                    begun += now.first == before.first - 1 && now.last == before.last;
                    changed += now.last != before.last || now.first != before.first;
                }
                before = now;
                next = s;
            }
        }
        if (steps == 0) continue;
        if (steps < 3) begun = 0; // a 0 at the beginning of one row may be anything
        const double share = static_cast<double>(std::max(grown, begun)) / static_cast<double>(steps);
        if (columns == static_cast<size_t>(shape.back()))
            probe.varies[axis] = static_cast<double>(changed) / static_cast<double>(steps);
        probe.grows[axis] = std::max(probe.grows[axis], share);
    }
}

} // namespace

ArrayProbe probe_array(StoredArray& array) {
    const std::vector<int64_t>& shape = array.layout.shape;
    ArrayProbe probe;
    probe.grows.assign(shape.size(), 0);
    probe.varies.assign(shape.size(), 0);
    Rows rows(array);
    if (!rows.good()) return probe;
    std::mt19937_64 random(7); // the same look every time
    std::vector<int64_t> index(shape.size() - 1, 0);
    for (int i = 0; i < 64 && rows.good(); ++i) {
        for (size_t a = 0; a < index.size(); ++a)
            index[a] = static_cast<int64_t>(random() % static_cast<uint64_t>(shape[a]));
        const std::vector<float>& row = rows.row(index);
        probe.looked = probe.looked || !row.empty();
        judge(row, probe);
    }
    for (size_t axis = 0; axis + 1 < shape.size(); ++axis) {
        if (shape[axis] > 1 && rows.good()) steps_along(axis, rows, shape, random, probe);
    }
    const size_t n = shape.size();
    if (n >= 2 && shape[n - 1] == shape[n - 2] && shape[n - 1] > 1) {
        int64_t seen = 0, beyond = 0;
        for (int i = 0; i < 64 && rows.good(); ++i) {
            for (size_t a = 0; a < index.size(); ++a)
                index[a] = static_cast<int64_t>(random() % static_cast<uint64_t>(shape[a]));
            const Used u = used(rows.row(index), size_t(shape[n - 1]));
            if (u.last < 0 || index.back() + 1 == shape[n - 1]) continue;
            ++seen;
            beyond += u.last > index.back();
        }
        probe.beyond_diagonal = seen > 0 ? static_cast<double>(beyond) / static_cast<double>(seen) : 0;
    }
    return probe;
}

} // namespace attnscope::formats
