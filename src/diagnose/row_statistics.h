// What one pass over a row of numbers tells, without assuming that it is attention.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnscope::diagnose {

struct RowStatistics {
    float min = 0; // of the finite numbers
    float max = 0;
    double sum = 0;                    // of the finite numbers that are no mask
    int64_t zeros = 0;                 // exactly 0
    int64_t not_finite = 0;            // NaN and +inf
    int64_t masked = 0;                // -inf, and the large negative numbers that frameworks put in its place
    float mask_low = 0, mask_high = 0; // range of the finite numbers among them; 0: none
    int64_t half_limit = 0;            // exactly 65504: where half-precision arithmetic saturates
};

RowStatistics row_statistics(const float* row, size_t n);

// Numbers at or below this may be a mask's: frameworks put or add -1e4 (BERT, GPT-2), -65504, -1e5, -1e9, finfo.min or
// -inf. Above -65504 they are one only where a wide gap parts them from the rest of the row.
constexpr float mask_limit = -65504.0f;
constexpr float mask_begin = -900.0f;

// First and last column that is not 0; -1 in a row of zeros.
int64_t first_nonzero(const float* row, size_t n);
int64_t last_nonzero(const float* row, size_t n);

// A 64-bit hash (XXH3) of `bytes` bytes.
uint64_t hash_bytes(const void* data, size_t bytes);

} // namespace attnscope::diagnose
