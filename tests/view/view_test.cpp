// What a view answers, against rows computed plainly.
#include "view/live_model.h"

#include <attnscope/attention_view.h>
#include <attnscope/rows.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Scene { // a session as far as its newest frame
    LiveModel model;
    std::unique_ptr<KeyStore> keys;
    Frame frame;

    Scene(const LiveShape& shape, int64_t n, uint32_t seed, bool batched = false) : model(shape, seed) {
        auto store = KeyStore::create(model.geometry(), 4096);
        EXPECT_TRUE(store) << (store ? "" : store.error().message);
        keys = std::move(*store);
        for (int64_t i = 0; i < n; ++i) {
            frame = model.next(batched);
            const auto ok = keys->append(frame);
            EXPECT_TRUE(ok) << (ok ? "" : ok.error().message);
        }
    }
    AttentionAnswer answer(const AttentionRequest& request, const ViewOptions& options = {}) const {
        auto view = AttentionView::create(*keys, request, options);
        EXPECT_TRUE(view) << (view ? "" : view.error().message);
        if (!view) return {};
        auto answer = (*view)->answer(frame);
        EXPECT_TRUE(answer) << (answer ? "" : answer.error().message);
        return answer ? std::move(*answer) : AttentionAnswer{};
    }
};

// The rows a request selects, float64, with which of them exist.
struct Chosen {
    size_t n = 0;
    std::vector<std::vector<std::vector<double>>> layers; // [layer][head]: a row, or nothing where there is none
};

Chosen choose(const Scene& scene, const AttentionRequest& request) {
    const Geometry& g = scene.model.geometry();
    const auto all = scene.model.reference(scene.frame);
    Chosen chosen;
    chosen.n = static_cast<size_t>(scene.frame.index + 1);
    std::vector<int32_t> layers = request.rows.layers, heads = request.rows.heads;
    if (layers.empty()) {
        layers.resize(static_cast<size_t>(g.n_layer()));
        std::iota(layers.begin(), layers.end(), 0);
    }
    if (heads.empty()) {
        heads.resize(static_cast<size_t>(g.max_heads()));
        std::iota(heads.begin(), heads.end(), 0);
    }
    chosen.layers.resize(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
        const LayerInfo& info = g.layers[static_cast<size_t>(layers[l])];
        for (const int32_t h : heads) {
            std::vector<double> row;
            if (info.captured() && h < info.n_head) {
                const auto at =
                    (static_cast<size_t>(layers[l]) * static_cast<size_t>(g.max_heads()) + static_cast<size_t>(h)) *
                    chosen.n;
                row.assign(all.begin() + static_cast<ptrdiff_t>(at),
                           all.begin() + static_cast<ptrdiff_t>(at + chosen.n));
            }
            chosen.layers[l].push_back(std::move(row));
        }
    }
    return chosen;
}

std::vector<double> mean_of(const Chosen& chosen) {
    std::vector<double> mean(chosen.n, 0.0);
    double rows = 0;
    for (const auto& layer : chosen.layers) {
        for (const auto& row : layer) {
            if (row.empty()) continue;
            for (size_t j = 0; j < chosen.n; ++j) mean[j] += row[j];
            ++rows;
        }
    }
    for (double& x : mean) x /= std::max(rows, 1.0);
    return mean;
}

std::vector<int32_t> random_choice(int32_t n, std::mt19937& rng) {
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), rng);
    all.resize(1 + rng() % all.size());
    if (rng() % 2) std::sort(all.begin(), all.end());
    return all;
}

template <class F> void on_random_shapes(uint32_t seed, F&& f) {
    std::mt19937 rng(seed);
    for (int trial = 0; trial < 25; ++trial) {
        const LiveShape shape = random_live_shape(rng);
        const auto n = static_cast<int64_t>(1 + rng() % (trial % 5 == 0 ? 600 : 60));
        const Scene scene(shape, n, static_cast<uint32_t>(rng()), rng() % 2 == 0);
        AttentionRequest request;
        if (rng() % 2) request.rows.layers = random_choice(scene.model.geometry().n_layer(), rng);
        if (rng() % 2) request.rows.heads = random_choice(scene.model.geometry().max_heads(), rng);
        SCOPED_TRACE("trial " + std::to_string(trial) + ": " + dtype_name(shape.k_type) + ", head_dim " +
                     std::to_string(shape.head_dim) + ", group " + std::to_string(shape.group) + ", n " +
                     std::to_string(n));
        f(scene, request, rng);
    }
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want, double tolerance = 1e-6) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(static_cast<double>(got[i]), want[i], tolerance) << "value " << i;
}

