// Reads the fields of a stranger's JSON object: each with its default and its bounds, the first thing that is wrong
// kept as a sentence that names the field. null is as good as absent: clients send it for "not set".
#pragma once

#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attnscope::server {

using Json = nlohmann::json;

// Parses the body of a request: an object, valid UTF-8, nested no deeper than 32.
Result<Json> parse_body(std::string_view body);

class RequestFields {
public:
    // Borrows `object`. `prefix`: what stands before a field's name in messages: "attention." of an object inside the body.
    explicit RequestFields(const Json& object, std::string prefix = {}) : object_(object), prefix_(std::move(prefix)) {}

    // The value under `key` unless it is absent or null. The field counts as one that is known here.
    const Json* find(const char* key) const;
    const std::set<std::string>& known() const { return known_; }
    // The first of two names under which a dialect knows a field.
    const char* either(const char* key, const char* other) const { return find(key) ? key : other; }

    double number(const char* key, double fallback, double lowest, double highest);
    // A number that stands for a whole one, also written as 28.0.
    int64_t integer(const char* key, int64_t fallback, int64_t lowest, int64_t highest);
    bool flag(const char* key, bool fallback);
    std::string text(const char* key, std::string fallback, size_t limit);
    // A string, or an array of strings; at most `most` of at most `limit` bytes. Empty strings are left out.
    std::vector<std::string> texts(const char* key, size_t most, size_t limit);
    // Token ids of a vocabulary of n_vocab; nothing when the field is absent.
    std::optional<std::vector<int32_t>> token_ids(const char* key, int32_t n_vocab, size_t most);

    void fail(const std::string& message);
    // Says of the field what is wrong: "\"attention.window\" must be ...".
    void fail(const char* key, const std::string& why) { fail("\"" + prefix_ + key + "\" " + why); }
    bool failed() const { return !error_.empty(); }
    // What is wrong with the fields read so far; kind invalid_argument.
    Result<void> status() const;

private:
    const Json& object_;
    std::string prefix_;
    std::string error_;
    mutable std::set<std::string> known_;
};

// Every field of a body that nobody asked about, so that none is ignored in silence. Fields that only name the caller or say what
// is so anyway are none.
std::vector<std::string> unread_fields(const Json& body, const std::set<std::string>& known);

// The text of a token; part of a character: its bytes, as llama-server gives them, so that nothing is lost.
Json piece_json(const std::string& piece);

// JSON of an answer: bytes that are no UTF-8 become U+FFFD.
std::string json_text(const Json& value);

} // namespace attnscope::server
