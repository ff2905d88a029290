// attnscope verify: the verdict on a recording, with its evidence.
#include "cli/report.h"
#include "cli/verbs.h"

#include <attnscope/verify.h>

#include <fmt/format.h>

#include <map>
#include <memory>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags {
    std::string path;
    bool json = false, all = false, frames = false;
};

std::string verdict_on(const VerifyReport& r) {
    if (r.n_frames == 0 && r.damage.empty())
        return r.complete ? "it holds no tokens: there is nothing to verify"
                          : "it holds no tokens yet: there is nothing to verify";
    return r.good ? "good" : "NOT good";
}

// `notice`: what beside the file was not looked at.
void print_text(const Flags& f, const std::string& notice, const VerifyReport& r) {
    fmt::print("{}: {}{}\n", f.path, verdict_on(r),
               r.complete ? "" : " (incomplete: the capture has not ended, or not properly)");
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
    fmt::print("  witnesses    {} heads proven against the engine's output; {} of {} heads reached\n", r.n_witnesses,
               r.pairs_witnessed, r.pairs);
    fmt::print("               worst error at {:.1f}% of its tolerance\n", 100 * r.worst_ratio);
    fmt::print("  again        {} proven rows computed from the file; largest difference {:.1e}\n", r.n_proven_again,
               r.worst_fingerprint);
    for (const std::string& absent : r.absent) fmt::print("  absent       {}\n", absent);
    if (!f.frames) return;
    fmt::print("\n  {:>6}  {:>10}  {:>10}  {:>10}  {}\n", "token", "error", "tolerance", "again", "verdict");
    for (const FrameVerdict& v : r.frames) {
        fmt::print("  {:>6}  {:>10.2e}  {:>10.2e}  {:>10}  {}\n", name(v), v.worst_error, v.worst_tolerance,
                   v.proven_again ? fmt::format("{:.1e}", v.fingerprint_error) : "-", verdict_text(v.verdict));
    }
}

void print_json(const Flags& f, const std::string& notice, const VerifyReport& r) {
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
    const nlohmann::json body = {{"recording", f.path},
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
    fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

int run(const Flags& f) {
    Result<std::unique_ptr<Recording>> opened = Recording::open(f.path);
    if (!opened) return report(opened.error(), f.json);
    VerifyOptions options;
    if (f.all) options.proofs = -1;
    if (isatty(STDERR_FILENO) && !f.json) {
        options.progress = [](const char* step, double fraction) {
            tell("checking {}: {:.0f}%\x1b[K\r", step, 100 * fraction);
        };
    }
    Result<VerifyReport> r = verify_recording(**opened, options);
    if (options.progress) tell("\x1b[K");
    if (!r) return report(r.error(), f.json);
    const std::string& notice = (*opened)->info().notice;
    f.json ? print_json(f, notice, *r) : print_text(f, notice, *r);
    return r->good ? exit_good : exit_no;
}

} // namespace

void add_verify(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("verify", "Is this recording true? The verdict and its evidence");
    verb->footer("Checks every checksum, every frame's own evidence, and computes proven rows again from the file.\n"
                 "Examples:\n"
                 "  attnscope verify sky.attn\n"
                 "  attnscope verify sky.attn --frames --all\n"
                 "Exit: 0 good, 1 not good or no tokens to verify, 2 it could not be read.");
    verb->add_option("recording", f->path, "An .attn file")->required();
    verb->add_flag("--frames", f->frames, "A line for every token");
    verb->add_flag("--all", f->all, "Compute the proven rows of every token again (default: of 2,000 spread evenly)");
    verb->add_flag("--json", f->json, "Print a JSON object with every token");
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
