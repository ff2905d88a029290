#include "view/recorded/blocks.h"
#include "view/recorded/questions.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <span>

namespace attnscope::view {

namespace {

// What some of a head's rows say.
struct HeadPart {
    std::vector<WeightAt> strongest, strongest_but_first; // one a query
    std::vector<double> received;
    std::array<double, n_distance_bins> distance{};
    double first = 0;
    int64_t n = 0;

    // `own`: the column of the first token of the text that it looks at.
    void add(int64_t query, std::span<const float> row, size_t own) {
        WeightAt best{query, 0, row[0]}, best_but_first{query, -1, 0};
        for (size_t j = 0; j < row.size(); ++j) {
            if (row[j] > best.weight) best = {query, int64_t(j), row[j]};
            if (j != own && row[j] > best_but_first.weight) best_but_first = {query, int64_t(j), row[j]};
            received[j] += double(row[j]);
            const auto gap = static_cast<uint64_t>(std::abs(query - static_cast<int64_t>(j)));
            distance[std::min<size_t>(n_distance_bins - 1, size_t(std::bit_width(gap)))] += double(row[j]);
        }
        if (query != int64_t(own)) strongest.push_back(best); // the first token has nothing to choose from
        if (best_but_first.key >= 0) strongest_but_first.push_back(best_but_first);
        first += double(row[own]);
        ++n;
    }
};

// As many parts as hands: a block takes one that is free, whatever tokens it had before.
class HeadParts {
public:
    explicit HeadParts(int64_t n_columns) : n_columns_(static_cast<size_t>(n_columns)) {}

    size_t take(HeadPart& part) {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) {
            free_.push_back(parts_.size());
            parts_.emplace_back();
            parts_.back().received.assign(n_columns_, 0.0);
        }
        const size_t mine = free_.back();
        free_.pop_back();
        part = std::move(parts_[mine]);
        return mine;
    }
    void give_back(size_t mine, HeadPart&& part) {
        const std::lock_guard lock(mutex_);
        parts_[mine] = std::move(part);
        free_.push_back(mine);
    }
    // Once all were given back.
    const std::vector<HeadPart>& all() const { return parts_; }

private:
    const size_t n_columns_;
    std::mutex mutex_;
    std::vector<HeadPart> parts_;
    std::vector<size_t> free_;
};

void keep_best(std::vector<TokenShare>& list, size_t n_best) {
    std::stable_sort(list.begin(), list.end(),
                     [](const TokenShare& a, const TokenShare& b) { return a.weight > b.weight; });
    list.resize(std::min(n_best, list.size()));
}

// The strongest weights, and the token ids behind them: which ask, which are asked.
void rank(HeadDetail& d, const RecordedTensors& t, const std::vector<HeadPart>& parts,
          const std::vector<double>& received, size_t own, size_t n_best) {
    std::map<int32_t, std::pair<double, int64_t>> by_query;
    for (const HeadPart& part : parts) {
        for (const WeightAt& w : d.skips_first ? part.strongest_but_first : part.strongest) {
            d.strongest.push_back(w);
            auto& [sum, count] = by_query[t.frame(w.query).token];
            sum += double(w.weight);
            ++count;
        }
    }
    std::map<int32_t, double> by_key;
    double all = 0;
    for (size_t j = 0; j < received.size(); ++j) {
        if (d.skips_first && j == own) continue;
        by_key[t.frame(int64_t(j)).token] += received[j];
        all += received[j];
    }
    std::stable_sort(d.strongest.begin(), d.strongest.end(), [](const WeightAt& a, const WeightAt& b) {
        return a.weight != b.weight ? a.weight > b.weight : a.query < b.query;
    });
    d.strongest.resize(std::min(n_best, d.strongest.size()));
    for (const auto& [token, sum] : by_query) d.queries.push_back({token, sum.first / double(sum.second)});
    for (const auto& [token, sum] : by_key) d.keys.push_back({token, all > 0 ? sum / all : 0});
    keep_best(d.queries, n_best);
    keep_best(d.keys, n_best);
}

} // namespace

Result<HeadDetail> head_detail(const RecordedTensors& t, int32_t layer, int32_t head, size_t n_best) {
    const Selection s{layer, head, false};
    if (layer < 0 || head < 0) return Error{ErrorKind::invalid_argument, "a layer and a head are needed"};
    if (Result<void> r = t.check(s); !r) return r.error();
    const LayerRole role = t.geometry().layers[static_cast<size_t>(layer)].role;
    const auto own = static_cast<size_t>(role == LayerRole::decoder ? t.tokens_of(layer).begin : 0);
    HeadParts parts(t.size());
    const auto add = [&](int32_t, int64_t first_token, size_t n_tokens, const attention::BlockRows& rows) {
        HeadPart part;
        const size_t mine = parts.take(part);
        std::vector<float> row;
        for (size_t r = 0; r < n_tokens; ++r) {
            const int64_t i = first_token + static_cast<int64_t>(r);
            if (!t.has_rows(i, layer)) continue;
            row.resize(static_cast<size_t>(t.n_columns(i)));
            copy_row(rows, r, row);
            part.add(i, row, own);
        }
        parts.give_back(mine, std::move(part));
    };
    if (Result<void> r = each_block(t, layer, {head, head + 1}, {0, t.size()}, add); !r) return r.error();
    HeadDetail d;
    std::vector<double> received(static_cast<size_t>(t.size()), 0.0);
    double first = 0;
    int64_t n = 0;
    for (const HeadPart& part : parts.all()) {
        first += part.first;
        n += part.n;
        for (size_t j = 0; j < part.received.size(); ++j) received[j] += part.received[j];
        for (size_t b = 0; b < n_distance_bins; ++b) d.distance[b] += part.distance[b];
    }
    if (n == 0) return Error{ErrorKind::not_found, "no token was recorded with its queries"};
    for (double& share : d.distance)
        share = role == LayerRole::cross ? std::numeric_limits<double>::quiet_NaN() : share / double(n);
    d.skips_first = first > 0.5 * double(n);
    rank(d, t, parts.all(), received, own, n_best);
    return d;
}

} // namespace attnscope::view
