// AttentionRequest from keyword arguments, and an answer as a dictionary of arrays.
#pragma once

#include <attnscope/attention_request.h>

#include <nanobind/nanobind.h>

namespace attnscope::python {

// Fields by their names in attention_request.h, spans as pairs. Throws Failure, naming what it does not know.
AttentionRequest attention_request(const nanobind::dict& fields);
// "values" (shape) float32, "columns" or None, "index", "reduce", "n_columns", "first_column".
nanobind::dict answer_dict(AttentionAnswer&& answer);

} // namespace attnscope::python
