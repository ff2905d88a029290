#include "recording/checksum.h"
#include "base/hash64.h"
#include "recording/schema.h"

#include <bit>
#include <cstring>
#include <vector>

namespace attnscope::recording {

static_assert(std::endian::native == std::endian::little, "the file stores the engine's own little-endian tensors");

int64_t checksum(Summed what, int64_t id, std::span<const uint8_t> data) {
    const uint64_t seed = (static_cast<uint64_t>(what) << 56) ^ static_cast<uint64_t>(id);
    return static_cast<int64_t>(base::hash64(data, seed));
}

int64_t meta_checksum(std::string_view key, std::string_view value) {
    std::vector<uint8_t> bytes(key.size() + 1 + value.size());
    std::copy(key.begin(), key.end(), bytes.begin());
    std::copy(value.begin(), value.end(), bytes.begin() + static_cast<ptrdiff_t>(key.size()) + 1);
    return checksum(Summed::meta, 0, bytes);
}

namespace {

template <typename T> void append(std::vector<uint8_t>& bytes, T value) {
    const auto at = bytes.size();
    bytes.resize(at + sizeof value);
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

void append_bytes(std::vector<uint8_t>& bytes, const auto& more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
}

} // namespace

int64_t frame_checksum(const Frame& frame, size_t q_size, int64_t q_checksum, std::span<const uint8_t> visible,
                       std::span<const uint8_t> witnesses, int32_t version) {
    std::vector<uint8_t> bytes;
    bytes.reserve(48 + visible.size() + witnesses.size());
    const auto kind = static_cast<int32_t>(frame.kind);
    append(bytes, frame.token);
    append(bytes, frame.position);
    if (version == 1) {
        append(bytes, kind | (frame.batched ? 2 : 0));
        append(bytes, frame.verdict);
    } else {
        append(bytes, kind);
        append(bytes, int32_t(frame.batched));
        append(bytes, uint64_t(frame.verdict));
    }
    append(bytes, uint64_t(q_size));
    append(bytes, q_checksum);
    append(bytes, uint64_t(visible.size()));
    append_bytes(bytes, visible);
    append_bytes(bytes, witnesses);
    return checksum(Summed::frame, row_number(frame.sequence, frame.index), bytes);
}

int64_t sequence_checksum(const Sequence& sequence) {
    std::vector<uint8_t> bytes;
    for (const int64_t value : {sequence.parent, sequence.n_shared, sequence.n_own(), sequence.keys_of,
                                int64_t(sequence.geometry), int64_t(sequence.ended), int64_t(sequence.label.size())}) {
        append(bytes, value);
    }
    append_bytes(bytes, sequence.label);
    append_bytes(bytes, sequence.end_reason);
    return checksum(Summed::sequence, sequence.id, bytes);
}

int64_t media_checksum(int64_t id, const Media& media) {
    std::vector<uint8_t> bytes;
    for (const int64_t value :
         {media.sequence, media.begin, media.end, int64_t(media.kind), int64_t(media.width), int64_t(media.height),
          int64_t(media.n_patch_x), int64_t(media.n_patch_y), int64_t(media.name.size())}) {
        append(bytes, value);
    }
    append_bytes(bytes, media.name);
    append_bytes(bytes, media.sha256);
    return checksum(Summed::media, id, bytes);
}

} // namespace attnscope::recording
