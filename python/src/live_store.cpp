#include "live_store.h"

#include "arrays.h"
#include "attention_fields.h"
#include "errors.h"
#include "recording_pool.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

namespace nb = nanobind;

namespace attnscope::python {

std::shared_ptr<LiveStore> LiveStore::create(const Geometry& geometry, int64_t n_ctx) {
    auto store = std::make_shared<LiveStore>();
    store->keys_ = value(KeyStore::create(geometry, n_ctx));
    return store;
}

Result<void> LiveStore::append(const Frame& frame) {
    const std::scoped_lock lock(mutex_);
    return keys_->append(frame);
}

void LiveStore::truncate(int64_t n) {
    const std::scoped_lock lock(mutex_);
    if (n >= keys_->size()) return;
    keys_->truncate(n);
    cuts_.push_back(n);
}

int64_t LiveStore::size() const {
    const std::scoped_lock lock(mutex_);
    return keys_->size();
}

size_t LiveStore::life() const {
    const std::scoped_lock lock(mutex_);
    return cuts_.size();
}

Result<AttentionAnswer> LiveStore::answer(const Frame& frame, size_t life, const AttentionRequest& request,
                                          int64_t n_prompt) {
    const std::scoped_lock lock(mutex_);
    if (std::any_of(cuts_.begin() + static_cast<ptrdiff_t>(life), cuts_.end(),
                    [&](int64_t n) { return n <= frame.index; })) {
        return Error{ErrorKind::not_found, "the context was cut since this frame came: its keys are gone. Ask for rows "
                                           "before the next generation, or record"};
    }
    auto view = AttentionView::create(*keys_, request, {.n_prompt = n_prompt, .n_threads = n_threads()});
    if (!view) return view.error();
    return (*view)->answer(frame);
}

void bind_live_frame(nb::module_& m) {
    nb::class_<LiveFrame>(
        m, "Frame",
        "What one decoded token yields: the token, and the row of every layer and head when they are asked for.")
        .def_prop_ro(
            "index", [](const LiveFrame& f) { return f.frame.index; }, "Its place in the context: 0, 1, 2, ...")
        .def_prop_ro(
            "token", [](const LiveFrame& f) { return f.frame.token; }, "Vocabulary id.")
        .def_prop_ro(
            "bytes", [](const LiveFrame& f) { return nb::bytes(f.text.data(), f.text.size()); },
            "The token's text as it is, which may end in the middle of a character.")
        .def_prop_ro(
            "text",
            [](const LiveFrame& f) {
                return nb::steal(PyUnicode_DecodeUTF8(f.text.data(), Py_ssize_t(f.text.size()), "replace"));
            },
            nb::sig("def text(self) -> str"), "The token's text.")
        .def_prop_ro(
            "position", [](const LiveFrame& f) { return f.frame.position; },
            "Place in the sequence as the engine numbered it.")
        .def_prop_ro("kind",
                     [](const LiveFrame& f) { return f.frame.kind == FrameKind::prompt ? "prompt" : "generated"; })
        .def_prop_ro(
            "verdict", [](const LiveFrame& f) { return verdict_text(f.frame.verdict); },
            "'ok', or what is wrong with it.")
        .def(
            "answer",
            [](const LiveFrame& f, const std::optional<nb::dict>& fields, const nb::kwargs& named) {
                nb::dict all;
                if (fields) all.update(*fields);
                all.update(named);
                const AttentionRequest request = attention_request(all);
                AttentionAnswer answer;
                {
                    const nb::gil_scoped_release unlocked;
                    value(check_request(request, f.store->geometry()));
                    answer = value(f.store->answer(f.frame, f.life, request, f.n_prompt));
                }
                return nb::module_::import_("attnscope.answers").attr("Answer")(answer_dict(std::move(answer)));
            },
            nb::arg("fields") = nb::none(), nb::arg("named"),
            nb::sig("def answer(self, fields: dict[str, object] | None = None, **named: object) -> "
                    "attnscope.answers.Answer"),
            "What the row of this token answers: ``frame.answer(reduce=\"top_k\", top_k=3)``, with the names of "
            "Run.answer() "
            "(reduce, layers, heads, window, top_k, spans), or the same in a dictionary. Without any: the whole row, "
            "(layers, "
            "heads, columns) float32. It can be asked as long as the session has the token in its context.");
}

} // namespace attnscope::python
