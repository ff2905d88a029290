// Scores of positions and what the pruning policies make of them.
#include "arrays.h"
#include "bindings.h"
#include "errors.h"

#include <attnscope/position_scores.h>
#include <attnscope/prune.h>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T> Array<T> copy(std::span<const T> values) {
    return array(std::vector<T>(values.begin(), values.end()));
}

nb::dict prune_chunks(const std::string& policy, const Scores& scores, int64_t budget,
                      const std::vector<std::pair<int64_t, int64_t>>& chunks, const std::vector<int64_t>& pinned,
                      int64_t recent, int32_t pool) {
    std::vector<Range> ranges;
    for (const auto& [begin, end] : chunks) ranges.push_back({begin, end});
    PruneRequest request;
    request.policy = value(prune_policy_from_name(policy));
    request.scores = {scores.data(), scores.size()};
    request.chunks = ranges;
    request.pinned = pinned;
    request.budget = budget;
    request.recent = recent;
    request.pool = pool;
    PruneResult result = value(prune(request));
    nb::dict d;
    d["fits"] = result.fits;
    d["kept"] = array(std::move(result.kept_tokens));
    d["dropped_chunks"] = array(std::move(result.dropped));
    d["chunk_scores"] = array(std::move(result.chunk_scores));
    return d;
}

} // namespace

void bind_scores(nb::module_& m) {
    nb::class_<PositionScores>(m, "PositionScores",
                               "How much attention each position received, fed one mean row a token. Formulas: "
                               "include/attnscope/position_scores.h.")
        .def(
            "__init__",
            [](PositionScores* self, int32_t window_rows) {
                new (self) PositionScores(std::clamp(window_rows, 1, 512));
            },
            nb::arg("window_rows") = 32)
        .def(
            "add",
            [](PositionScores& s, const Row& row) {
                s.add({row.data(), row.size()});
            },
            nb::arg("row"), "Adds the row of the next token: (columns,) float32, the mean over layers and heads.")
        .def("truncate", &PositionScores::truncate, nb::arg("n"), "Forgets positions n and later.")
        .def_prop_ro("n_positions", &PositionScores::n_positions)
        .def_prop_ro("n_rows", &PositionScores::n_rows, "Rows counted.")
        .def_prop_ro("n_skipped", &PositionScores::n_skipped, "Rows that held a NaN and were not counted.")
        .def(
            "total", [](const PositionScores& s) { return copy(s.total()); },
            "(positions,) float64: accumulated attention (H2O, arXiv 2306.14048).")
        .def(
            "visits", [](const PositionScores& s) { return copy(s.visits()); },
            "(positions,) int64: rows that had this position.")
        .def(
            "brightness", [](const PositionScores& s) { return copy(s.brightness()); },
            "(positions,) float64: magnitude voting.")
        .def(
            "mean", [](const PositionScores& s) { return array(s.mean()); }, "(positions,) float64: total / visits.")
        .def(
            "window_mean", [](const PositionScores& s) { return array(s.window_mean()); },
            "(positions,) float64: mean of the last rows (SnapKV, arXiv 2404.14469).")
        .def(
            "last", [](const PositionScores& s) { return array(s.last()); },
            "(positions,) float64: the last row (TOVA, arXiv 2401.06104).");
    m.def("prune", &prune_chunks, nb::arg("policy"), nb::arg("scores"), nb::arg("budget"), nb::arg("chunks"),
          nb::arg("pinned"), nb::arg("recent"), nb::arg("pool"));
}

} // namespace attnscope::python
