// What is wrong with a capture: of a file, a folder, or arrays in memory.
#include "bindings.h"
#include "errors.h"

#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
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
    d["left_out"] = diagnosis.dump.left_out;
    nb::dict axes;
    axes["read_as"] = diagnosis.dump.axes;
    axes["why"] = diagnosis.dump.axes_why;
    axes["prompt"] = diagnosis.dump.prompt;
    d["axes"] = axes;
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

nb::dict diagnose_path(const std::string& path, const std::vector<int64_t>& shape, const std::string& name,
                       const std::string& axes, bool learned_sinks) {
    Diagnosis diagnosis;
    {
        const nb::gil_scoped_release unlocked;
        CaptureOptions options;
        options.shape = shape;
        options.array = name;
        options.axes = axes;
        options.learned_sinks = learned_sinks;
        const auto reader = value(DumpReader::open(path, options));
        diagnosis = value(diagnose_dump(*reader, [](int64_t) { check_signals(); }));
    }
    return as_dict(diagnosis);
}

using Part = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Named =
    std::tuple<std::string, std::string, std::vector<int64_t>, std::vector<Part>>; // name, type, shape, its parts

// Whole arrays, read as a file that held them would be.
nb::dict diagnose_memory(const std::vector<Named>& given, const std::string& axes, const std::string& axes_why,
                         bool learned_sinks) {
    std::vector<MemoryArray> arrays;
    for (const auto& [name, type, shape, parts] : given) {
        arrays.push_back({name, type, shape, {}});
        for (const Part& part : parts)
            arrays.back().parts.emplace_back(static_cast<const uint8_t*>(part.data()), part.nbytes());
    }
    Diagnosis diagnosis;
    {
        const nb::gil_scoped_release unlocked;
        CaptureOptions options;
        options.axes = axes;
        options.axes_why = axes_why;
        options.learned_sinks = learned_sinks;
        const auto reader = value(DumpReader::open_arrays(arrays, options));
        diagnosis = value(diagnose_dump(*reader, [](int64_t) { check_signals(); }));
    }
    return as_dict(diagnosis);
}

// Tokens of an iterable of (layers, heads, columns) arrays, one in memory at a time.
nb::dict diagnose_tokens(const nb::object& arrays, bool learned_sinks) {
    DumpInfo info;
    info.path = "arrays";
    info.format = "arrays";
    info.storage = "float32";
    info.model.learned_sinks = learned_sinks;
    Diagnoser diagnoser(info);
    std::optional<Tensor> before; // borrowed until the token after the next
    int64_t index = 0, narrowest = INT64_MAX, widest = 0;
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
        narrowest = std::min(narrowest, token.n_context);
        widest = std::max(widest, token.n_context);
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
    diagnosis.dump.n_tokens = index;
    diagnosis.dump.axes = "token " + std::to_string(index) + " (in order), layer " + std::to_string(before->shape(0)) +
                          ", head " + std::to_string(before->shape(1)) + ", key " +
                          (narrowest < widest ? std::to_string(narrowest) + " to " : "") + std::to_string(widest);
    diagnosis.dump.axes_why = "arrays one after another are tokens, each (layer, head, column)";
    return as_dict(diagnosis);
}

} // namespace

void bind_diagnose(nb::module_& m) {
    m.def("diagnose_path", &diagnose_path, nb::arg("path"), nb::arg("shape"), nb::arg("array"), nb::arg("axes"),
          nb::arg("learned_sinks"));
    m.def("diagnose_memory", &diagnose_memory, nb::arg("arrays"), nb::arg("axes"), nb::arg("axes_why"),
          nb::arg("learned_sinks"));
    m.def("diagnose_tokens", &diagnose_tokens, nb::arg("arrays"), nb::arg("learned_sinks"));
}

} // namespace attnscope::python
