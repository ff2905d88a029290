#include "diagnose/row_steps.h"

#include <cmath>

namespace attnscope::diagnose {

const Step row_step_list[n_steps] = {{1.0, false, "1"},
                                     {0.1, false, "0.1"},
                                     {0.01, false, "0.01"},
                                     {1.0 / 127, true, "1/127 of each row's largest number"},
                                     {1.0 / 127, false, "1/127"},
                                     {1.0 / 128, false, "1/128"},
                                     {1.0 / 255, true, "1/255 of each row's largest number"},
                                     {1.0 / 255, false, "1/255"},
                                     {1.0 / 256, false, "1/256"},
                                     {1e-3, false, "0.001"},
                                     {1e-4, false, "0.0001"},
                                     {1.0 / 65535, true, "1/65535 of each row's largest number"},
                                     {1.0 / 65535, false, "1/65535"},
                                     {1e-5, false, "0.00001"},
                                     {1e-6, false, "0.000001"}};

uint32_t fitting_steps(const float* row, size_t n, float max) {
    uint32_t fits = (1u << n_steps) - 1;
    for (size_t c = 0; c < n && fits != 0; ++c) {
        if (row[c] == 0.0f) continue;
        const double value = static_cast<double>(row[c]);
        for (size_t i = 0; i < n_steps; ++i) {
            if (!(fits & 1u << i)) continue;
            const Step& step = row_step_list[i];
            const double multiple = value / (step.of_row_max ? step.size * static_cast<double>(max) : step.size);
            // what float32 loses of a number this large
            const double room = std::fmax(1e-3, 3e-7 * multiple);
            if (!(std::abs(multiple - std::round(multiple)) <= room)) fits &= ~(1u << i);
        }
    }
    return fits;
}

} // namespace attnscope::diagnose
