// Our own recordings: rows are computed from the recorded queries and keys, one token at a time.
#include "formats/importers.h"

#include <attnscope/recording.h>

#include <algorithm>
#include <array>

namespace attnscope::formats {

namespace {

class AttnReader final : public DumpReader {
public:
    explicit AttnReader(std::unique_ptr<Recording> recording, const std::string& path)
        : recording_(std::move(recording)) {
        const RecordingInfo& recorded = recording_->info();
        info_.path = path;
        info_.format = "attn";
        info_.storage = "queries and keys";
        info_.n_tokens = recorded.n_frames;
        info_.axes = "token, layer, head, key";
        info_.axes_why = "a recording states them";
        info_.model.name = recorded.model.name;
        info_.model.n_layer = recorded.geometry.n_layer();
        info_.model.n_head = recorded.geometry.max_heads();
        for (const LayerInfo& layer : recorded.geometry.layers) {
            if (!layer.captured()) continue;
            info_.model.n_head_kv = std::max(info_.model.n_head_kv, layer.n_head_kv);
            info_.model.head_dim = std::max(info_.model.head_dim, layer.head_dim);
            info_.model.learned_sinks = info_.model.learned_sinks || !layer.sinks.empty();
        }
        if (!recorded.complete) info_.notes.push_back("the recording was not closed: what was committed is there");
        if (const size_t n = recording_->sequences().size(); n > 1)
            info_.notes.push_back("the recording holds " + std::to_string(n) + " sequences: the first is read");
    }

    const DumpInfo& info() const override { return info_; }
    bool at_end() const override { return at_ >= info_.n_tokens; }

    Result<const DumpToken*> next() override {
        while (!at_end()) {
            const int64_t index = at_++;
            auto frame = recording_->frame(index, /*with_q=*/true);
            if (!frame) return frame.error();
            if (frame->q.empty()) continue; // rows of this prompt token were not kept
            auto rows = recording_->rows(index);
            if (!rows) return rows.error();
            turn_ ^= 1;
            auto& [token, kept] = slots_[turn_];
            kept = std::move(*rows);
            token = DumpToken{};
            token.index = yielded_++;
            token.number = index;
            token.source = "frame " + std::to_string(index);
            token.n_layer = static_cast<int32_t>(kept.layers.size());
            token.n_head = static_cast<int32_t>(kept.heads.size());
            token.n_context = kept.n_columns;
            token.stated_context = kept.n_columns;
            token.token_id = frame->token;
            token.text = recording_->token_text(frame->token);
            token.values = kept.weights;
            return &token;
        }
        return static_cast<const DumpToken*>(nullptr);
    }

private:
    std::unique_ptr<Recording> recording_;
    DumpInfo info_;
    int64_t at_ = 0, yielded_ = 0;
    struct Slot {
        DumpToken token;
        FrameRows rows;
    };
    std::array<Slot, 2> slots_; // in turns: the token before is still looked at
    size_t turn_ = 0;
};

} // namespace

OpenedDump open_attn(const std::string& path) {
    auto recording = Recording::open(path);
    if (!recording) return recording.error();
    const std::vector<LayerInfo>& layers = (*recording)->info().geometry.layers;
    if (std::any_of(layers.begin(), layers.end(), [](const LayerInfo& l) { return l.role != LayerRole::every; })) {
        return Error{ErrorKind::unsupported,
                     path +
                         " is of an encoder and its decoder: a token has rows in some of its layers only, which is not "
                         "diagnosed yet; attnscope verify proves them"};
    }
    return std::unique_ptr<DumpReader>(std::make_unique<AttnReader>(std::move(*recording), path));
}

} // namespace attnscope::formats