using Shape = std::vector<int64_t>;

} // namespace

TEST(View, RowsAreBitForBitThoseOfAttentionRows) {
    on_random_shapes(1, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        request.rows.heads.clear();
        request.rows.layers.clear();
        const AttentionAnswer answer = scene.answer(request);
        const int64_t n = scene.frame.index + 1;
        EXPECT_EQ(answer.shape, (Shape{scene.model.geometry().n_layer(), scene.model.geometry().max_heads(), n}));
        const auto want = scene.model.rows(scene.frame);
        ASSERT_EQ(answer.values.size(), want.size());
        for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(answer.values[i], want[i]) << "value " << i;
    });
}

TEST(View, ChosenRowsComeInTheOrderAskedFor) {
    on_random_shapes(2, [](const Scene& scene, const AttentionRequest& request, std::mt19937&) {
        std::vector<double> want;
        const Chosen chosen = choose(scene, request);
        for (const auto& layer : chosen.layers) {
            for (const auto& row : layer) {
                const std::vector<double> zeros(chosen.n, 0.0);
                const auto& from = row.empty() ? zeros : row;
                want.insert(want.end(), from.begin(), from.end());
            }
        }
        expect_near(scene.answer(request).values, want, 2e-6);
    });
}

TEST(View, TheMeanIsOverRowsThatExist) {
    on_random_shapes(3, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        request.reduce = Reduce::mean;
        expect_near(scene.answer(request).values, mean_of(choose(scene, request)));
    });
}

TEST(View, AMeanThatTheFrameBringsIsTakenForAllRowsAndForNothingElse) {
    on_random_shapes(4, [](const Scene& given, AttentionRequest request, std::mt19937& rng) {
        std::vector<float> mean;
        for (int64_t j = 0; j <= given.frame.index; ++j) mean.push_back(static_cast<float>(rng() % 1000));
        request.reduce = Reduce::mean;
        const Chosen chosen = choose(given, request);
        int64_t n_rows = 0;
        for (const auto& layer : chosen.layers) {
            for (const auto& row : layer) n_rows += !row.empty();
        }
        const bool all = n_rows == given.model.geometry().n_rows();
        const auto ask = [&](std::span<const float> m) {
            return AttentionView::create(*given.keys, request).value()->answer(given.frame, m).value().values;
        };
        if (all)
            EXPECT_EQ(ask(mean), mean);
        else
            expect_near(ask(mean), mean_of(chosen));
        request.reduce = Reduce::per_layer;
        EXPECT_EQ(ask(mean), ask({}));
    });
}

TEST(View, PerLayerIsTheMeanOverHeads) {
    on_random_shapes(4, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        request.reduce = Reduce::per_layer;
        const Chosen chosen = choose(scene, request);
        std::vector<double> want;
        for (const auto& layer : chosen.layers) {
            const auto mean = mean_of({chosen.n, {layer}});
            want.insert(want.end(), mean.begin(), mean.end());
        }
        const AttentionAnswer answer = scene.answer(request);
        EXPECT_EQ(answer.shape, (Shape{static_cast<int64_t>(chosen.layers.size()), static_cast<int64_t>(chosen.n)}));
        expect_near(answer.values, want);
    });
}

TEST(View, TheMaximumIsOverAllRows) {
    on_random_shapes(5, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        request.reduce = Reduce::max;
        const Chosen chosen = choose(scene, request);
        std::vector<double> want(chosen.n, 0.0);
        for (const auto& layer : chosen.layers) {
            for (const auto& row : layer) {
                for (size_t j = 0; j < row.size(); ++j) want[j] = std::max(want[j], row[j]);
            }
        }
        expect_near(scene.answer(request).values, want, 2e-6);
    });
}

