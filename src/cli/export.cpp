// attnscope export: rows as files that other programs read.
#include "cli/output.h"
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/verbs.h"
#include "formats/export_arrays.h"
#include "formats/export_halo_weave.h"
#include "formats/export_patterns.h"
#include "formats/write_whole.h"
#include "server/view/export_headvis.h"
#include "server/view/export_html.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags {
    std::string path, to, tokens, layers, heads, output;
    int64_t sequence = 0;
    double max_mb = 5;
    bool padded = false, json = false, json_form = false, force = false;
};

// Layers of the recording that hold nothing, because they were not captured.
std::vector<int32_t> missing_layers(Recording& recording) {
    std::vector<int32_t> missing;
    const Geometry& geometry = recording.info().geometry;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        if (!geometry.layers[static_cast<size_t>(l)].captured()) missing.push_back(l);
    }
    return missing;
}

// Behind what was written: that some layers are not in it.
void say_what_is_missing(const std::vector<int32_t>& missing) {
    if (missing.empty()) return;
    const bool one = missing.size() == 1;
    tell_as("", fmt::format("{} {} {} not captured, and {} no weights in it (attnscope info says why)",
                            one ? "layer" : "layers", fmt::join(missing, ", "), one ? "was" : "were",
                            one ? "has" : "have"));
}

int run_html(Recording& recording, const Flags& f) {
    if (!f.tokens.empty() || !f.layers.empty() || !f.heads.empty()) {
        return report({ErrorKind::invalid_argument,
                       "an HTML file holds all tokens, layers and heads: leave --token, --layer and --head out"},
                      f.json);
    }
    server::HtmlOptions options;
    options.bytes = static_cast<size_t>(f.max_mb * 1e6);
    if (isatty(STDERR_FILENO) && !f.json) {
        options.progress = [](double done) {
            tell("{:.0f}% of the heads\x1b[K\r", 100 * done);
            return true;
        };
    }
    Result<server::HtmlSummary> made =
        server::export_html(recording, std::filesystem::path(f.path).filename().string(), f.output, options);
    if (!made) return report(made.error(), f.json);
    if (f.json) {
        fmt::print("{}\n", nlohmann::json{{"output", f.output},
                                          {"tokens", made->n_tokens},
                                          {"heads", made->n_heads},
                                          {"bytes", made->bytes},
                                          {"least", made->least},
                                          {"kept_share", made->kept_share},
                                          {"missing_layers", missing_layers(recording)}}
                               .dump());
    } else {
        tell("{}", clear_line());
        tell_as("",
                fmt::format("{} x {} written to {} ({:.2f} MB; weights from {}% on, which are {:.1f}% of all weight)",
                            counted(made->n_tokens, "token"), counted(made->n_heads, "head"), f.output,
                            double(made->bytes) / 1e6, 100 * made->least, 100 * made->kept_share));
        say_what_is_missing(missing_layers(recording));
    }
    return exit_good;
}

int run_headvis(Recording& recording, const Flags& f) {
    if (!f.tokens.empty() || !f.layers.empty() || !f.heads.empty()) {
        return report({ErrorKind::invalid_argument,
                       "HeadVis's files hold all tokens, layers and heads: leave --token, --layer and --head out"},
                      f.json);
    }
    view::Progress progress;
    if (isatty(STDERR_FILENO) && !f.json) {
        progress = [](double done) {
            tell("{:.0f}% of the heads\x1b[K\r", 100 * done);
            return true;
        };
    }
    Result<server::HeadvisSummary> made = server::export_headvis(recording, f.output, progress);
    if (!made) return report(made.error(), f.json);
    if (f.json) {
        fmt::print("{}\n", nlohmann::json{{"output", f.output},
                                          {"tokens", made->n_tokens},
                                          {"heads", made->n_heads},
                                          {"sequences", made->n_sequences},
                                          {"missing_layers", missing_layers(recording)}}
                               .dump());
    } else {
        tell("{}", clear_line());
        tell_as("", fmt::format("{} x {} written to {}, in {}", counted(made->n_tokens, "token"),
                                counted(made->n_heads, "head"), f.output, counted(made->n_sequences, "sequence")));
        say_what_is_missing(missing_layers(recording));
    }
    return exit_good;
}

