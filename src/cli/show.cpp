// attnscope show: what a token looked at, as coloured text, as a table, or as numbers.
#include "base/chosen_or_all.h"
#include "cli/report.h"
#include "cli/session_flags.h"
#include "cli/token_text.h"
#include "cli/verbs.h"
#include "recording/missing_rows.h"

#include <attnscope/attention_map.h>
#include <attnscope/attention_request.h>
#include <attnscope/recording.h>
#include <attnscope/rows.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <span>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags {
    std::string path, layers, heads, color = "auto";
    int64_t token = -1, sequence = 0;
    int top = -1;
    bool values = false, json = false, log = false, hide_first = false, generated = false;
};

// What the chosen token looked at, averaged over what was chosen.
struct View {
    int64_t index = 0;
    int64_t n_tokens = 1;       // those that were looked at together, `index` the last of them
    std::vector<float> weights; // one a column
    std::vector<uint8_t> seen;  // one a column: can any of the rows look at it?
    std::vector<std::string> pieces;
    std::vector<Frame> frames;
    std::vector<size_t> firsts; // the first column, and that of a decoder behind its encoder
    int64_t n_rows = 0;

    double first_share() const {
        double share = 0;
        for (const size_t j : firsts) share += double(weights[j]);
        return share;
    }
    bool is_first(size_t column) const { return std::find(firsts.begin(), firsts.end(), column) != firsts.end(); }
    // What is shown of a column that no row can look at would be a weight that nobody gave.
    bool is_shown(size_t column, bool hide_first) const {
        return seen[column] != 0 && !(hide_first && is_first(column));
    }
};

// The K strongest columns of those that are shown.
std::vector<ColumnWeight> strongest(const View& v, const Flags& f) {
    std::vector<float> row;
    std::vector<int64_t> columns;
    for (size_t j = 0; j < v.weights.size(); ++j) {
        if (!v.is_shown(j, f.hide_first)) continue;
        row.push_back(v.weights[j]);
        columns.push_back(static_cast<int64_t>(j));
    }
    std::vector<ColumnWeight> top = row_top_k(row, size_t(f.top > 0 ? f.top : 5));
    for (ColumnWeight& w : top) w.column = columns[static_cast<size_t>(w.column)];
    return top;
}

// Columns [0, width) that rows of these tokens in the selected layers can look at.
std::vector<uint8_t> columns_seen(const Geometry& geometry, const RowSelection& rows, std::span<const Frame> tokens,
                                  int64_t width) {
    std::vector<uint8_t> seen(static_cast<size_t>(width), 0);
    std::set<int32_t> groups;
    for (const int32_t l : base::chosen_or_all(rows.layers, geometry.n_layer())) {
        if (geometry.layers[size_t(l)].captured()) groups.insert(geometry.layers[size_t(l)].mask_group);
    }
    for (const Frame& token : tokens) {
        for (const int32_t group : groups) {
            for (const Range& r : token.visible[size_t(group)])
                std::fill(seen.begin() + std::min(r.begin, width), seen.begin() + std::min(r.end, width), uint8_t(1));
        }
    }
    return seen;
}

// Why none of the tokens has any of these rows; empty: one has.
std::string why_none(const Geometry& geometry, const RowSelection& rows, std::span<const Frame> tokens) {
    std::string why;
    for (const Frame& token : tokens) {
        why = recording::why_no_rows(geometry, rows, token.index, token.visible);
        if (why.empty()) return why;
    }
    return tokens.size() > 1 ? "none of these tokens has such rows: " + why : why;
}

std::vector<size_t> first_columns(const Geometry& geometry, const std::vector<Frame>& frames) {
    std::vector<size_t> firsts{0};
    const auto decoder = std::find_if(frames.begin(), frames.end(),
                                      [&](const Frame& f) { return recording::is_of_decoder(geometry, f.visible); });
    if (decoder != frames.end() && decoder != frames.begin()) firsts.push_back(size_t(decoder - frames.begin()));
    return firsts;
}

