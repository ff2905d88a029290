#include "attention_fields.h"

#include "arrays.h"
#include "errors.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace attnscope::python {

AttentionRequest attention_request(const nb::dict& fields) {
    AttentionRequest r;
    for (const auto& [key, field] : fields) {
        const auto name = nb::cast<std::string>(key);
        if (name == "reduce")
            r.reduce = value(reduce_from_name(nb::cast<std::string>(field)));
        else if (name == "layers")
            r.rows.layers = nb::cast<std::vector<int32_t>>(field);
        else if (name == "heads")
            r.rows.heads = nb::cast<std::vector<int32_t>>(field);
        else if (name == "window")
            r.window = nb::cast<int64_t>(field);
        else if (name == "top_k")
            r.top_k = nb::cast<int32_t>(field);
        else if (name == "every")
            r.every = nb::cast<int32_t>(field);
        else if (name == "window_rows")
            r.window_rows = nb::cast<int32_t>(field);
        else if (name == "spans") {
            for (const auto& [begin, end] : nb::cast<std::vector<std::pair<int64_t, int64_t>>>(field))
                r.spans.push_back({begin, end});
        } else if (name == "accumulate") {
            for (const auto& what : nb::cast<std::vector<std::string>>(field))
                r.accumulate.push_back(value(accumulate_from_name(what)));
        } else {
            throw Failure{
                {ErrorKind::invalid_argument,
                 "an attention request has no field '" + name +
                     "': there are reduce, layers, heads, window, top_k, spans, every, accumulate and window_rows"}};
        }
    }
    return r;
}

nb::dict answer_dict(AttentionAnswer&& answer) {
    nb::dict d;
    d["index"] = answer.index;
    d["reduce"] = reduce_name(answer.reduce);
    d["n_columns"] = answer.n_columns;
    d["first_column"] = answer.first_column;
    d["values"] = array(std::move(answer.values), std::vector<size_t>(answer.shape.begin(), answer.shape.end()));
    if (answer.columns.empty())
        d["columns"] = nb::none();
    else
        d["columns"] = array(std::move(answer.columns));
    return d;
}

} // namespace attnscope::python
