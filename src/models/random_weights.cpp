#include "models/random_weights.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace attnscope::models {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): one multiplication chain a number, and any seed is a good seed.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

private:
    uint64_t state_;
};

uint64_t piece_seed(const PlannedTensor& tensor, uint64_t seed, int64_t piece) {
    uint64_t h = 0xCBF29CE484222325u ^ seed; // FNV-1a over the name
    for (const char c : tensor.name) h = (h ^ uint8_t(c)) * 0x100000001B3u;
    return Random(h + uint64_t(piece) * 0xD1B54A32D192ED03u).next();
}

void fill_floats(const PlannedTensor& t, Random random, std::span<float> out) {
    const float width = t.deviation * std::sqrt(12.0f); // a uniform distribution of width w deviates by w / sqrt(12)
    for (float& value : out) {
        const uint64_t bits = random.next();
        value = t.mean + width * (float(bits >> 40) * 0x1p-24f - 0.5f);
        if (t.random_sign && (bits & 1)) value = -value;
    }
}

// A scale of about `scale` as fp16, different from block to block in its low bits.
uint16_t block_scale(uint16_t scale, uint64_t bits) {
    return uint16_t(scale ^ (bits & 0x7F));
}

// Blocks of an fp16 scale and `n_quants` bytes of random quants.
void fill_blocks(float scale, size_t n_quants, Random random, std::span<uint8_t> out, bool no_minimum) {
    const uint16_t half = ggml_fp32_to_fp16(scale);
    for (size_t at = 0; at + 2 + n_quants <= out.size(); at += 2 + n_quants) {
        const uint16_t d = block_scale(half, random.next());
        std::memcpy(&out[at], &d, 2);
        for (size_t i = 0; i < n_quants; i += 8) {
            uint64_t bits = random.next();
            if (no_minimum) {
                // Q8_0 is symmetric: turn each byte of -128 into -127
                const uint64_t ones = 0x0101010101010101u;
                const uint64_t low = bits & (0x7F * ones), high = bits & (0x80 * ones);
                const uint64_t nonzero = ((low + 0x7F * ones) >> 7) & ones; // 1 where the low 7 bits are not all 0
                bits |= (high >> 7) & ~nonzero & ones;
            }
            std::memcpy(&out[at + 2 + i], &bits, 8);
        }
    }
}

} // namespace

void random_weights(const PlannedTensor& tensor, uint64_t seed, int64_t piece, std::span<uint8_t> out) {
    const Random random(piece_seed(tensor, seed, piece));
    switch (tensor.type) {
    case GGML_TYPE_Q8_0: // bytes are uniform over -127 .. 127, which deviates by 73.6
        fill_blocks(tensor.deviation / 73.6f, 32, random, out, true);
        return;
    case GGML_TYPE_Q4_0: // nibbles are uniform over -8 .. 7, which deviates by 4.6
        fill_blocks(tensor.deviation / 4.6f, 16, random, out, false);
        return;
    case GGML_TYPE_F16: {
        std::vector<float> values(out.size() / sizeof(ggml_fp16_t));
        std::vector<ggml_fp16_t> halves(values.size());
        fill_floats(tensor, random, values);
        ggml_fp32_to_fp16_row(values.data(), halves.data(), int64_t(values.size()));
        std::memcpy(out.data(), halves.data(), out.size());
        return;
    }
    default: {
        std::vector<float> values(out.size() / sizeof(float));
        fill_floats(tensor, random, values);
        std::memcpy(out.data(), values.data(), values.size() * sizeof(float));
        return;
    }
    }
}

} // namespace attnscope::models
