// A llama.cpp session, the frames it yields with their rows, and the writer that records them.
#include "arrays.h"
#include "bindings.h"
#include "errors.h"
#include "fields.h"
#include "live_store.h"
#include "models/model_store.h"

#include <attnscope/session.h>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

// The session with what Python needs beside it. generate() runs on one thread at a time; stop() from any.
struct PySession {
    std::unique_ptr<Session> session;
    std::shared_ptr<LiveStore> store; // keys of the context, for the rows of frames; made when the geometry is known
    std::atomic<bool> stop{false};
    std::atomic<bool> running{false};
};

struct Running {
    explicit Running(PySession& s) : s_(s) {
        if (s_.running.exchange(true))
            throw Failure{
                {ErrorKind::invalid_argument, "this session is generating already: one generation at a time"}};
    }
    ~Running() { s_.running = false; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

private:
    PySession& s_;
};

Session& engine(PySession& s) {
    if (!s.session) throw Failure{{ErrorKind::invalid_argument, "this session was closed"}};
    return *s.session;
}

template <typename T> void take(const nb::dict& d, const char* name, T& to) {
    if (d.contains(name) && !d[name].is_none()) to = field<T>(d[name], name);
}

SessionOptions session_options(const std::string& model_path, const nb::dict& d) {
    SessionOptions o;
    o.model_path = model_path;
    take(d, "n_ctx", o.n_ctx);
    take(d, "n_batch", o.n_batch);
    take(d, "n_threads", o.n_threads);
    take(d, "n_gpu_layers", o.n_gpu_layers);
    take(d, "devices", o.devices);
    take(d, "rpc_servers", o.rpc_servers);
    take(d, "cache_type_k", o.cache_type_k);
    take(d, "cache_type_v", o.cache_type_v);
    take(d, "witness", o.witness);
    take(d, "only_read", o.only_read);
    take(d, "encoder_decoder", o.encoder_decoder);
    take(d, "quiet", o.quiet);
    std::string flash = "auto";
    take(d, "flash_attention", flash);
    o.flash_attention = value(flash_attention_from_name(flash));
    std::string entry = "auto";
    take(d, "entry", entry);
    o.entry = value(entry_from_name(entry));
    return o;
}

GenerateOptions generate_options(const nb::dict& d) {
    GenerateOptions o;
    take(d, "n_predict", o.n_predict);
    take(d, "ignore_eos", o.ignore_eos);
    take(d, "prompt_rows", o.prompt_rows.last);
    SamplingOptions& s = o.sampling;
    take(d, "temperature", s.temperature);
    take(d, "top_k", s.top_k);
    take(d, "top_p", s.top_p);
    take(d, "min_p", s.min_p);
    take(d, "typical_p", s.typical_p);
    take(d, "repeat_penalty", s.repeat_penalty);
    take(d, "repeat_last_n", s.repeat_last_n);
    take(d, "presence_penalty", s.presence_penalty);
    take(d, "frequency_penalty", s.frequency_penalty);
    take(d, "seed", s.seed);
    take(d, "mirostat", s.mirostat);
    take(d, "mirostat_tau", s.mirostat_tau);
    take(d, "mirostat_eta", s.mirostat_eta);
    take(d, "dry_multiplier", s.dry_multiplier);
    take(d, "xtc_probability", s.xtc_probability);
    take(d, "logit_bias", s.logit_bias);
    return o;
}

nb::dict result_dict(const GenerateResult& r) {
    nb::dict d;
    d["n_prompt"] = r.n_prompt;
    d["n_generated"] = r.n_generated;
    d["finish_reason"] = r.finish_reason;
    d["prompt_seconds"] = r.prompt_seconds;
    d["generate_seconds"] = r.generate_seconds;
    d["seed"] = r.seed;
    return d;
}

// Calls Python only where somebody waits for it, and looks for signals a few times a second otherwise.
class Pulse {
public:
    bool due() {
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(100)) return false;
        last_ = now;
        return true;
    }

private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// What Python raised in a callback waits until the engine is in order again.
class PendingError {
public:
    template <typename F> bool call(F&& f) {
        try {
            f();
            return true;
        } catch (...) {
            error_ = std::current_exception();
            return false;
        }
    }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

private:
    std::exception_ptr error_;
};

// Ends the generation where `call` threw; the error is rethrown when the engine is done.
Error ended() {
    return {ErrorKind::engine, "ended by Python"};
}

// Generates into a file. on_text(piece) and on_prompt(tokens read) may be None.
nb::dict record(PySession& s, const std::vector<int32_t>& tokens, const std::string& path, bool overwrite,
                const nb::dict& options, const nb::object& on_text, const nb::object& on_prompt) {
    const Running running(s);
    GenerateOptions o = generate_options(options);
    o.stop = &s.stop;
    GenerateResult done;
    {
        const nb::gil_scoped_release unlocked;
        Session& session = engine(s);
        std::unique_ptr<RecordingWriter> writer;
        PendingError pending;
        Pulse pulse;
        const FrameSink sink = [&](Frame&& frame) -> Result<void> {
            if (!writer) {
                WriterOptions w;
                w.overwrite = overwrite;
                auto created = RecordingWriter::create(path, session.recording_info(), w);
                if (!created) return created.error();
                writer = std::move(*created);
                if (Result<void> r = writer->begin(session.geometry()); !r) return r;
            }
            if (pulse.due()) {
                const bool alive = pending.call([&] {
                    check_signals();
                    const nb::gil_scoped_acquire locked;
                    if (!on_prompt.is_none() && frame.kind == FrameKind::prompt) on_prompt(frame.index + 1);
                });
                if (!alive) s.stop = true;
            }
            writer->token_text(frame.token, session.piece(frame.token));
            return writer->push(std::move(frame));
        };
        const TextSink text = [&](int32_t, const std::string& piece) {
            return pending.call([&] {
                const nb::gil_scoped_acquire locked;
                if (PyErr_CheckSignals() != 0) throw nb::python_error();
                if (!on_text.is_none()) on_text(nb::bytes(piece.data(), piece.size()));
            });
        };
        session.reset();
        s.store.reset();
        const Result<GenerateResult> result = session.generate(tokens, o, sink, text);
        // What was captured before an exception or a control-C is closed too: a whole file that says that it was interrupted.
        Result<void> closed;
        if (writer && result && *result->end_reason() != 0) closed = writer->end_sequence(0, result->end_reason());
        if (writer && result && closed) closed = writer->close();
        writer.reset();
        pending.rethrow();
        done = value(result);
        value(closed);
    }
    return result_dict(done);
}

// Yields frames to on_frame(LiveFrame), and each generated token's text to on_text(token, piece); either may return False to end.
nb::dict stream(PySession& s, const std::vector<int32_t>& tokens, const nb::dict& options, bool prompt_frames,
                const nb::object& on_frame, const nb::object& on_text) {
    const Running running(s);
    GenerateOptions o = generate_options(options);
    o.stop = &s.stop;
    GenerateResult done;
    {
        const nb::gil_scoped_release unlocked;
        Session& session = engine(s);
        // The store holds the keys of all that the context holds, or both begin anew.
        if ((s.store ? s.store->size() : 0) != session.n_past()) {
            session.reset();
            s.store.reset();
        }
        PendingError pending;
        Pulse pulse;
        const int64_t n_prompt = session.n_past() + static_cast<int64_t>(tokens.size());
        const FrameSink sink = [&](Frame&& frame) -> Result<void> {
            if (!s.store) s.store = LiveStore::create(session.geometry(), session.n_ctx());
            if (Result<void> r = s.store->append(frame); !r) return r;
            const bool wanted = prompt_frames || frame.kind == FrameKind::generated;
            const bool alive = pending.call([&] {
                if (!wanted && !pulse.due()) return;
                const nb::gil_scoped_acquire locked;
                if (PyErr_CheckSignals() != 0) throw nb::python_error();
                if (!wanted) return;
                const std::string piece = session.piece(frame.token);
                frame.k = {};
                on_frame(std::make_shared<LiveFrame>(s.store, std::move(frame), piece, n_prompt));
            });
            if (!alive) return ended();
            return {};
        };
        const TextSink text = [&](int32_t token, const std::string& piece) {
            if (on_text.is_none()) return true;
            return pending.call([&] {
                const nb::gil_scoped_acquire locked;
                on_text(token, nb::bytes(piece.data(), piece.size()));
            });
        };
        const Result<GenerateResult> result = session.generate(tokens, o, sink, text);
        if (s.store) s.store->truncate(session.n_past());
        pending.rethrow();
        done = value(result);
    }
    return result_dict(done);
}

} // namespace

