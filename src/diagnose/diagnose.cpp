#include <attnscope/diagnose.h>

#include "diagnose/causes.h"
#include "diagnose/read_ahead.h"
#include "diagnose/token_facts.h"

namespace attnscope {

using namespace diagnose;

struct Diagnoser::State {
    Diagnosis diagnosis;
    TokenFactsMaker maker;
    UnreadableTokens unreadable;
    ColumnSums columns;
};

Diagnoser::Diagnoser(DumpInfo dump) : state_(std::make_unique<State>()) {
    state_->diagnosis.dump = std::move(dump);
}

Diagnoser::~Diagnoser() = default;

void Diagnoser::add(const DumpToken& token) {
    TokenFacts facts = state_->maker.make(token);
    state_->columns.add(token);
    facts.index = static_cast<int64_t>(state_->diagnosis.tokens.size());
    state_->diagnosis.tokens.push_back(std::move(facts));
}

void Diagnoser::add_unreadable(const Error& error) {
    TokenFacts facts;
    facts.index = static_cast<int64_t>(state_->diagnosis.tokens.size());
    facts.number = -1;
    facts.kind = TokenKind::unreadable;
    facts.layers.trivial = true;
    facts.error = error.message;
    state_->diagnosis.tokens.push_back(std::move(facts));
    ++state_->unreadable.count;
    if (state_->unreadable.first.size() < 5) state_->unreadable.first.push_back(error.message);
}

Diagnosis Diagnoser::finish() {
    name_causes(state_->diagnosis, state_->unreadable, state_->columns);
    return std::move(state_->diagnosis);
}

Result<Diagnosis> diagnose_dump(DumpReader& reader, const std::function<void(int64_t)>& progress) {
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
        if (done == 0) return Error{ErrorKind::damaged, reader.info().path + " holds 0 tokens with attention"};
        return Error{last.kind, "no token of " + reader.info().path + " could be read: " + last.message};
    }
    return diagnoser.finish();
}

} // namespace attnscope
