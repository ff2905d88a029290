#include "diagnose/cause_finder.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::diagnose {

bool is_attention(const TokenFacts& t) {
    return t.kind == TokenKind::probabilities || t.kind == TokenKind::sub_probabilities;
}

int64_t count(Tokens tokens, const TokenTest& test) {
    return std::count_if(tokens.begin(), tokens.end(), test);
}

// "tokens 3, 4, 9 and 12 more"
std::string which(Tokens tokens, const TokenTest& test) {
    std::string text;
    int64_t told = 0, more = 0;
    for (const TokenFacts& t : tokens) {
        if (!test(t)) continue;
        if (told < 5)
            text += (told++ ? ", " : "") + std::to_string(t.number);
        else
            ++more;
    }
    return (told > 1 ? "tokens " : "token ") + text + (more ? fmt::format(" and {} more", more) : "");
}

bool all_one(const TokenFacts& t) {
    return t.n_layer > 1 && !t.layers.trivial && t.layers.distinct == 1;
}
bool some_one(const TokenFacts& t) {
    return t.layers.equal > 0 && t.layers.distinct > 1;
}
bool is_stale(const TokenFacts& t) {
    return t.layers.repeats >= 0;
}
bool partly_stale(const TokenFacts& t) {
    return t.layers.stale > 0 && t.layers.repeats < 0 && !all_one(t);
}
bool is_wild(const TokenFacts& t) {
    return t.rows.wild > 0;
}
bool overflowed(const TokenFacts& t) {
    return !is_wild(t) && t.kind != TokenKind::padding && (t.numbers.n_not_finite > 0 || t.numbers.n_half_limit > 0);
}

bool is_scores(const TokenFacts& t) {
    return t.kind == TokenKind::scores && (t.numbers.min < 0 || t.numbers.n_masked > 0);
}