void bind_session(nb::module_& m) {
    bind_live_frame(m);
    m.def(
        "find_model", [](const std::string& name) { return value(models::find_model(name)); }, nb::arg("name"));
    nb::class_<PySession>(m, "Session")
        .def(
            "__init__",
            [](PySession* self, const std::string& model_path, const nb::dict& options) {
                const SessionOptions o = session_options(model_path, options);
                const nb::gil_scoped_release unlocked;
                auto session = value(Session::open(o));
                new (self) PySession;
                self->session = std::move(session);
            },
            nb::arg("model_path"), nb::arg("options"))
        .def("close",
             [](PySession& s) {
                 const Running running(s);
                 const nb::gil_scoped_release unlocked;
                 s.store.reset();
                 s.session.reset();
             })
        .def_prop_ro("closed", [](const PySession& s) { return !s.session; })
        .def("stop", [](PySession& s) { s.stop = true; })
        // Before a thread is started that generates: what stop() says from then on is meant for that one, begun or not.
        .def("may_run", [](PySession& s) { s.stop = false; })
        .def("reset",
             [](PySession& s) {
                 const Running running(s);
                 engine(s).reset();
                 s.store.reset();
             })
        .def(
            "truncate",
            [](PySession& s, int64_t n) {
                const Running running(s);
                const int64_t kept = engine(s).truncate(n);
                if (s.store) s.store->truncate(kept);
                return kept;
            },
            nb::arg("n"))
        .def(
            "tokenize",
            [](PySession& s, const std::string& text, bool add_special, bool parse_special) {
                return value(engine(s).tokenize(text, add_special, parse_special));
            },
            nb::arg("text"), nb::arg("add_special"), nb::arg("parse_special"))
        .def(
            "piece",
            [](PySession& s, int32_t token) {
                const std::string piece = engine(s).piece(token);
                return nb::bytes(piece.data(), piece.size());
            },
            nb::arg("token"))
        .def(
            "chat_prompt",
            [](PySession& s, const std::vector<std::pair<std::string, std::string>>& messages) {
                std::vector<ChatMessage> chat;
                for (const auto& [role, content] : messages) chat.push_back({role, content});
                return value(engine(s).chat_prompt(std::span<const ChatMessage>(chat)));
            },
            nb::arg("messages"))
        .def_prop_ro("layers", [](PySession& s) { return engine(s).geometry().layers; })
        .def_prop_ro("n_ctx", [](PySession& s) { return engine(s).n_ctx(); })
        .def_prop_ro("n_vocab", [](PySession& s) { return engine(s).n_vocab(); })
        .def_prop_ro("n_past", [](PySession& s) { return engine(s).n_past(); })
        .def_prop_ro("entry", [](PySession& s) { return entry_name(engine(s).entry()); })
        .def_prop_ro("model",
                     [](PySession& s) {
                         const ModelInfo i = engine(s).model_info();
                         nb::dict d;
                         d["name"] = i.name;
                         d["n_layer"] = i.n_layer;
                         d["n_head"] = i.n_head;
                         d["n_head_kv"] = i.n_head_kv;
                         d["n_embd"] = i.n_embd;
                         d["n_ctx_train"] = i.n_ctx_train;
                         d["bos"] = i.bos;
                         d["eos"] = i.eos;
                         d["eot"] = i.eot;
                         d["chat_template"] = i.chat_template;
                         return d;
                     })
        .def("record", &record, nb::arg("tokens"), nb::arg("path"), nb::arg("overwrite"), nb::arg("options"),
             nb::arg("on_text").none(), nb::arg("on_prompt").none())
        .def("stream", &stream, nb::arg("tokens"), nb::arg("options"), nb::arg("prompt_frames"), nb::arg("on_frame"),
             nb::arg("on_text").none());
}

} // namespace attnscope::python
