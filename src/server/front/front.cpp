#include "server/front/front.h"

#include "server/front/front_service.h"
#include "server/http/http_host.h"
#include "server/http/paths.h"
#include "server/recordings/prune.h"
#include "server/view/routes.h"

#include <utility>

namespace attnscope::server {

namespace {

class FrontImpl : public Front {
public:
    FrontImpl(const FrontOptions& options, LiveSequences& live)
        : options_(options), service_{options_, live, nullptr, {}, {}, false, false, options.warned_of_one_cache},
          host_(options_.server, has_page(options_)) {}
    ~FrontImpl() override { stop(); }

    Result<void> listen() {
        const auto prepare = [](httplib::Request& request) {
            request.path = canonical_path(request.path);
            keep_body_as_it_is(request);
        };
        if (Result<void> bound = host_.bind(prepare); !bound) return bound;
        service_.access = &host_.access();
        httplib::Server& http = host_.http();
        add_llama_front(http, service_);
        add_halo_weave_front(http, service_);
        add_kobold_front(http, service_);
        add_ollama_front(http, service_);
        add_socket_front(http, service_);
        add_prune(http, {options_.server.record_dir, INT32_MAX,
                         [this](const std::string& id) { return service_.answers.scores(id); }});
        if (has_page(options_)) {
            if (const std::string& folder = options_.server.record_dir; !folder.empty()) sources_.watch(folder);
            http.Get("/", [this](const httplib::Request& q, httplib::Response& a) { first_page(service_, q, a); });
            add_view_page(http);
            add_view_routes(http, sources_, options_.server.attention);
        }
        const auto others = [this](const httplib::Request& q, httplib::Response& a) {
            pass_without_attention(service_, q, a, false);
        };
        http.Get(".*", others);
        http.Post(".*", others);
        http.Put(".*", others);
        http.Patch(".*", others);
        http.Delete(".*", others);
        host_.start();
        return {};
    }

    int port() const override { return host_.port(); }
    void program_ends_soon() override { service_.program_ends = true; }
    void stop() override {
        service_.closing = true;
        host_.stop();
    }

private:
    static bool has_page(const FrontOptions& options) { return options.page || !options.server.record_dir.empty(); }

    const FrontOptions options_;
    FrontService service_;
    ViewSources sources_;
    HttpHost host_;
};

} // namespace

Result<std::unique_ptr<Front>> Front::start(const FrontOptions& options, LiveSequences& live) {
    auto front = std::make_unique<FrontImpl>(options, live);
    if (Result<void> r = front->listen(); !r) return r.error();
    return std::unique_ptr<Front>(std::move(front));
}

} // namespace attnscope::server
