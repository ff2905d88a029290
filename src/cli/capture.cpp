// attnscope capture: generate, and record the attention of every token.
#include "cli/engine_abort.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/verbs.h"
#include "recording/missing_rows.h"

#include <attnscope/recording.h>
#include <attnscope/session_recorder.h>
#include <attnscope/verify.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct CaptureFlags : SessionFlags {
    std::string prompt, file, ids_file, output;
    bool chat = false, json = false, force = false, commits = false, no_parse_special = false;
};

// Signal handlers can only reach globals. The first control-C asks; the second does not wait: what is committed stays.
std::atomic<bool> stop_requested{false};
extern "C" void on_interrupt(int) {
    if (stop_requested.exchange(true)) _exit(130);
}

std::string default_output(const std::string& model_path) {
    const std::time_t now = std::time(nullptr);
    char stamp[32];
    std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", std::localtime(&now));
    return std::filesystem::path(model_path).stem().string() + "-" + stamp + ".attn";
}

Result<std::vector<int32_t>> read_prompt(const CaptureFlags& f, Session& session) {
    const int given = int(!f.prompt.empty()) + int(!f.file.empty()) + int(!f.ids_file.empty());
    if (given > 1) return Error{ErrorKind::invalid_argument, "give one of -p, -f and --input-ids"};
    if (!f.ids_file.empty()) return read_token_file(f.ids_file);
    std::string text = f.prompt;
    if (!f.file.empty()) {
        Result<std::string> read = read_text_file(f.file == "-" ? "/dev/stdin" : f.file);
        if (!read) return read.error();
        text = std::move(*read);
    }
    if (text.empty())
        return Error{ErrorKind::invalid_argument, "the prompt is empty; give one with -p, -f or --input-ids"};
    if (f.chat) {
        Result<std::string> chat = session.chat_prompt(text);
        if (!chat) return chat.error();
        text = std::move(*chat);
    }
    // as llama.cpp and the server read it: "<|im_start|>" is a token
    Result<std::vector<int32_t>> tokens = session.tokenize(text, true, f.chat || !f.no_parse_special);
    if (!tokens) return tokens.error();
    const int32_t bos = session.model_info().bos;
    if (tokens->size() > 1 && bos >= 0 && (*tokens)[0] == bos && (*tokens)[1] == bos) {
        tell_as("note: ", fmt::format("the prompt begins with two tokens that begin a text ({}): the model adds one "
                                      "itself, and the text holds another",
                                      session.piece(bos)));
    }
    return tokens;
}

struct Tally {
    int64_t frames = 0, prompt = 0, ok = 0, witnesses = 0;
    double worst = 0;
    uint32_t bits = 0;
    int64_t rows = 0, most_rows = 0, last_rows = 0; // of all tokens, of the one that has most, of the last one
    bool same_rows = true;                          // each token has as many

    void add(const Frame& frame, const Geometry& geometry) {
        last_rows = frame.q.empty() ? 0 : recording::rows_of_token(geometry, frame.visible);
        same_rows = same_rows && (frames == 0 || last_rows == most_rows);
        most_rows = std::max(most_rows, last_rows);
        rows += last_rows;
        ++frames;
        prompt += frame.kind == FrameKind::prompt;
        ok += frame.verdict == verdict_ok;
        bits |= frame.verdict;
        witnesses += static_cast<int64_t>(frame.witnesses.size());
        for (const Witness& w : frame.witnesses)
            worst = std::max(worst, static_cast<double>(w.error) / static_cast<double>(w.tolerance));
    }
};

// What was recorded, once the file is closed.
struct Captured {
    const std::string& path;
    const Geometry& geometry;
    const GenerateResult& result;
    const Tally& tally;
    int64_t recorded = 0;
    uintmax_t bytes = 0;
};

