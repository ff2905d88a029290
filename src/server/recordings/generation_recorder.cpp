#include "server/recordings/generation_recorder.h"

#include <fmt/format.h>

#include <ctime>
#include <filesystem>

namespace attnscope::server {

Result<void> GenerationRecorder::push(const Frame& frame, const Session& session) {
    if (!writer_) {
        const std::time_t now = std::time(nullptr);
        std::tm utc{};
        gmtime_r(&now, &utc);
        char stamp[32];
        std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &utc);
        name_ = fmt::format("{}-{:04}.attn", stamp, number_);
        auto created = RecordingWriter::create((std::filesystem::path(folder_) / name_).string(), session.recording_info());
        if (!created) return created.error();
        writer_ = std::move(*created);
        if (Result<void> r = writer_->begin(session.geometry()); !r) return r;
    }
    writer_->token_text(frame.token, session.piece(frame.token));
    Frame copy = frame;
    return writer_->push(std::move(copy));
}

Result<std::string> GenerationRecorder::close() {
    if (!writer_) return std::string();
    if (Result<void> r = writer_->close(); !r) return r.error();
    return name_;
}

} // namespace attnscope::server
