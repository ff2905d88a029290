// How an array says that a row is not there: of a layer that was not captured, of a head that a layer has not got, of a layer that a
// token takes no part in. Zeros would be an answer, and a row that sums to 0 looks like a file whose writing stopped.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace attnscope::formats {

// A quiet NaN that no computation gives: its payload tells our mark from a softmax that overflowed.
constexpr uint32_t missing_bits = 0x7FC0A77Eu;
inline float missing_number() {
    return std::bit_cast<float>(missing_bits);
}

struct MissingRows {
    int64_t n = 0;    // rows that are marked
    int64_t tail = 0; // of them: those at the end of the tensor
};

// Makes the marked rows, of `width` numbers each, rows of zeros: what looks at numbers need not know of the mark.
MissingRows clear_marked_rows(std::span<float> values, int64_t width);

} // namespace attnscope::formats
