// RecordingWriter::create with a layout of one's own: small pages and chunks make small files for tests and
// fuzzers.
#pragma once

#include "recording/layout.h"

#include <attnscope/recording.h>

#include <memory>
#include <optional>
#include <string>

namespace attnscope::recording {

Result<std::unique_ptr<RecordingWriter>> create_writer(const std::string& path, const RecordingInfo& info,
                                                       const WriterOptions& options, std::optional<Layout> layout);

} // namespace attnscope::recording
