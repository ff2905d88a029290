// attnscope info: what a recording holds.
#include "cli/info_table.h"
#include "cli/lines.h"
#include "cli/recordings_named.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "recording/missing_rows.h"

#include <attnscope/recording.h>

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <set>

#include <unistd.h>

namespace attnscope::cli {
namespace {

std::string kinds_of(const Geometry& g) {
    std::set<std::string> kinds;
    for (const LayerInfo& l : g.layers) {
        if (!l.captured()) continue;
        std::string kind = fmt::format("{} heads, {} KV heads of {} ({} x {})", l.n_head, l.n_head_kv, l.head_dim,
                                       dtype_name(l.q_type), dtype_name(l.k_type));
        if (l.softcap > 0) kind += fmt::format(", softcap {}", l.softcap);
        if (l.max_bias > 0) kind += ", ALiBi";
        if (!l.bias.empty()) kind += ", a bias by distance";
        if (l.role == LayerRole::encoder)
            kind += ", the encoder's: its text looks both ways";
        else if (l.role == LayerRole::decoder)
            kind += ", the decoder's";
        else if (l.role == LayerRole::cross)
            kind += ", cross attention: the decoder looks at the encoder's text";
        else if (l.key_source == KeySource::graph)
            kind += ", looks both ways";
        if (!l.sinks.empty()) kind += ", learned sinks";
        kinds.insert(kind);
    }
    std::string all;
    for (const std::string& kind : kinds) all += (all.empty() ? "" : "; ") + kind;
    return all;
}

// "0 to 2", "3, 5, 7": layers as --layer takes them.
std::string numbers_of(const std::vector<int32_t>& layers) {
    const bool run = layers.size() > 2 && layers.back() - layers.front() + 1 == static_cast<int32_t>(layers.size());
    return run ? fmt::format("{} to {}", layers.front(), layers.back()) : fmt::format("{}", fmt::join(layers, ", "));
}

// Of an encoder and its decoder: which layers are whose. Empty for every other model.
std::vector<std::string> roles_of(const Geometry& g) {
    std::vector<std::string> lines;
    for (const LayerRole role : {LayerRole::encoder, LayerRole::decoder, LayerRole::cross}) {
        std::vector<int32_t> layers;
        for (int32_t i = 0; i < g.n_layer(); ++i) {
            if (g.layers[size_t(i)].captured() && g.layers[size_t(i)].role == role) layers.push_back(i);
        }
        const char* whose = role == LayerRole::encoder   ? "the encoder's, over its text"
                            : role == LayerRole::decoder ? "the decoder's, over what it has written"
                                                         : "cross attention: the decoder looks at the encoder's text";
        if (!layers.empty()) lines.push_back(fmt::format("layers {}: {}", numbers_of(layers), whose));
    }
    return lines;
}

// Rows that a token has: the heads of all layers, or of those that it takes part in.
class RowsOfToken {
public:
    explicit RowsOfToken(const Geometry& g) {
        for (const LayerInfo& l : g.layers) {
            if (!l.captured()) continue;
            by_role_ = by_role_ || l.role != LayerRole::every;
            (l.role == LayerRole::decoder || l.role == LayerRole::cross ? decoder_ : others_) += l.n_head;
        }
    }
    std::string text() const {
        if (!by_role_) return fmt::format("{} rows a token", others_);
        return fmt::format("{} rows a token of the encoder's text, {} a token of the decoder", others_, decoder_);
    }
    nlohmann::json json() const {
        if (!by_role_) return others_;
        return {{"encoder", others_}, {"decoder", decoder_}};
    }

private:
    bool by_role_ = false;
    int64_t others_ = 0, decoder_ = 0;
};

// Of a recording that is being written, or whose writer died, a part lies in its log.
int64_t bytes_of(const std::string& path) {
    int64_t bytes = 0;
    for (const char* part : {"", "-wal"}) {
        std::error_code ec;
        const auto size = std::filesystem::file_size(path + part, ec);
        if (!ec) bytes += static_cast<int64_t>(size);
    }
    return bytes;
}

// What is said about a recording.
struct Facts {
    const Recording& recording;
    const RecordingInfo& info;
    std::string path;
    int64_t n_frames = 0, n_prompt = 0, n_ok = 0; // of all sequences, shared ones once
    int64_t bytes = 0;                            // of the file and its log
    int64_t raw = 0;                              // of its queries and keys

