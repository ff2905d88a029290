// Are a row's numbers whole multiples of a step, as 8 bits or a few decimals leave them?
#pragma once

#include <cstddef>
#include <cstdint>

namespace attnscope::diagnose {

struct Step {
    double size; // of 1, or of the row's largest number
    bool of_row_max;
    const char* name; // "1/255 of each row's largest number"
};

constexpr size_t n_steps = 15;
extern const Step row_step_list[n_steps]; // coarsest first

constexpr int64_t step_numbers = 3; // numbers a row must have that are neither 0 nor all the same

// Bit i: the row's numbers are whole multiples of step i. `max` is its largest number.
uint32_t fitting_steps(const float* row, size_t n, float max);

} // namespace attnscope::diagnose
