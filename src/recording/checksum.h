// Checksums of a recording: XXH3, 64 bits (Collet, xxHash 0.8). They find accidents, not forgery.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace attnscope::recording {

// What is summed becomes part of the seed, so that a row that ended up in another place, or in another table,
// is found.
enum class Summed : uint64_t {
    meta = 1,
    frame = 2,
    q = 3,
    k_block = 4,
    k_tail = 5,
    token_text = 6,
    sequence = 7,
    media = 8
};

// XXH3_64bits_withSeed(data, seed = what << 56 ^ id), as SQLite stores integers.
int64_t checksum(Summed what, int64_t id, std::span<const uint8_t> data);

// Of a meta row: key, a zero byte, value.
int64_t meta_checksum(std::string_view key, std::string_view value);

// Of a frame row without its q, which has a sum of its own that enters here. Little-endian, version 2:
// token, position, kind, batched (int32), verdict, q size, q_checksum, size of visible (int64), visible, witnesses;
// version 1: token, position, kind | batched << 1, verdict (int32), and from q size on the same.
int64_t frame_checksum(const Frame& frame, size_t q_size, int64_t q_checksum, std::span<const uint8_t> visible,
                       std::span<const uint8_t> witnesses, int32_t version);

// Of a sequence row: parent, n_shared, n_own, keys_of, geometry, ended, size of label (int64), label, end_reason.
int64_t sequence_checksum(const Sequence& sequence);
// Of a media row: sequence, begin, end, kind, width, height, n_patch_x, n_patch_y, size of name (int64), name, sha256.
int64_t media_checksum(int64_t id, const Media& media);

} // namespace attnscope::recording
