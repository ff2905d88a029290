#include "cli/diagnosis_report.h"
#include "cli/lines.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::cli {

namespace {

std::string labelled(const char* label, const std::string& text) {
    return fmt::format("  {:<10}{}\n", label, wrapped(text, 12));
}

// What a stranger wrote may hold control characters that a terminal obeys.
std::string printable(std::string text) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    }
    return text;
}

bool alike(const TokenFacts& a, const TokenFacts& b) {
    const auto like = [](int64_t x, int64_t y) { return (x > 0) == (y > 0); };
    return a.kind == b.kind && a.n_layer == b.n_layer && a.n_head == b.n_head &&
           a.layers.distinct == b.layers.distinct && (a.layers.repeats >= 0) == (b.layers.repeats >= 0) &&
           like(a.layers.stale, b.layers.stale) && like(a.columns.padding, b.columns.padding) &&
           like(a.columns.wrapped_layers, b.columns.wrapped_layers);
}

} // namespace

std::vector<TokenRun> token_runs(const Diagnosis& diagnosis, bool all) {
    std::vector<TokenRun> runs;
    for (size_t i = 0; i < diagnosis.tokens.size(); ++i) {
        if (!all && !runs.empty() && alike(diagnosis.tokens[i], diagnosis.tokens[runs.back().begin]))
            runs.back().end = i + 1;
        else
            runs.push_back({i, i + 1});
    }
    return runs;
}

std::string diagnosis_text(const Diagnosis& diagnosis, bool all) {
    std::string out;
    const DumpInfo& capture = diagnosis.dump;
    out += fmt::format("{}: {}, {}, {} tokens\n", printable(capture.path), capture.format, capture.storage,
                       diagnosis.tokens.size());
    out += labelled("axes", printable(capture.axes + (capture.axes_why.empty() ? "" : " (" + capture.axes_why + ")")));
    for (const std::string& label : capture.labels) out += labelled("label", printable(label));
    for (const std::string& note : capture.notes) out += labelled("note", printable(note));
    out += fmt::format("\n{:>11} {:<13} {:>8} {:>8} {:>17} {:>6} {}\n", "token", "kind", "min", "max", "row sums",
                       "layers", "remarks");
    for (const TokenRun& run : token_runs(diagnosis, all)) {
        const TokenFacts& first = diagnosis.tokens[run.begin];
        const TokenFacts& last = diagnosis.tokens[run.end - 1];
        if (first.kind == TokenKind::unreadable) {
            const size_t others = run.end - run.begin - 1;
            const std::string more = others > 0 ? fmt::format("; and {} more", others) : std::string();
            out += fmt::format("{:>11} {:<13} {}\n", "-", "unreadable", wrapped(printable(first.error) + more, 26));
            continue;
        }
        const std::string name = run.end - run.begin == 1 ? fmt::format("{}", first.number)
                                                          : fmt::format("{}-{}", first.number, last.number);
        float min = first.numbers.min, max = first.numbers.max;
        double low = first.numbers.row_sum_min, high = first.numbers.row_sum_max;
        for (size_t i = run.begin; i < run.end; ++i) {
            min = std::min(min, diagnosis.tokens[i].numbers.min);
            max = std::max(max, diagnosis.tokens[i].numbers.max);
            low = std::min(low, diagnosis.tokens[i].numbers.row_sum_min);
            high = std::max(high, diagnosis.tokens[i].numbers.row_sum_max);
        }
        std::string remarks;
        const auto remark = [&](const std::string& text) {
            if (!remarks.empty()) remarks += ", ";
            remarks += text;
        };
        if (first.layers.repeats >= 0)
            remark(run.end - run.begin == 1 ? fmt::format("is {}", first.layers.repeats) : "repeats");
        else if (first.layers.stale > 0)
            remark(fmt::format("{} stale", first.layers.stale));
        if (first.columns.padding > 0) remark("padded");
        if (first.columns.wrapped_layers > 0) remark("wrapped");
        if (first.layers.head_group > 1) remark(fmt::format("heads x{}", first.layers.head_group));
        out += fmt::format("{:>11} {:<13} {:>8.3g} {:>8.3g} {:>8.3g} {:>8.3g} {:>3}/{:<3}{}\n", name,
                           token_kind_name(first.kind), static_cast<double>(min), static_cast<double>(max), low, high,
                           first.layers.distinct, first.n_layer, remarks);
    }
    out += fmt::format("\n{}\n", wrapped(diagnosis.pattern.sentence, 0));
    for (const Finding& finding : diagnosis.findings) {
        out += fmt::format("\n{}: {}\n", cause_name(finding.cause), wrapped(cause_title(finding.cause), 12));
        out += labelled("tokens", fmt::format("{} of {}", finding.n_tokens, diagnosis.tokens.size()));
        for (const std::string& evidence : finding.evidence) out += labelled("evidence", printable(evidence));
        if (!finding.undecided.empty()) out += labelled("undecided", finding.undecided);
        out += labelled("keep", finding.keep);
        if (cause_is_damage(finding.cause)) out += labelled("fix", finding.fix);
    }
    return out;
}

