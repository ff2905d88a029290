#include "c_api/status.h"
#include "recording/missing_rows.h"

#include <attnscope/attention_source.h>
#include <attnscope/attention_view.h>
#include <attnscope/recording.h>
#include <attnscope/verify.h>

#include <algorithm>
#include <memory>
#include <vector>

using namespace attnscope;
using c_api::check_struct;
using c_api::guarded;

struct attnscope_recording {
    std::unique_ptr<Recording> recording;
    std::unique_ptr<AttentionSource> source; // of the recording; made when a mean is first asked for
    std::unique_ptr<AttentionView> means;
    std::string text;   // of attnscope_recording_token_text
    std::string no_row; // of attnscope_recording_why_no_row
};

namespace {

Result<void> check_handle(const attnscope_recording* recording) {
    if (!recording) return Error{ErrorKind::invalid_argument, "the recording is NULL"};
    return {};
}

// The mean over all rows of a token.
Result<std::vector<float>> mean_of(attnscope_recording& r, int64_t index) {
    if (!r.means) {
        auto source = AttentionSource::of(*r.recording);
        if (!source) return source.error();
        auto means = AttentionView::create(**source, {.reduce = Reduce::mean}, {.n_threads = 0});
        if (!means) return means.error();
        r.source = std::move(*source);
        r.means = std::move(*means);
    }
    auto answer = r.means->answer(index);
    if (!answer) return answer.error();
    return std::move(answer->values);
}

} // namespace

attnscope_status attnscope_recording_open(const char* path, attnscope_recording** out) {
    return guarded([&]() -> Result<void> {
        if (!path || !out) return Error{ErrorKind::invalid_argument, "the path or the place for the recording is NULL"};
        auto opened = Recording::open(path);
        if (!opened) return opened.error();
        auto handle = std::make_unique<attnscope_recording>();
        handle->recording = std::move(*opened);
        *out = handle.release();
        return {};
    });
}

void attnscope_recording_free(attnscope_recording* recording) {
    delete recording;
}

attnscope_status attnscope_recording_get_info(attnscope_recording* recording, attnscope_recording_info* info) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (Result<void> r = check_struct(info, "attnscope_recording_info"); !r) return r;
        const RecordingInfo& known = recording->recording->info();
        attnscope_recording_info ours = {};
        ours.n_frames = known.n_frames;
        ours.n_layer = known.geometry.n_layer();
        ours.n_head = known.geometry.max_heads();
        ours.complete = known.complete;
        ours.model = known.model.name.c_str();
        ours.engine = known.engine.c_str();
        ours.settings = known.settings_json.c_str();
        c_api::give(info, ours);
        return {};
    });
}

attnscope_status attnscope_recording_get_frame(attnscope_recording* recording, int64_t index, attnscope_frame* frame) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (Result<void> r = check_struct(frame, "attnscope_frame"); !r) return r;
        const Result<Frame> read = recording->recording->frame(index, true);
        if (!read) return read.error();
        attnscope_frame ours = {};
        ours.token = read->token;
        ours.position = read->position;
        ours.generated = read->kind == FrameKind::generated;
        ours.has_rows = !read->q.empty();
        ours.verdict = read->verdict;
        c_api::give(frame, ours);
        return {};
    });
}

attnscope_status attnscope_recording_token_text(attnscope_recording* recording, int32_t token, const char** text,
                                                size_t* n_bytes) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (!text || !n_bytes) return Error{ErrorKind::invalid_argument, "the place for the text is NULL"};
        recording->text = recording->recording->token_text(token);
        *text = recording->text.c_str();
        *n_bytes = recording->text.size();
        return {};
    });
}

