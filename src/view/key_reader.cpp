#include "view/key_reader.h"

#include "view/selection.h"

#include <string>

namespace attnscope::view {

KeyReader::KeyReader(const Geometry& geometry) {
    // A type that nothing multiplies with is kept all the same: its rows cannot be asked for.
    for (const LayerInfo& layer : geometry.layers)
        plans_.push_back({attention::plan_layer(layer, false), attention::plan_layer(layer, true)});
}

Result<void> check_layers(const Geometry& geometry) {
    for (int32_t i = 0; i < geometry.n_layer(); ++i) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(i)];
        if (!layer.captured()) continue;
        const std::string name = "layer " + std::to_string(layer.layer);
        if (layer.k_layer < 0 || layer.k_layer >= geometry.n_layer() || !geometry.owns_k(layer.k_layer))
            return Error{ErrorKind::invalid_argument, name + " uses the keys of a layer that has none"};
        const LayerInfo& owner = geometry.layers[static_cast<size_t>(layer.k_layer)];
        if (owner.n_head_kv != layer.n_head_kv || owner.head_dim != layer.head_dim || owner.k_type != layer.k_type)
            return Error{ErrorKind::invalid_argument, name + " and the layer whose keys it uses have different shapes"};
        if (layer.mask_group < 0 || layer.mask_group >= geometry.n_mask_groups)
            return Error{ErrorKind::invalid_argument, name + " has no mask"};
        if (const auto plan = attention::plan_layer(layer, false);
            !plan && plan.error().kind == ErrorKind::invalid_argument)
            return Error{plan.error().kind, name + ": " + plan.error().message};
    }
    return {};
}

Result<void> check_plans(const KeyReader& keys, const Geometry& geometry, const RowSelection& rows) {
    for (const LayerWork& work : select_rows(rows, geometry).layers) {
        if (work.n_rows == 0) continue;
        const auto& plan = keys.plan(work.layer, false); // a batch differs in the way, not in whether there is one
        if (plan) continue;
        const int32_t number = geometry.layers[static_cast<size_t>(work.layer)].layer;
        return Error{plan.error().kind, "layer " + std::to_string(number) + ": " + plan.error().message};
    }
    return {};
}

KeyReader* key_reader(AttentionSource& source) {
    return dynamic_cast<KeyReader*>(&source);
}

} // namespace attnscope::view
