#include "recording/missing_rows.h"

#include "base/chosen_or_all.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::recording {

namespace {

// Of one layer; empty: it has one.
std::string why_none(const LayerInfo& layer, int32_t number, const std::vector<int32_t>& heads, int64_t token,
                     const std::vector<Ranges>& visible) {
    if (!layer.captured()) return fmt::format("layer {} has no rows: {}", number, layer.absent);
    if (std::none_of(heads.begin(), heads.end(), [&](int32_t h) { return h < layer.n_head; }))
        return fmt::format("layer {} has heads 0 to {}, and none of those asked for", number, layer.n_head - 1);
    if (has_rows(layer, visible)) return {};
    switch (layer.role) {
    case LayerRole::every: break;
    case LayerRole::encoder:
        return fmt::format(
            "token {} has no row in layer {}: that is a layer of the encoder, and the token is the decoder's", token,
            number);
    case LayerRole::decoder:
        return fmt::format(
            "token {} has no row in layer {}: that is a layer of the decoder, and the token is of the encoder's text",
            token, number);
    case LayerRole::cross:
        return fmt::format("token {} has no row in layer {}: that is cross attention of the decoder, and the token is "
                           "of the encoder's text",
                           token, number);
    }
    return fmt::format("token {} has no row in layer {}: it takes no part in it", token, number);
}

} // namespace

std::string why_no_rows(const Geometry& geometry, const RowSelection& rows, int64_t token,
                        const std::vector<Ranges>& visible) {
    const std::vector<int32_t> heads = base::chosen_or_all(rows.heads, geometry.max_heads());
    std::string first;
    for (const int32_t l : base::chosen_or_all(rows.layers, geometry.n_layer())) {
        std::string why = why_none(geometry.layers[static_cast<size_t>(l)], l, heads, token, visible);
        if (why.empty()) return {};
        if (first.empty()) first = std::move(why);
    }
    return first.empty() ? "there is no layer" : first;
}

std::string why_not_seen(const Geometry& geometry, const RowSelection& rows, int64_t token, bool of_decoder) {
    std::string first;
    for (const int32_t l : base::chosen_or_all(rows.layers, geometry.n_layer())) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        if (!layer.captured()) continue;
        if (layer.role == LayerRole::every || (layer.role == LayerRole::decoder) == of_decoder) return {};
        if (!first.empty()) continue;
        const char* what = layer.role == LayerRole::encoder   ? "a layer of the encoder"
                           : layer.role == LayerRole::decoder ? "a layer of the decoder"
                                                              : "cross attention, which looks at the encoder's text";
        first = fmt::format("nothing in layer {} looks at token {}: that is {}, and the token is {}", l, token, what,
                            of_decoder ? "the decoder's" : "of the encoder's text");
    }
    return first.empty() ? "there is no layer" : first;
}

int64_t rows_of_token(const Geometry& geometry, const std::vector<Ranges>& visible) {
    int64_t n = 0;
    for (const LayerInfo& l : geometry.layers) n += l.captured() && has_rows(l, visible) ? l.n_head : 0;
    return n;
}

std::string layer_text(const Geometry& geometry, int32_t index) {
    const LayerInfo& layer = geometry.layers[static_cast<size_t>(index)];
    if (layer.layer == index) return fmt::format("layer {}", index);
    const char* whose = layer.role == LayerRole::every     ? "the model"
                        : layer.role == LayerRole::encoder ? "the encoder"
                                                           : "the decoder";
    return fmt::format("layer {} ({} of {})", index, layer.layer, whose);
}

std::vector<std::string> layers_not_captured(const Geometry& geometry) {
    std::vector<std::string> layers;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(l)];
        if (!layer.captured()) layers.push_back(layer_text(geometry, l) + ": " + layer.absent);
    }
    return layers;
}

bool is_of_decoder(const Geometry& geometry, const std::vector<Ranges>& visible) {
    return std::any_of(geometry.layers.begin(), geometry.layers.end(), [&](const LayerInfo& l) {
        const bool its = l.captured() && (l.role == LayerRole::decoder || l.role == LayerRole::cross);
        return its && static_cast<size_t>(l.mask_group) < visible.size() && has_rows(l, visible);
    });
}

} // namespace attnscope::recording
