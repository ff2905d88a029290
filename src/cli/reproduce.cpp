// attnscope reproduce: capture the wrong way on purpose, diagnose it, and capture the same tokens the right way.
#include "cli/output.h"
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/token_text.h"
#include "cli/verbs.h"
#include "engine/pointer_capture.h"
#include "formats/export_halo_weave.h"
#include "formats/write_whole.h"

#include <attnscope/diagnose.h>
#include <attnscope/recording.h>
#include <attnscope/rows.h>
#include <attnscope/session_recorder.h>

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <set>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags : SessionFlags {
    std::string prompt, output;
    bool wait = true, no_wait = false, json = false, all = false, force = false;
};

// What one token's tensor looks like from outside.
struct Facts {
    double sum = 0;
    float min = 0, max = 0;
    int32_t distinct = 0;  // layers that differ bitwise
    int64_t strongest = 0; // the column with the largest mean, without the first
};

Facts facts_of(std::span<const float> values, int32_t n_layer, int32_t n_head, int64_t n) {
    Facts f;
    if (values.empty()) return f;
    f.min = f.max = values.front();
    for (const float x : values) {
        f.sum += double(x);
        f.min = std::min(f.min, x);
        f.max = std::max(f.max, x);
    }
    std::set<std::string_view> layers;
    const size_t layer_bytes = size_t(n_head * n) * sizeof(float);
    const char* bytes = static_cast<const char*>(static_cast<const void*>(values.data()));
    for (int32_t l = 0; l < n_layer; ++l) layers.insert({bytes + size_t(l) * layer_bytes, layer_bytes});
    f.distinct = static_cast<int32_t>(layers.size());
    std::vector<float> mean(static_cast<size_t>(n));
    reduce_mean(values, n, mean);
    f.strongest = n > 1 ? row_top_k(std::span<const float>(mean).subspan(1), 1).front().column + 1 : 0;
    return f;
}

struct Pair {
    std::string text;
    int32_t token = -1;
    Facts wrong, right;
    bool last_layer = false; // the wrong one's first layer is the right one's last
};

Result<std::vector<Pair>> wrong_way(const Flags& f, const std::vector<int32_t>& prompt, const std::string& folder,
                                    PointerCaptureResult& result) {
    PointerCaptureOptions o;
    o.session = f.session;
    o.prompt = prompt;
    o.n_predict = f.generate.n_predict;
    o.sampling = f.generate.sampling;
    o.wait = !f.no_wait;
    std::unique_ptr<formats::HaloWeaveFolderWriter> writer;
    std::vector<Pair> pairs;
    Result<PointerCaptureResult> done = capture_pointers(o, [&](const PointerToken& t) -> Result<void> {
        if (!writer) {
            StatedModel model;
            model.name = std::filesystem::path(f.session.model_path).filename().string();
            model.n_layer = t.n_layer;
            model.n_head = t.n_head;
            auto created = formats::HaloWeaveFolderWriter::create(folder, model, false);
            if (!created) return created.error();
            writer = std::move(*created);
        }
        DumpToken token;
        token.index = token.number = static_cast<int64_t>(pairs.size());
        token.n_layer = t.n_layer;
        token.n_head = t.n_head;
        token.n_context = t.n_context;
        token.token_id = t.token;
        token.text = t.text;
        token.values = t.values;
        Pair p;
        p.text = t.text;
        p.token = t.token;
        p.wrong = facts_of(t.values, t.n_layer, t.n_head, t.n_context);
        pairs.push_back(std::move(p));
        return writer->add(token);
    });
    if (!done) return done.error();
    result = std::move(*done);
    if (writer) {
        if (Result<void> r = writer->close(); !r) return r.error();
    }
    return pairs;
}

// Whether the first layer of the wrong capture is the last one of the right capture. Both were computed by the engine in
// float32, in runs of their own.
bool is_last_layer(const DumpToken& wrong, const FrameRows& right) {
    const size_t n = static_cast<size_t>(wrong.n_head) * static_cast<size_t>(wrong.n_context);
    if (static_cast<size_t>(right.n_columns) * right.heads.size() != n || right.weights.size() < n) return false;
    const float* last = right.weights.data() + right.weights.size() - n;
    for (size_t i = 0; i < n; ++i) {
        if (!(std::abs(wrong.values[i] - last[i]) <= 1e-4f)) return false;
    }
    return true;
}

