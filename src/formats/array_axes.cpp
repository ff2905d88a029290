#include "formats/array_axes.h"

#include "base/bounded_json.h"

#include <algorithm>
#include <map>

namespace attnscope::formats {

const char* axis_name(Axis axis) {
    static constexpr const char* names[] = {"one", "token", "layer", "head", "query", "key"};
    return names[static_cast<size_t>(axis)];
}

Result<std::vector<Axis>> parse_axes(const std::string& text) {
    static const std::map<std::string, Axis> names = {
        {"one", Axis::one},      {"1", Axis::one},        {"batch", Axis::one},     {"token", Axis::token},
        {"tokens", Axis::token}, {"step", Axis::token},   {"steps", Axis::token},   {"t", Axis::token},
        {"layer", Axis::layer},  {"layers", Axis::layer}, {"l", Axis::layer},       {"head", Axis::head},
        {"heads", Axis::head},   {"h", Axis::head},       {"query", Axis::query},   {"queries", Axis::query},
        {"q", Axis::query},      {"key", Axis::key},      {"keys", Axis::key},      {"k", Axis::key},
        {"context", Axis::key},  {"position", Axis::key}, {"positions", Axis::key}, {"column", Axis::key},
        {"columns", Axis::key}};
    std::vector<Axis> axes;
    std::string word;
    const auto end_word = [&]() {
        const auto found = names.find(word);
        if (found == names.end()) return false;
        axes.push_back(found->second);
        word.clear();
        return true;
    };
    for (const char c : text + ",") {
        if (c == ',') {
            if (!end_word()) {
                return Error{ErrorKind::invalid_argument,
                             "--axes is a list of token, layer, head, query, key and one (an axis of 1), such as "
                             "layer,head,query,key; not " +
                                 (word.empty() ? "\"" + text + "\"" : "\"" + word + "\"")};
            }
        } else if (c != ' ') {
            word += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
        }
    }
    return axes;
}

std::string axes_text(const std::vector<Axis>& axes, const std::vector<int64_t>& shape) {
    std::string text;
    for (size_t i = 0; i < axes.size() && i < shape.size(); ++i) {
        if (axes[i] == Axis::one) continue;
        text += (text.empty() ? "" : ", ") + std::string(axis_name(axes[i])) + " " + std::to_string(shape[i]);
    }
    return text;
}

std::string axes_problem(const std::vector<Axis>& axes, const std::vector<int64_t>& shape) {
    if (axes.size() != shape.size()) {
        return std::to_string(axes.size()) + " axes are named, " + std::to_string(shape.size()) +
               " are there: " + base::shape_text(shape);
    }
    for (size_t i = 0; i < axes.size(); ++i) {
        if (axes[i] == Axis::one && shape[i] != 1)
            return "axis " + std::to_string(i) + " has the extent " + std::to_string(shape[i]) + ", not 1";
        if (axes[i] != Axis::one && std::count(axes.begin(), axes.end(), axes[i]) > 1)
            return std::string(axis_name(axes[i])) + " is named twice";
    }
    if (std::count(axes.begin(), axes.end(), Axis::key) != 1) return "no axis is the keys";
    int64_t tokens = 1, queries = 1;
    for (size_t i = 0; i < axes.size(); ++i) {
        if (axes[i] == Axis::token) tokens = shape[i];
        if (axes[i] == Axis::query) queries = shape[i];
    }
    if (tokens > 1 && queries > 1) return "tokens and queries both: save one prompt, or one step, as a file of its own";
    return {};
}

} // namespace attnscope::formats
