#include "server/dialects/logprobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace attnscope::server {

namespace {

constexpr size_t most_top = 200000; // most probable ones that wait for one answer: some 100 bytes of JSON each

// OpenAI's documented least, where there would be -infinity, which JSON has not.
double told(double log_probability) {
    return log_probability > -9999.0 ? log_probability : -9999.0;
}

std::vector<int> bytes_of(const std::string& piece) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
    return {bytes, bytes + piece.size()};
}

Json one(const TokenProbability& p, const std::string& piece, bool with_id) {
    Json out = {{"token", piece}, {"logprob", told(p.log_probability)}, {"bytes", bytes_of(piece)}};
    if (with_id) out["id"] = p.token;
    return out;
}

Json content(std::span<const ToldToken> tokens, const Session& session, bool with_id) {
    Json out = Json::array();
    for (const ToldToken& t : tokens) {
        Json entry = one(t.probabilities.chosen, t.piece, with_id);
        Json& top = entry["top_logprobs"] = Json::array();
        for (const TokenProbability& p : t.probabilities.top) top.push_back(one(p, session.piece(p.token), with_id));
        out.push_back(std::move(entry));
    }
    return out;
}

// A key that tells tokens apart: of one that is part of a character its bytes, as OpenAI writes them.
std::string key_of(const std::string& piece) {
    if (!piece_json(piece).is_array()) return piece;
    std::string out = "bytes:";
    for (const int byte : bytes_of(piece)) out += fmt::format("\\x{:02x}", byte);
    return out;
}

} // namespace

void TokenTrace::add(const GenerationEvent& event) {
    if (!event.probabilities) return;
    ToldToken t{*event.probabilities, session_->piece(event.token), bytes_, characters_};
    bytes_ += t.piece.size();
    characters_ +=
        static_cast<size_t>(std::count_if(t.piece.begin(), t.piece.end(), [](char c) { return (c & 0xC0) != 0x80; }));
    n_top_ += t.probabilities.top.size();
    if (n_top_ > most_top) {
        n_top_ -= t.probabilities.top.size();
        t.probabilities.top.clear();
        ++n_omitted_;
    }
    waiting_.push_back(std::move(t));
}

std::vector<ToldToken> TokenTrace::take(size_t shown) {
    const auto end = std::find_if(waiting_.begin(), waiting_.end(), [&](const ToldToken& t) {
        return t.bytes >= shown && !(t.piece.empty() && t.bytes == shown);
    });
    std::vector<ToldToken> out(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(end));
    waiting_.erase(waiting_.begin(), end);
    for (const ToldToken& t : out) n_top_ -= t.probabilities.top.size();
    return out;
}

double mean_log_probability(std::span<const ToldToken> tokens) {
    double sum = 0;
    for (const ToldToken& t : tokens) sum += told(t.probabilities.chosen.log_probability);
    return tokens.empty() ? 0 : sum / static_cast<double>(tokens.size());
}

Json chat_logprobs(std::span<const ToldToken> tokens, const Session& session) {
    return {{"content", content(tokens, session, false)}, {"refusal", nullptr}};
}

Json completion_logprobs(std::span<const ToldToken> tokens, const Session& session) {
    Json out = {{"tokens", Json::array()},
                {"token_logprobs", Json::array()},
                {"top_logprobs", Json::array()},
                {"text_offset", Json::array()}};
    for (const ToldToken& t : tokens) {
        out["tokens"].push_back(key_of(t.piece));
        out["token_logprobs"].push_back(told(t.probabilities.chosen.log_probability));
        Json top = Json::object();
        for (const TokenProbability& p : t.probabilities.top) {
            const std::string key = key_of(session.piece(p.token));
            if (!top.contains(key)) top[key] = told(p.log_probability); // the more probable one
        }
        out["top_logprobs"].push_back(std::move(top));
        out["text_offset"].push_back(t.characters);
    }
    return out;
}

Json completion_probabilities(std::span<const ToldToken> tokens, const Session& session) {
    return content(tokens, session, true);
}

} // namespace attnscope::server
