// A number that stands for a row: cheap to compute, and different for different rows.
#pragma once

#include <cstdint>
#include <span>

namespace attnscope::attention {

// A fixed pseudo-random weight in [0.5, 1.5) for a column (SplitMix64, Steele et al. 2014). Part of the file format.
inline double fingerprint_weight(int64_t column) {
    uint64_t z = static_cast<uint64_t>(column) + 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return 0.5 + static_cast<double>(z >> 11) * 0x1.0p-53;
}

inline double row_fingerprint(std::span<const float> row) {
    double sum = 0;
    for (size_t j = 0; j < row.size(); ++j) {
        if (row[j] != 0.0f) sum += static_cast<double>(row[j]) * fingerprint_weight(static_cast<int64_t>(j));
    }
    return sum;
}

} // namespace attnscope::attention
