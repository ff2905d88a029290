#include "formats/row_mark.h"

#include <algorithm>

namespace attnscope::formats {

namespace {

bool is_marked(float x) {
    return std::bit_cast<uint32_t>(x) == missing_bits;
}

} // namespace

MissingRows clear_marked_rows(std::span<float> values, int64_t width) {
    MissingRows missing;
    const auto n = static_cast<size_t>(width);
    for (size_t at = 0; n > 0 && at + n <= values.size(); at += n) {
        const std::span<float> row = values.subspan(at, n);
        if (is_marked(row.front()) && std::all_of(row.begin(), row.end(), is_marked)) {
            std::fill(row.begin(), row.end(), 0.0f);
            ++missing.n;
            ++missing.tail;
        } else {
            missing.tail = 0;
        }
    }
    return missing;
}

} // namespace attnscope::formats
