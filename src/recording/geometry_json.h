// Geometry as JSON, and what a valid one is.
#pragma once

#include <attnscope/recording.h>

#include <optional>
#include <string>

namespace attnscope::recording {

std::string geometry_to_json(const Geometry& geometry);
// Nothing when the text is not a geometry; geometry_problem() must still be asked. `unknown` becomes the first member that
// is not known, if there is one: a layer with such a rule would give wrong rows.
std::optional<Geometry> geometry_from_json(const std::string& text, std::string& unknown);
// What is wrong with a geometry, in words; empty: nothing. Afterwards no product of its numbers overflows and
// every index in it is inside its array.
std::string geometry_problem(const Geometry& geometry);

std::string model_to_json(const ModelIdentity& model);
std::optional<ModelIdentity> model_from_json(const std::string& text);

} // namespace attnscope::recording
