// The "attention" object of a request, as every endpoint that generates takes it. docs/http.md lists its fields.
#pragma once

#include <attnscope/attention_request.h>
#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope::server {

struct AttentionFields {
    AttentionRequest request;
    // Places in request.spans that count characters of the prompt until resolve_character_spans() was called.
    std::vector<size_t> character_spans;
};

// Reads {layers, heads, reduce, format, window, top_k, spans, every, accumulate, window_rows}. Everything may be left out or
// null. layers and heads: an array of numbers, or one number. spans: an array of [begin, end) columns or of
// {"characters": [begin, end]}. Bounds that need the model are check_request's.
// invalid_argument, naming the field as "attention.top_k"; a field that is not known is refused, for a mistyped one would
// be ignored in silence otherwise. Fields in `others` belong to the caller and are skipped.
Result<AttentionFields> read_attention(const nlohmann::json& object, std::span<const std::string_view> others = {});

// Turns spans of characters into columns; see columns_of_characters. Errors name the span.
Result<void> resolve_character_spans(AttentionFields& fields, std::span<const std::string> pieces,
                                     std::string_view text, int64_t first_column = 0);

} // namespace attnscope::server