// The same tokens again, decoded one by one under the tap, into a recording beside the folder of the wrong capture.
Result<void> right_way(const Flags& f, const std::vector<int32_t>& prompt, uint32_t seed, std::vector<Pair>& pairs,
                       const std::string& folder, const std::string& path) {
    SessionOptions o = f.session;
    o.flash_attention = FlashAttention::off;
    Result<std::unique_ptr<Session>> session = Session::open(o);
    if (!session) return session.error();
    WriterOptions options;
    options.overwrite = true;
    SessionRecorder recorder(**session, path, options);
    const FrameSink sink = recorder.sink();
    GenerateOptions nothing; // is generated: the tokens are there, and the file states how they were chosen
    nothing.sampling = f.generate.sampling;
    nothing.sampling.seed = seed;
    nothing.n_predict = 0;
    if (auto r = (*session)->generate(prompt, nothing, sink); !r) return r.error();
    for (const Pair& p : pairs) {
        if (auto r = (*session)->generate({&p.token, 1}, nothing, sink); !r) return r.error();
    }
    if (Result<void> r = recorder.close(); !r) return r;
    auto recording = Recording::open(path);
    if (!recording) return recording.error();
    auto wrong = DumpReader::open(folder);
    if (!wrong) return wrong.error();
    for (size_t i = 0; i < pairs.size(); ++i) {
        Result<FrameRows> rows = (*recording)->rows(static_cast<int64_t>(prompt.size() + i));
        if (!rows) return rows.error();
        pairs[i].right = facts_of(rows->weights, static_cast<int32_t>(rows->layers.size()),
                                  static_cast<int32_t>(rows->heads.size()), rows->n_columns);
        auto token = (*wrong)->next();
        pairs[i].last_layer = token && *token && is_last_layer(**token, *rows);
    }
    return {};
}

Result<Diagnosis> diagnose_folder(const std::string& folder) {
    auto reader = DumpReader::open(folder);
    if (!reader) return reader.error();
    return diagnose_dump(**reader);
}

void print_table(const std::vector<Pair>& pairs, const std::vector<std::string>& texts, const Flags& f) {
    fmt::print("\n{:>5} {:<12} | {:>10} {:>8} {:>7} {:<9} | {:>10} {:>7} {:<9}\n", "", "", "wrong: sum", "min",
               "layers", "strongest", "right: sum", "layers", "strongest");
    const auto word = [&](int64_t column) {
        const std::string text = size_t(column) < texts.size() ? one_line(texts[size_t(column)]) : "";
        return text.size() > 9 ? printable(text.substr(0, 8)) : text;
    };
    const size_t shown = f.all ? pairs.size() : std::min<size_t>(pairs.size(), 16);
    for (size_t i = 0; i < shown; ++i) {
        const Pair& p = pairs[i];
        std::string text = one_line(p.text);
        if (text.size() > 12) text = printable(text.substr(0, 11));
        fmt::print("{:>5} {:<12} | {:>10.2f} {:>8.2f} {:>7} {:<9} | {:>10.2f} {:>7} {:<9}\n", i, text, p.wrong.sum,
                   p.wrong.min, p.wrong.distinct, word(p.wrong.strongest), p.right.sum, p.right.distinct,
                   word(p.right.strongest));
    }
    if (shown < pairs.size()) fmt::print("      ... {} more (--all shows them)\n", pairs.size() - shown);
}

