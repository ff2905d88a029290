// Keys of a running session and the frames whose rows are computed from them, for any thread of Python.
#pragma once

#include <attnscope/attention_view.h>

#include <nanobind/nanobind.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace attnscope::python {

class LiveStore {
public:
    // Throws Failure.
    static std::shared_ptr<LiveStore> create(const Geometry& geometry, int64_t n_ctx);
    Result<void> append(const Frame& frame);
    void truncate(int64_t n);
    int64_t size() const;
    // Keys that were cut away since the frame came, when there had been `life` cuts, are gone, though others may lie in their place.
    Result<AttentionAnswer> answer(const Frame& frame, size_t life, const AttentionRequest& request, int64_t n_prompt);
    const Geometry& geometry() const { return keys_->geometry(); }
    size_t life() const;

private:
    mutable std::mutex mutex_; // of a KeyStore, which belongs to one thread
    std::unique_ptr<KeyStore> keys_;
    std::vector<int64_t> cuts_; // tokens that stayed each time keys were cut away
};

// A frame without its keys, and where they are.
struct LiveFrame {
    LiveFrame(std::shared_ptr<LiveStore> s, Frame f, std::string t, int64_t n)
        : store(std::move(s)), frame(std::move(f)), text(std::move(t)), n_prompt(n), life(store->life()) {}
    std::shared_ptr<LiveStore> store;
    Frame frame;
    std::string text;
    int64_t n_prompt = 0;
    size_t life = 0;
};

void bind_live_frame(nanobind::module_& m);

} // namespace attnscope::python
