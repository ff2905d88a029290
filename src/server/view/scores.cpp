#include "server/view/scores.h"

#include "server/view/viewed.h"
#include "view/recorded/questions.h"

#include <attnscope/prune.h>

#include <algorithm>

namespace attnscope::server {

Result<Json> scores_answer(const view::RecordedTensors& t, const view::Selection& s) {
    const Result<PositionScores> scores = view::position_scores(t, s, score_window_rows);
    if (!scores) return scores.error();
    Json body = scores_json(*scores);
    const Range unseen = t.unseen_by(s);
    for (auto& [name, list] : body.items()) {
        if (!list.is_array()) continue;
        for (int64_t i = unseen.begin; i < std::min(unseen.end, static_cast<int64_t>(list.size())); ++i)
            list[static_cast<size_t>(i)] = nullptr;
    }
    return body;
}

Result<Json> prune_answer(const view::RecordedTensors& t, const view::Selection& s, const std::string& policy_text,
                          int64_t budget) {
    const Result<PrunePolicy> policy = prune_policy_from_name(policy_text);
    if (!policy) return policy.error();
    Result<PositionScores> scores = view::position_scores(t, s, score_window_rows);
    if (!scores) return scores.error();
    std::vector<double> of;
    switch (*policy) {
    case PrunePolicy::brightness: of.assign(scores->brightness().begin(), scores->brightness().end()); break;
    case PrunePolicy::h2o: of.assign(scores->total().begin(), scores->total().end()); break;
    case PrunePolicy::snapkv: of = scores->window_mean(); break;
    case PrunePolicy::tova: of = scores->last(); break;
    }
    // A token that no row has seen yet counts as the best.
    const double best = of.empty() ? 0 : *std::max_element(of.begin(), of.end());
    of.resize(static_cast<size_t>(t.size()), best);
    const Range unseen = t.unseen_by(s);
    std::vector<int64_t> unscored;
    for (int64_t i = unseen.begin; i < unseen.end; ++i) unscored.push_back(i);
    PruneRequest request;
    request.policy = *policy;
    request.scores = of;
    request.pinned = unscored; // each token is a chunk
    request.budget = budget;
    request.recent = *policy == PrunePolicy::h2o      ? budget / 2
                     : *policy == PrunePolicy::snapkv ? std::min<int64_t>(score_window_rows, budget)
                                                      : 0;
    const Result<PruneResult> result = prune(request);
    if (!result) return result.error();
    Json ranges = Json::array();
    if (!unscored.empty()) ranges.push_back({unseen.begin, unseen.end});
    return Json{
        {"n_tokens", t.size()}, {"kept", result->kept_tokens}, {"fits", result->fits}, {"unscored", std::move(ranges)}};
}

} // namespace attnscope::server
