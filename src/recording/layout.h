// How large the pages of a file and the chunks of its keys are. Any choice can be read; a good one wastes
// little.
#pragma once

#include <attnscope/types.h>

#include <cstdint>

namespace attnscope::recording {

struct Layout {
    int32_t page_bytes = 16384;
    int32_t chunk_frames = 64;
};

// Bytes of file a frame costs with a layout, Q kept; as SQLite lays rows out on pages.
double layout_cost(const Geometry& geometry, const Layout& layout);
// The layout with the largest pages among those that cost at most 2% more than the cheapest.
Layout choose_layout(const Geometry& geometry);

} // namespace attnscope::recording
