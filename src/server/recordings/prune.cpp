// POST /api/v1/prune: what a policy would drop from a conversation, so that a client needs no attention stream to prune.
#include "server/recordings/prune.h"

#include "server/http/reply.h"

#include <attnscope/attention_view.h>
#include <attnscope/prune.h>
#include <attnscope/recording.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;
constexpr size_t max_tokens = size_t(1) << 22;

Error bad(const std::string& why) {
    return {ErrorKind::invalid_argument, why};
}

// Scores as the policy wants them, out of what a generation or a recording accumulated.
std::vector<double> scores_for(PrunePolicy policy, const PositionScores& s) {
    const auto copy = [](std::span<const double> v) { return std::vector<double>(v.begin(), v.end()); };
    switch (policy) {
    case PrunePolicy::brightness: return copy(s.brightness());
    case PrunePolicy::h2o: return copy(s.total());
    case PrunePolicy::snapkv: return s.window_mean();
    case PrunePolicy::tova: return s.last();
    }
    return {};
}

// Scores belong to tokens: those that were scored must be the ones that are asked about.
Result<void> check_same(const std::optional<std::vector<int32_t>>& asked, std::span<const int32_t> scored) {
    if (!asked) return {};
    const auto differ = std::mismatch(asked->begin(), asked->end(), scored.begin(), scored.end());
    if (differ.first == asked->end() || differ.second == scored.end()) return {};
    return bad(fmt::format("\"input_ids\" are not the tokens that were scored: number {} is {}, and {} was scored",
                           differ.first - asked->begin(), *differ.first, *differ.second));
}

