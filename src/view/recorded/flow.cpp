// What many rows together say of a recording: what a span of it was read from, and the scores of its positions.
#include "view/recorded/questions.h"

#include "base/parallel_for.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace attnscope::view {

namespace {

// The rows that tell of tokens [begin, end). What a decoder begins with has none, and is passed over.
Result<std::vector<int64_t>> rows_of_span(const RecordedTensors& t, int64_t begin, int64_t end) {
    if (begin < 0 || end <= begin || end > t.size()) {
        return Error{ErrorKind::not_found,
                     fmt::format("there are no tokens {} to {}: the recording has {}", begin, end - 1, t.size())};
    }
    std::vector<int64_t> rows;
    for (int64_t j = begin; j < end; ++j) {
        if (const int64_t i = t.row_that_tells_of(j); i >= 0) rows.push_back(i);
    }
    if (rows.empty() || (begin == 0 && t.row_that_tells_of(0) < 0))
        return Error{ErrorKind::not_found, fmt::format("no row chose token {}: a text begins with it", begin)};
    return rows;
}

// Columns that what starts in the span can get to, from row to row: those before its end, and later ones where tokens see such.
int64_t width_of(const RecordedTensors& t, int64_t end) {
    int64_t width = end;
    for (int64_t i = 0; i < width; ++i) width = std::max(width, std::min(t.size(), t.n_columns(i)));
    return width;
}

} // namespace

Result<std::vector<float>> flow(const RecordedTensors& t, const Selection& s, int64_t begin, int64_t end) {
    const Result<std::vector<int64_t>> rows = rows_of_span(t, begin, end);
    if (!rows) return rows.error();
    if (Result<void> r = t.check(s); !r) return r.error();
    std::vector<double> sum(static_cast<size_t>(end), 0.0);
    std::vector<float> row;
    std::string why;
    int64_t n = 0;
    for (const int64_t i : *rows) {
        if (std::string none = t.why_no_row(i, s); !none.empty()) {
            why = std::move(none);
            continue;
        }
        if (Result<void> r = t.reduced(i, s, row); !r) return r.error();
        if (row.size() > sum.size())
            sum.resize(row.size(), 0.0); // an encoder's tokens read what lies behind the span, too
        for (size_t j = 0; j < row.size(); ++j) sum[j] += double(row[j]);
        ++n;
    }
    if (n == 0) return Error{ErrorKind::not_found, "none of these tokens has such a row: " + why};
    std::vector<float> out(sum.size());
    for (size_t j = 0; j < sum.size(); ++j) out[j] = static_cast<float>(sum[j] / double(n));
    return out;
}

namespace {

// v / 2 + v A / 2 for the mean A over the heads of a layer; what a token has that takes no part in it stays. not_found: a token that does
// take part was recorded without its queries.
Result<std::vector<double>> through_layer(const RecordedTensors& t, int32_t layer, const std::vector<double>& v) {
    const int64_t n_head = t.geometry().layers[static_cast<size_t>(layer)].n_head;
    const auto width = static_cast<int64_t>(v.size());
    std::vector<double> next(v.size(), 0.0);
    std::mutex mutex;
    Result<void> status;
    constexpr int64_t block = 32;
    base::parallel_for_all(static_cast<size_t>((width + block - 1) / block), [&](size_t b) {
        std::vector<double> own(v.size(), 0.0);
        std::vector<float> rows;
        const auto first = static_cast<int64_t>(b) * block;
        for (int64_t i = first; i < std::min(width, first + block); ++i) {
            const double share = v[static_cast<size_t>(i)];
            if (share == 0) continue;
            if (!t.has_rows(i)) {
                const std::lock_guard lock(mutex);
                status = Error{ErrorKind::not_found,
                               fmt::format("rollout needs every row that the span can reach: {}", t.why_no_row(i, {}))};
                return;
            }
            if (!t.has_rows(i, layer)) {
                own[static_cast<size_t>(i)] += share;
                continue;
            }
            const auto n = static_cast<size_t>(t.n_columns(i));
            rows.resize(n * static_cast<size_t>(n_head));
            if (Result<void> r = t.rows(i, layer, {0, n_head}, rows); !r) {
                const std::lock_guard lock(mutex);
                status = r;
                return;
            }
            own[static_cast<size_t>(i)] += 0.5 * share;
            const double each = 0.5 * share / double(n_head);
            for (size_t h = 0; h < static_cast<size_t>(n_head); ++h) {
                for (size_t j = 0; j < n; ++j) own[j] += each * double(rows[h * n + j]);
            }
        }
        const std::lock_guard lock(mutex);
        for (size_t j = 0; j < own.size(); ++j) next[j] += own[j];
    });
    if (!status) return status.error();
    return next;
}

} // namespace

Result<std::vector<float>> rollout(const RecordedTensors& t, int64_t begin, int64_t end, const Progress& progress) {
    const Result<std::vector<int64_t>> rows = rows_of_span(t, begin, end);
    if (!rows) return rows.error();
    const int64_t width = width_of(t, end);
    if (width > rollout_most) {
        return Error{ErrorKind::unsupported,
                     fmt::format("rollout needs every row that the span can reach; it is computed up to token {}",
                                 rollout_most)};
    }
    std::vector<double> v(static_cast<size_t>(width), 0.0);
    for (const int64_t i : *rows) v[static_cast<size_t>(i)] = 1.0 / double(rows->size());
    for (int32_t layer = t.geometry().n_layer() - 1; layer >= 0; --layer) {
        if (progress && !progress(1.0 - double(layer + 1) / t.geometry().n_layer()))
            return Error{ErrorKind::io, "stopped before it was done"};
        if (!t.has_layer(layer)) continue;
        Result<std::vector<double>> next = through_layer(t, layer, v);
        if (!next) return next.error();
        v = std::move(*next);
    }
    return std::vector<float>(v.begin(), v.end());
}

Result<PositionScores> position_scores(const RecordedTensors& t, const Selection& s, int32_t window_rows) {
    if (Result<void> r = t.check(s); !r) return r.error();
    int64_t first = 0;
    while (first < t.size() && t.frame(first).kind != FrameKind::generated) ++first;
    const bool generated = first < t.size();
    PositionScores scores(window_rows);
    std::vector<float> row;
    std::string why = "no token was chosen by a row yet";
    // As live: the rows that chose the generated tokens, from the prompt's last token on.
    for (int64_t i = generated ? std::max<int64_t>(0, first - 1) : 0; generated ? i + 1 < t.size() : i < t.size();
         ++i) {
        if (std::string none = t.why_no_row(i, s); !none.empty()) {
            why = std::move(none);
            continue;
        }
        if (Result<void> r = t.reduced(i, s, row); !r) return r.error();
        scores.add(row);
    }
    // scores of 0 would be an answer
    if (scores.n_rows() + scores.n_skipped() == 0) {
        return Error{ErrorKind::not_found,
                     fmt::format("there are no scores: {} has such a row ({})",
                                 generated ? "none of the tokens that chose the generated ones" : "no token", why)};
    }
    return scores;
}

} // namespace attnscope::view
