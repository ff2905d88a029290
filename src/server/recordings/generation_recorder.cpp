#include "server/recordings/generation_recorder.h"

#include <fmt/format.h>

#include <ctime>
#include <filesystem>

namespace attnscope::server {

Result<void> GenerationRecorder::push(const Frame& frame, const Session& session) {
    if (!recorder_) {
        const std::time_t now = std::time(nullptr);
        std::tm utc{};
        gmtime_r(&now, &utc);
        char stamp[32];
        std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &utc);
        name_ = fmt::format("{}-{:04}.attn", stamp, number_);
        recorder_ = std::make_unique<SessionRecorder>(session, (std::filesystem::path(folder_) / name_).string());
    }
    Frame copy = frame;
    return recorder_->push(std::move(copy));
}

Result<std::string> GenerationRecorder::close() {
    if (!recorder_) return std::string();
    if (Result<void> r = recorder_->close(); !r) return r.error();
    return name_;
}

} // namespace attnscope::server
