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

// Is the token the decoder's, which sees `visible`? False where there is no decoder, or nothing is known of the token (no `visible`).
bool is_of_decoder(const Geometry& geometry, const std::vector<Ranges>& visible);

} // namespace attnscope::recording
