// Records one generation into the folder of recordings.
#pragma once

#include <attnscope/session_recorder.h>

#include <memory>
#include <string>

namespace attnscope::server {

class GenerationRecorder {
public:
    // `number` tells recordings of the same second apart.
    GenerationRecorder(std::string folder, int64_t number) : folder_(std::move(folder)), number_(number) {}

    // The first frame opens the file.
    Result<void> push(const Frame& frame, const Session& session);
    // Marks the file complete; its name inside the folder, or empty when no frame came.
    Result<std::string> close();

private:
    std::string folder_, name_;
    int64_t number_;
    std::unique_ptr<SessionRecorder> recorder_;
};

} // namespace attnscope::server