// Averages over tokens [begin, end) as well: columns that a token cannot see count as 0.
Result<View> look(Recording& recording, const Flags& f, int64_t begin, int64_t end) {
    Result<std::vector<int32_t>> layers = parse_selection("--layer", f.layers),
                                 heads = parse_selection("--head", f.heads);
    if (!layers) return layers.error();
    if (!heads) return heads.error();
    auto source = AttentionSource::of(recording);
    if (!source) return source.error();
    Result<std::vector<Frame>> frames = recording.frames(0, recording.info().n_frames);
    if (!frames) return frames.error();
    int64_t width = end; // more where a token sees later ones (encoders)
    for (int64_t i = begin; i < end; ++i) {
        for (const Ranges& seen : (*frames)[size_t(i)].visible)
            width = std::max(width, seen.empty() ? 0 : seen.back().end);
    }
    width = std::min(width, static_cast<int64_t>(frames->size()));
    MapRequest request;
    request.rows = {*layers, *heads};
    const Geometry& geometry = recording.info().geometry;
    if (Result<void> there = check_selection(request.rows, geometry); !there) return there.error();
    const std::span<const Frame> tokens(frames->data() + begin, static_cast<size_t>(end - begin));
    if (const std::string why = why_none(geometry, request.rows, tokens); !why.empty())
        return Error{ErrorKind::not_found, why};
    request.tokens = {begin, end};
    request.columns = {0, width};
    request.tokens_per_tile = end - begin; // one line of tiles: the mean over all tokens
    // a row as it was recorded, not a mean
    request.exact = end - begin == 1 && layers->size() == 1 && heads->size() == 1;
    Result<AttentionMap> map = attention_map(**source, request);
    if (!map) return map.error();
    if (map->n_tokens.front() == 0) {
        return Error{ErrorKind::not_found, end - begin > 1
                                               ? "none of these tokens was recorded with its queries"
                                               : fmt::format("token {} of {} was recorded without its queries: "
                                                             "--prompt-rows left them out",
                                                             begin, f.path)};
    }
    View v;
    v.index = end - 1;
    v.n_tokens = end - begin;
    v.weights = std::move(map->values);
    v.seen = columns_seen(geometry, request.rows, tokens, width);
    v.n_rows = map->n_rows;
    v.frames = std::move(*frames);
    v.frames.resize(size_t(width));
    v.firsts = first_columns(geometry, v.frames);
    for (const Frame& frame : v.frames) v.pieces.push_back(recording.token_text(frame.token));
    return v;
}

// Shares of the colour scale, 0 to 1. Linear: of the largest. Log: four decades below the largest.
std::vector<double> shades(const View& v, const Flags& f) {
    std::vector<double> shade(v.weights.size());
    double largest = 0;
    const auto hidden = [&](size_t j) { return f.hide_first && v.is_first(j); };
    for (size_t j = 0; j < v.weights.size(); ++j) {
        if (!hidden(j)) largest = std::max(largest, double(v.weights[j]));
    }
    for (size_t j = 0; j < shade.size(); ++j) {
        if (largest <= 0 || hidden(j)) continue;
        const double x = double(v.weights[j]) / largest;
        shade[j] = f.log ? std::max(0.0, 1 + std::log10(std::max(x, 1e-30)) / 4) : x;
    }
    return shade;
}

// A ramp of the 256-colour palette from nothing through blue and magenta to bright yellow; dark text on light grounds.
std::string ground(double shade) {
    static constexpr int ramp[] = {0, 17, 18, 54, 90, 126, 162, 198, 203, 208, 214, 220, 226};
    constexpr int steps = sizeof ramp / sizeof *ramp;
    const int step = std::clamp(static_cast<int>(shade * (steps - 1) + 0.5), 0, steps - 1);
    if (step == 0) return "\x1b[0m";
    return fmt::format("\x1b[0;48;5;{};38;5;{}m", ramp[step], step >= 8 ? 16 : 255);
}

void print_text(const View& v, const Flags& f, bool color) {
    const std::vector<double> shade = shades(v, f);
    for (const TextRun& run : text_runs(v.pieces)) {
        if (!color) {
            fmt::print("{}", run.text);
            continue;
        }
        double s = 0;
        for (size_t j = run.first; j <= run.last; ++j) s = std::max(s, shade[j]);
        const bool self = run.first <= size_t(v.index) && run.last >= size_t(v.index);
        std::string text;
        for (const char c : run.text) { // a ground must not run to the end of the line
            if (c == '\n')
                text += "\x1b[0m\n" + ground(s);
            else
                text += c;
        }
        fmt::print("{}{}{}", ground(s), self ? "\x1b[4m" : "", text);
    }
    fmt::print("{}\n", color ? "\x1b[0m" : "");
}

void print_table(const View& v, const std::vector<ColumnWeight>& top) {
    // Positions that are not the columns' numbers (a decoder's begin anew, a picture's patches share theirs) name no column.
    const bool named_apart =
        std::any_of(v.frames.begin(), v.frames.end(), [](const Frame& x) { return x.position != x.index; });
    fmt::print("{:>9} {}{:>8} {:>7}  {}\n", "weight", named_apart ? fmt::format("{:>8} ", "column") : "", "position",
               "token", "text");
    for (const ColumnWeight& w : top) {
        const Frame& frame = v.frames[size_t(w.column)];
        std::string text = one_line(v.pieces[size_t(w.column)]);
        if (text.size() > 44) text = printable(text.substr(0, 41)) + "...";
        fmt::print("{:>8.4f}% {}{:>8} {:>7}  \"{}\"\n", 100 * double(w.weight),
                   named_apart ? fmt::format("{:>8} ", w.column) : "", frame.position, frame.token, text);
    }
}

