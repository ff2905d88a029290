// Answers from a recording: the same code that answers a running session, a server and a page.
#include "arrays.h"
#include "attention_fields.h"
#include "bindings.h"
#include "errors.h"
#include "recording_pool.h"

#include <attnscope/attention_map.h>
#include <attnscope/attention_source.h>
#include <attnscope/attention_view.h>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

template <typename T> Array<T> copy(std::span<const T> values) {
    return array(std::vector<T>(values.begin(), values.end()));
}

nb::dict scores_dict(const PositionScores& scores, const std::vector<Accumulate>& wanted) {
    nb::dict d;
    for (const Accumulate what : wanted) {
        const char* const name = accumulate_name(what);
        switch (what) {
        case Accumulate::total: d[name] = copy(scores.total()); break;
        case Accumulate::mean: d[name] = array(scores.mean()); break;
        case Accumulate::window_mean: d[name] = array(scores.window_mean()); break;
        case Accumulate::last: d[name] = array(scores.last()); break;
        case Accumulate::brightness: d[name] = copy(scores.brightness()); break;
        }
    }
    if (!wanted.empty()) d["visits"] = copy(scores.visits());
    return d;
}

nb::dict answer(RecordingPool& pool, int64_t token, const nb::dict& fields, int64_t n_prompt) {
    const AttentionRequest request = attention_request(fields);
    AttentionAnswer answered;
    {
        const nb::gil_scoped_release unlocked;
        const RecordingPool::Lease reader = pool.lease();
        const auto source = value(AttentionSource::of(*reader));
        const auto view =
            value(AttentionView::create(*source, request, {.n_prompt = n_prompt, .n_threads = n_threads()}));
        answered = value(view->answer(token));
    }
    return answer_dict(std::move(answered));
}

// (answers of tokens [begin, end) that have queries and whose turn it is, scores over all of them)
nb::tuple answers(RecordingPool& pool, int64_t begin, int64_t end, const nb::dict& fields, int64_t n_prompt) {
    const AttentionRequest request = attention_request(fields);
    std::vector<AttentionAnswer> all;
    PositionScores scores;
    {
        const nb::gil_scoped_release unlocked;
        const RecordingPool::Lease reader = pool.lease();
        const auto source = value(AttentionSource::of(*reader));
        const auto view =
            value(AttentionView::create(*source, request, {.n_prompt = n_prompt, .n_threads = n_threads()}));
        value(view->each({begin, end}, [&](AttentionAnswer&& next) -> Result<void> {
            check_signals();
            all.push_back(std::move(next));
            return {};
        }));
        scores = view->scores();
    }
    nb::list list;
    for (AttentionAnswer& one : all) list.append(answer_dict(std::move(one)));
    return nb::make_tuple(list, scores_dict(scores, request.accumulate));
}

nb::tuple map(RecordingPool& pool, const std::vector<int32_t>& layers, const std::vector<int32_t>& heads,
              std::pair<int64_t, int64_t> tokens, std::pair<int64_t, int64_t> columns, int64_t tokens_per_tile,
              int64_t columns_per_tile, bool each_row, bool largest, bool exact) {
    AttentionMap made;
    {
        const nb::gil_scoped_release unlocked;
        MapRequest request;
        request.rows.layers = layers;
        request.rows.heads = heads;
        request.tokens = {tokens.first, tokens.second};
        request.columns = {columns.first, columns.second};
        request.tokens_per_tile = tokens_per_tile;
        request.columns_per_tile = columns_per_tile;
        request.each_row = each_row;
        request.value = largest ? TileValue::largest : TileValue::share;
        request.exact = exact;
        request.n_threads = n_threads();
        const RecordingPool::Lease reader = pool.lease();
        const auto source = value(AttentionSource::of(*reader));
        made = value(attention_map(*source, request));
    }
    const std::vector<size_t> shape(made.shape.begin(), made.shape.end());
    return nb::make_tuple(array(std::move(made.values), shape), nb::make_tuple(made.columns.begin, made.columns.end),
                          array(std::move(made.n_tokens)));
}

} // namespace

void bind_answer(nb::module_& m) {
    m.def("answer", &answer, nb::arg("recording"), nb::arg("token"), nb::arg("fields"), nb::arg("n_prompt"));
    m.def("answers", &answers, nb::arg("recording"), nb::arg("begin"), nb::arg("end"), nb::arg("fields"),
          nb::arg("n_prompt"));
    m.def("attention_map", &map, nb::arg("recording"), nb::arg("layers"), nb::arg("heads"), nb::arg("tokens"),
          nb::arg("columns"), nb::arg("tokens_per_tile"), nb::arg("columns_per_tile"), nb::arg("each_row"),
          nb::arg("largest"), nb::arg("exact"));
}

} // namespace attnscope::python
