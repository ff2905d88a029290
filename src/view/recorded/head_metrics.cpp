#include "view/recorded/head_metrics.h"

#include "view/recorded/blocks.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace attnscope::view {

namespace {

constexpr int64_t local_columns = 8;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
// Vectors of the compiler: which instructions they become is decided below.
constexpr size_t lanes = 8;
using Floats = float __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(32)));
using HalfFloats = float __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(32)));

struct Sums {
    double entropy = 0, mass = 0, first_moment = 0, second_moment = 0; // moments of the column
};

template <typename To, typename From> [[gnu::always_inline]] inline void copy_bits(To& to, const From& from) {
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
}

// Of the lanes before and behind the middle, as doubles.
[[gnu::always_inline]] inline void widen(const Floats& v, Doubles& low, Doubles& high) {
    const HalfFloats a = {v[0], v[1], v[2], v[3]}, b = {v[4], v[5], v[6], v[7]};
    low = __builtin_convertvector(a, Doubles);
    high = __builtin_convertvector(b, Doubles);
}

// -a ln a in float32, after Cephes' logf (public domain): relative error of the logarithm below 2e-7. 0 for a = 0.
[[gnu::always_inline]] inline void minus_a_ln_a(const Floats& a, Floats& out) {
    const Floats clipped = a < 1.1754944e-38f ? Floats{} + 1.1754944e-38f : a;
    Ints bits, e;
    copy_bits(bits, clipped);
    e = ((bits >> 23) & 0xff) - 126;
    const Ints mantissa = (bits & 0x007fffff) | 0x3f000000;
    Floats m; // [0.5, 1)
    copy_bits(m, mantissa);
    const auto low = m < 0.70710678f; // -1 where it is
    e += low;
    m = (low ? m + m : m) - 1.0f;
    const Floats z = m * m;
    Floats y = m * 7.0376836292E-2f;
    y = (y - 1.1514610310E-1f) * m;
    y = (y + 1.1676998740E-1f) * m;
    y = (y - 1.2420140846E-1f) * m;
    y = (y + 1.4249322787E-1f) * m;
    y = (y - 1.6668057665E-1f) * m;
    y = (y + 2.0000714765E-1f) * m;
    y = (y - 2.4999993993E-1f) * m;
    y = (y + 3.3333331174E-1f) * m * z;
    const Floats fe = __builtin_convertvector(e, Floats);
    y += -2.12194440e-4f * fe;
    y += -0.5f * z;
    out = -a * (m + y + 0.693359375f * fe);
}

// Compiled for the vectors of newer processors as well; the loader chooses. Not under sanitizers, whose start comes after that.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) &&                           \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
__attribute__((target_clones("arch=haswell", "default")))
#endif
Sums
sums_of(std::span<const float> row) {
    Doubles e[2] = {}, w[2] = {}, m1[2] = {}, m2[2] = {};
    Doubles at[2] = {{0, 1, 2, 3}, {4, 5, 6, 7}};
    for (size_t j = 0; j < row.size(); j += lanes) {
        Floats a = {}, own;
        if (j + lanes <= row.size())
            std::memcpy(&a, row.data() + j, sizeof a);
        else
            std::memcpy(&a, row.data() + j, (row.size() - j) * sizeof(float)); // the rest weighs nothing
        minus_a_ln_a(a, own);
        Doubles weight[2], entropy[2];
        widen(a, weight[0], weight[1]);
        widen(own, entropy[0], entropy[1]);
        for (size_t k = 0; k < 2; ++k) {
            const Doubles weighted = weight[k] * at[k];
            e[k] += entropy[k];
            w[k] += weight[k];
            m1[k] += weighted;
            m2[k] += weighted * at[k];
            at[k] += double(lanes);
        }
    }
    Sums s;
    for (size_t k = 0; k < lanes; ++k) {
        s.entropy += e[k / 4][k % 4];
        s.mass += w[k / 4][k % 4];
        s.first_moment += m1[k / 4][k % 4];
        s.second_moment += m2[k / 4][k % 4];
    }
    return s;
}

// The tokens that have rows in a layer, and those that they look at.
struct Part {
    Range tokens, columns;
    bool cross() const { return tokens != columns; } // into another text: no column is near
};

Part part_of(const RecordedTensors& tensors, int32_t layer) {
    const Range own = tensors.tokens_of(layer);
    if (tensors.geometry().layers[static_cast<size_t>(layer)].role == LayerRole::cross) return {own, {0, own.begin}};
    return {own, own};
}

