#include "capture/tap.h"

namespace attnscope::capture {

void Tap::deliver(Batch& batch) {
    std::vector<Frame> frames;
    std::string error;
    if (collector.finish(batch, frames, error)) {
        if (frames_) frames_(std::move(frames), std::move(batch.facts));
    } else if (error_.empty()) {
        error_ = std::move(error);
    }
}

} // namespace attnscope::capture
