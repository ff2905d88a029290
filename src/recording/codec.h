// How visibility and witnesses lie in a frame row. Integers are LEB128 varints, floats their little-endian
// bits.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace attnscope::recording {

// For each mask group: the number of ranges, then for each range the gap since the end of the one before
// (since 0 for the first) and its length. A token that sees everything up to itself takes 3 to 5 bytes.
void encode_visible(const std::vector<Ranges>& visible, std::vector<uint8_t>& out);
// Nothing when the bytes are not what encode_visible makes of `n_groups` groups of valid ranges.
std::optional<std::vector<Ranges>> decode_visible(std::span<const uint8_t> bytes, int32_t n_groups);

// layer, head (varints), error, tolerance, row_sum (float32), fingerprint (float64); one after the other.
void encode_witnesses(const std::vector<Witness>& witnesses, std::vector<uint8_t>& out);
std::optional<std::vector<Witness>> decode_witnesses(std::span<const uint8_t> bytes, const Geometry& geometry);

// A CPU's flash attention multiplies queries in float32 where many tokens are decoded together, and rounded to f16 where few are:
// a frame whose queries of such layers are all numbers of f16 lies in half the bytes.
bool queries_may_narrow(const LayerInfo& layer);
size_t narrow_q_bytes(const Geometry& geometry); // Geometry::q_bytes() where no layer is such
// Frame::q in narrow_q_bytes(); empty where a number would be lost, or nothing is saved.
std::vector<uint8_t> narrow_q(const Geometry& geometry, std::span<const uint8_t> q);
// The way back; `stored` has narrow_q_bytes().
std::vector<uint8_t> widen_q(const Geometry& geometry, std::span<const uint8_t> stored);

// What is wrong with a frame of this geometry, in words; empty: nothing. The writer refuses what the reader
// would.
std::string frame_problem(const Frame& frame, const Geometry& geometry);
// Of a sequence after those that have begun (whose n_frames are known), and of a picture in one of them.
std::string sequence_problem(const Sequence& sequence, std::span<const Sequence> before);
std::string media_problem(const Media& media, std::span<const Sequence> sequences);

} // namespace attnscope::recording
