#include "server/http/request_fields.h"

#include "base/bounded_json.h"

#include <fmt/format.h>

#include <cmath>

namespace attnscope::server {

namespace {
// Of any body: ids and scores of the longest prompt that is taken are half as many. A value of two bytes takes sixteen once it is read.
constexpr size_t most_values = size_t(1) << 23;
} // namespace

Result<Json> parse_body(std::string_view body) {
    if (body.empty()) return Json(Json::object());
    if (!base::json_values_are_bounded(body, most_values)) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("the body of the request holds more than {} values", most_values)};
    }
    return base::parse_json_object(body, "the body of the request");
}

const Json* RequestFields::find(const char* key) const {
    known_.insert(key);
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
}

void RequestFields::fail(const std::string& message) {
    if (error_.empty()) error_ = message;
}

Result<void> RequestFields::status() const {
    if (error_.empty()) return {};
    return Error{ErrorKind::invalid_argument, error_};
}

double RequestFields::number(const char* key, double fallback, double lowest, double highest) {
    const Json* value = find(key);
    if (!value) return fallback;
    const double x = value->is_number() ? value->get<double>() : std::nan("");
    if (!(x >= lowest && x <= highest)) {
        fail(key, fmt::format("must be a number from {:g} to {:g}", lowest, highest));
        return fallback;
    }
    return x;
}

int64_t RequestFields::integer(const char* key, int64_t fallback, int64_t lowest, int64_t highest) {
    const Json* value = find(key);
    if (!value) return fallback;
    const auto x = base::json_whole(*value);
    if (!x || *x < lowest || *x > highest) {
        fail(key, fmt::format("must be a whole number from {} to {}", lowest, highest));
        return fallback;
    }
    return *x;
}

bool RequestFields::flag(const char* key, bool fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    if (value->is_number_integer()) return value->get<double>() != 0; // Python clients send 0 and 1
    fail(key, "must be true or false");
    return fallback;
}

std::string RequestFields::text(const char* key, std::string fallback, size_t limit) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_string()) {
        fail(key, "must be a string");
        return fallback;
    }
    const auto& s = value->get_ref<const std::string&>();
    if (s.size() > limit) {
        fail(key, fmt::format("is longer than {} bytes", limit));
        return fallback;
    }
    return s;
}

std::vector<std::string> RequestFields::texts(const char* key, size_t most, size_t limit) {
    const Json* value = find(key);
    std::vector<std::string> out;
    if (!value) return out;
    const auto take = [&](const Json& one) {
        if (!one.is_string() || one.get_ref<const std::string&>().size() > limit) {
            fail(key, fmt::format("must hold strings of at most {} bytes", limit));
        } else if (!one.get_ref<const std::string&>().empty()) {
            out.push_back(one.get<std::string>());
        }
    };
    if (!value->is_array()) {
        take(*value);
        return out;
    }
    if (value->size() > most) {
        fail(key, fmt::format("holds {} strings; at most {} are taken", value->size(), most));
        return out;
    }
    for (const Json& one : *value) take(one);
    return out;
}

std::optional<std::vector<int32_t>> RequestFields::token_ids(const char* key, int32_t n_vocab, size_t most) {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    std::vector<int32_t> ids;
    if (!value->is_array()) {
        fail(key, "must be an array of token ids");
        return ids;
    }
    if (value->size() > most) {
        fail(key, fmt::format("holds {} tokens; at most {} are taken", value->size(), most));
        return ids;
    }
    ids.reserve(value->size());
    for (size_t i = 0; i < value->size(); ++i) {
        const Json& one = (*value)[i];
        const auto id = base::json_whole(one);
        if (!id || *id < 0 || *id >= n_vocab) {
            fail(fmt::format("\"{}\"[{}] must be a token id from 0 to {}", key, i, n_vocab - 1));
            return ids;
        }
        ids.push_back(static_cast<int32_t>(*id));
    }
    return ids;
}

std::vector<std::string> unread_fields(const Json& body, const std::set<std::string>& known) {
    static const std::set<std::string> harmless{"model", "user", "metadata", "quiet"};
    // Of these false, or nothing, is not what they are when they are absent.
    static const std::set<std::string> telling{"add_generation_prompt",
                                               "cache_prompt",
                                               "dry_sequence_breakers",
                                               "parallel_tool_calls",
                                               "parse_tool_calls",
                                               "sampler_order",
                                               "samplers",
                                               "trim_stop"};
    std::vector<std::string> out;
    for (const auto& [key, value] : body.items()) {
        const bool empty = value == Json(false) || value == Json("") || (value.is_structured() && value.empty());
        const bool says_nothing = value.is_null() || (empty && !telling.count(key));
        if (!says_nothing && !known.count(key) && !harmless.count(key)) out.push_back(key);
    }
    return out;
}

Json piece_json(const std::string& piece) {
    if (Json::parse(json_text(piece)) == Json(piece)) return piece;
    const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
    return std::vector<int>(bytes, bytes + piece.size());
}

std::string json_text(const Json& value) {
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

} // namespace attnscope::server
