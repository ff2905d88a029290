#include "capture/tap.h"

namespace attnscope::capture {

void Tap::want(Wanted wanted) {
    wanted_ = std::move(wanted);
    collector_.want_queries(wanted_.queries);
}

void Tap::forget() {
    error_.clear();
    collector_.reset();
}

void Tap::end_decode(bool succeeded) {
    after_decode();
    const size_t left = collector_.announced();
    const int64_t index = collector_.next().index;
    collector_.announce({});
    // Of a model without attention nothing is known, ever: that is no error of the capture's.
    if (succeeded && left > 0 && !collector_.geometry().layers.empty()) {
        fail(index, std::to_string(left) + " of the decode's tokens were in no graph with attention");
    }
}

void Tap::fail(int64_t index, const std::string& why) {
    if (error_.empty()) error_ = "the capture failed at position " + std::to_string(index) + ": " + why;
}

void Tap::deliver(Batch& batch) {
    if (!error_.empty()) return; // frames have no gaps
    std::string why;
    if (!collector_.finish(batch, why)) return fail(batch.frames.front().index, why);
    if (deliver_) deliver_(batch);
}

} // namespace attnscope::capture
