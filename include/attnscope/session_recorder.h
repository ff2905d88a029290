// A session's frames into a recording.
//
//   SessionRecorder recorder(**session, "run.attn");
//   auto result = (*session)->generate(tokens, {}, recorder.sink());
//   auto closed = recorder.close();
#pragma once

#include <attnscope/recording.h>
#include <attnscope/session.h>

#include <functional>
#include <memory>
#include <string>

namespace attnscope {

// Belongs to the thread that generates; recorded() may be asked from any once the file is open. The session must outlive it.
class SessionRecorder {
public:
    SessionRecorder(const Session& session, std::string path, WriterOptions options = {});
    ~SessionRecorder(); // without close(): what was pushed is kept, and the file says that it is incomplete
    SessionRecorder(const Session&& session, std::string path, WriterOptions options = {}) = delete;
    SessionRecorder(const SessionRecorder&) = delete;
    SessionRecorder& operator=(const SessionRecorder&) = delete;

    // The first frame opens the file: only then are the settings known that it states, the seed among them. Errors as
    // RecordingWriter::create(), begin() and push().
    Result<void> push(Frame&& frame);
    // push() as a function; the recorder must outlive it.
    FrameSink sink();
    // Opens the file now, where its making must not be measured with the first frame: it states the settings of the latest
    // generate(), which must be those of the frames to come. Nothing when it is open.
    Result<void> open();
    bool is_open() const { return writer_ != nullptr; }

    // As in RecordingWriter.
    void on_commit(std::function<void(int64_t)> callback) { on_commit_ = std::move(callback); }
    int64_t recorded() const { return writer_ ? writer_->recorded() : 0; }
    double cpu_seconds() const { return writer_ ? writer_->cpu_seconds() : 0; }
    // Marks the file complete; `end_reason` as Sequence::end_reason. Where no frame came there is no file.
    Result<void> close(const std::string& end_reason = {});

private:
    const Session& session_;
    const std::string path_;
    const WriterOptions options_;
    std::function<void(int64_t)> on_commit_;
    std::unique_ptr<RecordingWriter> writer_;
};

} // namespace attnscope
