// A recording of several sequences that share beginnings, written in turns.
#pragma once

#include "synthetic.h"

#include <vector>

namespace attnscope::test {

// Children of the first, of a child, of nobody, without frames of their own, from inside a chunk and at its edge.
std::vector<Sequence> make_tree();
std::vector<Media> make_media();
// What holds column `index` of a sequence.
FramePlace owner_in(const std::vector<Sequence>& sequences, const FramePlace& place);
// Frame by frame, each sequence in turn, beginning (with its pictures) as soon as its parent has what it shares. Stops, with false, after
// `most` frames. Throws on failure.
bool push_tree(RecordingWriter& writer, const Geometry& geometry, const std::vector<Sequence>& sequences,
               const std::vector<Media>& media, int64_t most = INT64_MAX);
int64_t frames_of(const std::vector<Sequence>& sequences);

} // namespace attnscope::test
