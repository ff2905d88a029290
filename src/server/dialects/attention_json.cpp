#include "server/dialects/attention_json.h"

#include "base/bounded_json.h"
#include "server/http/request_fields.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

namespace attnscope::server {

namespace {

constexpr size_t max_chosen = 1 << 16; // layers or heads: above any model

constexpr std::array<std::string_view, 10> known{"layers", "heads", "reduce", "format",     "window",
                                                 "top_k",  "spans", "every",  "accumulate", "window_rows"};

Error refuse(std::string_view field, const std::string& why) {
    return {ErrorKind::invalid_argument, "\"attention." + std::string(field) + "\" " + why};
}

class Reader : public RequestFields {
public:
    explicit Reader(const Json& object) : RequestFields(object, "attention.") {}

    // A number, or an array of them.
    std::vector<int32_t> numbers(const char* field) {
        std::vector<int32_t> out;
        const Json* value = find(field);
        if (!value) return out;
        const Json list = value->is_array() ? Json() : Json::array({*value});
        const Json& all = value->is_array() ? *value : list;
        if (all.size() > max_chosen) fail(field, "lists more than any model has");
        for (const Json& entry : all) {
            const auto number = all.size() > max_chosen ? std::nullopt : base::json_whole(entry);
            if (!number || *number < 0 || *number > std::numeric_limits<int32_t>::max()) {
                fail(field, "must be a whole number or an array of them, 0 the first");
                break;
            }
            out.push_back(static_cast<int32_t>(*number));
        }
        return out;
    }
    template <class E> E name(const char* field, E otherwise, Result<E> (*from_name)(std::string_view)) {
        const Json* value = find(field);
        return value ? named(field, *value, otherwise, from_name) : otherwise;
    }
    template <class E>
    E named(const char* field, const Json& value, E otherwise, Result<E> (*from_name)(std::string_view)) {
        if (!value.is_string()) {
            fail(field, "must be a name");
            return otherwise;
        }
        auto found = from_name(value.get_ref<const std::string&>());
        if (found) return *found;
        fail("\"attention." + std::string(field) + "\": " + found.error().message);
        return otherwise;
    }
    void spans(AttentionFields& out);
    void accumulate(AttentionRequest& out);
};

void Reader::spans(AttentionFields& out) {
    const Json* value = find("spans");
    if (!value) return;
    if (!value->is_array() || value->size() > max_spans)
        return fail("spans", "must be an array of at most " + std::to_string(max_spans) + " spans");
    for (const Json& span : *value) {
        const bool characters = span.is_object() && span.size() == 1 && span.contains("characters");
        const Json& pair = characters ? span.at("characters") : span;
        const auto begin = pair.is_array() && pair.size() == 2 ? base::json_whole(pair[0]) : std::nullopt;
        const auto end = begin ? base::json_whole(pair[1]) : std::nullopt;
        if (!begin || !end || *begin < 0 || *end < *begin)
            return fail("spans", "must list spans as [begin, end) columns or {\"characters\": [begin, end]}, "
                                 "with 0 <= begin <= end");
        if (characters) out.character_spans.push_back(out.request.spans.size());
        out.request.spans.push_back({*begin, *end});
    }
}

void Reader::accumulate(AttentionRequest& out) {
    const Json* value = find("accumulate");
    if (!value) return;
    const Json list = value->is_array() ? Json() : Json::array({*value});
    for (const Json& entry : value->is_array() ? *value : list) {
        const Accumulate what = named("accumulate", entry, Accumulate::total, accumulate_from_name);
        if (failed()) return;
        if (std::find(out.accumulate.begin(), out.accumulate.end(), what) == out.accumulate.end())
            out.accumulate.push_back(what);
    }
}

} // namespace

Result<AttentionFields> read_attention(const Json& object, std::span<const std::string_view> others) {
    if (!object.is_object()) return Error{ErrorKind::invalid_argument, "\"attention\" must be an object"};
    for (const auto& [key, value] : object.items()) {
        const std::string_view name = key;
        if (std::find(known.begin(), known.end(), name) == known.end() &&
            std::find(others.begin(), others.end(), name) == others.end()) {
            return refuse(name.substr(0, 64), "is not a field of attention");
        }
    }
    constexpr int32_t largest = std::numeric_limits<int32_t>::max();
    Reader reader(object);
    AttentionFields out;
    AttentionRequest& request = out.request;
    request.rows.layers = reader.numbers("layers");
    request.rows.heads = reader.numbers("heads");
    request.reduce = reader.name("reduce", request.reduce, reduce_from_name);
    request.format = reader.name("format", request.format, attention_format_from_name);
    request.window = reader.integer("window", request.window, 0, largest);
    request.top_k = static_cast<int32_t>(reader.integer("top_k", request.top_k, 1, max_top_k));
    request.every = static_cast<int32_t>(reader.integer("every", request.every, 1, largest));
    request.window_rows = static_cast<int32_t>(reader.integer("window_rows", request.window_rows, 1, max_window_rows));
    reader.spans(out);
    reader.accumulate(request);
    if (request.reduce == Reduce::spans && request.spans.empty()) reader.fail("spans", "must name at least one span");
    if (const auto status = reader.status(); !status) return status.error();
    return out;
}

Result<void> resolve_character_spans(AttentionFields& fields, std::span<const std::string> pieces,
                                     std::string_view text, int64_t first_column) {
    std::vector<Range> characters;
    for (const size_t place : fields.character_spans) characters.push_back(fields.request.spans[place]);
    if (characters.empty()) return {};
    auto columns = columns_of_characters(pieces, text, characters, first_column);
    if (!columns) return Error{columns.error().kind, "\"attention.spans\": " + columns.error().message};
    for (size_t i = 0; i < characters.size(); ++i) fields.request.spans[fields.character_spans[i]] = (*columns)[i];
    fields.character_spans.clear();
    return {};
}

} // namespace attnscope::server
