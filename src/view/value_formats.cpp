// Values as bytes, in the three forms in which they travel.
#include "base/halves.h"

#include <attnscope/attention_request.h>

#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace attnscope {

namespace {

constexpr float u8_steps = 255.0f;

// Bytes of a number, the lowest first, whatever the machine's own order is.
template <class Word> void put(uint8_t*& to, Word word) {
    for (size_t i = 0; i < sizeof(Word); ++i) *to++ = static_cast<uint8_t>(word >> (8 * i));
}
void put_float(uint8_t*& to, float x) {
    put(to, std::bit_cast<uint32_t>(x));
}
float get_float(const uint8_t* from) {
    uint32_t word = 0;
    for (size_t i = 0; i < 4; ++i) word |= static_cast<uint32_t>(from[i]) << (8 * i);
    return std::bit_cast<float>(word);
}

size_t rows_of(size_t n_values, int64_t row_length) {
    if (row_length <= 0) return 0;
    const auto n = static_cast<size_t>(row_length);
    return (n_values + n - 1) / n; // a last row may be shorter
}

void encode_row(std::span<const float> row, uint8_t*& scales, uint8_t*& bytes) {
    float largest = 0;
    for (const float x : row)
        largest = std::isnan(x) ? x : std::max(largest, x); // std::max keeps `largest` when it is a NaN
    const float scale = largest / u8_steps;
    put_float(scales, scale);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    // What rounding leaves of one value goes to the next, so that a row sums to what it summed to before, within half a step;
    // each value is off by less than one step. A value of 0 stays 0.
    float left = 0;
    for (const float x : row) {
        const float exact = x * inverse + left;
        const float step = std::nearbyint(exact);
        // a value, a largest or an inverse may be NaN or infinite: everything ends in 0 to 255
        left = std::isfinite(exact) ? exact - step : 0.0f;
        *bytes++ = step > 0 ? static_cast<uint8_t>(std::min(step, u8_steps)) : uint8_t(0);
    }
}

} // namespace

size_t encoded_bytes(size_t n_values, int64_t row_length, AttentionFormat format) {
    switch (format) {
    case AttentionFormat::f32: return n_values * 4;
    case AttentionFormat::f16: return n_values * 2;
    case AttentionFormat::u8: return n_values + rows_of(n_values, row_length) * 4;
    }
    return 0;
}

std::vector<uint8_t> encode_values(std::span<const float> values, int64_t row_length, AttentionFormat format) {
    if (row_length <= 0) row_length = static_cast<int64_t>(values.size());
    std::vector<uint8_t> bytes(encoded_bytes(values.size(), row_length, format));
    uint8_t* to = bytes.data();
    switch (format) {
    case AttentionFormat::f32:
        for (const float x : values) put_float(to, x);
        break;
    case AttentionFormat::f16:
        for (const float x : values) put(to, static_cast<uint16_t>(ggml_fp32_to_fp16(x)));
        break;
    case AttentionFormat::u8: {
        uint8_t* scales = to;
        to += rows_of(values.size(), row_length) * 4;
        for (size_t begin = 0; begin < values.size();) {
            const size_t n = std::min(static_cast<size_t>(row_length), values.size() - begin);
            encode_row(values.subspan(begin, n), scales, to);
            begin += n;
        }
        break;
    }
    }
    return bytes;
}

Result<std::vector<float>> decode_values(std::span<const uint8_t> bytes, size_t n_values, int64_t row_length,
                                         AttentionFormat format) {
    if (row_length <= 0) row_length = static_cast<int64_t>(n_values);
    if (n_values > bytes.size() || bytes.size() != encoded_bytes(n_values, row_length, format)) {
        return Error{ErrorKind::invalid_argument, std::to_string(bytes.size()) + " bytes are not " +
                                                      std::to_string(n_values) + " values in " +
                                                      attention_format_name(format)};
    }
    std::vector<float> values(n_values);
    const uint8_t* from = bytes.data();
    const uint8_t* steps = from + rows_of(n_values, row_length) * 4;
    for (size_t i = 0; i < n_values; ++i) {
        switch (format) {
        case AttentionFormat::f32: values[i] = get_float(from + 4 * i); break;
        case AttentionFormat::f16:
            values[i] = base::f16_to_float(static_cast<uint16_t>(from[2 * i] | from[2 * i + 1] << 8));
            break;
        case AttentionFormat::u8:
            values[i] = static_cast<float>(steps[i]) * get_float(from + 4 * (i / static_cast<size_t>(row_length)));
            break;
        }
    }
    return values;
}

} // namespace attnscope
