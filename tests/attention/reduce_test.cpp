// Reductions against float64.
#include "attention/reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace attnscope;
using namespace attnscope::test;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

// Rows as softmax makes them: most weights small, some exactly 0.
std::vector<float> random_rows(size_t n_rows, size_t n_columns, std::mt19937& rng) {
    std::normal_distribution<float> normal(0.0f, 4.0f);
    std::vector<float> rows(n_rows * n_columns);
    for (size_t r = 0; r < n_rows; ++r) {
        double sum = 0;
        for (size_t j = 0; j < n_columns; ++j) {
            float& w = rows[r * n_columns + j];
            w = rng() % 5 == 0 ? 0.0f : std::exp(normal(rng));
            sum += static_cast<double>(w);
        }
        for (size_t j = 0; j < n_columns && sum > 0; ++j) rows[r * n_columns + j] /= static_cast<float>(sum);
    }
    return rows;
}

} // namespace

TEST(Reduce, MeanAndMaximumOfEveryColumn) {
    std::mt19937 rng(1);
    for (const auto& [n_rows, n_columns] : {std::pair<size_t, size_t>{1, 1}, {3, 7}, {784, 100}, {5, 3000}}) {
        const auto rows = random_rows(n_rows, n_columns, rng);
        std::vector<float> mean(n_columns);
        std::vector<float> max(n_columns);
        reduce_mean(rows, static_cast<int64_t>(n_columns), mean);
        reduce_max(rows, static_cast<int64_t>(n_columns), max);
        for (size_t j = 0; j < n_columns; ++j) {
            double sum = 0;
            float top = 0;
            for (size_t r = 0; r < n_rows; ++r) {
                sum += static_cast<double>(rows[r * n_columns + j]);
                top = std::max(top, rows[r * n_columns + j]);
            }
            ASSERT_NEAR(static_cast<double>(mean[j]), sum / static_cast<double>(n_rows), 1e-7);
            ASSERT_EQ(max[j], top);
        }
    }
}

TEST(Reduce, ABrokenRowShows) {
    const std::vector<float> rows{0.5f, 0.5f, 0.0f, nan_value, 0.25f, 0.75f};
    std::vector<float> out(2);
    reduce_max(rows, 2, out);
    EXPECT_EQ(out[0], 0.5f);
    EXPECT_TRUE(std::isnan(out[1]));
    reduce_mean(rows, 2, out);
    EXPECT_EQ(out[0], 0.25f);
    EXPECT_TRUE(std::isnan(out[1]));
    EXPECT_TRUE(std::isnan(row_entropy(std::span(rows).subspan(2, 2))));
}

TEST(Reduce, NothingGivesNothing) {
    std::vector<float> out(3, 7.0f);
    reduce_mean({}, 3, out);
    EXPECT_EQ(out, (std::vector<float>{0, 0, 0}));
    out.assign(3, 7.0f);
    reduce_max({}, 3, out);
    EXPECT_EQ(out, (std::vector<float>{0, 0, 0}));
    reduce_max({}, 0, out);
    reduce_mean({}, -1, out);
    EXPECT_EQ(row_entropy({}), 0.0);
    EXPECT_EQ(row_first_share({}), 0.0);
    EXPECT_TRUE(row_top_k({}, 3).empty());
}

TEST(Reduce, EntropyOfKnownRows) {
    const std::vector<float> certain{0.0f, 1.0f, 0.0f};
    EXPECT_NEAR(row_entropy(certain), 0.0, 1e-12);
    const std::vector<float> even(1000, 0.001f);
    EXPECT_NEAR(row_entropy(even), std::log(1000.0), 1e-6);
}

TEST(Reduce, EntropyEqualsTheReferenceWithEveryKernel) {
    std::mt19937 rng(2);
    for (const attention::RowKernels* kernels : all_kernels()) {
        for (size_t n = 1; n < 400; n += 13) {
            const auto row = random_rows(1, n, rng);
            double want = 0;
            for (const float w : row) want -= w > 0 ? static_cast<double>(w) * std::log(static_cast<double>(w)) : 0.0;
            EXPECT_NEAR(kernels->entropy(row.data(), static_cast<int64_t>(n)), want, 1e-6) << kernels->name;
        }
    }
}

TEST(Reduce, FirstShareIsTheFirstWeight) {
    const std::vector<float> row{0.7f, 0.3f};
    EXPECT_EQ(row_first_share(row), static_cast<double>(0.7f));
}

TEST(Reduce, TopKEqualsSorting) {
    std::mt19937 rng(3);
    for (int round = 0; round < 50; ++round) {
        std::vector<float> row(1 + rng() % 300);
        for (float& w : row) w = static_cast<float>(rng() % 20) / 20.0f; // many ties
        std::vector<int64_t> order(row.size());
        std::iota(order.begin(), order.end(), int64_t{0});
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            return row[static_cast<size_t>(a)] > row[static_cast<size_t>(b)];
        });
        for (const size_t k : {size_t{0}, size_t{1}, size_t{7}, row.size(), row.size() + 5}) {
            const auto top = row_top_k(row, k);
            ASSERT_EQ(top.size(), std::min(k, row.size()));
            for (size_t i = 0; i < top.size(); ++i) {
                ASSERT_EQ(top[i].column, order[i]);
                ASSERT_EQ(top[i].weight, row[static_cast<size_t>(order[i])]);
            }
        }
    }
}

TEST(Reduce, TopKPutsNanLast) {
    const std::vector<float> row{nan_value, 0.1f, nan_value, -infinity, 0.9f, nan_value, infinity};
    const auto top = row_top_k(row, 6);
    std::vector<int64_t> columns;
    for (const ColumnWeight& c : top) columns.push_back(c.column);
    EXPECT_EQ(columns, (std::vector<int64_t>{6, 4, 1, 3, 0, 2}));
}
