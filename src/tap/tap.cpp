#include "tap/tap.h"

namespace attnscope::tap {

void Tap::deliver() {
    std::vector<Frame> frames;
    if (collector.finish(frames, error_)) {
        error_.clear();
        if (frames_) frames_(std::move(frames));
    }
}

void Tap::end_decode() {
    if (collector.open()) deliver();
}

} // namespace attnscope::tap
