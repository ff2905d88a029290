// Speaks what Halo Weave needs of KoboldCPP's API, over the real llama.cpp: one generation at a time, on what the last one left in the
// cache, pieces of text without their tokens. MODEL --port PORT.
#include <httplib.h>
#include <llama.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

using Json = nlohmann::json;
constexpr int n_ctx = 2048, n_batch = 64;

class Engine {
public:
    bool open(const char* path) {
        llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
        llama_backend_init();
        model_ = llama_model_load_from_file(path, llama_model_default_params());
        if (!model_) return false;
        llama_context_params p = llama_context_default_params();
        p.n_ctx = n_ctx, p.n_batch = n_batch, p.n_threads = p.n_threads_batch = 1;
        context_ = llama_init_from_model(model_, p);
        vocab_ = llama_model_get_vocab(model_);
        return context_ != nullptr;
    }
    std::vector<llama_token> tokens(const std::string& text, bool special) const {
        std::vector<llama_token> out(text.size() + 2);
        const int n = llama_tokenize(vocab_, text.data(), static_cast<int>(text.size()), out.data(),
                                     static_cast<int>(out.size()), special, true);
        out.resize(static_cast<size_t>(std::max(n, 0)));
        return out;
    }
    std::string piece(llama_token token) const {
        char text[256];
        const int n = llama_token_to_piece(vocab_, token, text, sizeof text, 0, true);
        return {text, static_cast<size_t>(std::max(n, 0))};
    }
    bool known(llama_token token) const { return token >= 0 && token < llama_vocab_n_tokens(vocab_); }
    // `say` gets each piece; false ends it. What ended it: "stop", "length".
    template <typename F> const char* generate(const std::vector<llama_token>& prompt, int most, F&& say) {
        size_t same = 0;
        while (same < held_.size() && same + 1 < prompt.size() && held_[same] == prompt[same]) ++same;
        llama_memory_seq_rm(llama_get_memory(context_), 0, static_cast<llama_pos>(same), -1);
        held_.resize(same);
        std::vector<llama_token> next(prompt.begin() + static_cast<std::ptrdiff_t>(same), prompt.end());
        for (int n = 0; n < most; ++n) {
            for (size_t at = 0; at < next.size(); at += n_batch) {
                const size_t count = std::min<size_t>(next.size() - at, n_batch);
                if (held_.size() + count > size_t(n_ctx)) return "length";
                if (llama_decode(context_, llama_batch_get_one(next.data() + at, static_cast<int>(count))) != 0)
                    return "stop";
                held_.insert(held_.end(), next.begin() + static_cast<std::ptrdiff_t>(at),
                             next.begin() + static_cast<std::ptrdiff_t>(at + count));
            }
            const float* logits = llama_get_logits_ith(context_, -1);
            const auto best =
                static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(vocab_)) - logits);
            if (llama_vocab_is_eog(vocab_, best)) return "stop";
            if (!say(piece(best))) return "stop";
            next = {best};
        }
        return "length";
    }

private:
    llama_model* model_ = nullptr;
    llama_context* context_ = nullptr;
    const llama_vocab* vocab_ = nullptr;
    std::vector<llama_token> held_; // in the cache
};

std::string event(const Json& body) {
    return "event: message\ndata: " + body.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n\n";
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 4 || std::strcmp(argv[2], "--port") != 0) return 2;
    Engine engine;
    if (!engine.open(argv[1])) return 3;
    std::mutex one_at_a_time;
    httplib::Server http;
    const auto said = [](httplib::Response& a, const Json& body) {
        a.set_content(body.dump(-1, ' ', false, Json::error_handler_t::replace), "application/json");
    };
    http.set_pre_routing_handler([](const httplib::Request& q, httplib::Response&) {
        const_cast<httplib::Request&>(q).headers.erase("Content-Type");
        return httplib::Server::HandlerResponse::Unhandled;
    });
    http.Get("/api/extra/version", [&](const auto&, auto& a) {
        said(a, {{"result", "KoboldCpp"}, {"version", "1.115"}});
    });
    http.Get("/api/v1/model", [&](const auto&, auto& a) { said(a, {{"result", "koboldcpp/stand-in"}}); });
    http.Get("/api/extra/true_max_context_length", [&](const auto&, auto& a) { said(a, {{"value", n_ctx}}); });
    http.Get("/health", [&](const auto&, auto& a) { said(a, {{"status", "ok"}}); });
    http.Post("/api/extra/tokencount", [&](const httplib::Request& q, httplib::Response& a) {
        const Json body = Json::parse(q.body, nullptr, false);
        const auto ids = engine.tokens(body.value("prompt", ""), body.value("special", true));
        said(a, {{"value", ids.size()}, {"ids", ids}});
    });
    http.Post("/api/extra/detokenize", [&](const httplib::Request& q, httplib::Response& a) {
        std::string text;
        for (const Json& id : Json::parse(q.body, nullptr, false).value("ids", Json::array())) {
            if (engine.known(id.get<llama_token>())) text += engine.piece(id.get<llama_token>());
        }
        said(a, {{"result", text}, {"success", true}});
    });
    http.Post("/api/extra/generate/stream", [&](const httplib::Request& q, httplib::Response& a) {
        const Json body = Json::parse(q.body, nullptr, false);
        a.set_chunked_content_provider(
            "text/event-stream", [&engine, &one_at_a_time, body](size_t, httplib::DataSink& sink) {
                const std::lock_guard turn(one_at_a_time);
                // Two pieces an event now and then, as KoboldCPP does when it is asked less often than it generates.
                std::string kept;
                int n = 0;
                const char* why =
                    engine.generate(engine.tokens(body.value("prompt", ""), true), body.value("max_length", 180),
                                    [&](const std::string& piece) {
                                        kept += piece;
                                        if (++n % 3 == 0) return true;
                                        const std::string text = event({{"token", kept}, {"finish_reason", nullptr}});
                                        kept.clear();
                                        return sink.write(text.data(), text.size());
                                    });
                const std::string last = event({{"token", kept}, {"finish_reason", why}});
                sink.write(last.data(), last.size());
                sink.done();
                return true;
            });
    });
    if (!http.bind_to_port("127.0.0.1", std::atoi(argv[3]))) return 4;
    http.listen_after_bind();
    return 0;
}
