#include "server/view/viewed.h"

#include "base/bounded_json.h"
#include "base/input_file.h"
#include "server/http/event_stream.h"

#include <attnscope/diagnose.h>
#include <attnscope/verify.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <unistd.h>

namespace attnscope::server {

namespace {

constexpr int heads_format = 2; // of the cache
constexpr int64_t most_cache_bytes = 64 << 20;
constexpr size_t checked_bytes = size_t(512) << 20; // up to here health() reads the whole file and its checksums
constexpr int64_t health_proofs = 200;

Json number(double v) {
    return std::isfinite(v) ? Json(v) : Json(nullptr);
}
Json numbers(std::span<const double> values) {
    Json list = Json::array();
    for (const double v : values) list.push_back(number(v));
    return list;
}

std::string cache_path(const std::string& path, int64_t sequence) {
    return path + (sequence == 0 ? "" : fmt::format(".sequence-{}", sequence)) + ".heads.json";
}

Json cache_key(const std::string& path, int64_t sequence, const RecordingInfo& info) {
    std::error_code ec;
    const auto bytes = std::filesystem::file_size(path, ec);
    Json key = {{"format", heads_format},
                {"bytes", ec ? 0 : bytes},
                {"n_frames", info.n_frames},
                {"created", info.created},
                {"model", info.model.sha256}};
    if (sequence != 0) key["sequence"] = sequence; // a file may be given another name
    return key;
}

} // namespace

namespace {

// Can its tokens see later ones? Those of a text that is read without a cache: an encoder's.
bool looks_both_ways(const LayerInfo& layer) {
    return layer.captured() && layer.key_source == KeySource::graph &&
           (layer.role == LayerRole::every || layer.role == LayerRole::encoder);
}

} // namespace

Json info_json(const std::string& name, const RecordingInfo& info, int64_t n_prompt) {
    Json layers = Json::array();
    for (const LayerInfo& l : info.geometry.layers) {
        layers.push_back({{"index", layers.size()},
                          {"layer", l.layer},
                          {"n_head", l.captured() ? l.n_head : 0},
                          {"n_head_kv", l.n_head_kv},
                          {"role", layer_role_name(l.role)},
                          {"both_ways", looks_both_ways(l)},
                          {"absent", l.absent}});
    }
    return {{"name", name},
            {"kind", "recording"},
            {"model", info.model.name},
            {"architecture", info.model.architecture},
            {"created", info.created},
            {"writer", info.writer},
            {"engine", info.engine},
            {"complete", info.complete},
            {"notice", info.notice},
            {"n_tokens", info.n_frames},
            {"n_prompt", n_prompt},
            {"n_heads", info.geometry.max_heads()},
            {"layers", layers},
            {"weights", ""}};
}

Result<Json> tokens_json(Recording& recording) {
    const int64_t n = recording.info().n_frames;
    std::vector<Frame> frames;
    std::string damage;
    Result<std::vector<Frame>> all = recording.frames(0, n);
    if (all) {
        frames = std::move(*all);
    } else { // one damaged frame hides no other
        damage = all.error().message;
        for (int64_t i = 0; i < n; ++i) {
            Result<Frame> one = recording.frame(i);
            Frame none;
            none.index = i;
            none.position = static_cast<int32_t>(i);
            none.verdict = verdict_checksum;
            frames.push_back(one ? std::move(*one) : none);
        }
    }
    Json ids = Json::array(), positions = Json::array(), generated = Json::array(), verdicts = Json::array(),
         pieces = Json::object();
    std::set<int32_t> seen;
    int64_t n_prompt = 0;
    for (const Frame& f : frames) {
        ids.push_back(f.token);
        positions.push_back(f.position);
        generated.push_back(f.kind == FrameKind::generated ? 1 : 0);
        verdicts.push_back(f.verdict);
        n_prompt += f.kind == FrameKind::prompt;
        if (!seen.insert(f.token).second) continue;
        const std::string piece = recording.token_text(f.token);
        pieces[std::to_string(f.token)] = base64(piece.data(), piece.size());
    }
    return Json{{"ids", ids},       {"positions", positions}, {"generated", generated}, {"verdicts", verdicts},
                {"pieces", pieces}, {"n_prompt", n_prompt},   {"damage", damage}};
}

Json heads_json(const view::HeadMetrics& m) {
    Json values = Json::object(), kinds = Json::array(), rules = Json::object();
    for (int k = 0; k < view::n_metrics; ++k) values[view::metric_name(k)] = numbers(m.values[static_cast<size_t>(k)]);
    for (size_t i = 0; i < m.values[0].size(); ++i) kinds.push_back(view::head_kind(m, i));
    for (const auto& [name, rule] : view::head_rules()) rules[name] = rule;
    return {{"n_layer", m.n_layer}, {"n_head", m.n_head}, {"n_rows", m.n_rows},
            {"values", values},     {"kinds", kinds},     {"rules", rules}};
}

Json detail_json(const view::HeadDetail& d) {
    Json strongest = Json::array(), queries = Json::array(), keys = Json::array(), distance = Json::array();
    for (const view::WeightAt& w : d.strongest)
        strongest.push_back({{"query", w.query}, {"key", w.key}, {"weight", number(double(w.weight))}});
    for (const view::TokenShare& t : d.queries) queries.push_back({{"token", t.token}, {"weight", number(t.weight)}});
    for (const view::TokenShare& t : d.keys) keys.push_back({{"token", t.token}, {"weight", number(t.weight)}});
    size_t n = d.distance.size();
    while (n > 2 && d.distance[n - 1] == 0) --n;
    if (std::isnan(d.distance[0])) n = 0; // cross attention has none
    for (size_t b = 0; b < n; ++b) distance.push_back(number(d.distance[b]));
    return {{"strongest", strongest},
            {"queries", queries},
            {"keys", keys},
            {"distance", distance},
            {"skips_first", d.skips_first}};
}

Json scores_json(const PositionScores& s) {
    return {{"total", numbers(s.total())},
            {"mean", numbers(s.mean())},
            {"window_mean", numbers(s.window_mean())},
            {"last", numbers(s.last())},
            {"brightness", numbers(s.brightness())},
            {"n_rows", s.n_rows()},
            {"window_rows", s.window_rows()}};
}

Json difference_json(const view::Difference& d) {
    return {{"n_layer", d.n_layer}, {"n_head", d.n_head}, {"n_tokens", d.n_tokens}, {"distance", numbers(d.distance)}};
}

Result<Json> recording_health(Recording& recording, int64_t n_recorded) {
    VerifyOptions options;
    options.proofs = health_proofs;
    const Geometry& geometry = recording.info().geometry;
    options.file_check = static_cast<size_t>(n_recorded) * (geometry.q_bytes() + geometry.k_bytes()) <= checked_bytes;
    Result<VerifyReport> report = verify_recording(recording, options);
    if (!report) return report.error();
    Json frames = Json::array(), witnessed = Json::array();
    std::map<std::pair<int32_t, int32_t>, std::pair<float, int64_t>> reached;
    for (const FrameVerdict& f : report->frames) {
        const double ratio = f.worst_tolerance > 0 ? double(f.worst_error) / double(f.worst_tolerance) : -1;
        frames.push_back({{"index", f.index}, {"verdict", verdict_text(f.verdict)}, {"ratio", number(ratio)}});
        if (Result<Frame> frame = recording.frame(f.index); frame) {
            for (const Witness& w : frame->witnesses) {
                auto& [worst, n] = reached[{w.layer, w.head}];
                worst = std::max(worst, w.tolerance > 0 ? w.error / w.tolerance : 0);
                ++n;
            }
        }
    }
    for (const auto& [at, what] : reached) {
        witnessed.push_back(
            {{"layer", at.first}, {"head", at.second}, {"ratio", number(double(what.first))}, {"n", what.second}});
    }
    const std::string summary = fmt::format(
        "{} of {} tokens ok; {} witnesses (a head of a token, computed again and held against the engine's own output) "
        "in {} of the heads, worst at {:.1f}% of its tolerance; {} rows computed again from the file{}",
        report->n_ok, report->n_frames, report->n_witnesses, reached.size(), 100 * report->worst_ratio,
        report->n_proven_again,
        options.file_check ? ", all checksums right" : " (checksums of a file this large: attnscope verify)");
    Json findings = Json::array();
    if (!report->absent.empty())
        findings.push_back({{"cause", "Layers without capture"},
                            {"text", report->absent},
                            {"keep", ""},
                            {"fix", ""},
                            {"undecided", ""}});
    const bool unsound = !report->damage.empty();
    return Json{{"good", report->good},     {"summary", unsound ? "this file is damaged" : summary},
                {"frames", frames},         {"witnessed", witnessed},
                {"capture", Json::array()}, {"findings", findings},
                {"damage", report->damage}};
}

Result<Json> capture_health(const std::string& path) {
    Result<std::unique_ptr<DumpReader>> reader = DumpReader::open(path);
    if (!reader) return reader.error();
    Result<Diagnosis> d = diagnose_dump(**reader);
    if (!d) return d.error();
    Json tokens = Json::array(), findings = Json::array();
    for (size_t i = 0; i < d->tokens.size(); ++i) {
        const TokenFacts& t = d->tokens[i];
        tokens.push_back({{"number", t.number},
                          {"kind", token_kind_name(t.kind)},
                          {"min", number(double(t.numbers.min))},
                          {"max", number(double(t.numbers.max))},
                          {"sum", number(t.numbers.sum)},
                          {"distinct_layers", t.layers.distinct},
                          {"n_layer", t.n_layer},
                          {"keep", i < d->keep.size() ? keep_name(d->keep[i]) : ""},
                          {"repeat", t.layers.repeats}});
    }
    for (const Finding& f : d->findings) {
        findings.push_back({{"cause", cause_title(f.cause)},
                            {"text", f.evidence},
                            {"keep", f.keep},
                            {"fix", f.fix},
                            {"undecided", f.undecided}});
    }
    if (!d->pattern.sentence.empty()) {
        findings.push_back({{"cause", "Along time"},
                            {"text", Json::array({d->pattern.sentence})},
                            {"keep", ""},
                            {"fix", ""},
                            {"undecided", ""}});
    }
    return Json{{"good", d->good()},
                {"summary", d->conclusion},
                {"frames", Json::array()},
                {"witnessed", Json::array()},
                {"capture", tokens},
                {"findings", findings},
                {"damage", ""}};
}

Result<Json> cached_heads(const std::string& path, int64_t sequence, const RecordingInfo& info) {
    const Error none{ErrorKind::not_found, "there are no metrics of this recording yet"};
    if (!info.complete) return none;
    Result<base::InputFile> file = base::InputFile::open(cache_path(path, sequence));
    if (!file) return none;
    Result<std::string> text = file->read_text(most_cache_bytes);
    if (!text) return none;
    Result<Json> json = base::parse_json_object(*text, "heads");
    if (!json || json->value("key", Json()) != cache_key(path, sequence, info) || !json->contains("heads")) return none;
    const Json& heads = (*json)["heads"]; // anybody may have written it: its shape is looked at before it is believed
    const auto n = static_cast<size_t>(info.geometry.n_layer()) * static_cast<size_t>(info.geometry.max_heads());
    if (!heads.is_object() || heads.value("n_layer", Json()) != info.geometry.n_layer() ||
        heads.value("n_head", Json()) != info.geometry.max_heads() || !heads.contains("values") ||
        !heads["values"].is_object()) {
        return none;
    }
    for (int k = 0; k < view::n_metrics; ++k) {
        const Json& list = heads["values"].value(view::metric_name(k), Json());
        if (!list.is_array() || list.size() != n ||
            std::any_of(list.begin(), list.end(), [](const Json& v) { return !v.is_number() && !v.is_null(); })) {
            return none;
        }
    }
    // Names and rules are ours, made again: a stranger's words do not get onto the page.
    view::HeadMetrics m;
    m.n_layer = info.geometry.n_layer();
    m.n_head = info.geometry.max_heads();
    const Json rows = heads.value("n_rows", Json(0));
    m.n_rows = rows.is_number_integer() ? rows.get<int64_t>() : 0;
    for (int k = 0; k < view::n_metrics; ++k) {
        for (const Json& v : heads["values"][view::metric_name(k)])
            m.values[static_cast<size_t>(k)].push_back(v.is_null() ? std::nan("") : v.get<double>());
    }
    return heads_json(m);
}

void cache_heads(const std::string& path, int64_t sequence, const RecordingInfo& info, const Json& heads) {
    const std::string to = cache_path(path, sequence), unfinished = fmt::format("{}.{}", to, getpid());
    {
        std::ofstream file(unfinished, std::ios::binary);
        file << Json{{"key", cache_key(path, sequence, info)}, {"heads", heads}}.dump();
        if (!file.flush()) {
            file.close();
            std::remove(unfinished.c_str()); // a folder that cannot be written to: computed again next time
            return;
        }
    }
    if (std::rename(unfinished.c_str(), to.c_str()) != 0) std::remove(unfinished.c_str());
}

} // namespace attnscope::server
