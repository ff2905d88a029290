// The importers behind DumpReader::open: one file a format.
#pragma once

#include <attnscope/dump_reader.h>

#include "base/bounded_json.h"
#include "base/input_file.h"
#include "formats/stored_array.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::formats {

using OpenedDump = Result<std::unique_ptr<DumpReader>>;

OpenedDump open_halo_weave(const std::string& folder);                       // import_halo_weave.cpp
OpenedDump open_npy(const std::string& path, const CaptureOptions& options); // import_npy.cpp
OpenedDump open_npz(const std::string& path, const CaptureOptions& options); // import_npz.cpp
OpenedDump open_safetensors(const std::string& path,
                            const CaptureOptions& options); // import_safetensors.cpp
// A folder of .npy files, or of the shards of a safetensors file; `path` may be the shards' index.
bool is_array_folder(const std::string& path);
OpenedDump open_array_folder(const std::string& path, const CaptureOptions& options); // import_array_folder.cpp
OpenedDump open_raw(const std::string& path, const CaptureOptions& options);          // import_raw.cpp
OpenedDump open_attn(const std::string& path);                                        // import_attn.cpp

// The tensors of one safetensors file; what cannot be one is told in `notes`.
Result<std::vector<StoredArray>> safetensors_arrays(std::shared_ptr<base::InputFile> file,
                                                    std::vector<std::string>& notes);

// The older Halo Weave form: one JSON file a token. Fills `token` (all but `values`) and `values`.
Result<void> parse_halo_weave_json(const std::string& text, const std::string& name, DumpToken& token,
                                   std::vector<float>& values); // import_halo_weave_json.cpp

// Model facts under the names of Halo Weave's /api/v1/model, in `metadata` itself or in an object inside it.
StatedModel stated_model(const nlohmann::json& metadata);

// [layers, heads, context] of a shape: three extents, or four with a batch of one first, or one (an
// aggregate: one row). Empty where the shape is none of these.
std::vector<int64_t> token_shape(std::vector<int64_t> shape);

} // namespace attnscope::formats
