#include <attnscope/position_scores.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace attnscope {

PositionScores::PositionScores(int32_t window_rows) : window_rows_(std::max(window_rows, 1)) {}

namespace {

// Halo Weave's magnitude voting, in its own arithmetic: float64 on float32 weights. Its page counts the new token before
// that has a column, and divides by one less than this count: by the number of columns.
void vote(std::span<const float> row, std::vector<double>& brightness) {
    if (row.size() < 2) return;
    const double sink = static_cast<double>(*std::max_element(row.begin(), row.end()));
    const double threshold = std::max(0.0, (1.0 - sink) / static_cast<double>(row.size()));
    for (size_t j = 0; j < row.size(); ++j) {
        const auto a = static_cast<double>(row[j]);
        if (!(a > threshold))
            brightness[j] -= 1;
        else if (threshold > 0)
            brightness[j] = std::min(brightness_start, brightness[j] + std::floor(a / threshold));
        else
            brightness[j] = brightness_start;
    }
}

} // namespace

void PositionScores::add(std::span<const float> row) {
    if (std::any_of(row.begin(), row.end(), [](float x) { return std::isnan(x); })) {
        ++n_skipped_;
        return;
    }
    if (row.size() > total_.size()) {
        total_.resize(row.size(), 0.0);
        visits_.resize(row.size(), 0);
        brightness_.resize(row.size(), brightness_start);
    }
    for (size_t j = 0; j < row.size(); ++j) {
        total_[j] += static_cast<double>(row[j]);
        ++visits_[j];
    }
    vote(row, brightness_);
    if (window_.size() < static_cast<size_t>(window_rows_)) {
        newest_ = window_.size();
        window_.emplace_back(row.begin(), row.end());
    } else {
        newest_ = (newest_ + 1) % window_.size();
        window_[newest_].assign(row.begin(), row.end());
    }
    ++n_rows_;
}

void PositionScores::truncate(int64_t n) {
    const auto size = static_cast<size_t>(std::clamp<int64_t>(n, 0, n_positions()));
    total_.resize(size);
    visits_.resize(size);
    brightness_.resize(size);
    for (auto& row : window_) row.resize(std::min(row.size(), size));
}

Result<void> PositionScores::keep(std::span<const int64_t> kept) {
    for (size_t i = 0; i < kept.size(); ++i) {
        if (kept[i] < (i == 0 ? 0 : kept[i - 1] + 1) || kept[i] >= n_positions()) {
            return Error{ErrorKind::invalid_argument, "kept positions must ascend and be below " +
                                                          std::to_string(n_positions()) + ", but number " +
                                                          std::to_string(i) + " is " + std::to_string(kept[i])};
        }
    }
    const auto compact = [&](auto& values) {
        size_t n = 0;
        for (const int64_t position : kept) {
            if (static_cast<size_t>(position) >= values.size()) break; // a row may be shorter
            values[n++] = values[static_cast<size_t>(position)];
        }
        values.resize(n);
    };
    compact(total_);
    compact(visits_);
    compact(brightness_);
    for (auto& row : window_) compact(row);
    return {};
}

std::vector<double> PositionScores::mean() const {
    std::vector<double> mean(total_.size(), 0.0);
    for (size_t j = 0; j < mean.size(); ++j) {
        if (visits_[j] > 0) mean[j] = total_[j] / static_cast<double>(visits_[j]);
    }
    return mean;
}

std::vector<double> PositionScores::window_mean() const {
    std::vector<double> mean(total_.size(), 0.0);
    for (const auto& row : window_) {
        for (size_t j = 0; j < row.size(); ++j) mean[j] += static_cast<double>(row[j]);
    }
    for (double& x : mean) x /= static_cast<double>(std::max<size_t>(window_.size(), 1));
    return mean;
}

std::vector<double> PositionScores::last() const {
    std::vector<double> last(total_.size(), 0.0);
    if (!window_.empty()) std::copy(window_[newest_].begin(), window_[newest_].end(), last.begin());
    return last;
}

} // namespace attnscope
