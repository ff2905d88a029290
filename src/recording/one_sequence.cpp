// One sequence of a recording as a recording of its own, for whoever asks by index alone.
#include <attnscope/recording.h>

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace attnscope {
namespace {

class OneSequence final : public Recording {
public:
    OneSequence(std::unique_ptr<Recording> whole, int64_t id) : whole_(std::move(whole)), id_(id) { describe(); }

    const RecordingInfo& info() const override { return info_; }
    const std::vector<Sequence>& sequences() const override { return sequences_; }
    const std::vector<Media>& media() const override { return media_; }
    Result<void> refresh() override {
        Result<void> done = whole_->refresh();
        if (done) describe();
        return done;
    }
    Result<Frame> frame(FramePlace place, bool with_q, bool with_k) override {
        if (Result<void> there = is_ours(place.sequence); !there) return there.error();
        Result<Frame> frame = whole_->frame({place.index, id_}, with_q, with_k);
        if (frame) frame->sequence = 0;
        return frame;
    }
    Result<std::vector<Frame>> frames(int64_t begin, int64_t end, int64_t sequence) override {
        if (Result<void> there = is_ours(sequence); !there) return there.error();
        Result<std::vector<Frame>> frames = whole_->frames(begin, end, id_);
        if (frames) {
            for (Frame& frame : *frames) frame.sequence = 0;
        }
        return frames;
    }
    Result<std::vector<uint8_t>> keys(int32_t layer, int64_t begin, int64_t end, int64_t sequence) override {
        if (Result<void> there = is_ours(sequence); !there) return there.error();
        return whole_->keys(layer, begin, end, id_);
    }
    Result<FrameRows> rows(FramePlace place, const RowSelection& selection) override {
        if (Result<void> there = is_ours(place.sequence); !there) return there.error();
        return whole_->rows({place.index, id_}, selection);
    }
    std::string token_text(int32_t token) const override { return whole_->token_text(token); }
    Result<void> check(const std::function<void(double)>& progress) override { return whole_->check(progress); }

private:
    static Result<void> is_ours(int64_t sequence) {
        if (sequence == 0) return {};
        return Error{ErrorKind::not_found,
                     fmt::format("one sequence was opened, and there is no sequence {} in it", sequence)};
    }

    void describe() {
        Sequence s = whole_->sequences()[size_t(id_)];
        info_ = whole_->info();
        info_.n_frames = s.n_frames;
        media_.clear();
        // a picture in what an ancestor shares lies here as well
        int64_t end = s.n_frames;
        for (const Sequence* from = &whole_->sequences()[size_t(id_)];;
             from = &whole_->sequences()[size_t(from->parent)]) {
            for (const Media& medium : whole_->media()) {
                if (medium.sequence != from->id || medium.begin >= end) continue;
                media_.push_back(medium);
                media_.back().sequence = 0;
                media_.back().end = std::min(medium.end, end);
            }
            end = std::min(end, from->n_shared);
            if (from->parent < 0) break;
        }
        s.id = 0;
        s.parent = -1;
        s.n_shared = 0;
        sequences_.assign(1, std::move(s));
    }

    std::unique_ptr<Recording> whole_;
    int64_t id_;
    RecordingInfo info_;
    std::vector<Sequence> sequences_;
    std::vector<Media> media_;
};

} // namespace

Result<std::unique_ptr<Recording>> Recording::open_sequence(const std::string& path, int64_t sequence) {
    Result<std::unique_ptr<Recording>> whole = open(path);
    if (!whole) return whole;
    const auto n = static_cast<int64_t>((*whole)->sequences().size());
    if (sequence < 0 || sequence >= n) {
        return Error{ErrorKind::not_found,
                     n == 1 ? fmt::format("{} has one sequence, 0, and not {}", path, sequence)
                            : fmt::format("{} has sequences 0 to {}, not {}", path, n - 1, sequence)};
    }
    if (n == 1) return whole;
    return std::unique_ptr<Recording>(std::make_unique<OneSequence>(std::move(*whole), sequence));
}

} // namespace attnscope