// Columns that induction and retrieval look at, for each token.
struct Occurrences {
    std::vector<std::vector<int32_t>> after;  // j with t[j-1] = t[i], j <= i
    std::vector<std::vector<int32_t>> copies; // j <= i with t[j] = t[i+1]
};

// A token that occurs everywhere has many places: of those the newest so many count, so that a recording of one repeated token costs
// no n^2 of memory. Documents of people stay far below.
constexpr size_t most_places = 4096;

Occurrences occurrences(const RecordedTensors& tensors, const Part& part) {
    const auto n = static_cast<size_t>(tensors.size()), end = static_cast<size_t>(part.tokens.end);
    Occurrences o;
    o.after.resize(n);
    o.copies.resize(n);
    std::unordered_map<int32_t, std::vector<int32_t>> places;
    const auto newest = [](const std::vector<int32_t>& all) {
        return std::vector<int32_t>(all.end() - static_cast<ptrdiff_t>(std::min(all.size(), most_places)), all.end());
    };
    size_t total = 0;
    for (int64_t j = part.columns.begin; part.cross() && j < part.columns.end; ++j) {
        if (tensors.frame(j).token >= 0) places[tensors.frame(j).token].push_back(static_cast<int32_t>(j));
    }
    for (auto i = static_cast<size_t>(part.tokens.begin); i < end; ++i) {
        const int32_t token = tensors.frame(int64_t(i)).token;
        if (token >= 0 && !part.cross()) {
            std::vector<int32_t>& own = places[token];
            if (total < size_t(1) << 26) {
                o.after[i] = newest(own);
                for (int32_t& j : o.after[i]) ++j; // earlier occurrences are before i, so j <= i
                total += o.after[i].size();
            }
            own.push_back(static_cast<int32_t>(i));
        }
        if (i + 1 < end && total < size_t(1) << 26) {
            const auto next = places.find(tensors.frame(int64_t(i) + 1).token);
            if (next != places.end()) o.copies[i] = newest(next->second);
            total += o.copies[i].size();
        }
    }
    return o;
}

// Of some rows of one head.
struct Accumulator {
    std::array<double, n_metrics> sum{};
    std::array<int64_t, n_metrics> count{};
    void add(int metric, double value) {
        sum[size_t(metric)] += value;
        ++count[size_t(metric)];
    }
    void add(const Accumulator& other) {
        for (size_t k = 0; k < n_metrics; ++k) {
            sum[k] += other.sum[k];
            count[k] += other.count[k];
        }
    }
};

// What only columns of the token's own text have: a place before it.
void add_places(Accumulator& acc, std::span<const float> row, int64_t i, const Part& part, const Sums& s) {
    const auto at = static_cast<size_t>(i);
    const double x = double(i);
    acc.add(m_self, double(row[at]));
    acc.add(m_previous, double(row[at - 1]));
    double near = 0;
    for (int64_t j = std::max(part.columns.begin, i - local_columns + 1); j <= i; ++j)
        near += double(row[static_cast<size_t>(j)]);
    acc.add(m_local, near);
    const double distance = x * s.mass - s.first_moment;
    acc.add(m_distance, distance);
    acc.add(m_distance_variance,
            std::max(0.0, x * x * s.mass - 2 * x * s.first_moment + s.second_moment - distance * distance));
}

void add_row(Accumulator& acc, std::span<const float> row, int64_t i, const Part& part, const Occurrences& o) {
    const auto at = static_cast<size_t>(i);
    const Sums s = sums_of(row);
    if (!part.cross()) add_places(acc, row, i, part, s);
    acc.add(m_first, double(row[static_cast<size_t>(part.columns.begin)]));
    acc.add(m_entropy, s.entropy);
    const auto sum_at = [&](const std::vector<int32_t>& columns) {
        double sum = 0;
        for (const int32_t j : columns) sum += double(row[static_cast<size_t>(j)]);
        return sum;
    };
    if (!o.after[at].empty()) acc.add(m_induction, sum_at(o.after[at]));
    if (!o.copies[at].empty()) acc.add(m_retrieval, sum_at(o.copies[at]));
}

} // namespace

const char* metric_name(int metric) {
    static constexpr const char* names[] = {"self",     "previous",          "first",     "local",    "entropy",
                                            "distance", "distance_variance", "induction", "retrieval"};
    return metric >= 0 && metric < n_metrics ? names[metric] : "?";
}

