// One self-contained page: styles and drawings inside, no scripts, and everything a stranger wrote escaped.
#include "cli/diagnosis_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attnscope::cli {

namespace {

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
        case '&': out += "&amp;"; break;
        case '<': out += "&lt;"; break;
        case '>': out += "&gt;"; break;
        case '"': out += "&quot;"; break;
        case '\'': out += "&#39;"; break;
        default: out += static_cast<unsigned char>(c) < 0x20 && c != '\n' ? ' ' : c;
        }
    }
    return out;
}

const char* colour(const TokenFacts& t) {
    switch (t.kind) {
    case TokenKind::probabilities:
        return t.n_layer > 1 && !t.layers.trivial && t.layers.distinct == 1 ? "#d98e04" : "#2a7f62";
    case TokenKind::sub_probabilities: return "#5aa98f";
    case TokenKind::scores: return "#b3261e";
    case TokenKind::mixed: return "#8e44ad";
    case TokenKind::transposed: return "#1f618d";
    case TokenKind::weights: return "#8a8f2a";
    case TokenKind::padding: return "#bbbbbb";
    case TokenKind::not_finite:
    case TokenKind::zeros:
    case TokenKind::unreadable: return "#444444";
    }
    return "#444444";
}

constexpr size_t drawn_at_most = 1000; // bars; more tokens share a bar

std::string strip(const Diagnosis& d) {
    const size_t n = d.tokens.size(), bars = std::min(n, drawn_at_most);
    std::string svg =
        "<svg viewBox='0 0 1000 120' role='img' aria-label='Tokens in order: colour is the kind, height the "
        "share of distinct layers'>";
    const double width = 1000.0 / static_cast<double>(bars);
    for (size_t bar = 0; bar < bars; ++bar) {
        // the token of this bar that is furthest from good, so that a single bad one is not averaged away
        const size_t begin = bar * n / bars, end = std::max(begin + 1, (bar + 1) * n / bars);
        size_t worst = begin;
        for (size_t i = begin; i < end; ++i) {
            if (d.keep[i] == Keep::nothing && d.keep[worst] != Keep::nothing) worst = i;
        }
        const TokenFacts& t = d.tokens[worst];
        const double share = t.n_layer > 0 ? static_cast<double>(t.layers.distinct) / t.n_layer : 1.0;
        const double height = 15 + 100 * share;
        svg += fmt::format("<rect x='{:.2f}' y='{:.1f}' width='{:.2f}' height='{:.1f}' "
                           "fill='{}'><title>token {}: {}, {} of {} "
                           "layers distinct</title></rect>",
                           static_cast<double>(bar) * width, 120 - height, std::max(0.5, width - 0.3), height,
                           colour(t), t.number, token_kind_name(t.kind), t.layers.distinct, t.n_layer);
    }
    return svg + "</svg>";
}

std::string number(double x) {
    return std::isfinite(x) ? fmt::format("{:.4g}", x) : "not finite";
}

} // namespace

std::string diagnosis_html(const Diagnosis& d) {
    std::string out =
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src "
        "'unsafe-inline'\">"
        "<title>Diagnosis of an attention capture</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
        "background:#fff}h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}table{border-collapse:"
        "collapse;"
        "font-size:.85rem;width:100%}td,th{padding:.2rem .5rem;border-bottom:1px solid #ddd;text-align:right}"
        "td:nth-child(2),th:nth-child(2){text-align:left}dt{font-weight:600}dd{margin:0 0 .5rem 1rem}"
        ".good{border-left:6px solid #2a7f62;padding-left:1rem}.bad{border-left:6px solid #b3261e;"
        "padding-left:1rem}svg{width:100%;height:120px;background:#f4f4f4}.table{overflow-x:auto}"
        "@media(prefers-color-scheme:dark){body{background:#181818;color:#e6e6e6}svg{background:#262626}"
        "td,th{border-color:#444}}</style></head><body>\n";
    out += "<h1>Diagnosis of " + escaped(d.dump.path) + "</h1>\n";
    out += fmt::format("<p>{}, {}, {} tokens</p>\n", escaped(d.dump.format), escaped(d.dump.storage), d.tokens.size());
    out += "<p>Axes: " + escaped(d.dump.axes) + " (" + escaped(d.dump.axes_why) + ")</p>\n";
    for (const std::string& label : d.dump.labels) out += "<p>Label: " + escaped(label) + "</p>\n";
    for (const std::string& note : d.dump.notes) out += "<p>Note: " + escaped(note) + "</p>\n";
    for (const Finding& f : d.findings) {
        out += fmt::format("<section class='{}'><h2>{}</h2><p>{} of {} tokens <code>{}</code></p><dl>",
                           cause_is_damage(f.cause) ? "bad" : "good", escaped(cause_title(f.cause)), f.n_tokens,
                           d.tokens.size(), cause_name(f.cause));
        for (const std::string& evidence : f.evidence) out += "<dt>Evidence</dt><dd>" + escaped(evidence) + "</dd>";
        if (!f.undecided.empty()) out += "<dt>Undecided</dt><dd>" + escaped(f.undecided) + "</dd>";
        out += "<dt>Keep</dt><dd>" + escaped(f.keep) + "</dd>";
        if (cause_is_damage(f.cause)) out += "<dt>Fix at the source</dt><dd>" + escaped(f.fix) + "</dd>";
        out += "</dl></section>\n";
    }
    out += "<h2>Tokens in order</h2>\n" + strip(d) +
           "\n<p>Colour is the kind (green: probabilities; orange: all layers one "
           "layer; red: scores; violet: mixed; blue: transposed; grey: not readable), height the share of "
           "layers that differ.</p>"
           "<p>" +
           escaped(d.pattern.sentence) +
           "</p>\n<div class='table'><table><tr><th>token</th><th>kind</th><th>min</th>"
           "<th>max</th><th>least row sum</th><th>largest row sum</th><th>distinct layers</th><th>stale "
           "layers</th>"
           "<th>padding</th><th>keep</th></tr>\n";
    for (const TokenRun& run : token_runs(d, false)) {
        const TokenFacts& t = d.tokens[run.begin];
        const std::string name = run.end - run.begin == 1
                                     ? std::to_string(t.number)
                                     : fmt::format("{}-{}", t.number, d.tokens[run.end - 1].number);
        if (t.kind == TokenKind::unreadable) {
            out += "<tr><td>-</td><td colspan='9'>" + escaped(t.error) + "</td></tr>\n";
            continue;
        }
        out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{} of "
                           "{}</td><td>{}</td>"
                           "<td>{}</td><td>{}</td></tr>\n",
                           name, token_kind_name(t.kind), number(static_cast<double>(t.numbers.min)),
                           number(static_cast<double>(t.numbers.max)), number(t.numbers.row_sum_min),
                           number(t.numbers.row_sum_max), t.layers.distinct, t.n_layer, t.layers.stale,
                           t.columns.padding, keep_name(d.keep[run.begin]));
    }
    return out + "</table></div></body></html>\n";
}

} // namespace attnscope::cli
