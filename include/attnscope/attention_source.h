// Where the keys and queries of an answer come from: a recording, or the memory of a running session (KeyStore).
// Whatever is asked (attention_view.h, attention_map.h), the same code answers from either, with the same numbers.
//
//   auto recording = Recording::open("sky.attn");
//   auto source = AttentionSource::of(**recording);
//   auto view = AttentionView::create(**source, {.reduce = Reduce::mean});
//   auto answer = (*view)->answer(41);
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>
#include <attnscope/types.h>

#include <cstdint>
#include <memory>

namespace attnscope {

class AttentionSource {
public:
    // Keys and queries of a recording, complete or not, read and checked when they are needed. Memory: of one layer,
    // for each thread that answers, the keys that the token in hand sees. The recording must outlive the source, and
    // belongs to it while something is answered.
    // invalid_argument: a geometry that makes no sense.
    static Result<std::unique_ptr<AttentionSource>> of(Recording& recording);
    virtual ~AttentionSource() = default;

    virtual const Geometry& geometry() const = 0;
    // It has the keys of frames [0, size()).
    virtual int64_t size() const = 0;
    // A frame with its queries and without its keys. not_found: there is none, or the source keeps no queries (a
    // KeyStore: whoever feeds it has the frames). Frame::q is empty where the queries of this frame were not kept.
    virtual Result<Frame> frame(int64_t index) = 0;
};

} // namespace attnscope