void print_json(const Captured& c, const std::string& text) {
    const nlohmann::json body = {{"recording", c.path},
                                 {"bytes", c.bytes},
                                 {"n_prompt", c.result.n_prompt},
                                 {"n_generated", c.result.n_generated},
                                 {"recorded", c.recorded},
                                 {"finish_reason", c.result.finish_reason},
                                 {"text", text},
                                 {"layers", c.geometry.n_layer()},
                                 {"rows", c.tally.rows},
                                 {"rows_per_token", c.tally.most_rows},
                                 {"not_captured", recording::layers_not_captured(c.geometry)},
                                 {"frames_ok", c.tally.ok},
                                 {"verdict", verdict_text(c.tally.bits)},
                                 {"witnesses", c.tally.witnesses},
                                 {"worst_witness", c.tally.worst},
                                 {"prompt_seconds", c.result.prompt_seconds},
                                 {"generate_seconds", c.result.generate_seconds}};
    fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

// Rows that are there: a token takes part in some layers only, perhaps (T5), and of a prompt's their queries may not have been kept.
std::string recorded_text(const Captured& c) {
    const std::string tokens = counted(c.recorded, "token");
    if (c.tally.rows == 0) return tokens + " and no row of attention: no queries were kept (--prompt-rows)";
    if (c.tally.same_rows) return fmt::format("{} x {} rows of attention", tokens, c.tally.most_rows);
    return fmt::format("{} and {} rows of attention, at most {} a token", tokens, c.tally.rows, c.tally.most_rows);
}

void print_summary(const Captured& c) {
    const GenerateResult& r = c.result;
    const Tally& tally = c.tally;
    const double rate = r.generate_seconds > 0 ? double(r.n_generated) / r.generate_seconds : 0;
    fmt::print("\n");
    std::fflush(stdout);
    // of a generation that was stopped less is recorded than was asked for
    const std::string of_prompt =
        tally.prompt < r.n_prompt ? fmt::format("{} of {}", tally.prompt, r.n_prompt) : fmt::format("{}", tally.prompt);
    tell("\nrecorded {} ({} prompt, {} generated, {:.1f} tokens/s{})\n", recorded_text(c), of_prompt,
         tally.frames - tally.prompt, rate, r.finish_reason == "stopped" ? ", stopped" : "");
    tell("verdict: {} ({} of {} frames ok, {} heads proven, worst at {:.0f}% of its tolerance)\n",
         tally.bits == 0 ? "ok" : verdict_text(tally.bits), tally.ok, tally.frames, tally.witnesses, 100 * tally.worst);
    const std::vector<std::string> absent = recording::layers_not_captured(c.geometry);
    if (!absent.empty()) {
        tell("WARNING: {} of {} layers are NOT captured, and nothing of them is recorded:\n", absent.size(),
             c.geometry.n_layer());
        for (const std::string& layer : absent) tell("  {}\n", layer);
    }
    // `show` shows the last token
    tell("{} ({:.1f} MB); look at it with: attnscope {} {}\n", c.path, double(c.bytes) / 1e6,
         tally.last_rows > 0 ? "show" : "info", c.path);
}

// What the exit code says: is every layer that attends recorded, and every frame proven?
bool is_whole(const Captured& c) {
    return c.tally.bits == 0 && recording::layers_not_captured(c.geometry).empty();
}

Result<std::unique_ptr<Session>> open_session(CaptureFlags& f, bool tty) {
    f.session.only_read = f.generate.n_predict == 0;
    f.session.encoder_decoder = true;
    if (tty) tell("loading {} ...\r", std::filesystem::path(f.session.model_path).filename().string());
    Result<std::unique_ptr<Session>> opened = Session::open(f.session);
    if (tty) tell("\x1b[K");
    return opened;
}

// Where the context is another than -c said.
std::string context_note(const CaptureFlags& f, int32_t n_ctx) {
    const int32_t asked = f.session.n_ctx;
    if (asked == 0 || n_ctx == asked || asked == SessionOptions().n_ctx) return {};
    if (n_ctx > asked) return fmt::format("the engine makes a context of {} positions of -c {}", n_ctx, asked);
    return fmt::format(
        "the context has {} positions, not {}: the model reads a text at once, and was trained with as many", n_ctx,
        asked);
}

void stop_when_asked(GenerateOptions& options) {
    std::signal(SIGINT, on_interrupt);
    std::signal(SIGTERM, on_interrupt);
    std::signal(SIGHUP, on_interrupt);
    options.stop = &stop_requested;
}

// Of a file that may have been cut, replaced or deleted since.
int64_t recorded_in(const std::string& path) {
    const auto recording = Recording::open(path);
    return recording ? (*recording)->info().n_frames : 0;
}

int run(CaptureFlags& f) {
    if (Result<void> r = resolve(f); !r) return report(r.error(), f.json);
    if (f.output.empty()) f.output = default_output(f.session.model_path);
    for (const std::string& read : {f.session.model_path, f.file, f.ids_file}) {
        if (Result<void> r = may_write({f.output, f.force, "-o", read}); !r) return report(r.error(), f.json);
    }

    const bool tty = isatty(STDERR_FILENO) != 0 && !f.json;
    Result<std::unique_ptr<Session>> opened = open_session(f, tty);
    if (!opened) return report(opened.error(), f.json);
    Session& session = **opened;
    if (const std::string note = context_note(f, session.n_ctx()); !note.empty() && !f.json) tell_as("note: ", note);
    Result<std::vector<int32_t>> prompt = read_prompt(f, session);
    if (!prompt) return report(prompt.error(), f.json);

    stop_when_asked(f.generate);
    WriterOptions writing;
    writing.overwrite = f.force;
    std::optional<SessionRecorder> recorder(std::in_place, session, f.output, writing);
    if (f.commits) recorder->on_commit([](int64_t n) { tell("recorded {}\n", n); });
    Tally tally;
    std::string text;
    const auto n_prompt = static_cast<int64_t>(prompt->size());
    const auto sink = [&](Frame&& frame) -> Result<void> {
        tally.add(frame, session.geometry());
        if (tty && frame.kind == FrameKind::prompt && frame.index % 64 == 0) {
            tell("reading the prompt: {} of {} tokens\r", frame.index, n_prompt);
        }
        Result<void> pushed = recorder->push(std::move(frame));
        if (pushed && tally.frames == 1) recording_has_begun();
        return pushed;
    };
    bool first_text = true, unread = false;
    const auto on_text = [&](int32_t, const std::string& piece) {
        if (tty && first_text) tell("\x1b[K");
        first_text = false;
        text += piece;
        if (!f.json) {
            std::fwrite(piece.data(), 1, piece.size(), stdout);
            unread = unread || std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
        }
        return !unread; // nobody reads on: what was generated so far is kept
    };
    Result<GenerateResult> result = session.generate(*prompt, f.generate, sink, on_text);
    Result<void> closed;
    // A failed capture stays incomplete: the file says so, and holds all that was reported.
    if (result) closed = recorder->close(result->end_reason());
    const int64_t recorded = recorder->recorded();
    recorder.reset();
    if (!result || !closed) {
        if (tty) tell("{}", first_text ? "\x1b[K" : "\n"); // behind a line of progress, or of text
        const Error error = result ? closed.error() : result.error();
        const int64_t there =
            std::min(recorded, recorded_in(f.output)); // its log may have been cut, or the file deleted
        if (there > 0 && !f.json) tell("\n{} tokens are recorded in {}\n", there, f.output);
        return report(error, f.json);
    }
    if (unread) {
        tell("error: standard output was closed: stopped; {} tokens are recorded in {}\n", recorded, f.output);
        return exit_failed;
    }
    std::error_code ec;
    const Captured captured{f.output, session.geometry(), *result,
                            tally,    recorded,           std::filesystem::file_size(f.output, ec)};
    if (f.json)
        print_json(captured, text);
    else
        print_summary(captured);
    return is_whole(captured) ? exit_good : exit_no;
}

} // namespace