// A name, never a path: nothing outside the folder of recordings is opened.
bool is_plain_name(const std::string& name) {
    const bool plain = std::all_of(name.begin(), name.end(),
                                   [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
    return plain && !name.empty() && name.front() != '.' && name.ends_with(".attn");
}

Result<PositionScores> recorded_scores(const PruneSources& sources, const std::string& name, int64_t sequence,
                                       int32_t window_rows, const std::optional<std::vector<int32_t>>& ids) {
    if (sources.record_dir.empty() || !is_plain_name(name)) {
        return bad(
            "\"recording\" must be the name of a recording that this server made, as in 20260101-120000-0000.attn");
    }
    const std::string path = (std::filesystem::path(sources.record_dir) / name).string();
    auto recording = sequence == 0 ? Recording::open(path) : Recording::open_sequence(path, sequence);
    if (!recording) return recording.error();
    const int64_t n = (*recording)->info().n_frames;
    auto frames = (*recording)->frames(0, n);
    if (!frames) return frames.error();
    std::vector<int32_t> scored;
    for (const Frame& f : *frames) scored.push_back(f.token);
    if (Result<void> r = check_same(ids, scored); !r) return r.error();
    const auto generated =
        std::find_if(frames->begin(), frames->end(), [](const Frame& f) { return f.kind == FrameKind::generated; });
    // As live: the rows that chose the generated tokens, from the prompt's last token on. A program that is attached does not decode its
    // last token; a session of ours does.
    const bool attached = (*recording)->info().entry == "attached";
    const Range chose{std::max<int64_t>(0, generated - frames->begin() - 1), attached ? n : n - 1};
    AttentionRequest request;
    request.reduce = Reduce::mean;
    request.accumulate = {Accumulate::total};
    request.window_rows = window_rows;
    auto source = AttentionSource::of(**recording);
    if (!source) return source.error();
    auto view = AttentionView::create(**source, request, {.n_threads = 0});
    if (!view) return view.error();
    auto done = (*view)->each(chose, [](AttentionAnswer&&) { return Result<void>(); });
    if (!done) return done.error();
    if (chose.begin < chose.end && (*view)->scores().n_rows() == 0)
        return Error{ErrorKind::not_found, "no generated token of " + name + " was recorded with its queries"};
    return (*view)->scores();
}

Result<std::vector<Range>> read_chunks(const Json* chunks) {
    std::vector<Range> out;
    if (!chunks) return out;
    if (!chunks->is_array() || chunks->size() > max_tokens)
        return bad("\"chunks\" must be an array of [begin, end) pairs");
    for (const Json& c : *chunks) {
        if (!c.is_array() || c.size() != 2 || !c[0].is_number_integer() || !c[1].is_number_integer()) {
            return bad("\"chunks\" must be an array of [begin, end) pairs of whole numbers");
        }
        out.push_back({c[0].get<int64_t>(), c[1].get<int64_t>()});
    }
    return out;
}

Result<std::vector<double>> read_scores(RequestFields& f, const PruneSources& sources, PrunePolicy policy,
                                        int32_t window_rows, const std::optional<std::vector<int32_t>>& ids) {
    std::vector<double> scores;
    if (const Json* given = f.find("scores")) {
        if (!given->is_array() || given->size() > max_tokens) return bad("\"scores\" must be an array of numbers");
        for (const Json& s : *given) {
            if (!s.is_number()) return bad("\"scores\" must be an array of numbers");
            scores.push_back(s.get<double>());
        }
        return scores;
    }
    const std::string recording = f.text("recording", "", 256), id = f.text("request_id", "", 256);
    const int64_t sequence = f.integer("sequence", 0, 0, int64_t(1) << 40);
    if (Result<void> r = f.status(); !r) return r.error();
    if (!recording.empty()) {
        Result<PositionScores> found = recorded_scores(sources, recording, sequence, window_rows, ids);
        if (!found) return found.error();
        return scores_for(policy, *found);
    }
    if (id.empty())
        return bad("give \"scores\", the \"request_id\" of a generation that accumulated, or a \"recording\"");
    const std::optional<ScoredPrompt> found = sources.scores(id);
    if (!found)
        return bad("no finished generation of that \"request_id\" accumulated scores; ask for attention.accumulate");
    if (Result<void> r = check_same(ids, found->prompt); !r) return r.error();
    return scores_for(policy, found->scores);
}

Result<Json> answer(const Json& body, const PruneSources& sources, std::vector<std::string>& ignored) {
    RequestFields f(body);
    Result<PrunePolicy> policy = prune_policy_from_name(f.text("policy", "brightness", 64));
    if (!policy) return policy.error();
    const auto ids = f.token_ids("input_ids", sources.n_vocab, max_tokens);
    PruneRequest request;
    request.policy = *policy;
    request.budget = f.integer("budget", -1, -1, int64_t(1) << 40);
    request.recent = f.integer("recent", 0, 0, int64_t(1) << 40);
    request.pool = static_cast<int32_t>(f.integer("pool", 5, 1, 1 << 20));
    const auto window_rows = static_cast<int32_t>(f.integer("window_rows", 32, 1, max_window_rows));
    if (Result<void> r = f.status(); !r) return r.error();
    if (request.budget < 0) return bad("\"budget\" must say how many tokens may stay");
    Result<std::vector<double>> scores = read_scores(f, sources, *policy, window_rows, ids);
    if (!scores) return scores.error();
    if (Result<void> r = f.status(); !r) return r.error();
    if (ids && scores->size() > ids->size()) scores->resize(ids->size());
    if (ids && scores->size() < ids->size()) {
        // Tokens that no row has seen yet are as good as the best.
        const double best = *policy == PrunePolicy::brightness || scores->empty()
                                ? brightness_start
                                : *std::max_element(scores->begin(), scores->end());
        scores->resize(ids->size(), best);
    }
    request.scores = *scores;
    Result<std::vector<Range>> chunks = read_chunks(f.find("chunks"));
    if (!chunks) return chunks.error();
    request.chunks = *chunks;
    std::vector<int64_t> pinned;
    if (const Json* given = f.find("pinned")) {
        if (!given->is_array()) return bad("\"pinned\" must be an array of chunk numbers");
        for (const Json& p : *given) {
            if (!p.is_number_integer()) return bad("\"pinned\" must be an array of chunk numbers");
            pinned.push_back(p.get<int64_t>());
        }
    }
    request.pinned = pinned;
    Result<PruneResult> pruned = prune(request);
    if (!pruned) return pruned.error();
    Json out = {{"policy", prune_policy_name(*policy)},
                {"fits", pruned->fits},
                {"dropped_chunks", pruned->dropped},
                {"kept_tokens", pruned->kept_tokens},
                {"chunk_scores", pruned->chunk_scores}};
    Json& dropped = out["dropped_tokens"] = Json::array();
    for (const Range& r : pruned->dropped_tokens) dropped.push_back(Json::array({r.begin, r.end}));
    if (ids) {
        Json& kept = out["input_ids"] = Json::array();
        for (const int64_t i : pruned->kept_tokens) kept.push_back((*ids)[static_cast<size_t>(i)]);
    }
    for (const char* key : {"scores", "recording", "sequence", "request_id"})
        f.find(key); // the first that is given counts
    ignored = unread_fields(body, f.known());
    return out;
}

} // namespace

void add_prune(httplib::Server& http, PruneSources sources) {
    http.Post("/api/v1/prune",
              [sources = std::move(sources)](const httplib::Request& request, httplib::Response& response) {
                  Result<Json> body = parse_body(request.body);
                  if (!body) return refuse(response, kobold, body.error());
                  std::vector<std::string> ignored;
                  Result<Json> out = answer(*body, sources, ignored);
                  if (!out) return refuse(response, kobold, out.error());
                  name_ignored(response, ignored);
                  reply(response, *out);
              });
}

} // namespace attnscope::server
