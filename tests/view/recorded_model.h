// The same frames in a session's memory and in a recording.
#pragma once

#include "support/temp_dir.h"
#include "view/live_model.h"

#include <attnscope/attention_source.h>
#include <attnscope/attention_view.h>
#include <attnscope/recording.h>

#include <memory>
#include <string>
#include <vector>

namespace attnscope::test {

struct RecordedModel {
    LiveModel model;
    TempDir folder;
    std::vector<Frame> frames; // as captured; some without queries
    std::unique_ptr<KeyStore> keys;
    std::unique_ptr<Recording> recording;
    std::unique_ptr<AttentionSource> source; // of the recording

    // Every `blind`-th frame is kept without its queries (0: none); the first half was decoded as one batch.
    RecordedModel(const LiveShape& shape, int64_t n, uint32_t seed, int64_t blind = 0);
};

} // namespace attnscope::test
