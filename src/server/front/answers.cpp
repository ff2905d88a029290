#include "server/front/answers.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {
constexpr size_t most_ended = 16, most_scores = 16;
constexpr size_t most_text = size_t(16) << 20; // of one answer
} // namespace

void Answers::One::add(const std::string& text) {
    const base::Lock lock(mutex_);
    if (text_.size() < most_text) text_ += text;
}

std::string Answers::One::text() const {
    const base::Lock lock(mutex_);
    return text_;
}

std::shared_ptr<Answers::One> Answers::begin(const std::string& id) {
    auto one = std::make_shared<One>(id);
    {
        const base::Lock lock(mutex_);
        all_.push_back(one);
        auto n_ended = static_cast<size_t>(
            std::count_if(all_.begin(), all_.end(), [](const std::shared_ptr<One>& a) { return a->ended(); }));
        for (auto a = all_.begin(); a != all_.end() && n_ended > most_ended;) {
            const bool old = (*a)->ended();
            n_ended -= old;
            a = old ? all_.erase(a) : std::next(a);
        }
    }
    return {one.get(), [one](One*) { one->end(); }};
}

std::shared_ptr<Answers::One> Answers::find(const std::string& id) const {
    const base::Lock lock(mutex_);
    for (auto a = all_.rbegin(); a != all_.rend(); ++a) {
        if ((*a)->id == id && (!id.empty() || !(*a)->ended())) return *a;
    }
    return nullptr;
}

bool Answers::cancel(const std::string& id) {
    const base::Lock lock(mutex_);
    const auto runs = [](const std::shared_ptr<One>& a) { return !a->ended(); };
    const bool only = id.empty() && std::count_if(all_.begin(), all_.end(), runs) == 1;
    bool any = false;
    for (const std::shared_ptr<One>& a : all_) {
        if (!runs(a) || (a->id != id && !only)) continue;
        a->cancel();
        any = true;
    }
    return any;
}

void Answers::ended(const End& end) {
    const base::Lock lock(mutex_);
    last_.prompt_seconds = end.prompt_seconds;
    last_.generate_seconds = end.generate_seconds;
    last_.n_prompt = end.n_prompt;
    last_.n_read = end.n_read;
    last_.n_generated = end.n_generated;
    last_.seed = end.seed;
    last_.stop_reason = end.stop_reason;
    ++last_.n_generations;
}

KoboldPerf Answers::perf() const {
    const base::Lock lock(mutex_);
    KoboldPerf out = last_;
    out.busy = std::any_of(all_.begin(), all_.end(), [](const std::shared_ptr<One>& a) { return !a->ended(); });
    out.up_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    return out;
}

void Answers::keep_scores(const std::string& id, std::vector<int32_t> prompt, const PositionScores& scores) {
    if (id.empty()) return;
    const base::Lock lock(mutex_);
    std::erase_if(scores_, [&](const auto& kept) { return kept.first == id; });
    scores_.emplace_back(id, ScoredPrompt{std::move(prompt), scores});
    if (scores_.size() > most_scores) scores_.pop_front();
}

std::optional<ScoredPrompt> Answers::scores(const std::string& id) const {
    const base::Lock lock(mutex_);
    for (const auto& [name, kept] : scores_) {
        if (name == id) return kept;
    }
    return std::nullopt;
}

} // namespace attnscope::server
