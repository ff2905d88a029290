// Maps against rows computed plainly and folded one by one.
#include "view/recorded_model.h"

#include <attnscope/attention_map.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::vector<int32_t> all_or(const std::vector<int32_t>& chosen, int32_t n) {
    if (!chosen.empty()) return chosen;
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

// What a map should be, from float64 rows.
std::vector<double> expected(const RecordedModel& m, const MapRequest& r, const Range& columns) {
    const Geometry& g = m.model.geometry();
    const auto layers = all_or(r.rows.layers, g.n_layer()), heads = all_or(r.rows.heads, g.max_heads());
    const auto n_lines = size_t((r.tokens.end - r.tokens.begin + r.tokens_per_tile - 1) / r.tokens_per_tile);
    const auto n_tiles = size_t((columns.end - columns.begin + r.columns_per_tile - 1) / r.columns_per_tile);
    const size_t n_maps = r.each_row ? layers.size() * heads.size() : 1;
    std::vector<double> map(n_maps * n_lines * n_tiles, 0.0);
    std::vector<double> n_tokens(n_lines, 0.0);
    double n_rows = 0;
    for (const int32_t l : layers) {
        for (const int32_t h : heads) n_rows += g.layers[size_t(l)].captured() && h < g.layers[size_t(l)].n_head;
    }
    for (int64_t t = r.tokens.begin; t < r.tokens.end; ++t) {
        const Frame& frame = m.frames[size_t(t)];
        if (frame.q.empty()) continue;
        const auto line = size_t((t - r.tokens.begin) / r.tokens_per_tile);
        n_tokens[line] += 1;
        const auto rows = m.model.reference(frame);
        const auto n = size_t(t + 1);
        std::vector<std::vector<double>> chosen(n_maps, std::vector<double>(n, 0.0));
        for (size_t l = 0; l < layers.size(); ++l) {
            for (size_t h = 0; h < heads.size(); ++h) {
                const double* row = rows.data() + (size_t(layers[l]) * size_t(g.max_heads()) + size_t(heads[h])) * n;
                for (size_t j = 0; j < n; ++j)
                    chosen[r.each_row ? l * heads.size() + h : 0][j] += r.each_row ? row[j] : row[j] / n_rows;
            }
        }
        for (size_t p = 0; p < n_maps; ++p) {
            for (int64_t j = columns.begin; j < std::min<int64_t>(columns.end, int64_t(n)); ++j) {
                double& tile = map[(p * n_lines + line) * n_tiles + size_t((j - columns.begin) / r.columns_per_tile)];
                if (r.value == TileValue::share)
                    tile += chosen[p][size_t(j)];
                else
                    tile = std::max(tile, chosen[p][size_t(j)]);
            }
        }
    }
    for (size_t i = 0; r.value == TileValue::share && i < map.size(); ++i)
        map[i] /= std::max(1.0, n_tokens[i / n_tiles % n_lines]);
    return map;
}

} // namespace

TEST(Map, IsItsRowsFoldedIntoTiles) {
    std::mt19937 rng(41);
    for (int i = 0; i < 5; ++i) {
        const RecordedModel m(random_live_shape(rng), 100 + int64_t(rng() % 60), rng(), i % 2 ? 7 : 0);
        const auto n = static_cast<int64_t>(m.frames.size());
        for (int k = 0; k < 8; ++k) {
            MapRequest r;
            r.tokens = {int64_t(rng() % 60), n - int64_t(rng() % 30)};
            if (rng() % 2) r.columns = {int64_t(rng() % 30), n - int64_t(rng() % 60)};
            if (rng() % 2) r.rows = {{2, 0}, {0}};
            if (rng() % 2) r.tokens_per_tile = 1 + int64_t(rng() % 90);
            if (rng() % 2) r.columns_per_tile = 1 + int64_t(rng() % 50);
            r.each_row = k % 2 == 0;
            r.value = k % 4 < 2 ? TileValue::share : TileValue::largest;
            r.exact = rng() % 2 == 0;
            r.n_threads = 1 + int32_t(rng() % 3);
            const auto map = attention_map(*m.source, r);
            ASSERT_TRUE(map) << map.error().message;
            EXPECT_EQ(map.value().columns, r.columns.end > 0 ? r.columns : (Range{0, r.tokens.end}));
            const auto want = expected(m, r, map.value().columns);
            ASSERT_EQ(map.value().values.size(), want.size());
            for (size_t at = 0; at < want.size(); ++at) {
                ASSERT_NEAR(static_cast<double>(map.value().values[at]), want[at], 2e-6)
                    << "tokens [" << r.tokens.begin << ", " << r.tokens.end << ") by " << r.tokens_per_tile
                    << ", columns by " << r.columns_per_tile << (r.each_row ? ", each row" : ", mean")
                    << (r.exact ? ", exact" : "") << ", number " << at;
            }
        }
    }
}

