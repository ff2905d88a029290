#include "support/mean_trial.h"

#include "support/temp_dir.h"

#include <attnscope/attention_view.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace attnscope::test {

Result<MeanOutcome> try_means(MeanTrial trial) {
    TempDir dir;
    SessionOptions& o = trial.session;
    o.model_path = dir.file("model.gguf");
    o.device_mean = true;
    if (auto made = models::make_model(trial.shape, o.model_path); !made) return made.error();
    auto session = Session::open(o);
    if (!session) return session.error();
    GenerateOptions g;
    g.n_predict = trial.n_predict;
    g.ignore_eos = true;
    g.sampling.temperature = 0;
    AttentionRequest request;
    request.reduce = Reduce::mean;
    request.rows.layers = g.mean_rows.layers = trial.layers;
    request.rows.heads = g.mean_rows.heads = trial.heads;
    auto store = KeyStore::create((*session)->geometry(), o.n_ctx);
    if (!store) return store.error();
    auto view = AttentionView::create(**store, request);
    if (!view) return view.error();
    std::vector<int32_t> prompt;
    for (size_t i = 0; i < trial.n_prompt; ++i) prompt.push_back(static_cast<int32_t>(5 + i * 7 % 200));
    MeanOutcome outcome;
    const auto r = (*session)->generate(prompt, g, [&](CapturedFrame&& captured) -> Result<void> {
        const Frame& f = captured.frame;
        outcome.n_not_ok += f.verdict != verdict_ok;
        if (auto added = (*store)->append(f); !added) return added;
        if (f.kind != FrameKind::generated) return {};
        const std::vector<float>& mean = captured.mean;
        if (mean.empty()) return {};
        ++outcome.n_means;
        auto answer = (*view)->answer(f);
        if (!answer) return answer.error();
        outcome.n_wrong += answer->values.size() != mean.size();
        for (size_t i = 0; i < std::min(mean.size(), answer->values.size()); ++i) {
            const double difference = std::fabs(double(mean[i]) - double(answer->values[i]));
            outcome.worst =
                std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(outcome.worst, difference);
        }
        return {};
    });
    if (!r) return r.error();
    return outcome;
}

} // namespace attnscope::test