    int64_t n_generated() const { return n_frames - n_prompt; }
};

nlohmann::json layers_json(const Geometry& g) {
    nlohmann::json layers = nlohmann::json::array();
    for (const LayerInfo& l : g.layers) {
        layers.push_back({{"index", layers.size()},
                          {"layer", l.layer},
                          {"n_head", l.n_head},
                          {"n_head_kv", l.n_head_kv},
                          {"head_dim", l.head_dim},
                          {"q_type", dtype_name(l.q_type)},
                          {"k_type", dtype_name(l.k_type)},
                          {"scale", l.scale},
                          {"softcap", l.softcap},
                          {"max_bias", l.max_bias},
                          {"sinks", !l.sinks.empty()},
                          {"mask_group", l.mask_group},
                          {"role", layer_role_name(l.role)},
                          {"absent", l.absent}});
    }
    return layers;
}

nlohmann::json sequences_json(const Recording& recording) {
    nlohmann::json sequences = nlohmann::json::array();
    for (const Sequence& s : recording.sequences()) {
        sequences.push_back({{"sequence", s.id},
                             {"parent", s.parent},
                             {"n_shared", s.n_shared},
                             {"n_frames", s.n_frames},
                             {"label", s.label},
                             {"ended", s.ended},
                             {"end_reason", s.end_reason}});
    }
    return sequences;
}

nlohmann::json media_json(const Recording& recording) {
    nlohmann::json media = nlohmann::json::array();
    for (const Media& m : recording.media()) {
        media.push_back({{"sequence", m.sequence},
                         {"begin", m.begin},
                         {"end", m.end},
                         {"kind", m.kind == MediaKind::image ? "image" : "audio"},
                         {"width", m.width},
                         {"height", m.height},
                         {"n_patch_x", m.n_patch_x},
                         {"n_patch_y", m.n_patch_y},
                         {"name", m.name},
                         {"sha256", m.sha256}});
    }
    return media;
}

nlohmann::json facts_json(const Facts& f) {
    const RecordingInfo& i = f.info;
    nlohmann::json settings = nlohmann::json::parse(i.settings_json, nullptr, false);
    if (settings.is_discarded()) settings = nullptr;
    return {{"path", f.path},
            {"complete", i.complete},
            {"end_reason", f.recording.sequences()[0].end_reason},
            {"n_frames", f.n_frames},
            {"n_prompt", f.n_prompt},
            {"n_generated", f.n_generated()},
            {"frames_ok", f.n_ok},
            {"bytes", f.bytes},
            {"q_and_k_bytes", f.raw},
            {"format_version", i.format_version},
            {"notice", i.notice},
            {"created", i.created},
            {"writer", i.writer},
            {"engine", i.engine},
            {"entry", i.entry},
            {"model",
             {{"file", i.model.path},
              {"name", i.model.name},
              {"architecture", i.model.architecture},
              {"description", i.model.description},
              {"bytes", i.model.file_bytes},
              {"sha256", i.model.sha256},
              {"n_ctx_train", i.model.n_ctx_train},
              {"n_vocab", i.model.n_vocab}}},
            {"rows_per_token", RowsOfToken(i.geometry).json()},
            {"layers", layers_json(i.geometry)},
            {"settings", settings},
            {"sequences", sequences_json(f.recording)},
            {"media", media_json(f.recording)}};
}

// A whole file may hold less than was asked for.
std::string state_of(const Facts& f) {
    if (!f.info.complete) return "incomplete (the capture has not ended, or not properly)";
    const std::vector<Sequence>& sequences = f.recording.sequences();
    if (sequences.size() != 1 || sequences[0].end_reason.empty()) return "complete";
    return fmt::format("{} (the file is whole; the capture was ended before its own end)", sequences[0].end_reason);
}

// JSON that can be broken where a member or an element ends.
std::string spaced(const std::string& json) {
    std::string out;
    bool in_text = false;
    for (size_t i = 0; i < json.size(); ++i) {
        out += json[i];
        if (in_text && json[i] == '\\' && i + 1 < json.size())
            out += json[++i];
        else if (json[i] == '"')
            in_text = !in_text;
        else if (json[i] == ',' && !in_text)
            out += ' ';
    }
    return out;
}

void print_facts(const Facts& f) {
    const RecordingInfo& i = f.info;
    const Geometry& g = i.geometry;
    const auto line = [](const char* name, const std::string& value) {
        fmt::print("{:<12} {}\n", name, for_reader(stdout, value, 13));
    };
    line("recording", fmt::format("{}, {}", f.path, state_of(f)));
    if (!i.notice.empty()) line("note", i.notice);
    line("tokens", fmt::format("{}: {} prompt, {} generated; {} with a good verdict", f.n_frames, f.n_prompt,
                               f.n_generated(), f.n_ok));
    const RowsOfToken rows(g);
    if (g.layers.empty()) {
        line("attention", "not known yet: nothing was decoded");
    } else {
        line("attention", fmt::format("{} layers, {}", g.n_layer(), rows.text()));
        line("", kinds_of(g));
    }
    for (const std::string& role : roles_of(g)) line("", role);
    for (const std::string& layer : recording::layers_not_captured(g)) line("", "not captured: " + layer);
    line("size", fmt::format("{:.1f} MB, {:.3f} x the queries and keys ({:.1f} KB a token)", double(f.bytes) / 1e6,
                             f.raw ? double(f.bytes) / double(f.raw) : 0.0,
                             f.n_frames ? double(f.bytes) / double(f.n_frames) / 1e3 : 0.0));
    line("model", fmt::format("{} ({}{}{})", i.model.path, i.model.name, i.model.description.empty() ? "" : ", ",
                              i.model.description));
    if (!i.model.sha256.empty()) line("identity", i.model.sha256 + " (of its first and last MiB and its size)");
    line("engine", fmt::format("{}, {} entry", i.engine, i.entry));
    if (f.recording.sequences().size() > 1) {
        for (const Sequence& s : f.recording.sequences()) {
            line(s.id == 0 ? "sequences" : "",
                 fmt::format("{}: {} tokens{}{}{}", s.id, s.n_frames,
                             s.n_shared > 0 ? fmt::format(", the first {} with sequence {}", s.n_shared, s.parent) : "",
                             s.label.empty() ? "" : ", " + s.label,
                             s.end_reason.empty() ? "" : "; ended: " + s.end_reason));
        }
    }
    line("created", fmt::format("{} by {}", i.created, i.writer));
    line("settings", isatty(STDOUT_FILENO) ? spaced(i.settings_json) : i.settings_json);
}

Result<Facts> facts_of(Recording& recording, const std::string& path) {
    const RecordingInfo& info = recording.info();
    Facts facts{recording, info, path};
    for (const Sequence& s : recording.sequences()) {
        Result<std::vector<Frame>> frames = recording.frames(s.n_shared, s.n_frames, s.id);
        if (!frames) return frames.error();
        facts.n_frames += s.n_frames - s.n_shared;
        for (const Frame& f : *frames) {
            facts.n_prompt += f.kind == FrameKind::prompt;
            facts.n_ok += f.verdict == verdict_ok;
        }
    }
    facts.bytes = bytes_of(path);
    const Geometry& g = info.geometry;
    facts.raw = facts.n_frames * static_cast<int64_t>(g.q_bytes() + g.k_bytes());
    return facts;
}

void print_json(const nlohmann::json& body) {
    fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int run_one(const std::string& path, bool json) {
    Result<std::unique_ptr<Recording>> opened = Recording::open(path);
    if (!opened) return report(opened.error(), json);
    const Result<Facts> facts = facts_of(**opened, path);
    if (!facts) return report(facts.error(), json);
    if (json)
        print_json(facts_json(*facts));
    else
        print_facts(*facts);
    return exit_good;
}

// A line, or an element of a list, for each; those that cannot be read are told, too.
int run_several(const std::vector<std::string>& paths, bool json) {
    nlohmann::json list = nlohmann::json::array();
    std::vector<InfoLine> lines;
    std::vector<Error> failed;
    for (const std::string& path : paths) {
        Result<std::unique_ptr<Recording>> opened = Recording::open(path);
        const Result<Facts> facts = opened ? facts_of(**opened, path) : Result<Facts>(opened.error());
        if (!facts) {
            list.push_back(error_json(facts.error()));
            list.back()["path"] = path;
            failed.push_back(facts.error());
            continue;
        }
        if (json)
            list.push_back(facts_json(*facts));
        else
            lines.push_back({std::filesystem::path(path).filename().string(), facts->n_frames,
                             facts->info.complete ? "closed" : "not closed", first_words(**opened)});
    }
    if (json) {
        print_json(list);
    } else {
        if (!lines.empty()) print_lines(lines);
        std::fflush(stdout);
        for (const Error& error : failed) report(error);
    }
    return failed.empty() ? exit_good : exit_failed;
}

int run(const std::vector<std::string>& given, bool json) {
    const NamedRecordings named = recordings_named(given);
    return named.one ? run_one(named.paths[0], json) : run_several(named.paths, json);
}

} // namespace

void add_info(CLI::App& app, Action& action) {
    struct Flags {
        std::vector<std::string> paths;
        bool json = false;
    };
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("info", "Say what a recording holds, from what and how");
    verb->footer("Examples:\n"
                 "  attnscope info sky.attn\n"
                 "  attnscope info sky.attn --json | jq .settings\n"
                 "  attnscope info recordings/          a line for each\n"
                 "Exit: 0 it was read, 2 it could not be.");
    verb->add_option("recordings", f->paths, "An .attn file, several, or folders of them")
        ->required()
        ->option_text("FILE ...");
    verb->add_flag("--json", f->json, "Print a JSON object; of several a list");
    verb->callback([f, &action] { action = [f] { return run(f->paths, f->json); }; });
}

} // namespace attnscope::cli