void add_capture(CLI::App& app, Action& action) {
    auto f = std::make_shared<CaptureFlags>();
    CLI::App* verb = app.add_subcommand("capture", "Generate text and record the attention of every token");
    verb->footer(
        "Examples:\n"
        "  attnscope capture -p \"Why is the sky blue?\" --chat -n 64\n"
        "  attnscope capture -m model.gguf -f essay.txt -n 0 -o essay.attn\n"
        "  attnscope capture -m bert.gguf -p \"How embedding models read it\" -n 0\n"
        "  attnscope capture -m t5.gguf -p \"translate English to German: The sea\" -n 32\n"
        "Exit: 0 every layer is recorded and every frame proven, 1 some layer or frame is not, 2 it could not\n"
        "be done.");
    verb->add_option("-p,--prompt", f->prompt, "The prompt");
    verb->add_option("-f,--file", f->file, "Read the prompt from a file; -: from standard input");
    verb->add_flag("--no-parse-special", f->no_parse_special,
                   "Read the names of special tokens, such as <|im_start|>, as plain text");
    verb->add_option("--input-ids", f->ids_file, "Read token ids from a file instead of text (JSON array or numbers)");
    verb->add_flag("--chat", f->chat, "Put the prompt into the model's chat template as the user's message");
    verb->add_option("-o,--output", f->output, "The recording (default: MODEL-DATE.attn)");
    add_force_flag(*verb, f->force);
    verb->add_flag("--commits", f->commits, "Print 'recorded N' to standard error whenever N tokens are safe on disk");
    verb->add_flag("--json", f->json, "Print one JSON object at the end instead of the text");
    add_model_flags(*verb, *f);
    add_sampling_flags(*verb, *f);
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
