// Which rows are not there, and why: of layers that were not captured, of heads that a layer has not got, and, of a model with an
// encoder and a decoder (LayerRole), of the layers that a token takes no part in.
#pragma once

#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::recording {

// Why a token that sees `visible` has none of the selected rows, as a sentence without a full stop; empty: it has one. The selection
// must fit the geometry, and so must `visible`.
std::string why_no_rows(const Geometry& geometry, const RowSelection& rows, int64_t token,
                        const std::vector<Ranges>& visible);

// Why none of the selected rows can look at a token, which is the decoder's or of its encoder's text, as a sentence without a full
// stop; empty: some can. The selection must fit the geometry.
std::string why_not_seen(const Geometry& geometry, const RowSelection& rows, int64_t token, bool of_decoder);

// How many rows a token has that sees `visible`: the heads of those captured layers in which it takes part.
int64_t rows_of_token(const Geometry& geometry, const std::vector<Ranges>& visible);

// "layer 3", and where the model numbers it otherwise "layer 3 (5 of the model)", "layer 2 (0 of the decoder)": layers without
// attention are no layers of a recording, and an encoder and its decoder count each for themselves.
std::string layer_text(const Geometry& geometry, int32_t index);
// Each layer of which nothing is recorded, with the reason: "layer 3: ...".
std::vector<std::string> layers_not_captured(const Geometry& geometry);

// Is the token the decoder's, which sees `visible`? False where there is no decoder, or nothing is known of the token (no `visible`).
bool is_of_decoder(const Geometry& geometry, const std::vector<Ranges>& visible);

} // namespace attnscope::recording
