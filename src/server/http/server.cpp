#include "server/http/server.h"

#include "server/http/http_host.h"
#include "server/http/paths.h"
#include "server/http/service.h"
#include "server/recordings/prune.h"
#include "server/view/routes.h"

#include <chrono>
#include <optional>
#include <utility>

namespace attnscope::server {

namespace {

ModelInfo named(ModelInfo info, const std::string& alias) {
    if (!alias.empty()) info.name = alias;
    return info;
}

class ServerImpl : public Server {
public:
    ServerImpl(Session& session, const ServerOptions& options)
        : options_(options),
          queue_(session, queue_options(options)), service_{session,
                                                            queue_,
                                                            options_,
                                                            named(session.model_info(), options.alias),
                                                            session.geometry(),
                                                            nullptr,
                                                            false,
                                                            std::chrono::steady_clock::now()},
          host_(options_) {}
    ~ServerImpl() override { stop(); }

    Result<void> listen() {
        const auto prepare = [](httplib::Request& request) {
            request.path = canonical_path(request.path);
            // Bodies are JSON whatever they are called: curl calls them a form, of which httplib would read 8 KB.
            request.headers.erase("Content-Type");
        };
        if (Result<void> bound = host_.bind(prepare); !bound) return bound;
        httplib::Server& http = host_.http();
        service_.access = &host_.access();
        http.Get("/", [](const httplib::Request&, httplib::Response& response) {
            response.set_content(
                "<!doctype html><title>attnscope</title><h1>attnscope</h1><p>The exact attention of a GGUF model, live."
                "<p><a href=\"/view/\">Look at it</a>. Routes: KoboldCPP's and Halo Weave's under /api/v1 and "
                "/api/extra.",
                "text/html; charset=utf-8");
        });
        add_halo_weave(http, service_);
        add_kobold(http, service_);
        add_llama_server(http, service_);
        add_prune(http, {options_.record_dir, n_vocab(), [this](const std::string& id) { return scores(id); }});
        add_socket(http, service_);
        sources_.watch(options_.record_dir);
        add_view_page(http);
        add_view_routes(http, sources_, options_.attention);
        host_.start();
        return {};
    }

    int port() const override { return host_.port(); }

    void stop() override {
        service_.closing = true;
        queue_.close();
        host_.stop();
    }

private:
    int32_t n_vocab() const { return service_.session.n_vocab(); }
    std::optional<ScoredPrompt> scores(const std::string& id) const {
        const std::shared_ptr<Generation> generation = queue_.find(id);
        const std::optional<PositionScores> scores = generation ? generation->scores() : std::nullopt;
        if (!scores) return std::nullopt;
        return ScoredPrompt{generation->request.tokens, *scores};
    }
    static QueueOptions queue_options(const ServerOptions& o) {
        QueueOptions q;
        q.max_waiting = o.max_waiting;
        q.record_dir = o.record_dir;
        q.frames = o.attention;
        q.time_limit = o.time_limit;
        q.limits.queue_bytes = o.stream_memory;
        q.limits.stall = o.stall;
        q.limits.n_threads = o.attention_threads;
        q.limits.engine_threads = o.engine_threads;
        return q;
    }

    const ServerOptions options_;
    GenerationQueue queue_;
    Service service_;
    ViewSources sources_;
    HttpHost host_;
};

} // namespace

Result<std::unique_ptr<Server>> Server::start(Session& session, const ServerOptions& options) {
    auto server = std::make_unique<ServerImpl>(session, options);
    if (Result<void> r = server->listen(); !r) return r.error();
    return std::unique_ptr<Server>(std::move(server));
}

} // namespace attnscope::server
