// A recording as the arguments of other viewers: square patterns of all tokens, and their texts.
#pragma once

#include "formats/export_arrays.h"

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include <string>

namespace attnscope::formats {

// Weights of one file at most: those viewers draw some hundred tokens.
constexpr int64_t most_pattern_numbers = int64_t(1) << 28;

// BertViz takes a tensor (1, heads, query, key) a layer, and the texts. One safetensors file with a tensor "attention.000" for each
// selected layer that has rows, and in its metadata "tokens": the texts as a JSON list.
//   from safetensors import safe_open
//   with safe_open("x.safetensors", "pt") as f:
//       head_view([f.get_tensor(k) for k in sorted(f.keys())], json.loads(f.metadata()["tokens"]))
// Of an encoder and its decoder the pattern is of the text whose layers were selected. Returns the number of tokens.
// invalid_argument: tokens were selected, or too many numbers; not_found: a token without queries, a layer without rows; unsupported:
// layers of different texts, or with different numbers of heads. Rows that are not there would be drawn as rows of nothing.
Result<int64_t> export_bertviz(Recording& recording, const ExportSelection& selection, const std::string& path,
                               const ExportProgress& progress = {});

// CircuitsVis and attnview take one layer: {"attention": (heads, query, key), "tokens": [...]}, weights to 6 digits.
//   circuitsvis.attention.attention_heads(**json.load(open("x.json")))
//   attnview.display(**json.load(open("x.json")))
// invalid_argument: not exactly one layer is selected. Otherwise as above.
Result<int64_t> export_layer_json(Recording& recording, const ExportSelection& selection, const std::string& path,
                                  const ExportProgress& progress = {});

} // namespace attnscope::formats