int run(Flags& f) {
    if (Result<void> r = resolve(f); !r) return report(r.error(), f.json);
    if (f.generate.n_predict < 1) {
        return report({ErrorKind::invalid_argument, "-n says how many tokens are captured twice: at least 1"}, f.json);
    }
    const std::string name = f.output.empty() ? "reproduced" : f.output;
    if (Result<void> r = formats::output_folder_is_free(name); !r) return report(r.error(), f.json);
    if (Result<void> r = may_write({name + ".attn", f.force, "-o", f.session.model_path}); !r)
        return report(r.error(), f.json);
    std::vector<int32_t> prompt;
    std::vector<std::string> texts;
    {
        SessionOptions plain = f.session;
        plain.capture = false;
        auto session = Session::open(plain);
        if (!session) return report(session.error(), f.json);
        auto tokens = (*session)->tokenize(f.prompt, true, false);
        if (!tokens) return report(tokens.error(), f.json);
        prompt = *tokens;
        for (const int32_t t : prompt) texts.push_back((*session)->piece(t));
    }
    if (!f.json) { // once it is known that it can be done
        tell("capturing the wrong way: {}, pointers to kq_soft_max read after the run\n",
             counted(f.generate.n_predict, "token"));
    }
    PointerCaptureResult result;
    Result<std::vector<Pair>> pairs = wrong_way(f, prompt, name, result);
    if (!pairs) return report(pairs.error(), f.json);
    for (const Pair& p : *pairs) texts.push_back(p.text);
    Result<Diagnosis> diagnosis = diagnose_folder(name);
    if (!diagnosis) return report(diagnosis.error(), f.json);
    if (!f.json) tell("capturing the same tokens the right way\n");
    const std::string recording = name + ".attn";
    if (Result<void> r = right_way(f, prompt, result.seed, *pairs, name, recording); !r)
        return report(r.error(), f.json);

    int64_t flips = 0, raw = 0, one_layer = 0, last_layer = 0, same_strongest = 0;
    for (size_t i = 0; i < pairs->size(); ++i) {
        const Pair& p = (*pairs)[i];
        const auto is_raw = [](const Facts& x) { return x.min < 0; };
        raw += is_raw(p.wrong);
        flips += i > 0 && is_raw(p.wrong) != is_raw((*pairs)[i - 1].wrong);
        one_layer += p.wrong.distinct == 1;
        last_layer += p.wrong.distinct == 1 && p.last_layer;
        same_strongest += p.wrong.strongest == p.right.strongest;
    }
    const auto n = static_cast<int64_t>(pairs->size());
    if (f.json) {
        const nlohmann::json body = {{"folder", name},
                                     {"recording", recording},
                                     {"tokens", n},
                                     {"waited", !f.no_wait},
                                     {"on_gpu", result.on_gpu},
                                     {"tensors", result.n_tensors},
                                     {"addresses", result.n_addresses},
                                     {"normalised", n - raw},
                                     {"raw", raw},
                                     {"flips", flips},
                                     {"one_layer_tokens", one_layer},
                                     {"last_layer_tokens", last_layer},
                                     {"same_strongest", same_strongest},
                                     {"cause", cause_name(diagnosis->cause())},
                                     {"conclusion", diagnosis->conclusion}};
        fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
        return exit_good;
    }
    print_table(*pairs, texts, f);
    const auto say = [](const std::string& sentence) { fmt::print("{}\n", for_reader(stdout, sentence, 0)); };
    fmt::print("\n");
    say(fmt::format(
        "The wrong capture: {} tokens normalised, {} raw, {} flips; in {} of {} all layers are one layer, in {} "
        "that one is the last layer of the right capture.",
        n - raw, raw, flips, one_layer, n, last_layer));
    say(fmt::format("The {} tensors named kq_soft_max had {} address{} between them.", result.n_tensors,
                    result.n_addresses, result.n_addresses == 1 ? "" : "es"));
    say(fmt::format("The strongest position (without the first) agrees with the right one in {} of {} tokens.",
                    same_strongest, n));
    say("Diagnosis: " + std::string(cause_title(diagnosis->cause())));
    say(diagnosis->conclusion);
    fmt::print("\n");
    say(fmt::format("{}/ is the wrong capture (attnscope diagnose {}), {} the right one.", name, name, recording));
    return exit_good;
}

} // namespace

void add_reproduce(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    f->generate.n_predict = 387;
    f->prompt = "The history of the lighthouse begins";
    f->generate.sampling.seed = 1;
    CLI::App* verb =
        app.add_subcommand("reproduce", "Capture attention the wrong way on purpose, and compare with the right way");
    verb->footer(
        "Remembers the tensors named kq_soft_max while the graph is built and reads them after it has run, as\n"
        "captures in the wild do; writes a Halo Weave folder; diagnoses it; captures the same tokens rightly.\n"
        "See docs/oscillation.md.\n"
        "Examples:\n"
        "  attnscope reproduce\n"
        "  attnscope reproduce -m model.gguf -n 64 -o wrong");
    verb->add_option("-p,--prompt", f->prompt, "The prompt")->capture_default_str();
    verb->add_option("-o,--output", f->output,
                     "Folder to write; the right capture goes beside it (default: reproduced)");
    add_force_flag(*verb, f->force, "Replace an existing recording beside it; the folder has to be new or empty");
    verb->add_flag("--wait", f->wait, "Wait for the device before reading (the default)");
    verb->add_flag("--no-wait", f->no_wait, "Read at once: on a GPU this races with the computation");
    verb->add_flag("--all", f->all, "Show every token");
    verb->add_flag("--json", f->json, "Print a JSON object");
    add_model_flags(*verb, *f);
    add_sampling_flags(*verb, *f);
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
