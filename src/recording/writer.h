// Writers beside RecordingWriter::create.
#pragma once

#include "recording/layout.h"

#include <attnscope/recording.h>

#include <memory>
#include <optional>
#include <string>

namespace attnscope::recording {

// With a layout of one's own: small pages and chunks make small files for tests and fuzzers.
Result<std::unique_ptr<RecordingWriter>> create_writer(const std::string& path, const RecordingInfo& info,
                                                       const WriterOptions& options, std::optional<Layout> layout);
// Goes on with a recording that was closed: it is incomplete until it is closed again. Its sequences have ended; new ones, which may share
// of them, take the numbers after theirs.
Result<std::unique_ptr<RecordingWriter>> write_again(const std::string& path, const WriterOptions& options);

} // namespace attnscope::recording
