#include "capture/capture.h"

#include "capture/proof/judge.h"
#include "capture/proof/witness.h"
#include "capture/tap.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace attnscope::capture {

Capture::Capture(Sink sink, MediaSink media) : sink_(std::move(sink)), media_sink_(std::move(media)) {}
Capture::~Capture() = default;

std::unique_ptr<Capture> Capture::make(const Options& options, Sink sink, MediaSink media) {
    std::unique_ptr<Capture> capture(new Capture(std::move(sink), std::move(media)));
    CollectorOptions collector;
    if (options.prove) collector.witness = [] { return Prover(); };
    collector.facts = inspect;
    auto deliver = [c = capture.get()](Batch& batch) { c->judge(batch); };
    capture->by_callback_ = options.way_in == Options::WayIn::callback;
    if (capture->by_callback_)
        capture->tap_ = std::make_unique<CallbackTap>(std::move(collector), std::move(deliver));
    else
        capture->tap_ = std::make_unique<GraphTap>(std::move(collector), std::move(deliver), options.mean_threads);
    return capture;
}

void Capture::want(Wanted wanted) {
    drop_ready();
    tap_->want(std::move(wanted));
}

void Capture::forget(int64_t sequence, int64_t from) {
    drop_ready();
    tap_->forget(sequence, from);
    judge_.reset(); // the same tokens may come again
}

void Capture::forget() {
    drop_ready();
    tap_->forget();
    judge_.reset();
}

void Capture::share(const Shared& shared) {
    tap_->flush();
    tap_->share(shared);
}

void Capture::know_cell(int32_t group, int64_t cell, int64_t column, int32_t position) {
    tap_->know_cell(group, cell, column, position);
}

bool Capture::read_back(ggml_backend_sched_t sched, int32_t group, const Ranges& cells) {
    return tap_->read_back(sched, group, cells);
}

void Capture::give_back(Frame&& frame) {
    tap_->give_back(std::move(frame));
}

const uint8_t* Capture::mirrored_keys(int32_t layer) const {
    return tap_->mirrored_keys(layer);
}

// Finds out which columns the patches will have.
void Capture::announce_media(const Tokens& tokens) {
    for (const MediaTokens& m : tokens.media) {
        Media media = m.what;
        media.sequence = tokens.sequence(m.first);
        media.begin = tap_->next_index(media.sequence);
        for (size_t i = 0; i < m.first; ++i) media.begin += tokens.sequence(i) == media.sequence;
        media.end = media.begin + static_cast<int64_t>(m.n);
        media_.push_back(std::move(media));
    }
}

void Capture::send() {
    tap_->is_told_when_to_send();
    tap_->send();
}

Result<void> Capture::flush() {
    tap_->flush();
    judge_encoded(nullptr);
    return hand_over();
}

const Geometry& Capture::geometry() const {
    return tap_->geometry();
}
bool Capture::reached() const {
    return tap_->reached();
}
ggml_backend_sched_eval_callback Capture::callback() const {
    return by_callback_ ? CallbackTap::eval : nullptr;
}
void* Capture::callback_data() const {
    return by_callback_ ? static_cast<CallbackTap*>(tap_.get()) : nullptr;
}

// Completes the frames of an encoder's text with their keys of cross attention, which the first graph of the decoder has made
// (null: there was none).
void Capture::judge_encoded(const Batch* decoded) {
    if (encoded_.empty()) return;
    const Geometry& geometry = tap_->geometry();
    for (Frame& frame : encoded_) { // the first text of all came before the decoder's layers were known
        if (!frame.q.empty()) frame.q.resize(geometry.q_bytes());
        frame.k.resize(geometry.k_bytes());
        frame.visible.resize(size_t(geometry.n_mask_groups));
    }
    for (size_t l = 0; decoded && l < decoded->cross_keys.size(); ++l) {
        const int32_t layer = decoded->first_layer + static_cast<int32_t>(l);
        const std::vector<uint8_t>& keys = decoded->cross_keys[l];
        const size_t bytes = geometry.layers[size_t(layer)].k_bytes(), at = geometry.k_offset(layer);
        for (size_t i = 0; i < encoded_.size() && (i + 1) * bytes <= keys.size(); ++i)
            std::copy_n(keys.begin() + static_cast<ptrdiff_t>(i * bytes), bytes,
                        encoded_[i].k.begin() + static_cast<ptrdiff_t>(at));
    }
    judge_->judge(encoded_);
    for (Frame& frame : std::exchange(encoded_, {})) ready_.push_back({std::move(frame), {}});
}

// Of a batch whose frames are complete but for their verdicts.
void Capture::judge(Batch& batch) {
    if (!judge_) judge_ = std::make_unique<Judge>(tap_->geometry());
    if (batch.part == ModelPart::encoder) {
        std::move(batch.frames.begin(), batch.frames.end(), std::back_inserter(encoded_));
        return;
    }
    if (batch.part == ModelPart::decoder) judge_encoded(&batch);
    judge_->judge(batch.frames, std::move(batch.facts));
    for (Frame& frame : batch.frames) ready_.push_back({std::move(frame), {}});
    if (!batch.frames.empty()) ready_.back().mean = std::move(batch.mean); // of a batch of one token
}

Result<void> Capture::hand_over() {
    for (Media& media : std::exchange(media_, {})) {
        if (!media_sink_) continue;
        if (Result<void> r = media_sink_(std::move(media)); !r) return r;
    }
    for (CapturedFrame& frame : std::exchange(ready_, {})) {
        if (!sink_) continue;
        if (Result<void> r = sink_(std::move(frame)); !r) return r;
    }
    if (!tap_->error().empty()) return Error{ErrorKind::engine, tap_->error()};
    return {};
}

void Capture::drop_ready() {
    tap_->flush();
    ready_.clear();
    encoded_.clear();
    media_.clear();
}

Capture::Decode::Decode(Capture& capture, const Tokens& tokens) : capture_(capture) {
    capture.announce_media(tokens);
    capture.tap_->begin_decode(tokens);
    if (GraphHook* hook = capture.tap_->hook()) hook_ = std::make_unique<HookScope>(hook);
}

Capture::Decode::~Decode() {
    if (ended_) return;
    hook_.reset();
    capture_.tap_->end_decode(false);
    capture_.media_.clear();
}

Result<void> Capture::Decode::end(bool succeeded) {
    ended_ = true;
    hook_.reset();
    capture_.tap_->end_decode(succeeded);
    if (!succeeded) capture_.media_.clear();
    return capture_.hand_over();
}

} // namespace attnscope::capture
