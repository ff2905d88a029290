#include "server/front/watch.h"

#include <algorithm>
#include <string>
#include <utility>

namespace attnscope::server {

namespace {

// What comes at all comes sooner; then it is worth a look whether it can still come.
constexpr std::chrono::milliseconds usual_time{100};

constexpr size_t most_runs = 256; // of other requests, where slots cannot be told apart

size_t weight(const std::shared_ptr<const Frame>& frame) {
    return frame ? frame->q.size() + frame->k.size() : 0;
}

// What a frame adds to the keys of its line, without what a row of its own needs.
std::shared_ptr<const Frame> keys_alone(const Frame& frame) {
    auto out = std::make_shared<Frame>();
    out->sequence = frame.sequence;
    out->index = frame.index;
    out->token = frame.token;
    out->position = frame.position;
    out->kind = frame.kind;
    out->batched = frame.batched;
    out->k = frame.k;
    out->visible = frame.visible;
    out->verdict = frame.verdict;
    return out;
}

} // namespace

Watch::Watch(LiveSequences& live, WatchOptions options)
    : live_(live), options_(std::move(options)), n_prompt_(static_cast<int64_t>(options_.prompt.size())) {}

Watch::~Watch() {
    const base::Lock lock(live_.mutex_);
    live_.watches_.erase(this);
}

Error Watch::lost(const char* why) const {
    return {ErrorKind::not_found, std::string("no attention: ") + why};
}

Result<void> Watch::begin() {
    if (n_prompt_ == 0) return lost("the prompt has no tokens");
    if (!live_.wait_for_all(options_.patience)) return lost("what the program decodes is not read");
    const base::Lock lock(live_.mutex_);
    live_.watches_.insert(this);
    live_.want();
    return {};
}

void Watch::close() {
    const base::Lock lock(live_.mutex_);
    closed_ = true;
}

Watch::Kept Watch::keep(const Frame& frame, bool wanted, std::shared_ptr<const Frame>& shared) {
    Kept kept{frame.token, nullptr};
    const size_t more = frame.q.size() + frame.k.size();
    if (!wanted || !options_.keep_frames || bytes_ + more > options_.frame_bytes) return kept;
    if (!shared) shared = std::make_shared<const Frame>(frame);
    bytes_ += more;
    kept.frame = shared;
    return kept;
}

// Is this frame the candidate's next one? Marks what it tells otherwise.
bool Watch::go_on(Candidate& c, LineId line, int32_t slot, const Frame& frame) {
    if (line.context != c.line.context || slot != c.slot || c.over) return false;
    bool follows = line.line == c.line.line && frame.index == c.next;
    if (line.line != c.line.line) {
        const auto& lines = live_.contexts_.at(line.context).lines;
        const auto found = lines.find(line.line);
        const bool branch = found != lines.end() && found->second.parent == c.line.line &&
                            frame.index == found->second.n_shared && frame.index >= n_prompt_;
        if (slot >= 0) {
            follows = branch && frame.index == c.next;
            if (branch && !follows) c.taken_back = frame.index;
        } else if (branch &&
                   frame.index <= c.next) // somebody's tokens were the same up to here: ours, or another request's
            c.ambiguous = true;
    }
    if (!follows && slot >= 0) c.over = true;
    return follows;
}

void Watch::add(Candidate& c, const Frame& frame, std::shared_ptr<const Frame>& shared) {
    ++c.next;
    if (Kept* const overtaken = options_.latest && !c.frames.empty() ? &c.frames.back() : nullptr;
        overtaken && overtaken->frame && !overtaken->frame->q.empty()) {
        bytes_ -= overtaken->frame->q.size();
        overtaken->frame = keys_alone(*overtaken->frame);
    }
    c.frames.push_back(keep(frame, true, shared));
    changed_.notify_all();
}

void Watch::add_to_run(LineId line, int32_t slot, const Frame& frame, std::shared_ptr<const Frame>& shared) {
    auto run = std::find_if(runs_.begin(), runs_.end(), [&](const Run& r) { return r.line == line; });
    if (run != runs_.end() && run->next != frame.index) {
        for (const Kept& kept : run->frames) bytes_ -= weight(kept.frame);
        runs_.erase(run);
        run = runs_.end();
    }
    if (run == runs_.end()) {
        const auto let_go = [&](const Run& r) {
            for (const Kept& kept : r.frames) bytes_ -= weight(kept.frame);
            return true;
        };
        if (slot >= 0) { // it has one thing in hand
            std::erase_if(runs_,
                          [&](const Run& r) { return r.slot == slot && r.line.context == line.context && let_go(r); });
        }
        if (runs_.size() >= most_runs) {
            let_go(runs_.front());
            runs_.pop_front();
        }
        runs_.push_back({line, slot, frame.index, frame.index, {}});
        run = std::prev(runs_.end());
    }
    ++run->next;
    if (frame.index < n_prompt_ - 1) {
        if (options_.prompt_rows) run->frames.push_back(keep(frame, true, shared));
        return;
    }
    Run whole = std::move(*run);
    runs_.erase(run);
    if (frame.index != n_prompt_ - 1 || !live_.begins_with(line, options_.prompt)) {
        for (const Kept& kept : whole.frames) bytes_ -= weight(kept.frame);
        return;
    }
    Candidate c;
    c.line = line;
    c.slot = slot;
    c.n_reused = whole.first;
    c.first = frame.index;
    c.next = frame.index + 1;
    c.prompt = std::move(whole.frames);
    c.frames.push_back(keep(frame, true, shared));
    candidates_.push_back(std::move(c));
    changed_.notify_all();
}

void Watch::on_frame(LineId line, int32_t slot, const Frame& frame, std::shared_ptr<const Frame>& shared) {
    if (closed_ || (options_.slot >= 0 && slot >= 0 && slot != options_.slot)) return;
    if (!options_.model_file.empty() && live_.contexts_.at(line.context).model.file != options_.model_file) return;
    if (slot >= 0) told_apart_ = true;
    for (Candidate& c : candidates_) {
        if (!go_on(c, line, slot, frame)) continue;
        c.line = line;
        add(c, frame, shared);
        return;
    }
    if (!found_ && frame.index < n_prompt_) add_to_run(line, slot, frame, shared);
}

void Watch::on_end(ContextId context) {
    for (const Candidate& c : candidates_) ended_ = ended_ || c.line.context == context;
    changed_.notify_all();
}

bool Watch::contradicts(const Candidate& c, const Told& told) {
    const auto n = static_cast<int64_t>(c.frames.size()); // each chose a token
    if (told.n >= 0 && n != told.n) return true;
    for (size_t i = 0; i < told.tokens.size() && i + 1 < c.frames.size(); ++i) {
        if (c.frames[i + 1].token != told.tokens[i]) return true;
    }
    return false;
}

Result<Watch::Found> Watch::find(const Told& told) {
    // Its own line is known when all is read; whether it is the only one, too.
    if (!live_.wait_for_all(options_.patience)) return lost("what the program decodes is not read");
    base::Lock lock(live_.mutex_);
    if (candidates_.empty()) {
        return lost("the program decoded no text that begins with this prompt, or its attention cannot be captured "
                    "(pictures, a restored state, a context that was shifted)");
    }
    if (candidates_.size() > 1) std::erase_if(candidates_, [&](const Candidate& c) { return contradicts(c, told); });
    if (candidates_.size() != 1) {
        if (options_.slot < 0 && told_apart_)
            return lost("another request with the same prompt ran at the same time, and nothing in the answers tells "
                        "whose is whose");
        return lost(told_apart_
                        ? "another request with the same prompt was in the same slot"
                        : "another request with the same prompt ran, and the program's cache does not tell them "
                          "apart (--no-kv-unified of llama-server does)");
    }
    Candidate& c = candidates_.front();
    Found found{c.line, c.n_reused, {}};
    for (const Kept& kept : c.prompt) {
        bytes_ -= weight(kept.frame);
        found.prompt.push_back(kept.frame);
    }
    c.prompt.clear();
    runs_.clear();
    found_ = true;
    return found;
}

Result<LineId> Watch::line() const {
    const base::Lock lock(live_.mutex_);
    if (!found_) return lost("its line was not found");
    const Candidate& c = candidates_.front();
    if (c.ambiguous) return lost("another request goes on from the same text");
    return c.line;
}

int64_t Watch::arrived() {
    const base::Lock lock(live_.mutex_);
    return found_ ? candidates_.front().next - (n_prompt_ - 1) : 0;
}

Result<std::shared_ptr<const Frame>> Watch::frame(int64_t n, std::optional<int32_t> before) {
    // Where nothing else tells tokens that were taken back, or another line, they are there once all is read.
    if ((!told_apart_ || !before) && n > 0 && !live_.wait_for_all(options_.patience))
        return lost("what the program decodes is not read");
    base::Lock lock(live_.mutex_);
    if (!found_) return lost("its line was not found");
    const auto soon = std::chrono::steady_clock::now() + usual_time;
    for (bool all_read = false;;) {
        Candidate& c = candidates_.front();
        if (c.ambiguous)
            return lost("another request goes on from the same text, and the program's cache does not tell them apart "
                        "(--no-kv-unified of llama-server does)");
        while (c.first < n_prompt_ - 1 + n && !c.frames.empty()) {
            bytes_ -= weight(c.frames.front().frame);
            c.frames.pop_front();
            ++c.first;
        }
        if (!c.frames.empty()) {
            if (!before && c.taken_back >= 0 && c.taken_back <= c.first)
                return lost("the program took tokens back (speculative decoding?)");
            Kept kept = std::move(c.frames.front());
            c.frames.pop_front();
            ++c.first;
            bytes_ -= weight(kept.frame);
            if (before && n > 0 && kept.token != *before)
                return lost("the program decoded another token than it told (speculative decoding?)");
            if (!kept.frame) return lost("this client reads too slowly (--stream-mb)");
            return kept.frame;
        }
        if (c.over) return lost("the program took tokens back (speculative decoding?)");
        if (ended_) return lost("the program ended, or freed what it had decoded");
        if (all_read || lost_one_)
            return lost("the token was not captured (does the text go on from a restored state, a picture or a context "
                        "that was shifted?)");
        if (changed_.wait_until(lock, soon) != std::cv_status::timeout) continue;
        lock.unlock();
        if (!live_.wait_for_all(options_.patience)) return lost("the token was not captured in time");
        lock.lock();
        // It was generated before: what has not come now never will, and nothing that goes on from it.
        all_read = lost_one_ = candidates_.front().frames.empty();
    }
}

} // namespace attnscope::server
