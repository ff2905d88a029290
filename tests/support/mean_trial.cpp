#include "support/mean_trial.h"

#include "support/temp_dir.h"

#include <attnscope/attention_view.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace attnscope::test {

void expect_means_of_own_rows(MeanTrial trial) {
    TempDir dir;
    SessionOptions& o = trial.session;
    o.model_path = dir.file("model.gguf");
    o.device_mean = true;
    ASSERT_TRUE(make_model(trial.shape, o.model_path));
    auto session = Session::open(o);
    ASSERT_TRUE(session) << session.error().message;
    GenerateOptions g;
    g.n_predict = trial.n_predict;
    g.ignore_eos = true;
    g.sampling.temperature = 0;
    AttentionRequest request;
    request.reduce = Reduce::mean;
    request.layers = g.mean_layers = trial.layers;
    request.heads = g.mean_heads = trial.heads;
    auto store = KeyStore::create((*session)->geometry(), o.n_ctx);
    ASSERT_TRUE(store);
    auto view = AttentionView::create(**store, request);
    ASSERT_TRUE(view) << view.error().message;
    std::vector<int32_t> prompt;
    for (size_t i = 0; i < trial.n_prompt; ++i) prompt.push_back(static_cast<int32_t>(5 + i * 7 % 200));
    int n_means = 0;
    double worst = 0;
    const auto r = (*session)->generate(prompt, g, [&](Frame&& f) -> Result<void> {
        EXPECT_EQ(f.verdict, verdict_ok) << f.index << ": " << verdict_text(f.verdict);
        if (auto added = (*store)->append(f); !added) return added;
        if (f.kind != FrameKind::generated) return {};
        const std::vector<float> mean = std::exchange(f.mean, {});
        if (mean.empty()) return {};
        ++n_means;
        auto answer = (*view)->answer(f);
        EXPECT_TRUE(answer) << answer.error().message;
        if (!answer) return answer.error();
        EXPECT_EQ(answer->values.size(), mean.size());
        for (size_t i = 0; i < std::min(mean.size(), answer->values.size()); ++i) {
            const double difference = std::fabs(double(mean[i]) - double(answer->values[i]));
            if (!(difference <= trial.tolerance) && worst <= trial.tolerance) {
                ADD_FAILURE() << "frame " << f.index << " column " << i << ": " << mean[i] << " instead of " << answer->values[i];
            }
            worst = std::max(worst, difference);
        }
        return {};
    });
    ASSERT_TRUE(r) << r.error().message;
    EXPECT_EQ(n_means, trial.n_predict);
    testing::Test::RecordProperty("worst", std::to_string(worst));
    std::printf("largest difference %.3g\n", worst);
}

} // namespace attnscope::test
