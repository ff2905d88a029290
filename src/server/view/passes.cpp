#include "server/view/passes.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <thread>
#include <utility>

namespace attnscope::server {

namespace {
constexpr size_t most_passes = 2;
constexpr int picture_niceness = 5; // somebody looks at an empty screen; who reads a token stands beside what it reads
constexpr int64_t patience_ms = 15000; // a page asks twice a second; in a browser's background once
int64_t now_ms() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}
} // namespace

std::optional<Result<Json>> Passes::ask(const view::Selection& s, For what, Job::Work work, double& progress) {
    const auto is_it = [&](const Pass& p) { return p.selection == s && p.what == what; };
    std::list<Pass> stopped; // their threads are waited for without the lock
    std::shared_ptr<Job> job;
    {
        const std::lock_guard lock(mutex_);
        auto it = std::find_if(passes_.begin(), passes_.end(), is_it);
        if (it != passes_.end() && it->asked->given_up) {
            stopped.splice(stopped.end(), passes_, it);
            it = passes_.end();
        }
        if (it == passes_.end()) {
            while (passes_.size() >= most_passes) stopped.splice(stopped.end(), passes_, std::prev(passes_.end()));
            const auto asked = std::make_shared<Pass::Asked>();
            asked->last = now_ms();
            const auto while_asked = [asked, work = std::move(work)](const view::Progress& said) {
                return work([&](double done) {
                    if (now_ms() - asked->last >= patience_ms) asked->given_up = true;
                    return said(done) && !asked->given_up;
                });
            };
            const int niceness = what == For::picture ? picture_niceness : 10;
            it = passes_.insert(passes_.begin(), {s, what, asked, std::make_shared<Job>(while_asked, niceness)});
        }
        it->asked->last = now_ms();
        job = it->job;
    }
    // What takes a moment is answered at once: the page need not ask again.
    std::optional<Result<Json>> result = job->result();
    for (int tries = 0; tries < 20 && !result; ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        result = job->result();
    }
    progress = job->progress();
    if (result) {
        const std::lock_guard lock(mutex_);
        const auto it = std::find_if(passes_.begin(), passes_.end(), is_it);
        if (it != passes_.end() && it->job == job) stopped.splice(stopped.end(), passes_, it);
    }
    return result;
}

void Passes::end_all() {
    std::list<Pass> stopped; // waited for without the lock
    {
        const std::lock_guard lock(mutex_);
        stopped.swap(passes_);
    }
}

} // namespace attnscope::server