int run(const Flags& f) {
    Result<std::unique_ptr<Recording>> opened = Recording::open_sequence(f.path, f.sequence);
    if (!opened) return report(opened.error(), f.json);
    if ((*opened)->info().n_frames == 0) return report({ErrorKind::not_found, f.path + " holds no tokens"}, f.json);
    formats::ExportSelection s;
    Result<std::vector<int32_t>> tokens = parse_selection("--token", f.tokens),
                                 layers = parse_selection("--layer", f.layers),
                                 heads = parse_selection("--head", f.heads);
    for (const auto* r : {&tokens, &layers, &heads}) {
        if (!*r) return report(r->error(), f.json);
    }
    s.tokens.assign(tokens->begin(), tokens->end());
    s.rows = {*layers, *heads};
    const bool one_file = f.padded || s.tokens.size() == 1;
    const bool folder = f.to == "halo-weave" || f.to == "headvis" || (f.to == "npy" && !one_file);
    const Result<void> free =
        folder ? formats::output_folder_is_free(f.output) : may_write({f.output, f.force, "-o", f.path});
    if (!free) return report(free.error(), f.json);
    if (f.to == "html") return run_html(**opened, f);
    if (f.to == "headvis") return run_headvis(**opened, f);
    formats::ExportProgress progress;
    if (isatty(STDERR_FILENO) && !f.json) {
        progress = [](int64_t done, int64_t total) { tell("{} of {} tokens\x1b[K\r", done, total); };
    }
    Result<int64_t> n = f.to == "halo-weave" ? formats::export_halo_weave(**opened, s, f.output, f.json_form, progress)
                        : f.to == "bertviz"  ? formats::export_bertviz(**opened, s, f.output, progress)
                        : f.to == "circuitsvis" || f.to == "attnview"
                            ? formats::export_layer_json(**opened, s, f.output, progress)
                        : f.to == "safetensors" ? formats::export_safetensors(**opened, s, f.output, progress)
                        : one_file              ? formats::export_npy(**opened, s, f.output, progress)
                                                : formats::export_npy_folder(**opened, s, f.output, progress);
    if (!n) return report(n.error(), f.json);
    // layers that were asked for by number are there, or it was refused
    const std::vector<int32_t> missing = f.layers.empty() ? missing_layers(**opened) : std::vector<int32_t>();
    if (f.json) {
        fmt::print("{}\n", nlohmann::json{{"output", f.output}, {"tokens", *n}, {"missing_layers", missing}}.dump());
    } else {
        const bool arrays = f.to == "npy" || f.to == "safetensors";
        const int64_t all = (*opened)->info().n_frames;
        tell("{}", clear_line());
        tell_as("", fmt::format("{}{} written to {}", counted(*n, "token"),
                                arrays && f.tokens.empty() && *n < all
                                    ? fmt::format(" of {} (the others have no such row)", all)
                                    : "",
                                f.output));
        say_what_is_missing(missing);
    }
    return exit_good;
}

} // namespace

void add_export(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("export", "Write rows as files for NumPy and others");
    verb->footer(
        "npy: a folder with token_00041.npy (layers, heads, positions) for each token; with --padded, or one\n"
        "--token, a single file. safetensors: one file with a tensor for each token. halo-weave: their "
        "capture folder.\n"
        "html: the page of attnscope view as one file to send to somebody.\n"
        "headvis: the folder data/ of HeadVis. bertviz: a safetensors file, circuitsvis and attnview: a JSON file of\n"
        "one layer (--layer), for those packages; docs/view.md has the lines of Python.\n"
        "A row that is not there is NaN in npy and safetensors: of a layer that was not captured, a head that a\n"
        "layer has not got, a layer that the token takes no part in (T5). The others refuse such a selection.\n"
        "Examples:\n"
        "  attnscope export x.attn --to npy --padded -o rows.npy\n"
        "  python3 -c \"import numpy; print(numpy.load('rows.npy').shape)\"");
    verb->add_option("recording", f->path, "An .attn file")->required();
    verb->add_option("--to", f->to, "npy, safetensors, halo-weave, html, headvis, bertviz, circuitsvis or attnview")
        ->required()
        ->check(CLI::IsMember(
            {"npy", "safetensors", "halo-weave", "html", "headvis", "bertviz", "circuitsvis", "attnview"}));
    verb->add_option("-o,--output", f->output, "File or folder to write")->required();
    add_force_flag(*verb, f->force, "Replace an existing file; a folder has to be new or empty");
    verb->add_option("--token", f->tokens, "Tokens, e.g. 0,40-60 (default: all)");
    verb->add_option("--sequence", f->sequence, "Of a recording with several: which one (attnscope info lists them)")
        ->capture_default_str();
    verb->add_option("--layer", f->layers, "Layers (default: all)");
    verb->add_option("--head", f->heads, "Heads (default: all)");
    verb->add_option("--max-mb", f->max_mb, "html: what the file may take")
        ->check(CLI::Range(1.0, 1000.0))
        ->capture_default_str();
    verb->add_flag("--padded", f->padded, "npy: one array for all tokens, padded with zeros");
    verb->add_flag("--json-form", f->json_form, "halo-weave: the older form, one JSON file a token");
    verb->add_flag("--json", f->json, "Print a JSON object");
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