nlohmann::json diagnosis_json(const Diagnosis& diagnosis) {
    using nlohmann::json;
    const DumpInfo& capture = diagnosis.dump;
    json body = {{"path", capture.path},
                 {"format", capture.format},
                 {"storage", capture.storage},
                 {"axes", {{"read_as", capture.axes}, {"why", capture.axes_why}, {"prompt", capture.prompt}}},
                 {"labels", capture.labels},
                 {"notes", capture.notes},
                 {"good", diagnosis.good()},
                 {"cause", cause_name(diagnosis.cause())},
                 {"conclusion", diagnosis.conclusion}};
    body["findings"] = json::array();
    for (const Finding& f : diagnosis.findings) {
        body["findings"].push_back({{"cause", cause_name(f.cause)},
                                    {"title", cause_title(f.cause)},
                                    {"tokens", f.n_tokens},
                                    {"evidence", f.evidence},
                                    {"undecided", f.undecided},
                                    {"keep", f.keep},
                                    {"fix", f.fix}});
    }
    const Pattern& p = diagnosis.pattern;
    body["pattern"] = {{"sentence", p.sentence},
                       {"period", p.period},
                       {"period_strength", p.period_strength},
                       {"correlation_with_index", p.correlation_with_index},
                       {"correlation_with_context", p.correlation_with_context}};
    body["pattern"]["transitions"] = json::array();
    for (const Transition& t : p.transitions) {
        body["pattern"]["transitions"].push_back(
            {{"index", t.index}, {"from", token_kind_name(t.from)}, {"to", token_kind_name(t.to)}});
    }
    body["tokens"] = json::array();
    for (size_t i = 0; i < diagnosis.tokens.size(); ++i) {
        const TokenFacts& t = diagnosis.tokens[i];
        json token = {{"index", t.index},
                      {"number", t.number},
                      {"kind", token_kind_name(t.kind)},
                      {"keep", keep_name(diagnosis.keep[i])}};
        if (t.kind == TokenKind::unreadable) {
            token["error"] = t.error;
        } else {
            token["shape"] = {t.n_layer, t.n_head, t.n_context};
            token["min"] = t.numbers.min;
            token["max"] = t.numbers.max;
            token["sum"] = t.numbers.sum;
            token["row_sums"] = {t.numbers.row_sum_min, t.numbers.row_sum_max};
            token["distinct_layers"] = t.layers.distinct;
            token["stale_layers"] = t.layers.stale;
            token["repeats"] = t.layers.repeats >= 0 ? json(t.layers.repeats) : json(nullptr);
            token["padding"] = t.columns.padding;
            token["wrapped_layers"] = t.columns.wrapped_layers;
            token["head_group"] = t.layers.head_group;
            token["not_finite"] = t.numbers.n_not_finite;
            token["missing_rows"] = t.rows.missing; // as who wrote them says
        }
        body["tokens"].push_back(std::move(token));
    }
    return body;
}

} // namespace attnscope::cli
