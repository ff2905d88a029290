#include "attention_fields.h"

#include "arrays.h"
#include "errors.h"
#include "fields.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace attnscope::python {

AttentionRequest attention_request(const nb::dict& fields) {
    AttentionRequest r;
    for (const auto& [key, given] : fields) {
        const auto name = field<std::string>(key, "the name of a field");
        if (name == "reduce")
            r.reduce = value(reduce_from_name(field<std::string>(given, name)));
        else if (name == "layers")
            r.rows.layers = field<std::vector<int32_t>>(given, name);
        else if (name == "heads")
            r.rows.heads = field<std::vector<int32_t>>(given, name);
        else if (name == "window")
            r.window = field<int64_t>(given, name);
        else if (name == "top_k")
            r.top_k = field<int32_t>(given, name);
        else if (name == "every")
            r.every = field<int32_t>(given, name);
        else if (name == "window_rows")
            r.window_rows = field<int32_t>(given, name);
        else if (name == "spans") {
            for (const auto& [begin, end] : field<std::vector<std::pair<int64_t, int64_t>>>(given, name))
                r.spans.push_back({begin, end});
        } else if (name == "accumulate") {
            for (const auto& what : field<std::vector<std::string>>(given, name))
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
