#include <attnscope/session_recorder.h>

#include <utility>

namespace attnscope {

SessionRecorder::SessionRecorder(const Session& session, std::string path, WriterOptions options)
    : session_(session), path_(std::move(path)), options_(options) {}

SessionRecorder::~SessionRecorder() = default;

Result<void> SessionRecorder::open() {
    if (writer_) return {};
    auto created = RecordingWriter::create(path_, session_.recording_info(), options_);
    if (!created) return created.error();
    if (on_commit_) (*created)->on_commit(on_commit_);
    if (Result<void> r = (*created)->begin(session_.geometry()); !r) return r;
    writer_ = std::move(*created);
    return {};
}

Result<void> SessionRecorder::push(Frame&& frame) {
    if (Result<void> r = open(); !r) return r;
    if (frame.token >= 0) writer_->token_text(frame.token, session_.piece(frame.token));
    return writer_->push(std::move(frame));
}

FrameSink SessionRecorder::sink() {
    return [this](Frame&& frame) { return push(std::move(frame)); };
}

Result<void> SessionRecorder::close(const std::string& end_reason) {
    if (!writer_) return {};
    if (!end_reason.empty()) {
        if (Result<void> r = writer_->end_sequence(0, end_reason); !r) return r;
    }
    return writer_->close();
}

} // namespace attnscope
