// attnscope verify: the verdict on a recording, with its evidence.
#include "cli/recordings_named.h"
#include "cli/report.h"
#include "cli/verbs.h"

#include <attnscope/verify.h>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags {
    std::vector<std::string> paths;
    bool json = false, all = false, frames = false;
};

std::string verdict_on(const VerifyReport& r) {
    if (r.n_frames == 0 && r.damage.empty())
        return r.complete ? "it holds no tokens: there is nothing to verify"
                          : "it holds no tokens yet: there is nothing to verify";
    return r.good ? "good" : "NOT good";
}

// `notice`: what beside the file was not looked at.
void print_text(const Flags& f, const std::string& path, const std::string& notice, const VerifyReport& r) {
    fmt::print("{}\n",
               for_reader(stdout,
                          fmt::format("{}: {}{}", path, verdict_on(r),
                                      r.complete ? "" : " (incomplete: the capture has not ended, or not properly)"),
                          0));
    if (!r.damage.empty()) fmt::print("  damage       {}\n", for_reader(stdout, r.damage, 15));
    if (!notice.empty()) fmt::print("  note         {}\n", for_reader(stdout, notice, 15));
    if (r.n_frames == 0) return;
    fmt::print("  frames       {} of {} ok\n", r.n_ok, r.n_frames);
    // "41", or "2/41" in a sequence that is not the first
    const auto name = [](const FrameVerdict& v) {
        return v.sequence == 0 ? fmt::format("{}", v.index) : fmt::format("{}/{}", v.sequence, v.index);
    };
    std::map<uint32_t, std::pair<int64_t, std::string>> bad; // verdict -> (how many, first)
    for (const FrameVerdict& v : r.frames) {
        if (v.verdict != verdict_ok) ++bad.try_emplace(v.verdict, 0, name(v)).first->second.first;
    }
    for (const auto& [bits, count] : bad) {
        fmt::print("               {} frames: {} (first: token {})\n", count.first, verdict_text(bits), count.second);
    }
    const auto line = [](const char* what, const std::string& text) {
        fmt::print("  {:<12} {}\n", what, for_reader(stdout, text, 15));
    };
    line("witnesses", fmt::format("{} heads proven against the engine's output; {} of {} heads reached", r.n_witnesses,
                                  r.pairs_witnessed, r.pairs));
    line("", fmt::format("worst error at {:.1f}% of its tolerance", 100 * r.worst_ratio));
    line("again", fmt::format("{} proven rows computed from the file; largest difference {:.1e}", r.n_proven_again,
                              r.worst_fingerprint));
    for (const std::string& absent : r.absent) line("absent", absent);
    if (!f.frames) return;
    fmt::print("\n  {:>6}  {:>10}  {:>10}  {:>10}  {}\n", "token", "error", "tolerance", "again", "verdict");
    for (const FrameVerdict& v : r.frames) {
        fmt::print("  {:>6}  {:>10.2e}  {:>10.2e}  {:>10}  {}\n", name(v), v.worst_error, v.worst_tolerance,
                   v.proven_again ? fmt::format("{:.1e}", v.fingerprint_error) : "-", verdict_text(v.verdict));
    }
}

nlohmann::json to_json(const std::string& path, const std::string& notice, const VerifyReport& r) {
    nlohmann::json frames = nlohmann::json::array();
    for (const FrameVerdict& v : r.frames) {
        frames.push_back({{"sequence", v.sequence},
                          {"token", v.index},
                          {"ok", v.verdict == verdict_ok},
                          {"verdict", verdict_text(v.verdict)},
                          {"witness_error", v.worst_error},
                          {"witness_tolerance", v.worst_tolerance},
                          {"proven_again", v.proven_again},
                          {"fingerprint_error", v.fingerprint_error}});
    }
    return {{"recording", path},
            {"good", r.good},
            {"complete", r.complete},
            {"damage", r.damage},
            {"notice", notice},
            {"n_frames", r.n_frames},
            {"n_ok", r.n_ok},
            {"n_witnesses", r.n_witnesses},
            {"n_proven_again", r.n_proven_again},
            {"heads_witnessed", r.pairs_witnessed},
            {"heads", r.pairs},
            {"worst_witness_ratio", r.worst_ratio},
            {"worst_fingerprint", r.worst_fingerprint},
            {"absent", r.absent},
            {"frames", frames}};
}

struct Verified {
    VerifyReport report;
    std::string notice;
};

Result<Verified> verified(const Flags& f, const std::string& path) {
    Result<std::unique_ptr<Recording>> opened = Recording::open(path);
    if (!opened) return opened.error();
    VerifyOptions options;
    if (f.all) options.proofs = -1;
    if (isatty(STDERR_FILENO) && !f.json) {
        options.progress = [](const char* step, double fraction) {
            tell("checking: {:.0f}% ({})\x1b[K\r", 100 * fraction, step);
        };
    }
    Result<VerifyReport> r = verify_recording(**opened, options);
    if (options.progress) tell("\x1b[K");
    if (!r) return r.error();
    return Verified{std::move(*r), (*opened)->info().notice};
}

int exit_code_of(const Result<Verified>& v) {
    return !v ? exit_failed : v->report.good ? exit_good : exit_no;
}

void print_json(const nlohmann::json& body) {
    fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int run_one(const Flags& f, const std::string& path) {
    const Result<Verified> v = verified(f, path);
    if (!v) return report(v.error(), f.json);
    if (f.json)
        print_json(to_json(path, v->notice, v->report));
    else
        print_text(f, path, v->notice, v->report);
    return exit_code_of(v);
}

// Each by itself; what cannot be read ends nobody else's turn.
int run_several(const Flags& f, const std::vector<std::string>& paths) {
    int worst = exit_good;
    size_t n_good = 0;
    nlohmann::json list = nlohmann::json::array();
    for (const std::string& path : paths) {
        const Result<Verified> v = verified(f, path);
        worst = std::max(worst, exit_code_of(v));
        n_good += exit_code_of(v) == exit_good;
        if (f.json) {
            list.push_back(v ? to_json(path, v->notice, v->report) : error_json(v.error()));
            list.back()["recording"] = path;
        } else if (v) {
            print_text(f, path, v->notice, v->report);
            std::fflush(stdout);
        } else {
            report(v.error());
        }
    }
    if (f.json)
        print_json(list);
    else
        fmt::print("{} of {} recordings are good\n", n_good, paths.size());
    return worst;
}

int run(const Flags& f) {
    const NamedRecordings named = recordings_named(f.paths);
    return named.one ? run_one(f, named.paths[0]) : run_several(f, named.paths);
}

} // namespace

void add_verify(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("verify", "Is this recording true? The verdict and its evidence");
    verb->footer("Checks every checksum, every frame's own evidence, and computes proven rows again from the file.\n"
                 "Examples:\n"
                 "  attnscope verify sky.attn\n"
                 "  attnscope verify sky.attn --frames --all\n"
                 "  attnscope verify recordings/        each; the exit code of the worst\n"
                 "Exit: 0 good, 1 not good or no tokens to verify, 2 it could not be read.");
    verb->add_option("recordings", f->paths, "An .attn file, several, or folders of them")
        ->required()
        ->option_text("FILE ...");
    verb->add_flag("--frames", f->frames, "A line for every token");
    verb->add_flag("--all", f->all, "Compute the proven rows of every token again (default: of 2,000 spread evenly)");
    verb->add_flag("--json", f->json, "Print a JSON object with every token; of several a list");
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
