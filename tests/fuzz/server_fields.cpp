// A request's body as a generation of this process reads it, over a real vocabulary: fields, prompts, biases, spans and their numbers.
// What is read is fit for the engine, or refused with a sentence.
#include "models/model_make.h"
#include "server/generation/generation_fields.h"
#include "server/generation/generation_queue.h"

#include <attnscope/session.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <unistd.h>

using namespace attnscope;
using namespace attnscope::server;

namespace {

struct Served {
    std::unique_ptr<Session> session;
    std::unique_ptr<GenerationQueue> queue;
    ServerOptions options;
    std::unique_ptr<Service> service;
};

Served& served() {
    static Served s;
    return s;
}

[[noreturn]] void fail(const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::abort();
}

void check(const Result<ReadRequest>& read, const Service& service) {
    if (!read) {
        if (read.error().message.empty()) fail("an error without a sentence");
        return;
    }
    const GenerationRequest& g = read->generation;
    const auto n_ctx = size_t(service.session.n_ctx());
    if (g.tokens.empty() || g.tokens.size() > n_ctx) fail("a prompt that does not fit");
    for (const int32_t id : g.tokens) {
        if (id < 0 || id >= service.session.n_vocab()) fail("a token that is none");
    }
    if (g.attention && !check_request(*g.attention, service.geometry)) fail("an attention request that is none");
    for (const size_t i : read->character_spans) {
        if (!g.attention || i >= g.attention->spans.size()) fail("a span that is not there");
    }
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    const std::string path = "/dev/shm/attnscope-fuzz-" + std::to_string(getpid()) + ".gguf";
    models::ModelShape shape;
    shape.n_layer = 2;
    if (const Result<void> made = models::make_model(shape, path); !made) fail(made.error().message);
    SessionOptions options;
    options.model_path = path;
    options.n_ctx = 256;
    options.n_threads = 1;
    Served& s = served();
    auto session = Session::open(options);
    std::remove(path.c_str());
    if (!session) fail(session.error().message);
    s.session = std::move(*session);
    s.queue = std::make_unique<GenerationQueue>(*s.session, QueueOptions{});
    s.options.record_dir = "/nowhere";
    s.service.reset(new Service{
        *s.session, *s.queue, s.options, s.session->model_info(), s.session->geometry(), nullptr, false, {}});
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const Result<Json> body = parse_body({reinterpret_cast<const char*>(data), size});
    if (!body || !body->is_object()) return 0;
    const Service& service = *served().service;
    check(read_kobold(*body, service), service);
    return 0;
}