TEST(Map, ExactRowsAreThoseOfTheRecordingBitForBit) {
    std::mt19937 rng(42);
    for (int i = 0; i < 5; ++i) {
        const RecordedModel m(random_live_shape(rng), 80, rng());
        const auto map =
            attention_map(*m.source, {.rows = {.layers = {2, 0}}, .tokens = {30, 80}, .each_row = true, .exact = true});
        ASSERT_TRUE(map) << map.error().message;
        const auto n_heads = size_t(m.model.geometry().max_heads());
        ASSERT_EQ(map.value().shape, (std::vector<int64_t>{2, int64_t(n_heads), 50, 80}));
        for (int64_t t = 30; t < 80; ++t) {
            const auto rows = m.recording->rows(t, {.layers = {2, 0}});
            ASSERT_TRUE(rows);
            for (size_t row = 0; row < 2 * n_heads; ++row) {
                const float* const of_map = map.value().values.data() + (row * 50 + size_t(t - 30)) * 80;
                const float* const recorded = rows.value().weights.data() + row * size_t(t + 1);
                ASSERT_TRUE(std::equal(recorded, recorded + t + 1, of_map)) << "token " << t << ", row " << row;
                ASSERT_TRUE(std::all_of(of_map + t + 1, of_map + 80, [](float w) { return w == 0; }));
            }
        }
    }
}

TEST(Map, LinesOfAllColumnsSumToOneAndTokensWithoutQueriesCountForNothing) {
    const RecordedModel m({}, 100, 43, 4); // tokens 3, 7, 11, ... without queries
    const auto map = attention_map(*m.source, {.tokens = {0, 100}, .tokens_per_tile = 8, .columns_per_tile = 8});
    ASSERT_TRUE(map);
    EXPECT_EQ(map.value().shape, (std::vector<int64_t>{13, 13}));
    EXPECT_EQ(map.value().n_tokens[0], 6);
    EXPECT_EQ(map.value().n_tokens[12], 3);
    EXPECT_EQ(map.value().n_rows, m.model.geometry().n_rows());
    for (size_t line = 0; line < 13; ++line) {
        double sum = 0;
        for (size_t j = 0; j < 13; ++j) sum += static_cast<double>(map.value().values[line * 13 + j]);
        EXPECT_NEAR(sum, 1, 1e-6);
    }
    const auto blind = attention_map(*m.source, {.tokens = {3, 4}});
    ASSERT_TRUE(blind);
    EXPECT_EQ(blind.value().n_tokens[0], 0);
    EXPECT_EQ(blind.value().values, std::vector<float>(4, 0.0f));
}

TEST(Map, RequestsThatMakeNoSenseAreRefused) {
    const RecordedModel m({}, 20, 44);
    const auto kind = [&](const MapRequest& r) {
        const auto map = attention_map(*m.source, r);
        EXPECT_FALSE(map);
        return map ? ErrorKind::io : map.error().kind;
    };
    EXPECT_EQ(kind({.tokens = {5, 5}}), ErrorKind::invalid_argument);
    EXPECT_EQ(kind({.tokens = {-1, 5}}), ErrorKind::invalid_argument);
    EXPECT_EQ(kind({.tokens = {0, 21}}), ErrorKind::not_found);
    EXPECT_EQ(kind({.tokens = {0, 5}, .columns = {0, 21}}), ErrorKind::not_found);
    EXPECT_EQ(kind({.tokens = {0, 5}, .columns = {3, 2}}), ErrorKind::invalid_argument);
    EXPECT_EQ(kind({.tokens = {0, 5}, .tokens_per_tile = 0}), ErrorKind::invalid_argument);
    EXPECT_EQ(kind({.rows = {.layers = {9}}, .tokens = {0, 5}}), ErrorKind::invalid_argument);
    EXPECT_EQ(kind({.tokens = {0, 20}, .tokens_per_tile = -1}), ErrorKind::invalid_argument);
    const auto live = attention_map(*m.keys, {.tokens = {0, 5}});
    EXPECT_EQ(live.error().kind, ErrorKind::not_found); // no queries
}
