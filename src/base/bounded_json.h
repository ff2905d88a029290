// JSON of strangers: bounded in size and depth before it is parsed, numbers checked before they are used.
#pragma once

#include <attnscope/error.h>

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope::base {

constexpr int max_json_depth = 32;

// Checks that brackets nest no deeper than `most`; knows strings, nothing else of JSON.
bool json_depth_is_bounded(std::string_view text, int most = max_json_depth);

// Checks that at most `most` values stand between its commas, without memory for any of them.
bool json_values_are_bounded(std::string_view text, size_t most);

// Parses an object; `name` is what messages call it.
Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& name);

// A whole number, also written as 28.0; nothing when it is anything else, or too large to be exact: beyond 2^53 a double no longer
// tells neighbouring whole numbers apart.
std::optional<int64_t> json_whole(const nlohmann::json& value);

// A whole number from `lowest` to `highest` under `key`, also where it is written as 28.0; nothing otherwise.
std::optional<int64_t> json_integer(const nlohmann::json& object, const char* key, int64_t lowest, int64_t highest);

// A string under `key`, cut to `limit` bytes; empty when there is none.
std::string json_string(const nlohmann::json& object, const char* key, size_t limit = 4096);

// An array of positive whole numbers under `key`, at most 8; empty when there is none or one is out of range.
std::vector<int64_t> json_shape(const nlohmann::json& object, const char* key);

// Elements of a tensor of `shape`, or nothing where that is more than fits or an extent is not positive.
std::optional<int64_t> shape_elements(const std::vector<int64_t>& shape, int64_t most);

std::string shape_text(const std::vector<int64_t>& shape); // "[28, 28, 512]"

} // namespace attnscope::base
