// Passes over the rows of a selection: for a picture, or for the rows' denominators. One that nobody asks for any more ends: the page
// that waited for it was closed, or shows something else. From any thread.
#pragma once

#include "server/view/job.h"
#include "view/recorded/tensors.h"

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>

namespace attnscope::server {

class Passes {
public:
    enum class For { picture, denominators };
    // Begins the pass that is not there yet, and waits a moment for it. Nothing while it goes on; `progress` says how far it is. A result
    // is given once: what is to be kept of a pass is kept by `work`.
    std::optional<Result<Json>> ask(const view::Selection& selection, For what, Job::Work work, double& progress);
    // Stops all of them and waits until they have ended.
    void end_all();

private:
    struct Pass {
        view::Selection selection;
        For what = For::picture;
        struct Asked {
            std::atomic<int64_t> last; // ms
            std::atomic<bool> given_up{false};
        };
        std::shared_ptr<Asked> asked;
        std::shared_ptr<Job> job;
    };
    std::mutex mutex_;
    std::list<Pass> passes_; // newest first
};

} // namespace attnscope::server