attnscope_status attnscope_recording_rows(attnscope_recording* recording, int64_t index, const int32_t* layers,
                                          size_t n_layers, const int32_t* heads, size_t n_heads, float* out,
                                          size_t n_out, int64_t* n_columns) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (!n_columns) return Error{ErrorKind::invalid_argument, "the place for the number of columns is NULL"};
        if ((!layers && n_layers) || (!heads && n_heads))
            return Error{ErrorKind::invalid_argument, "a selection is NULL but not empty"};
        RowSelection selection{{layers, layers + n_layers}, {heads, heads + n_heads}};
        if (!out) { // one row has the width of all
            if (selection.layers.empty()) selection.layers = {0};
            if (selection.heads.empty()) selection.heads = {0};
            selection.layers.resize(1);
            selection.heads.resize(1);
        }
        Result<FrameRows> rows = recording->recording->rows(index, selection);
        if (!rows) return rows.error();
        if (out && n_out < rows->weights.size()) {
            return Error{ErrorKind::invalid_argument, "the rows have " + std::to_string(rows->weights.size()) +
                                                          " values and there is room for " + std::to_string(n_out)};
        }
        if (out) std::copy(rows->weights.begin(), rows->weights.end(), out);
        *n_columns = rows->n_columns;
        return {};
    });
}

attnscope_status attnscope_recording_why_no_row(attnscope_recording* recording, int64_t index, int32_t layer,
                                                const char** why) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (!why) return Error{ErrorKind::invalid_argument, "the place for the sentence is NULL"};
        const Geometry& geometry = recording->recording->info().geometry;
        if (layer < 0 || layer >= geometry.n_layer()) {
            return Error{ErrorKind::not_found, "there is no layer " + std::to_string(layer) + "; the recording has " +
                                                   std::to_string(geometry.n_layer())};
        }
        const Result<Frame> frame = recording->recording->frame(index);
        if (!frame) return frame.error();
        recording->no_row = recording::why_no_rows(geometry, {.layers = {layer}}, index, frame->visible);
        *why = recording->no_row.c_str();
        return {};
    });
}

attnscope_status attnscope_recording_mean(attnscope_recording* recording, int64_t index, float* out, size_t n_out,
                                          int64_t* n_columns) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (!n_columns || !out) return Error{ErrorKind::invalid_argument, "the place for the mean is NULL"};
        const Result<std::vector<float>> mean = mean_of(*recording, index);
        if (!mean) return mean.error();
        if (n_out < mean->size()) {
            return Error{ErrorKind::invalid_argument, "the mean has " + std::to_string(mean->size()) +
                                                          " values and there is room for " + std::to_string(n_out)};
        }
        std::copy(mean->begin(), mean->end(), out);
        *n_columns = static_cast<int64_t>(mean->size());
        return {};
    });
}

attnscope_status attnscope_recording_strongest(attnscope_recording* recording, int64_t index, int64_t first_column,
                                               int64_t* column, float* weight) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (!column || !weight) return Error{ErrorKind::invalid_argument, "the place for the column is NULL"};
        if (first_column < 0) {
            return Error{ErrorKind::invalid_argument,
                         "first_column is " + std::to_string(first_column) + "; columns are counted from 0"};
        }
        const Result<std::vector<float>> mean = mean_of(*recording, index);
        if (!mean) return mean.error();
        const auto n = static_cast<int64_t>(mean->size());
        if (first_column >= n) {
            return Error{ErrorKind::not_found, "token " + std::to_string(index) + " sees no column from " +
                                                   std::to_string(first_column) + " on"};
        }
        const auto best = std::max_element(mean->begin() + first_column, mean->end());
        *column = best - mean->begin();
        *weight = *best;
        return {};
    });
}

attnscope_status attnscope_recording_verify(attnscope_recording* recording, attnscope_verify_result* result) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_handle(recording); !r) return r;
        if (Result<void> r = check_struct(result, "attnscope_verify_result"); !r) return r;
        const Result<VerifyReport> report = verify_recording(*recording->recording);
        if (!report) return report.error();
        attnscope_verify_result ours = {};
        ours.good = report->good;
        ours.n_frames = report->n_frames;
        ours.n_ok = report->n_ok;
        ours.n_witnesses = report->n_witnesses;
        ours.n_proven_again = report->n_proven_again;
        ours.worst_ratio = report->worst_ratio;
        c_api::give(result, ours);
        return {};
    });
}
