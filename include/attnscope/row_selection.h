// Which rows of attention are meant: those of some layers and heads.
#pragma once

#include <cstdint>
#include <vector>

namespace attnscope {

// The rows of the chosen layers and heads that exist: layers without attention, and heads beyond a layer's n_head, are
// no rows.
struct RowSelection {
    std::vector<int32_t> layers = {}; // indices into Geometry::layers, each once; empty: all
    std::vector<int32_t> heads = {};  // query heads of each layer, each once; empty: all

    bool is_all() const { return layers.empty() && heads.empty(); }
    bool operator==(const RowSelection&) const = default;
};

} // namespace attnscope