CauseFinder::CauseFinder(Diagnosis& diagnosis, const UnreadableTokens& unreadable, const ColumnSums& columns)
    : d_(diagnosis), tokens_(diagnosis.tokens), unreadable_(unreadable), columns_(columns) {
    readable_ = count(tokens_, [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
}

// Not of a capture that went wrong: the program that wrote the arrays says so.
void CauseFinder::note_missing_rows() {
    const auto test = [](const TokenFacts& t) { return t.rows.missing > 0; };
    int64_t n = 0;
    for (const TokenFacts& t : tokens_) n += t.rows.missing;
    if (n == 0) return;
    d_.dump.notes.push_back(
        fmt::format("{} rows of {} tokens are marked as not there, as attnscope export marks rows that "
                    "a layer or a head has not got: they are left out",
                    n, count(tokens_, test)));
}

void CauseFinder::run() {
    note_missing_rows();
    narrow_tokens();
    race();
    aliasing();
    stale();
    mixture();
    scores();
    transposed();
    kv_heads();
    sink_column();
    evicted();
    cells();
    padding();
    overflow();
    corrupt();
    unknown();
    sinks();
    not_causal();
    if (d_.findings.empty()) clean();
    decide_what_to_keep();
}

Finding& CauseFinder::found(Cause cause, int64_t n_tokens) {
    Finding finding;
    finding.cause = cause;
    finding.n_tokens = n_tokens;
    finding.keep = cause_keep(cause);
    finding.fix = cause_fix(cause);
    d_.findings.push_back(std::move(finding));
    return d_.findings.back();
}

bool CauseFinder::has(Cause cause) const {
    return std::any_of(d_.findings.begin(), d_.findings.end(), [&](const Finding& f) { return f.cause == cause; });
}

// Tokens of one text that look at later ones are right in an encoder alone. Whether they are of one text nobody says.
void CauseFinder::note_later_columns() {
    const auto n = static_cast<int64_t>(tokens_.size());
    const auto uses_last = [n](const TokenFacts& t) { return t.n_context == n && t.columns.padding == 0; };
    if (n < 2 || d_.dump.prompt || !d_.dump.rectangular || count(tokens_, uses_last) != n) return;
    d_.dump.notes.push_back(
        fmt::format("there are as many tokens as columns, and each of them uses the last one: if they are the {} "
                    "tokens of one text, they look at later ones, which is right for an encoder alone",
                    n));
}

void CauseFinder::clean() {
    note_later_columns();
    Finding& f = found(Cause::clean, readable_);
    const TokenFacts& t = first_readable();
    int64_t rows = 0;
    double off = 0;
    for (const TokenFacts& token : tokens_) {
        if (token.rows.n == 0) continue;
        rows += token.rows.n;
        off = std::max({off, 1 - token.rows.sum_min, token.rows.sum_max - 1});
    }
    f.evidence.push_back(fmt::format("all {} rows of {} tokens are non-negative and sum to 1 (off by {:.1e} at most)",
                                     rows, readable_, off));
    if (t.n_layer > 1) {
        f.evidence.push_back(readable_ > 1 ? "layers differ within every token, and tokens differ from one another"
                                           : "the layers differ from one another");
    }
    if (readable_ == 1 || t.n_layer == 1) {
        f.undecided = t.n_layer == 1
                          ? "one layer cannot be compared with others: whether it is the layer it is said to be "
                            "only the capturing program knows"
                          : "one token shows neither a race nor a stale frame nor a shifted cache";
    }
}

void CauseFinder::decide_what_to_keep() {
    for (const TokenFacts& t : tokens_) d_.keep.push_back(keep_of(t));
}

Keep CauseFinder::keep_of(const TokenFacts& t) const {
    if (t.kind == TokenKind::unreadable || t.kind == TokenKind::mixed || t.kind == TokenKind::not_finite ||
        t.kind == TokenKind::zeros || t.kind == TokenKind::padding || torn(t) || is_stale(t) || lags(t)) {
        return Keep::nothing;
    }
    if (has(Cause::cells_for_positions) || has(Cause::unknown)) return Keep::nothing;
    if (has(Cause::dropout) || has(Cause::other_axis) || exchanged_) return Keep::nothing;
    // A token that escaped a race whole cannot be told from one whose layers are all of the wrong moment.
    if (racing_) return Keep::nothing;
    if (some_one(t)) return Keep::nothing;
    if (has(Cause::aliasing)) return all_one(t) && is_attention(t) ? Keep::last_layer : Keep::nothing;
    if (t.kind == TokenKind::scores) return Keep::scores;
    if (t.kind == TokenKind::transposed) return Keep::transposed;
    if (has(Cause::kv_heads)) return Keep::kv_heads;
    if (has(Cause::sink_column)) return Keep::without_last;
    if (has(Cause::rescaled)) return t.kind == TokenKind::weights ? Keep::normalised : Keep::nothing;
    if (has(Cause::padding) && t.columns.padding > 0) return Keep::cropped;
    return Keep::all;
}

const TokenFacts& CauseFinder::first_readable() const {
    return *std::find_if(tokens_.begin(), tokens_.end(),
                         [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
}

const TokenFacts& CauseFinder::last_readable() const {
    return *std::find_if(tokens_.rbegin(), tokens_.rend(),
                         [](const TokenFacts& t) { return t.kind != TokenKind::unreadable; });
}

void name_causes(Diagnosis& diagnosis, const UnreadableTokens& unreadable, const ColumnSums& columns) {
    CauseFinder finder(diagnosis, unreadable, columns);
    finder.explain();
    const bool harmless = diagnosis.good();
    std::vector<bool> bad;
    for (const TokenFacts& t : diagnosis.tokens) {
        const bool explained = t.kind == TokenKind::padding || (t.kind == TokenKind::weights && harmless);
        bad.push_back((!is_attention(t) && !explained) || some_one(t) || partly_stale(t) || is_stale(t) || all_one(t));
    }
    diagnosis.pattern = find_pattern(diagnosis.tokens, bad);
    finder.run();
    // damage first, in the order it was found
    std::stable_sort(diagnosis.findings.begin(), diagnosis.findings.end(), [](const Finding& a, const Finding& b) {
        return cause_is_damage(a.cause) > cause_is_damage(b.cause);
    });
    diagnosis.conclusion = conclude(diagnosis);
}

std::string conclude(const Diagnosis& diagnosis) {
    std::string text;
    for (const Finding& finding : diagnosis.findings) {
        if (!text.empty()) text += " ";
        text += fmt::format("{} ({} of {} tokens). ", cause_title(finding.cause), finding.n_tokens,
                            diagnosis.tokens.size());
        text += std::string("Keep: ") + finding.keep + ".";
        if (cause_is_damage(finding.cause)) text += std::string(" At the source: ") + finding.fix + ".";
    }
    const std::vector<std::string>& out = diagnosis.dump.left_out;
    constexpr size_t most_named = 5;
    for (size_t i = 0; i < std::min(out.size(), most_named); ++i) text += (i ? ", " : " Not looked at: ") + out[i];
    if (out.size() > most_named) text += fmt::format(" and {} more", out.size() - most_named);
    if (!out.empty()) text += ".";
    return text;
}

} // namespace attnscope::diagnose
