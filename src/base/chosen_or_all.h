// What a RowSelection's list means: an empty one means all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace attnscope::base {

// `chosen`, or 0 .. n - 1 where nothing is chosen.
inline std::vector<int32_t> chosen_or_all(const std::vector<int32_t>& chosen, int32_t n) {
    if (!chosen.empty()) return chosen;
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

} // namespace attnscope::base
