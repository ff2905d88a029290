// How much attention each position received over a generation: the scores that pruning policies go by. Plain numbers.
// As in those papers a position is here a place in the context: a column of the rows, whatever number the engine gave the token.
//
// Each is fed one row a token: m_t, the weights of token t over n_t columns, averaged over the selected layers and heads.
//   total        S[j] = sum_t m_t[j]                      the accumulated attention of H2O, Zhang et al. 2023 (arXiv 2306.14048)
//   mean         S[j] / V[j], V[j] = number of rows with n_t > j (visits): old positions are not favoured for being old
//   window_mean  (1 / W) sum of the last W rows at j      the observation window of SnapKV, Li et al. 2024 (arXiv 2404.14469);
//                                                         a row that ends before j counts as 0; W: at most as many as came
//   last         m_t[j] of the last row                   TOVA, Oren et al. 2024 (arXiv 2401.06104)
//   brightness   Halo Weave's magnitude voting. A position starts at 10,000 when a row first has it. For each row, with
//                n its columns, s its largest entry and t = (1 - s) / (n - 1):
//                  B[j] = min(10,000, B[j] + floor(m[j] / t))   where m[j] > t
//                  B[j] = B[j] - 1                              otherwise
//                computed in float64 from the float32 row, as the browser does. Rows of one column change nothing. With
//                t = 0 (one position has everything) what is above 0 is set to 10,000. With t < 0 (rounding made the
//                largest entry exceed 1) t is taken as 0.
// A row that holds a NaN is not counted; n_skipped() says how many there were.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <span>
#include <vector>

namespace attnscope {

constexpr double brightness_start = 10000;

class PositionScores {
public:
    // window_rows: W. Memory: 28 bytes a position, and 4 W.
    explicit PositionScores(int32_t window_rows = 32);

    void add(std::span<const float> mean_row);
    // Forgets positions n and later.
    void truncate(int64_t n);
    // After pruning: position i becomes what position kept[i] was. invalid_argument unless kept is ascending and inside
    // the positions there are; nothing changes then.
    Result<void> keep(std::span<const int64_t> kept);

    int64_t n_positions() const { return static_cast<int64_t>(total_.size()); }
    int64_t n_rows() const { return n_rows_; } // rows counted
    int64_t n_skipped() const { return n_skipped_; }
    int32_t window_rows() const { return window_rows_; }

    // One number a position each.
    std::span<const double> total() const { return total_; }
    std::span<const int64_t> visits() const { return visits_; }
    std::span<const double> brightness() const { return brightness_; }
    std::vector<double> mean() const;
    std::vector<double> window_mean() const;
    std::vector<double> last() const;

private:
    int32_t window_rows_;
    int64_t n_rows_ = 0;
    int64_t n_skipped_ = 0;
    std::vector<double> total_;
    std::vector<int64_t> visits_;
    std::vector<double> brightness_;
    std::vector<std::vector<float>> window_; // ring of the last rows; the newest at newest_
    size_t newest_ = 0;
};

} // namespace attnscope
