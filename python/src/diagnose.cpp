// What is wrong with a capture: of a file, a folder, or arrays in memory.
#include "bindings.h"
#include "errors.h"

#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

using Tensor = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

nb::dict as_dict(const TokenFacts& t, Keep keep) {
    nb::dict d;
    d["token"] = t.index;
    d["number"] = t.number;
    d["kind"] = token_kind_name(t.kind);
    d["keep"] = keep_name(keep);
    d["n_layer"] = t.n_layer;
    d["n_head"] = t.n_head;
    d["n_columns"] = t.n_context;
    d["min"] = t.numbers.min;
    d["max"] = t.numbers.max;
    d["sum"] = t.numbers.sum;
    d["row_sum_min"] = t.numbers.row_sum_min;
    d["row_sum_max"] = t.numbers.row_sum_max;
    d["n_not_finite"] = t.numbers.n_not_finite;
    d["n_masked"] = t.numbers.n_masked;
    d["distinct_layers"] = t.layers.distinct;
    d["equal_layers"] = t.layers.equal;
    d["stale_layers"] = t.layers.stale;
    d["repeats"] = t.layers.repeats;
    d["padding"] = t.columns.padding;
    d["head_group"] = t.layers.head_group;
    d["error"] = t.error;
    return d;
}

nb::dict as_dict(const Diagnosis& diagnosis) {
    nb::dict d;
    d["cause"] = cause_name(diagnosis.cause());
    d["good"] = diagnosis.good();
    d["conclusion"] = diagnosis.conclusion;
    d["pattern"] = diagnosis.pattern.sentence;
    d["period"] = diagnosis.pattern.period;
    d["format"] = diagnosis.dump.format;
    d["storage"] = diagnosis.dump.storage;
    d["notes"] = diagnosis.dump.notes;
    nb::list findings;
    for (const Finding& f : diagnosis.findings) {
        nb::dict finding;
        finding["cause"] = cause_name(f.cause);
        finding["title"] = cause_title(f.cause);
        finding["damage"] = cause_is_damage(f.cause);
        finding["n_tokens"] = f.n_tokens;
        finding["evidence"] = f.evidence;
        finding["keep"] = f.keep;
        finding["fix"] = f.fix;
        finding["undecided"] = f.undecided;
        findings.append(finding);
    }
    d["findings"] = findings;
    nb::list tokens;
    for (size_t i = 0; i < diagnosis.tokens.size(); ++i) tokens.append(as_dict(diagnosis.tokens[i], diagnosis.keep[i]));
    d["tokens"] = tokens;
    return d;
}

nb::dict diagnose_path(const std::string& path, const std::vector<int64_t>& shape, const std::string& name) {
    Diagnosis diagnosis;
    {
        const nb::gil_scoped_release unlocked;
        CaptureOptions options;
        options.shape = shape;
        options.array = name;
        const auto reader = value(DumpReader::open(path, options));
        diagnosis = value(diagnose_dump(*reader, [](int64_t) { check_signals(); }));
    }
    return as_dict(diagnosis);
}

// Tokens of an iterable of (layers, heads, columns) arrays, one in memory at a time.
nb::dict diagnose_arrays(const nb::object& arrays, const std::string& storage, bool rectangular, int64_t n_tokens,
                         bool learned_sinks) {
    DumpInfo info;
    info.path = "arrays";
    info.format = "arrays";
    info.storage = storage;
    info.rectangular = rectangular;
    info.n_tokens = n_tokens;
    info.model.learned_sinks = learned_sinks;
    Diagnoser diagnoser(info);
    std::optional<Tensor> before; // borrowed until the token after the next
    int64_t index = 0;
    for (const nb::handle item : arrays) {
        const auto tensor = nb::cast<Tensor>(item);
        if (tensor.shape(0) > INT32_MAX || tensor.shape(1) > INT32_MAX || tensor.size() > size_t(max_token_elements)) {
            throw Failure{
                {ErrorKind::unsupported, "token " + std::to_string(index) + " is too large: at most 2^31 elements"}};
        }
        if (tensor.size() == 0) {
            throw Failure{{ErrorKind::unsupported, "token " + std::to_string(index) +
                                                       " is empty: there are no layers, heads or columns in it"}};
        }
        DumpToken token;
        token.index = token.number = index;
        token.source = "token " + std::to_string(index);
        token.n_layer = static_cast<int32_t>(tensor.shape(0));
        token.n_head = static_cast<int32_t>(tensor.shape(1));
        token.n_context = static_cast<int64_t>(tensor.shape(2));
        token.values = {tensor.data(), tensor.size()};
        {
            const nb::gil_scoped_release unlocked;
            diagnoser.add(token);
        }
        check_signals();
        before = tensor;
        ++index;
    }
    if (index == 0) throw Failure{{ErrorKind::invalid_argument, "there are no tokens to diagnose"}};
    Diagnosis diagnosis;
    {
        const nb::gil_scoped_release unlocked;
        diagnosis = diagnoser.finish();
    }
    return as_dict(diagnosis);
}

} // namespace

void bind_diagnose(nb::module_& m) {
    m.def("diagnose_path", &diagnose_path, nb::arg("path"), nb::arg("shape"), nb::arg("array"));
    m.def("diagnose_arrays", &diagnose_arrays, nb::arg("arrays"), nb::arg("storage"), nb::arg("rectangular"),
          nb::arg("n_tokens"), nb::arg("learned_sinks"));
}

} // namespace attnscope::python
