// A recording: what it says of itself, its tokens, its rows, and whether it is true.
#include "arrays.h"
#include "bindings.h"
#include "errors.h"
#include "recording_pool.h"
#include "rows_block.h"
#include "tensors.h"

#include <attnscope/verify.h>

#include <nanobind/stl/function.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <numeric>
#include <optional>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

int64_t seen(const Frame& frame) {
    int64_t n = frame.index + 1;
    for (const Ranges& ranges : frame.visible) {
        if (!ranges.empty()) n = std::max(n, ranges.back().end);
    }
    return n;
}

nb::dict model(const ModelIdentity& m) {
    nb::dict d;
    d["path"] = m.path;
    d["name"] = m.name;
    d["architecture"] = m.architecture;
    d["description"] = m.description;
    d["file_bytes"] = m.file_bytes;
    d["sha256"] = m.sha256;
    d["n_layer"] = m.n_layer;
    d["n_vocab"] = m.n_vocab;
    d["n_ctx_train"] = m.n_ctx_train;
    return d;
}

// Everything about tokens [begin, end) but their rows, as columns of a table.
nb::dict tokens(RecordingPool& pool, int64_t begin, int64_t end) {
    std::vector<int32_t> id, position;
    std::vector<uint8_t> generated, batched;
    std::vector<uint32_t> verdict;
    std::vector<int64_t> columns;
    std::vector<uint8_t> with_rows; // (token, layer)
    const std::vector<LayerInfo> layers = pool.info()->geometry.layers;
    {
        const nb::gil_scoped_release unlocked;
        const RecordingPool::Lease reader = pool.lease();
        constexpr int64_t at_once = 4096;
        for (int64_t at = begin; at < end; at += at_once) {
            for (const Frame& frame : value(reader->frames(at, std::min(end, at + at_once)))) {
                id.push_back(frame.token);
                position.push_back(frame.position);
                generated.push_back(frame.kind == FrameKind::generated);
                batched.push_back(frame.batched);
                verdict.push_back(frame.verdict);
                columns.push_back(seen(frame));
                for (const LayerInfo& layer : layers)
                    with_rows.push_back(layer.captured() && has_rows(layer, frame.visible));
            }
            check_signals();
        }
    }
    nb::dict d;
    d["token"] = array(std::move(id));
    d["position"] = array(std::move(position));
    d["generated"] = array(std::move(generated));
    d["batched"] = array(std::move(batched));
    d["verdict"] = array(std::move(verdict));
    d["columns"] = array(std::move(columns));
    d["has_rows"] = array(std::move(with_rows));
    return d;
}

Array<float> rows(RecordingPool& pool, const std::vector<int64_t>& token, const std::vector<int32_t>& layers,
                  const std::vector<int32_t>& heads) {
    RowsBlock block;
    {
        const nb::gil_scoped_release unlocked;
        block = rows_block(pool, token, layers, heads, check_signals);
    }
    float* const data = block.weights.get();
    return array(data, {token.size(), layers.size(), heads.size(), static_cast<size_t>(block.n_columns)},
                 std::move(block.weights));
}

// What the library alone takes for rows of one token, without Python's part: for python/bench/speed.py.
double rows_seconds(RecordingPool& pool, int64_t token, const std::vector<int32_t>& layers,
                    const std::vector<int32_t>& heads) {
    const nb::gil_scoped_release unlocked;
    const auto begin = std::chrono::steady_clock::now();
    value(pool.lease()->rows(token, {layers, heads}));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Rows of one token, of all layers and heads (layer < 0) or of one of each: (layers, heads, columns) or (columns). In bounds.
Array<float> token_rows(RecordingPool& pool, int64_t token, int32_t layer, int32_t head) {
    RowsBlock block;
    std::vector<int32_t> layers{layer}, heads{head};
    {
        const nb::gil_scoped_release unlocked;
        if (layer < 0) {
            const auto info = pool.info();
            layers.resize(info->geometry.layers.size());
            heads.resize(static_cast<size_t>(info->geometry.max_heads()));
            std::iota(layers.begin(), layers.end(), 0);
            std::iota(heads.begin(), heads.end(), 0);
        }
        block = rows_block(pool, {token}, layers, heads, check_signals);
    }
    float* const data = block.weights.get();
    const auto n_columns = static_cast<size_t>(block.n_columns);
    if (layer >= 0) return array(data, {n_columns}, std::move(block.weights));
    return array(data, {layers.size(), heads.size(), n_columns}, std::move(block.weights));
}

nb::dict verify(RecordingPool& pool, int64_t proofs, bool file_check, const nb::object& progress) {
    VerifyReport report;
    {
        const nb::gil_scoped_release unlocked;
        VerifyOptions options;
        options.proofs = proofs;
        options.file_check = file_check;
        options.progress = [&](const char* step, double fraction) {
            check_signals();
            const nb::gil_scoped_acquire locked;
            if (!progress.is_none()) progress(step, fraction);
        };
        const std::unique_ptr<Recording> reader =
            pool.open_again(); // others remember pages that may have changed since
        report = value(verify_recording(*reader, options));
    }
    nb::dict d;
    d["good"] = report.good;
    d["complete"] = report.complete;
    d["damage"] = report.damage;
    d["n_tokens"] = report.n_frames;
    d["n_ok"] = report.n_ok;
    d["n_witnesses"] = report.n_witnesses;
    d["n_proven_again"] = report.n_proven_again;
    d["pairs_witnessed"] = report.pairs_witnessed;
    d["pairs"] = report.pairs;
    d["worst_ratio"] = report.worst_ratio;
    d["worst_fingerprint"] = report.worst_fingerprint;
    d["absent"] = report.absent;
    nb::list frames;
    for (const FrameVerdict& f : report.frames) {
        nb::dict frame;
        frame["token"] = f.index;
        frame["verdict"] = verdict_text(f.verdict);
        frame["worst_error"] = f.worst_error;
        frame["worst_tolerance"] = f.worst_tolerance;
        frame["fingerprint_error"] = f.fingerprint_error;
        frame["proven_again"] = f.proven_again;
        frames.append(frame);
    }
    d["tokens"] = frames;
    return d;
}

nb::list witnesses(RecordingPool& pool, int64_t index) {
    Frame frame;
    {
        const nb::gil_scoped_release unlocked;
        frame = value(pool.lease()->frame(index));
    }
    nb::list list;
    for (const Witness& w : frame.witnesses) {
        nb::dict d;
        d["layer"] = w.layer;
        d["head"] = w.head;
        d["error"] = w.error;
        d["tolerance"] = w.tolerance;
        d["row_sum"] = w.row_sum;
        list.append(d);
    }
    return list;
}

nb::list sequences(const RecordingPool& pool) {
    std::vector<Sequence> all;
    {
        const nb::gil_scoped_release unlocked;
        all = pool.sequences();
    }
    nb::list list;
    for (const Sequence& s : all) {
        nb::dict d;
        d["id"] = s.id;
        d["label"] = s.label;
        d["n_tokens"] = s.n_frames;
        d["parent"] = s.parent;
        d["n_shared"] = s.n_shared;
        d["ended"] = s.ended;
        d["end_reason"] = s.end_reason;
        list.append(d);
    }
    return list;
}

} // namespace