Result<HeadMetrics> head_metrics(const RecordedTensors& tensors, const Progress& progress) {
    const Geometry& geometry = tensors.geometry();
    HeadMetrics m;
    m.n_layer = geometry.n_layer();
    m.n_head = geometry.max_heads();
    const auto n_all = static_cast<size_t>(m.n_layer) * static_cast<size_t>(m.n_head);
    for (auto& v : m.values) v.assign(n_all, nan);
    std::map<std::pair<int64_t, int64_t>, Occurrences> known; // by the beginnings of both parts
    std::vector<Accumulator> all(n_all);
    std::mutex mutex;
    double done = 0; // a row costs its columns
    const double whole = 0.5 * double(tensors.size()) * double(tensors.size()) * double(tensors.n_rows({}));
    for (int32_t layer = 0; layer < m.n_layer; ++layer) {
        const int64_t n_head = geometry.layers[static_cast<size_t>(layer)].n_head;
        if (!tensors.has_layer(layer)) continue;
        const Part part = part_of(tensors, layer);
        if (part.columns.begin == part.columns.end) continue;
        const auto [at, is_new] = known.try_emplace({part.tokens.begin, part.columns.begin});
        if (is_new) at->second = occurrences(tensors, part);
        const Occurrences& o = at->second;
        // Every row passes by: whoever asks later who reads a token need not compute them again.
        std::vector<std::vector<double>> denominators(static_cast<size_t>(n_head));
        for (auto& d : denominators) d.assign(static_cast<size_t>(tensors.size()), nan);
        std::atomic<bool> whole_rows{false};
        const auto add = [&](int32_t head, int64_t first, size_t n, const attention::BlockRows& rows) {
            if (!rows.has_parts) whole_rows = true;
            for (size_t r = 0; r < n && rows.has_parts; ++r) {
                denominators[static_cast<size_t>(head)][static_cast<size_t>(first) + r] = denominator(rows, r, n);
            }
            Accumulator own;
            std::vector<float> row;
            double columns = 0;
            for (size_t r = 0; r < n; ++r) {
                const int64_t i = first + static_cast<int64_t>(r);
                row.resize(static_cast<size_t>(tensors.n_columns(i)));
                columns += double(row.size());
                if (i == part.columns.begin || !tensors.has_rows(i, layer)) continue; // the first sees itself alone
                copy_row(rows, r, row);
                add_row(own, row, i, part, o);
            }
            const std::lock_guard lock(mutex);
            all[static_cast<size_t>(layer) * static_cast<size_t>(m.n_head) + static_cast<size_t>(head)].add(own);
            done += columns;
        };
        const auto go_on = [&] {
            const std::lock_guard lock(mutex);
            return !progress || progress(std::min(1.0, done / whole));
        };
        if (Result<void> r = each_block(tensors, layer, {0, n_head}, {0, tensors.size()}, add, go_on); !r)
            return r.error();
        for (int32_t head = 0; head < n_head && !whole_rows; ++head)
            tensors.offer_denominators(layer, head, std::move(denominators[static_cast<size_t>(head)]));
    }
    for (size_t i = 0; i < n_all; ++i) {
        m.n_rows = std::max(m.n_rows, all[i].count[m_first]);
        for (size_t k = 0; k < n_metrics; ++k) {
            if (all[i].count[k] > 0) m.values[k][i] = all[i].sum[k] / double(all[i].count[k]);
        }
    }
    return m;
}

std::vector<std::pair<std::string, std::string>> head_rules() {
    return {{"previous token", "more than half of its weight on the previous token"},
            {"self", "more than half of its weight on the token itself"},
            {"induction", "more than 0.3 of its weight behind earlier occurrences of the token, and more than 4 times "
                          "its weight on the previous token"},
            {"retrieval", "more than 0.3 of its weight on earlier copies of the token that comes next"},
            {"first position", "more than 0.8 of its weight on the first position"},
            {"local", "more than 0.8 of its weight on the last 8 tokens"}};
}

std::string head_kind(const HeadMetrics& m, size_t i) {
    const auto v = [&](Metric metric) { return m.values[metric][i]; }; // NaN is more than nothing
    if (v(m_previous) > 0.5) return "previous token";
    if (v(m_self) > 0.5) return "self";
    if (v(m_induction) > 0.3 && v(m_induction) > 4 * v(m_previous)) return "induction";
    if (v(m_retrieval) > 0.3) return "retrieval";
    if (v(m_first) > 0.8) return "first position";
    if (v(m_local) > 0.8) return "local";
    return "";
}

} // namespace attnscope::view
