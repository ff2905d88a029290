#include "formats/export_patterns.h"

#include "base/output_file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>

namespace attnscope::formats {

namespace {

using Json = nlohmann::json;

// A list of texts, each valid UTF-8: broken bytes become U+FFFD.
std::string texts(Recording& recording, const std::vector<Frame>& frames) {
    Json list = Json::array();
    for (const Frame& frame : frames) list.push_back(recording.token_text(frame.token));
    return list.dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct Pattern {
    std::vector<Frame> frames;
    std::vector<int32_t> layers; // those of the selection that have rows
    int64_t n_heads = 0;
};

Result<Pattern> pattern_of(Recording& recording, const ExportSelection& s) {
    if (!s.tokens.empty()) {
        return Error{ErrorKind::invalid_argument,
                     "these viewers take the square pattern of all tokens: leave --token out"};
    }
    const RecordingInfo& info = recording.info();
    if (info.n_frames == 0) return Error{ErrorKind::not_found, "the recording holds no tokens"};
    Pattern p;
    Result<std::vector<Frame>> frames = recording.frames(0, info.n_frames);
    if (!frames) return frames.error();
    p.frames = std::move(*frames);
    std::vector<int32_t> wanted = s.rows.layers;
    if (wanted.empty()) {
        for (int32_t l = 0; l < info.geometry.n_layer(); ++l) wanted.push_back(l);
    }
    for (const int32_t layer : wanted) {
        if (layer < 0 || layer >= info.geometry.n_layer())
            return Error{ErrorKind::invalid_argument, fmt::format("there is no layer {}", layer)};
        if (info.geometry.layers[static_cast<size_t>(layer)].captured()) p.layers.push_back(layer);
    }
    if (p.layers.empty()) return Error{ErrorKind::not_found, "no selected layer has rows"};
    p.n_heads = s.rows.heads.empty() ? info.geometry.max_heads() : static_cast<int64_t>(s.rows.heads.size());
    const double numbers = double(p.layers.size()) * double(p.n_heads) * double(info.n_frames) * double(info.n_frames);
    if (numbers > double(most_pattern_numbers)) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{:.0f} million weights are too many for such a viewer: select fewer layers or heads",
                                 numbers / 1e6)};
    }
    return p;
}

// The rows of one layer, head after head: (heads, query, key).
Result<std::vector<float>> square(Recording& recording, const ExportSelection& s, const Pattern& p, int32_t layer) {
    const auto n = static_cast<int64_t>(p.frames.size());
    std::vector<float> out(static_cast<size_t>(p.n_heads * n * n), 0.0f);
    for (int64_t token = 0; token < n; ++token) {
        Result<FrameRows> rows = recording.rows(token, {{layer}, s.rows.heads});
        if (!rows) {
            if (rows.error().kind == ErrorKind::not_found) continue; // recorded without its queries
            return rows.error();
        }
        for (int64_t h = 0; h < p.n_heads; ++h) {
            const auto from = rows->weights.begin() + h * rows->n_columns;
            std::copy_n(from, std::min(n, rows->n_columns), out.begin() + (h * n + token) * n);
        }
    }
    return out;
}

} // namespace

Result<int64_t> export_bertviz(Recording& recording, const ExportSelection& s, const std::string& path,
                               const ExportProgress& progress) {
    Result<Pattern> p = pattern_of(recording, s);
    if (!p) return p.error();
    const auto n = static_cast<int64_t>(p->frames.size());
    const int64_t bytes = p->n_heads * n * n * int64_t(sizeof(float));
    Json header = {{"__metadata__", {{"format", "pt"}, {"tokens", texts(recording, p->frames)}}}};
    for (size_t i = 0; i < p->layers.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        header[fmt::format("attention.{:03}", p->layers[i])] = {
            {"dtype", "F32"}, {"shape", {1, p->n_heads, n, n}}, {"data_offsets", {at * bytes, (at + 1) * bytes}}};
    }
    std::string head = header.dump(-1, ' ', false, Json::error_handler_t::replace);
    head.append((8 - head.size() % 8) % 8, ' ');
    auto output = base::OutputFile::create(path);
    if (!output) return output.error();
    for (int shift = 0; shift < 64; shift += 8) {
        const char byte = static_cast<char>((uint64_t(head.size()) >> shift) & 0xff);
        (*output)->write(&byte, 1);
    }
    (*output)->write(head.data(), head.size());
    for (size_t i = 0; i < p->layers.size(); ++i) {
        Result<std::vector<float>> layer = square(recording, s, *p, p->layers[i]);
        if (!layer) return layer.error();
        (*output)->write(layer->data(), layer->size() * sizeof(float));
        if (!(*output)->good()) return (*output)->error();
        if (progress) progress(n * int64_t(i + 1) / int64_t(p->layers.size()), n);
    }
    if (Result<void> r = (*output)->finish(); !r) return r.error();
    return n;
}

Result<int64_t> export_layer_json(Recording& recording, const ExportSelection& s, const std::string& path,
                                  const ExportProgress& progress) {
    Result<Pattern> p = pattern_of(recording, s);
    if (!p) return p.error();
    if (p->layers.size() != 1) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("one layer a file: choose one with --layer ({} are selected)", p->layers.size())};
    }
    Result<std::vector<float>> layer = square(recording, s, *p, p->layers.front());
    if (!layer) return layer.error();
    const auto n = static_cast<int64_t>(p->frames.size());
    auto output = base::OutputFile::create(path);
    if (!output) return output.error();
    std::string text = "{\"tokens\": " + texts(recording, p->frames) + ",\n\"attention\": [";
    for (int64_t row = 0; row < p->n_heads * n; ++row) {
        text += row % n == 0 ? (row == 0 ? "[[" : "]],\n[[") : "],\n[";
        const float* const weights = layer->data() + row * n;
        for (int64_t j = 0; j < n; ++j)
            fmt::format_to(std::back_inserter(text), "{}{:.6g}", j == 0 ? "" : ",", weights[j]);
        (*output)->write(text.data(), text.size());
        text.clear();
        if (progress && row % 64 == 0) progress(row / p->n_heads, n);
    }
    text = "]]]}\n";
    (*output)->write(text.data(), text.size());
    if (!(*output)->good()) return (*output)->error();
    if (Result<void> r = (*output)->finish(); !r) return r.error();
    return n;
}

} // namespace attnscope::formats
