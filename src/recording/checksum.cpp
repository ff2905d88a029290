#include "recording/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

namespace attnscope::recording {

static_assert(std::endian::native == std::endian::little,
              "the file stores the engine's own little-endian tensors");

int64_t checksum(Summed what, int64_t id, std::span<const uint8_t> data) {
    const uint64_t seed = (static_cast<uint64_t>(what) << 56) ^ static_cast<uint64_t>(id);
    return static_cast<int64_t>(XXH3_64bits_withSeed(data.data(), data.size(), seed));
}

int64_t meta_checksum(std::string_view key, std::string_view value) {
    std::vector<uint8_t> bytes(key.size() + 1 + value.size());
    std::copy(key.begin(), key.end(), bytes.begin());
    std::copy(value.begin(), value.end(), bytes.begin() + static_cast<ptrdiff_t>(key.size()) + 1);
    return checksum(Summed::meta, 0, bytes);
}

int64_t frame_checksum(const Frame& frame, size_t q_size, int64_t q_checksum,
                       std::span<const uint8_t> visible, std::span<const uint8_t> witnesses) {
    struct Fixed {
        int32_t token, position, kind;
        uint32_t verdict;
        uint64_t q_size;
        int64_t q_checksum;
        uint64_t visible_size;
    };
    static_assert(sizeof(Fixed) == 40, "hashed as bytes: no padding");
    const Fixed fixed{frame.token, frame.position, static_cast<int32_t>(frame.kind) | (frame.batched ? 2 : 0), frame.verdict, q_size,
                      q_checksum,  visible.size()};
    std::vector<uint8_t> bytes(sizeof fixed + visible.size() + witnesses.size());
    std::memcpy(bytes.data(), &fixed, sizeof fixed);
    auto out = std::copy(visible.begin(), visible.end(), bytes.begin() + sizeof fixed);
    std::copy(witnesses.begin(), witnesses.end(), out);
    return checksum(Summed::frame, frame.index, bytes);
}

} // namespace attnscope::recording
