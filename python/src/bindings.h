// One function a file: what it adds to the module attnscope._core.
#pragma once

#include <nanobind/nanobind.h>

namespace attnscope::python {

void bind_geometry(nanobind::module_& m);  // LayerInfo
void bind_recording(nanobind::module_& m); // Recording
void bind_answer(nanobind::module_& m);    // answer, answers, attention_map
void bind_scores(nanobind::module_& m);    // PositionScores, prune
void bind_diagnose(nanobind::module_& m);  // Diagnoser
void bind_page(nanobind::module_& m);      // PageAnswers
void bind_session(nanobind::module_& m);   // Session, LiveFrame, Writer

} // namespace attnscope::python
