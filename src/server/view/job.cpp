#include "server/view/job.h"

#include <new>

#include <unistd.h>

namespace attnscope::server {

Job::Job(Work work, int niceness) {
    thread_ = std::thread([this, work = std::move(work), niceness] {
        // Of this thread alone and of those it starts; a system that refuses loses nothing but its turn.
        [[maybe_unused]] const int now = niceness > 0 ? nice(niceness) : 0;
        Result<Json> made = Error{ErrorKind::io, "there is no memory for this"};
        try {
            made = work([this](double fraction) {
                progress_ = fraction;
                return !stop_;
            });
        } catch (const std::bad_alloc&) { // as it was said above
        }
        const std::lock_guard lock(mutex_);
        result_ = std::move(made);
    });
}

Job::~Job() {
    stop_ = true;
    thread_.join();
}

std::optional<Result<Json>> Job::result() const {
    const std::lock_guard lock(mutex_);
    return result_;
}

} // namespace attnscope::server
