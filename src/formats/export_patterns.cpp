#include "formats/export_patterns.h"

#include "base/chosen_or_all.h"
#include "base/output_file.h"
#include "recording/missing_rows.h"

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
    std::vector<Frame> frames;   // of the tokens that it is of
    int64_t begin = 0;           // the first of them
    std::vector<int32_t> layers; // those of the selection that were captured
    int64_t n_heads = 0;

    int64_t size() const { return static_cast<int64_t>(frames.size()); }
};

std::string listed(const std::vector<int32_t>& numbers) {
    return fmt::format("{}", fmt::join(numbers, ","));
}

// An encoder and its decoder are two texts, and one file holds the square of one: that of the layers that were chosen.
Result<void> keep_own_text(const Geometry& geometry, Pattern& p) {
    std::vector<int32_t> encoder, decoder;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        if (layer.captured() && layer.role == LayerRole::encoder) encoder.push_back(l);
        if (layer.captured() && layer.role == LayerRole::decoder) decoder.push_back(l);
    }
    const auto role = [&](int32_t l) { return geometry.layers[static_cast<size_t>(l)].role; };
    const LayerRole first = role(p.layers.front());
    if (first == LayerRole::every) return {};
    const bool one_text = std::all_of(p.layers.begin(), p.layers.end(), [&](int32_t l) { return role(l) == first; });
    if (!one_text || first == LayerRole::cross) {
        return Error{
            ErrorKind::unsupported,
            fmt::format("these viewers take the square pattern of one text, and an encoder and its decoder are two: "
                        "choose from the encoder's layers, --layer {}, or the decoder's, --layer {}",
                        listed(encoder), listed(decoder))};
    }
    const auto border = std::find_if(p.frames.begin(), p.frames.end(),
                                     [&](const Frame& f) { return recording::is_of_decoder(geometry, f.visible); });
    if (first == LayerRole::encoder) {
        p.frames.erase(border, p.frames.end());
    } else {
        p.begin = border - p.frames.begin();
        p.frames.erase(p.frames.begin(), border);
    }
    if (p.frames.empty()) return Error{ErrorKind::not_found, "no token has a row in these layers"};
    return {};
}

// Every token, layer and head of a pattern has its row: one that is not there would be drawn as one that looks at nothing.
Result<void> check_rows(Recording& recording, const ExportSelection& s, const Pattern& p) {
    const Geometry& geometry = recording.info().geometry;
    int32_t least_heads = geometry.max_heads();
    for (const int32_t l : p.layers)
        least_heads = std::min(least_heads, geometry.layers[static_cast<size_t>(l)].n_head);
    for (const int32_t h : base::chosen_or_all(s.rows.heads, static_cast<int32_t>(p.n_heads))) {
        if (h < least_heads) continue;
        return Error{
            ErrorKind::unsupported,
            fmt::format("some of these layers have {} heads and others more, and these viewers take as many in each: "
                        "choose those that all have, --head 0-{}, or other layers",
                        least_heads, least_heads - 1)};
    }
    for (int64_t i = p.begin; i < p.begin + p.size(); ++i) {
        const Result<Frame> frame = recording.frame(i, true);
        if (!frame) return frame.error();
        if (!frame->q.empty()) continue;
        return Error{
            ErrorKind::not_found,
            fmt::format("token {} was recorded without its queries (--prompt-rows left them out), and these viewers "
                        "take the square pattern of all tokens",
                        i)};
    }
    return {};
}

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
    for (const int32_t layer : base::chosen_or_all(s.rows.layers, info.geometry.n_layer())) {
        if (layer < 0 || layer >= info.geometry.n_layer())
            return Error{ErrorKind::invalid_argument, fmt::format("there is no layer {}", layer)};
        const LayerInfo& chosen = info.geometry.layers[static_cast<size_t>(layer)];
        if (chosen.captured())
            p.layers.push_back(layer);
        else if (!s.rows.layers.empty())
            return Error{ErrorKind::not_found, fmt::format("layer {} has no rows: {}", layer, chosen.absent)};
    }
    if (p.layers.empty()) return Error{ErrorKind::not_found, "no selected layer has rows"};
    p.n_heads = static_cast<int64_t>(s.rows.heads.size());
    for (const int32_t l : p.layers) {
        if (s.rows.heads.empty())
            p.n_heads = std::max<int64_t>(p.n_heads, info.geometry.layers[static_cast<size_t>(l)].n_head);
    }
    if (Result<void> r = keep_own_text(info.geometry, p); !r) return r.error();
    const double numbers = double(p.layers.size()) * double(p.n_heads) * double(p.size()) * double(p.size());
    if (numbers > double(most_pattern_numbers)) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{:.0f} million weights are too many for such a viewer: select fewer layers or heads",
                                 numbers / 1e6)};
    }
    if (Result<void> r = check_rows(recording, s, p); !r) return r.error();
    return p;
}

// The rows of one layer, head after head: (heads, query, key).
Result<std::vector<float>> square(Recording& recording, const ExportSelection& s, const Pattern& p, int32_t layer) {
    const int64_t n = p.size();
    std::vector<float> out(static_cast<size_t>(p.n_heads * n * n), 0.0f);
    const RowSelection selection{{layer}, base::chosen_or_all(s.rows.heads, static_cast<int32_t>(p.n_heads))};
    for (int64_t i = 0; i < n; ++i) {
        Result<FrameRows> rows = recording.rows(p.begin + i, selection);
        if (!rows) return rows.error();
        for (int64_t h = 0; h < p.n_heads; ++h) {
            const auto from = rows->weights.begin() + h * rows->n_columns + p.begin;
            std::copy_n(from, std::min(n, rows->n_columns - p.begin), out.begin() + (h * n + i) * n);
        }
    }
    return out;
}

} // namespace

Result<int64_t> export_bertviz(Recording& recording, const ExportSelection& s, const std::string& path,
                               const ExportProgress& progress) {
    Result<Pattern> p = pattern_of(recording, s);
    if (!p) return p.error();
    const auto n = p->size();
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
    const auto n = p->size();
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