void bind_recording(nb::module_& m) {
    nb::class_<RecordingPool>(m, "Recording", "A recording on disk, for any number of threads.")
        .def(
            "__init__",
            [](RecordingPool* self, std::string path, int64_t sequence) {
                const nb::gil_scoped_release unlocked;
                new (self) RecordingPool(std::move(path), sequence);
            },
            nb::arg("path"), nb::arg("sequence") = 0)
        .def_prop_ro("path", &RecordingPool::path)
        .def_prop_ro("file", &RecordingPool::file)
        .def_prop_ro("sequence", &RecordingPool::sequence)
        .def_prop_ro("sequences", &sequences)
        .def_prop_ro("n_tokens", [](const RecordingPool& p) { return p.info()->n_frames; })
        .def_prop_ro("complete", [](const RecordingPool& p) { return p.info()->complete; })
        .def_prop_ro("end_reason", &RecordingPool::end_reason)
        .def_prop_ro("format_version", [](const RecordingPool& p) { return p.info()->format_version; })
        .def_prop_ro("created", [](const RecordingPool& p) { return p.info()->created; })
        .def_prop_ro("writer", [](const RecordingPool& p) { return p.info()->writer; })
        .def_prop_ro("engine", [](const RecordingPool& p) { return p.info()->engine; })
        .def_prop_ro("entry", [](const RecordingPool& p) { return p.info()->entry; })
        .def_prop_ro("settings_json", [](const RecordingPool& p) { return p.info()->settings_json; })
        .def_prop_ro("notice", [](const RecordingPool& p) { return p.info()->notice; })
        .def_prop_ro("model", [](const RecordingPool& p) { return model(p.info()->model); })
        .def_prop_ro("layers", [](const RecordingPool& p) { return p.info()->geometry.layers; })
        .def_prop_ro("max_heads", [](const RecordingPool& p) { return p.info()->geometry.max_heads(); })
        .def_prop_ro("closed", &RecordingPool::closed)
        .def("close", &RecordingPool::close)
        .def("refresh", &RecordingPool::refresh, nb::call_guard<nb::gil_scoped_release>())
        .def("tokens", &tokens, nb::arg("begin"), nb::arg("end"))
        .def(
            "token_text",
            [](RecordingPool& p, const std::vector<int32_t>& ids) {
                const RecordingPool::Lease reader = p.lease();
                nb::list texts;
                for (const int32_t id : ids) {
                    const std::string text = reader->token_text(id);
                    texts.append(nb::bytes(text.data(), text.size()));
                }
                return texts;
            },
            nb::arg("ids"))
        .def("rows", &rows, nb::arg("tokens"), nb::arg("layers"), nb::arg("heads"))
        .def("rows_seconds", &rows_seconds, nb::arg("token"), nb::arg("layers"), nb::arg("heads"))
        .def("token_rows", &token_rows, nb::arg("token"), nb::arg("layer"), nb::arg("head"))
        .def(
            "keys", [](RecordingPool& p, int32_t layer) { return layer_keys(p, layer); }, nb::arg("layer"))
        .def(
            "queries",
            [](RecordingPool& p, int32_t layer, const std::vector<int64_t>& t) { return layer_queries(p, layer, t); },
            nb::arg("layer"), nb::arg("tokens"))
        .def("witnesses", &witnesses, nb::arg("token"))
        .def("verify", &verify, nb::arg("proofs"), nb::arg("file_check"), nb::arg("progress").none());
}

} // namespace attnscope::python
