// Our own recordings: rows are computed from the recorded queries and keys, one token at a time.
#include "recording/importers.h"

#include <attnscope/recording.h>

#include <algorithm>

namespace attnscope {

namespace {

class AttnReader final : public CaptureReader {
public:
    explicit AttnReader(std::unique_ptr<Recording> recording, const std::string& path)
        : recording_(std::move(recording)) {
        const RecordingInfo& recorded = recording_->info();
        info_.path = path;
        info_.format = "attn";
        info_.storage = "queries and keys";
        info_.n_tokens = recorded.n_frames;
        info_.model.name = recorded.model.name;
        info_.model.n_layer = recorded.geometry.n_layer();
        info_.model.n_head = recorded.geometry.max_heads();
        for (const LayerInfo& layer : recorded.geometry.layers) {
            if (!layer.captured()) continue;
            info_.model.n_head_kv = std::max(info_.model.n_head_kv, layer.n_head_kv);
            info_.model.head_dim = std::max(info_.model.head_dim, layer.head_dim);
            info_.model.learned_sinks = info_.model.learned_sinks || !layer.sinks.empty();
        }
        if (!recorded.complete)
            info_.notes.push_back("the recording was not closed: what was committed is there");
    }

    const CaptureInfo& info() const override { return info_; }
    bool at_end() const override { return at_ >= info_.n_tokens; }

    Result<const CaptureToken*> next() override {
        while (!at_end()) {
            const int64_t index = at_++;
            auto frame = recording_->frame(index, /*with_q=*/true);
            if (!frame) return frame.error();
            if (frame->q.empty()) continue; // rows of this prompt token were not kept
            auto rows = recording_->rows(index);
            if (!rows) return rows.error();
            rows_ = std::move(*rows);
            token_ = CaptureToken{};
            token_.index = yielded_++;
            token_.number = index;
            token_.source = "frame " + std::to_string(index);
            token_.n_layer = static_cast<int32_t>(rows_.layers.size());
            token_.n_head = static_cast<int32_t>(rows_.heads.size());
            token_.n_context = rows_.n_columns;
            token_.stated_context = rows_.n_columns;
            token_.token_id = frame->token;
            token_.text = recording_->token_text(frame->token);
            token_.values = rows_.weights;
            return &token_;
        }
        return static_cast<const CaptureToken*>(nullptr);
    }

private:
    std::unique_ptr<Recording> recording_;
    CaptureInfo info_;
    int64_t at_ = 0, yielded_ = 0;
    FrameRows rows_;
    CaptureToken token_;
};

} // namespace

OpenedCapture open_attn(const std::string& path) {
    auto recording = Recording::open(path);
    if (!recording) return recording.error();
    return std::unique_ptr<CaptureReader>(std::make_unique<AttnReader>(std::move(*recording), path));
}

} // namespace attnscope