TEST(View, TopKAreTheLargestMeans) {
    on_random_shapes(6, [](const Scene& scene, AttentionRequest request, std::mt19937& rng) {
        request.reduce = Reduce::top_k;
        request.top_k = static_cast<int32_t>(1 + rng() % 9);
        const auto mean = mean_of(choose(scene, request));
        const AttentionAnswer answer = scene.answer(request);
        ASSERT_EQ(answer.values.size(), std::min(mean.size(), static_cast<size_t>(request.top_k)));
        ASSERT_EQ(answer.columns.size(), answer.values.size());
        ASSERT_EQ(answer.shape, Shape{static_cast<int64_t>(answer.values.size())});
        std::vector<double> sorted = mean;
        std::sort(sorted.rbegin(), sorted.rend());
        for (size_t i = 0; i < answer.values.size(); ++i) {
            EXPECT_NEAR(static_cast<double>(answer.values[i]), mean[static_cast<size_t>(answer.columns[i])], 1e-6);
            EXPECT_NEAR(static_cast<double>(answer.values[i]), sorted[i], 1e-6);
        }
    });
}

TEST(View, SpansSumTheMeanAndEndWhereTheContextEnds) {
    on_random_shapes(7, [](const Scene& scene, AttentionRequest request, std::mt19937& rng) {
        request.reduce = Reduce::spans;
        const auto mean = mean_of(choose(scene, request));
        const auto n = static_cast<int64_t>(mean.size());
        std::vector<double> want;
        for (int s = 0; s < 5; ++s) {
            const auto begin = static_cast<int64_t>(rng() % static_cast<uint64_t>(n + 3));
            const auto end = begin + static_cast<int64_t>(rng() % static_cast<uint64_t>(n + 3));
            request.spans.push_back({begin, end});
            double sum = 0;
            for (int64_t j = begin; j < std::min(end, n); ++j) sum += mean[static_cast<size_t>(j)];
            want.push_back(sum);
        }
        expect_near(scene.answer(request).values, want);
    });
}

TEST(View, LookbackRatioComparesThePromptWithWhatWasGenerated) {
    on_random_shapes(8, [](const Scene& scene, AttentionRequest request, std::mt19937& rng) {
        request.reduce = Reduce::lookback_ratio;
        const Chosen chosen = choose(scene, request);
        const size_t n_prompt = rng() % (chosen.n + 1);
        std::vector<double> want;
        for (const auto& layer : chosen.layers) {
            for (const auto& row : layer) {
                double context = 0, generated = 0;
                for (size_t j = 0; j < row.size(); ++j) (j < n_prompt ? context : generated) += row[j];
                if (n_prompt > 0) context /= static_cast<double>(n_prompt);
                if (chosen.n > n_prompt) generated /= static_cast<double>(chosen.n - n_prompt);
                want.push_back(context + generated > 0 ? context / (context + generated) : 0.0);
            }
        }
        expect_near(scene.answer(request, {.n_prompt = static_cast<int64_t>(n_prompt)}).values, want, 1e-5);
    });
}

TEST(View, EntropyAndFirstShareAreOfEachRow) {
    on_random_shapes(9, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        std::vector<double> entropy, first;
        const Chosen chosen = choose(scene, request);
        for (const auto& layer : chosen.layers) {
            for (const auto& row : layer) {
                double sum = 0;
                for (const double p : row) {
                    if (p > 0) sum -= p * std::log(p);
                }
                entropy.push_back(sum);
                first.push_back(row.empty() ? 0.0 : row[0]);
            }
        }
        request.reduce = Reduce::entropy;
        expect_near(scene.answer(request).values, entropy, 2e-5);
        request.reduce = Reduce::first_share;
        expect_near(scene.answer(request).values, first, 2e-6);
    });
}

TEST(View, AWindowIsTheEndOfEachRowUnchanged) {
    on_random_shapes(10, [](const Scene& scene, AttentionRequest request, std::mt19937& rng) {
        for (const Reduce reduce : {Reduce::none, Reduce::mean, Reduce::max, Reduce::per_layer}) {
            request.reduce = reduce;
            request.window = 0;
            const AttentionAnswer whole = scene.answer(request);
            request.window = static_cast<int64_t>(1 + rng() % 70);
            const AttentionAnswer end = scene.answer(request);
            const auto n = static_cast<size_t>(whole.row_length());
            const size_t width = std::min(n, static_cast<size_t>(request.window));
            EXPECT_EQ(end.n_columns, whole.n_columns);
            EXPECT_EQ(end.first_column, static_cast<int64_t>(n - width));
            ASSERT_EQ(end.row_length(), static_cast<int64_t>(width));
            ASSERT_EQ(end.values.size() / width, whole.values.size() / n);
            for (size_t i = 0; i < end.values.size(); ++i)
                ASSERT_EQ(end.values[i], whole.values[i / width * n + (n - width) + i % width]);
        }
        request.reduce = Reduce::top_k;
        for (const int64_t column : scene.answer(request).columns)
            EXPECT_GE(column, scene.frame.index + 1 - request.window);
    });
}

