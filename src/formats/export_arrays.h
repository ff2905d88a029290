// Rows as arrays for NumPy: .npy (NEP 1) and safetensors. Written token by token; memory for one token only. Rows that are not there
// (of a layer that was not captured, a head that a layer has not got, a layer that a token takes no part in) are NaN: row_mark.h.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace attnscope::formats {

struct ExportSelection {
    std::vector<int64_t> tokens; // empty: all that have one of the rows; not_found where one of those named has none
    RowSelection rows;
};
using ExportProgress = std::function<void(int64_t done, int64_t total)>;

// One array (tokens, layers, heads, columns) float32 in one file; columns beyond a token are 0. With a single token
// in the selection the array is (layers, heads, columns).
Result<int64_t> export_npy(Recording& recording, const ExportSelection& selection, const std::string& path,
                           const ExportProgress& progress = {});
// token_00041.npy (layers, heads, columns) for each token, in a folder that is created.
Result<int64_t> export_npy_folder(Recording& recording, const ExportSelection& selection, const std::string& folder,
                                  const ExportProgress& progress = {});
// One file with a tensor "token_00041" (layers, heads, columns) for each token, and the token ids as "token_ids".
Result<int64_t> export_safetensors(Recording& recording, const ExportSelection& selection, const std::string& path,
                                   const ExportProgress& progress = {});

} // namespace attnscope::formats