int print_json(const View& v, const std::vector<ColumnWeight>& top, const Flags& f) {
    nlohmann::json body = {{"rows", v.n_rows}, {"top", nlohmann::json::array()}};
    if (f.generated) {
        body["generated"] = v.n_tokens;
        body["tokens"] = {v.index + 1 - v.n_tokens, v.index + 1};
    } else {
        body["token"] = v.index;
        body["position"] = v.frames[size_t(v.index)].position;
        body["text"] = one_line(v.pieces[size_t(v.index)]);
    }
    if (f.hide_first) body["first_share"] = v.first_share();
    for (const ColumnWeight& w : top) {
        const Frame& frame = v.frames[size_t(w.column)];
        body["top"].push_back({{"column", w.column},
                               {"position", frame.position},
                               {"token_id", frame.token},
                               {"weight", w.weight},
                               {"text", v.pieces[size_t(w.column)]}});
    }
    if (f.values) {
        body["values"] = nlohmann::json::array();
        for (size_t j = 0; j < v.weights.size(); ++j)
            body["values"].push_back(v.is_shown(j, f.hide_first) ? nlohmann::json(v.weights[j]) : nlohmann::json());
    }
    fmt::print("{}\n", body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return exit_good;
}

int run(const Flags& f) {
    Result<std::unique_ptr<Recording>> opened = Recording::open_sequence(f.path, f.sequence);
    if (!opened) return report(opened.error(), f.json);
    Recording& recording = **opened;
    const int64_t n = recording.info().n_frames;
    if (n == 0) return report({ErrorKind::not_found, f.path + " holds no tokens"}, f.json);
    int64_t begin = f.token < 0 ? n + f.token : f.token;
    int64_t end = begin + 1;
    if (begin < 0 || begin >= n) {
        return report({ErrorKind::not_found, fmt::format("{} has tokens 0 to {}, not {}", f.path, n - 1, f.token)},
                      f.json);
    }
    if (f.generated) {
        Result<std::vector<Frame>> frames = recording.frames(0, n);
        if (!frames) return report(frames.error(), f.json);
        begin = std::find_if(frames->begin(), frames->end(),
                             [](const Frame& x) { return x.kind == FrameKind::generated; }) -
                frames->begin();
        end = n;
        if (begin == n) return report({ErrorKind::not_found, f.path + " holds no generated tokens"}, f.json);
    }
    Result<View> view = look(recording, f, begin, end);
    if (!view) return report(view.error(), f.json);
    const std::vector<ColumnWeight> top = strongest(*view, f);
    if (f.json) return print_json(*view, top, f);
    if (f.values) {
        for (size_t j = 0; j < view->weights.size(); ++j) {
            if (view->is_shown(j, f.hide_first)) fmt::print("{}\t{:.9g}\n", j, view->weights[j]);
        }
        return exit_good;
    }
    if (f.top <= 0) {
        const bool color = f.color == "always" || (f.color == "auto" && isatty(STDOUT_FILENO));
        print_text(*view, f, color);
        fmt::print("\n");
    }
    const std::string who =
        f.generated ? fmt::format("{} generated tokens", end - begin)
                    : fmt::format("token {} \"{}\"", view->index, one_line(view->pieces[size_t(view->index)]));
    const std::string heading = fmt::format(
        "{} looked at (mean of {} rows{}):", who, view->n_rows,
        f.hide_first ? fmt::format("; first position hidden, it has {:.1f}%", 100 * view->first_share()) : "");
    fmt::print("{}\n", for_reader(stdout, heading, 0));
    print_table(*view, top);
    if (top.empty()) fmt::print("          (it can look at no other position)\n");
    return exit_good;
}

} // namespace

void add_show(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    CLI::App* verb = app.add_subcommand("show", "Show what a token looked at");
    verb->footer("Examples:\n"
                 "  attnscope show x.attn                           the last token, all heads\n"
                 "  attnscope show x.attn --generated --hide-first  what the answer looked at\n"
                 "  attnscope show x.attn --token 41 --layer 12 --head 0-3 --top 20");
    verb->add_option("recording", f->path, "An .attn file")->required();
    verb->add_option("--token", f->token, "Which token; negative numbers count from the end (default: the last)");
    verb->add_flag("--generated", f->generated, "The mean over all generated tokens");
    verb->add_option("--sequence", f->sequence, "Of a recording with several: which one (attnscope info lists them)")
        ->capture_default_str();
    verb->add_option("--layer", f->layers, "Layers to average, e.g. 0,4-7 (default: all)");
    verb->add_option("--head", f->heads, "Heads to average (default: all)");
    verb->add_option("--top", f->top, "A table of the K strongest positions instead of the text")
        ->check(CLI::Range(1, 1 << 20));
    verb->add_flag("--values", f->values, "The row itself: column and weight, a line for each that it can look at");
    verb->add_flag("--log", f->log, "Colours on a log scale, four decades");
    verb->add_flag("--hide-first", f->hide_first, "Leave out the first position, which often takes most of the weight");
    verb->add_option("--color", f->color, "auto, always or never")->check(CLI::IsMember({"auto", "always", "never"}));
    verb->add_flag("--json", f->json, "Print a JSON object");
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