TEST(View, MoreThreadsGiveTheSameNumbers) {
    on_random_shapes(11, [](const Scene& scene, AttentionRequest request, std::mt19937&) {
        for (const Reduce reduce : {Reduce::none, Reduce::mean, Reduce::max, Reduce::entropy}) {
            request.reduce = reduce;
            EXPECT_EQ(scene.answer(request, {.n_threads = 3}).values, scene.answer(request).values);
            EXPECT_EQ(scene.answer(request, {.engine_threads = 3}).values, scene.answer(request).values);
        }
    });
}

TEST(View, NextAccumulatesEveryTokenAndAnswersOneInEvery) {
    LiveModel model({}, 5);
    auto keys = std::move(*KeyStore::create(model.geometry(), 100));
    AttentionRequest request;
    request.reduce = Reduce::first_share;
    request.every = 3;
    request.accumulate = {Accumulate::total};
    auto view = std::move(*AttentionView::create(*keys, request));
    std::vector<double> total(12, 0.0);
    for (int i = 0; i < 12; ++i) {
        const Frame frame = model.next();
        ASSERT_TRUE(keys->append(frame));
        const auto answer = view->next(frame);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer.value().has_value(), i % 3 == 0) << i;
        const auto all = model.reference(frame);
        for (size_t at = 0; at < all.size(); ++at)
            total[at % static_cast<size_t>(i + 1)] += all[at] / static_cast<double>(model.geometry().n_rows());
    }
    EXPECT_EQ(view->scores().n_rows(), 12);
    for (size_t j = 0; j < 12; ++j) EXPECT_NEAR(view->scores().total()[j], total[j], 1e-6) << j;
}

TEST(View, AFrameWithoutQueriesOrAheadOfTheKeysIsRefusedInWords) {
    const Scene scene({}, 5, 3);
    auto view = std::move(*AttentionView::create(*scene.keys, {}));
    Frame blind = scene.frame;
    blind.q.clear();
    EXPECT_EQ(view->answer(blind).error().kind, ErrorKind::not_found);
    Frame ahead = scene.frame;
    ahead.visible[0] = {{0, 9}};
    EXPECT_EQ(view->answer(ahead).error().kind, ErrorKind::not_found);
    Frame torn = scene.frame;
    torn.q.pop_back();
    EXPECT_EQ(view->answer(torn).error().kind, ErrorKind::invalid_argument);
    Frame backwards = scene.frame;
    backwards.visible[0] = {{3, 5}, {0, 2}};
    EXPECT_EQ(view->answer(backwards).error().kind, ErrorKind::invalid_argument);
    EXPECT_TRUE(view->answer(scene.frame));
}

TEST(View, RequestsBeyondTheModelNameTheField) {
    const Scene scene({}, 3, 4);
    const auto refused = [&](const AttentionRequest& request, const std::string& field) {
        const auto view = AttentionView::create(*scene.keys, request);
        ASSERT_FALSE(view) << field;
        EXPECT_EQ(view.error().kind, ErrorKind::invalid_argument);
        EXPECT_TRUE(view.error().message.starts_with(field)) << view.error().message;
    };
    refused({.rows = {.layers = {0, 3}}}, "layers");
    refused({.rows = {.layers = {-1}}}, "layers");
    refused({.rows = {.layers = {1, 1}}}, "layers");
    refused({.rows = {.heads = {4}}}, "heads");
    refused({.window = -1}, "window");
    refused({.top_k = 0}, "top_k");
    refused({.top_k = max_top_k + 1}, "top_k");
    refused({.reduce = Reduce::spans}, "spans");
    refused({.spans = {{3, 2}}}, "spans");
    refused({.every = 0}, "every");
    refused({.window_rows = max_window_rows + 1}, "window_rows");
}
