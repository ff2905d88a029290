#include <attnscope/diagnose.h>

#include "diagnose/causes.h"
#include "diagnose/read_ahead.h"
#include "diagnose/token_facts.h"

namespace attnscope {

struct Diagnoser::State {
    Diagnosis diagnosis;
    TokenFactsMaker maker;
    UnreadableTokens unreadable;
};

Diagnoser::Diagnoser(CaptureInfo capture) : state_(std::make_unique<State>()) {
    state_->diagnosis.capture = std::move(capture);
}

Diagnoser::~Diagnoser() = default;

void Diagnoser::add(const CaptureToken& token) {
    TokenFacts facts = state_->maker.make(token);
    facts.index = static_cast<int64_t>(state_->diagnosis.tokens.size());
    state_->diagnosis.tokens.push_back(std::move(facts));
}

void Diagnoser::add_unreadable(const Error& error) {
    TokenFacts facts;
    facts.index = static_cast<int64_t>(state_->diagnosis.tokens.size());
    facts.number = -1;
    facts.kind = TokenKind::unreadable;
    facts.trivial = true;
    facts.error = error.message;
    state_->diagnosis.tokens.push_back(std::move(facts));
    ++state_->unreadable.count;
    if (state_->unreadable.first.size() < 5) state_->unreadable.first.push_back(error.message);
}

Diagnosis Diagnoser::finish() {
    name_causes(state_->diagnosis, state_->unreadable);
    return std::move(state_->diagnosis);
}

Result<Diagnosis> diagnose_capture(CaptureReader& reader, const std::function<void(int64_t)>& progress) {
    Diagnoser diagnoser(reader.info());
    int64_t done = 0, readable = 0;
    Error last;
    ReadAhead ahead(reader);
    while (true) {
        auto token = ahead.next();
        if (!token) {
            const ErrorKind kind = token.error().kind;
            if (kind != ErrorKind::damaged && kind != ErrorKind::not_found) return token.error();
            last = token.error();
            diagnoser.add_unreadable(last);
        } else if (!*token) {
            break;
        } else {
            diagnoser.add(**token);
            ++readable;
        }
        if (progress) progress(++done);
    }
    if (readable == 0) {
        if (done == 0)
            return Error{ErrorKind::damaged, reader.info().path + " holds 0 tokens with attention"};
        return Error{last.kind, "no token of " + reader.info().path + " could be read: " + last.message};
    }
    return diagnoser.finish();
}

const char* cause_name(Cause cause) {
    switch (cause) {
    case Cause::clean:
        return "clean";
    case Cause::learned_sinks:
        return "learned-sinks";
    case Cause::raw_scores:
        return "raw-scores";
    case Cause::early_scores:
        return "early-scores";
    case Cause::aliasing:
        return "aliasing";
    case Cause::race:
        return "race";
    case Cause::stale_frame:
        return "stale-frame";
    case Cause::mixture:
        return "mixture";
    case Cause::padding:
        return "padding";
    case Cause::cells_for_positions:
        return "cells-for-positions";
    case Cause::transposed:
        return "transposed";
    case Cause::kv_heads:
        return "kv-heads";
    case Cause::half_overflow:
        return "half-overflow";
    case Cause::corrupt:
        return "corrupt";
    case Cause::unknown:
        return "unknown";
    }
    return "unknown";
}

const char* cause_title(Cause cause) {
    switch (cause) {
    case Cause::clean:
        return "Nothing wrong was found";
    case Cause::learned_sinks:
        return "Rows sum to less than 1 because the model has learned sinks (not damage)";
    case Cause::raw_scores:
        return "Raw scores instead of probabilities";
    case Cause::early_scores:
        return "Scores from before scaling or mask";
    case Cause::aliasing:
        return "All layers are one layer (aliased memory)";
    case Cause::race:
        return "Read while the engine was writing (a race)";
    case Cause::stale_frame:
        return "The previous token again (a stale frame)";
    case Cause::mixture:
        return "Probabilities and scores within one tensor";
    case Cause::padding:
        return "Padding taken for context";
    case Cause::cells_for_positions:
        return "Cells of the KV cache taken for positions";
    case Cause::transposed:
        return "Heads and positions exchanged";
    case Cause::kv_heads:
        return "KV heads taken for query heads";
    case Cause::half_overflow:
        return "Half-precision overflow or NaN";
    case Cause::corrupt:
        return "Truncated or damaged data";
    case Cause::unknown:
        return "Not attention as it should be, for a reason that is not known";
    }
    return "?";
}

bool cause_is_damage(Cause cause) {
    return cause != Cause::clean && cause != Cause::learned_sinks;
}

const char* token_kind_name(TokenKind kind) {
    switch (kind) {
    case TokenKind::probabilities:
        return "probabilities";
    case TokenKind::sub_probabilities:
        return "sums below 1";
    case TokenKind::scores:
        return "scores";
    case TokenKind::mixed:
        return "mixed";
    case TokenKind::not_finite:
        return "not finite";
    case TokenKind::transposed:
        return "transposed";
    case TokenKind::zeros:
        return "zeros";
    case TokenKind::unreadable:
        return "unreadable";
    }
    return "?";
}

const char* keep_name(Keep keep) {
    switch (keep) {
    case Keep::nothing:
        return "nothing";
    case Keep::all:
        return "all";
    case Keep::last_layer:
        return "last layer";
    case Keep::cropped:
        return "without padding";
    case Keep::transposed:
        return "transposed back";
    case Keep::kv_heads:
        return "one row a KV head";
    case Keep::scores:
        return "as scores";
    }
    return "?";
}

} // namespace attnscope
