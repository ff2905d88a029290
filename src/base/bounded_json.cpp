#include "base/bounded_json.h"

#include <cmath>

namespace attnscope::base {

bool json_depth_is_bounded(std::string_view text) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > max_json_depth) return false;
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    return true;
}

Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& name) {
    if (!json_depth_is_bounded(text)) {
        return Error{ErrorKind::damaged, name + " nests deeper than " + std::to_string(max_json_depth) + " levels"};
    }
    auto parsed = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
    if (parsed.is_discarded()) return Error{ErrorKind::damaged, name + " is not valid JSON"};
    if (!parsed.is_object()) return Error{ErrorKind::damaged, name + " does not hold a JSON object"};
    return parsed;
}

std::optional<int64_t> json_whole(const nlohmann::json& value) {
    if (value.is_number_unsigned()) {
        const auto number = value.get<uint64_t>();
        if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
        return static_cast<int64_t>(number);
    }
    if (value.is_number_integer()) return value.get<int64_t>();
    if (!value.is_number_float()) return std::nullopt;
    const auto number = value.get<double>();
    if (!(std::abs(number) <= 9007199254740992.0) || number != std::floor(number)) return std::nullopt;
    return static_cast<int64_t>(number);
}

std::optional<int64_t> json_integer(const nlohmann::json& object, const char* key, int64_t lowest, int64_t highest) {
    const auto at = object.find(key);
    const auto value = at == object.end() ? std::nullopt : json_whole(*at);
    return value && *value >= lowest && *value <= highest ? value : std::nullopt;
}

std::string json_string(const nlohmann::json& object, const char* key, size_t limit) {
    const auto at = object.find(key);
    if (at == object.end() || !at->is_string()) return {};
    const auto& text = at->get_ref<const std::string&>();
    return text.substr(0, limit);
}

std::vector<int64_t> json_shape(const nlohmann::json& object, const char* key) {
    const auto at = object.find(key);
    if (at == object.end() || !at->is_array() || at->empty() || at->size() > 8) return {};
    std::vector<int64_t> shape;
    for (const auto& extent : *at) {
        if (!extent.is_number_integer()) return {};
        if (extent.is_number_unsigned() && extent.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return {};
        const int64_t value = extent.get<int64_t>();
        if (value < 0) return {};
        shape.push_back(value);
    }
    return shape;
}

std::optional<int64_t> shape_elements(const std::vector<int64_t>& shape, int64_t most) {
    int64_t elements = 1;
    for (const int64_t extent : shape) {
        if (extent <= 0 || extent > most / elements) return std::nullopt;
        elements *= extent;
    }
    return elements;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

} // namespace attnscope::base
