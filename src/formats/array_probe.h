// What a few rows of an array tell of its axes, before any axis is known: rows are taken along the last one.
#pragma once

#include "formats/stored_array.h"

#include <cstdint>
#include <vector>

namespace attnscope::formats {

struct ArrayProbe {
    bool looked = false; // numbers were there to look at
    int64_t rows = 0;    // of those that hold a number that is neither 0 nor masked
    int64_t ones = 0;    // non-negative and sums to 1
    int64_t weights = 0; // non-negative: weights, however they were changed since
    int64_t masked = 0;  // with numbers as a mask leaves them, or NaN
    float min = 0, max = 0;
    std::vector<double> grows;  // for each axis: share of steps after which a row is used one column further (or begins
                                // one column earlier); the last axis: 0
    std::vector<double> varies; // ... share of steps after which it is used to another column
    // The last two axes are a square: share of rows that are used beyond the diagonal.
    double beyond_diagonal = 0;

    bool attention() const { return looked && rows > 0 && (weights * 10 >= rows * 9 || masked * 2 >= rows); }
    bool probabilities() const { return looked && rows > 0 && ones * 10 >= rows * 9; }
};

// Reads at most some thousand rows. Nothing fails here: what cannot be read is not looked at.
ArrayProbe probe_array(StoredArray& array);

// Numbers at or below this are a mask's wherever they are far below the rest: frameworks add -1e4, -65504, -1e9 or -inf.
constexpr float probe_mask = -900.0f;

} // namespace attnscope::formats
