#include "base/bounded_json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace attnscope::base {

bool json_depth_is_bounded(std::string_view text, int most) {
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
            if (++depth > most) return false;
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    return true;
}

bool json_values_are_bounded(std::string_view text, size_t most) {
    if (text.size() / 2 < most) return true; // each takes a byte, and a comma
    size_t n = 1;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"') in_string = !in_string;
        if (c == '\\' && in_string) ++i;
        if (c == ',' && !in_string && ++n > most) return false;
    }
    return true;
}

namespace {

// Bytes that a terminal or another JSON text can show.
std::string shown(std::string_view bytes) {
    std::string out;
    for (const char c : bytes) {
        constexpr const char* digits = "0123456789abcdef";
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7F) {
            out += c;
        } else {
            out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
        }
    }
    return out;
}

// Of "[...] parse error at line 1, column 19: syntax error while parsing value - invalid string: ...; last read: '...'; expected
// ..." the place and the reason; what was read last may be megabytes, so its end is taken from the text.
std::string where_and_why(const nlohmann::json::parse_error& e, std::string_view text) {
    std::string said = e.what();
    said.erase(0, std::min(said.size(), said.find(" at line ") + 4));
    if (const size_t last = said.find("; last read: '"); last != std::string::npos) {
        const size_t end = said.rfind('\'');
        said.erase(last, end == std::string::npos || end < last ? std::string::npos : end + 1 - last);
    }
    const size_t at = std::min(e.byte, text.size()), begin = at - std::min<size_t>(at, 24);
    return shown(said.substr(0, 300)) + " (byte " + std::to_string(e.byte) + ", at the end of \"" +
           shown(text.substr(begin, at - begin)) + "\")";
}

} // namespace

Result<nlohmann::json> parse_json_object(std::string_view text, const std::string& name) {
    if (!json_depth_is_bounded(text)) {
        return Error{ErrorKind::damaged, name + " nests deeper than " + std::to_string(max_json_depth) + " levels"};
    }
    if (text.starts_with("\x1f\x8b")) return Error{ErrorKind::damaged, name + " is compressed (gzip), not JSON text"};
    if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
        return Error{ErrorKind::damaged, name + " is UTF-16; JSON text is UTF-8"};
    nlohmann::json parsed;
    try {
        parsed = nlohmann::json::parse(text.begin(), text.end());
    } catch (const nlohmann::json::parse_error& e) {
        return Error{ErrorKind::damaged, name + " is not valid JSON: " + where_and_why(e, text)};
    } catch (const nlohmann::json::exception& e) { // a number beyond what a double holds
        return Error{ErrorKind::damaged, name + " is not valid JSON: " + shown(std::string(e.what()).substr(0, 300))};
    }
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
