// Which model was this? Enough to recognise the file again without reading all of it.
#pragma once

#include "gguf/gguf_check.h"

#include <attnscope/recording.h>

namespace attnscope::models {

// The SHA-256 of: the first MiB of the file, its last MiB, its size in bytes as 8 bytes little endian. Of a
// file below 2 MiB the two overlap or are the whole file twice. The first MiB holds the keys, the last one
// weights; a changed tokeniser, shape or quantisation changes it, at the cost of 2 MiB read whatever the
// file's size.
Result<std::string> model_sha256(const std::string& path);

// Everything but `description`, which only the loaded model knows (llama_model_desc).
Result<ModelIdentity> model_identity(const std::string& path, const gguf::GgufSummary& summary);

} // namespace attnscope::models
