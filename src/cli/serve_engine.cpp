#include "cli/serve_engine.h"

#include "attach/parent/run_attached.h"
#include "cli/report.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::cli {

namespace {

// A port that nobody listens on now; 0: there is none.
int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    const bool bound = bind(fd, any, size) == 0 && getsockname(fd, any, &size) == 0;
    close(fd);
    return bound ? ntohs(address.sin_port) : 0;
}

} // namespace

std::vector<std::string> engine_arguments(const EngineServer& server, const SessionOptions& session, int port) {
    std::vector<std::string> argv = {
        server.program,       "-m", session.model_path,           "--host", "127.0.0.1", "--port",
        std::to_string(port), "-c", std::to_string(session.n_ctx)};
    const auto add = [&](const char* name, const std::string& value) { argv.insert(argv.end(), {name, value}); };
    if (session.n_threads > 0) add("-t", std::to_string(session.n_threads));
    if (session.n_gpu_layers >= 0) add("-ngl", std::to_string(session.n_gpu_layers));
    if (!session.devices.empty()) add("-dev", session.devices);
    if (session.flash_attention != FlashAttention::automatic) add("-fa", flash_attention_name(session.flash_attention));
    if (session.cache_type_k != "f16") add("-ctk", session.cache_type_k);
    if (session.cache_type_v != "f16") add("-ctv", session.cache_type_v);
    argv.insert(argv.end(), server.extra.begin(), server.extra.end());
    return argv;
}

int run_engine_server(const EngineServer& server, const SessionOptions& session, FrontFlags& flags) {
    const int port = free_port();
    if (port == 0) return report({ErrorKind::io, "no port is free for the engine's server"});
    attach::AttachOptions options;
    options.argv = engine_arguments(server, session, port);
    options.folder = server.record_dir;
    options.say = [quiet = server.quiet](const std::string& line) {
        if (!quiet) fmt::print(stderr, "attnscope: {}\n", line);
    };
    if (Result<std::string> found = attach::find_program(server.program); !found) {
        return report({ErrorKind::not_found, "--engine-server " + server.program + ": " + found.error().message});
    }
    flags.to = fmt::format("127.0.0.1:{}", port);
    Result<std::unique_ptr<AttachFront>> front = AttachFront::start(flags, options.argv);
    if (!front) return report(front.error());
    options.listener = front->get();
    fmt::print("listening on http://{}:{}\n", flags.server.host, (*front)->port());
    std::fflush(stdout);
    Result<attach::AttachEnd> end = attach::run_attached(options);
    (*front)->stop();
    if (!end) return report(end.error());
    if (!end->any_scheduler) {
        return report({ErrorKind::unsupported, "nothing was captured of " + server.program +
                                                   ": its llama.cpp cannot be come between (docs/attach/index.md)"});
    }
    return end->exit_code == 128 + SIGTERM || end->exit_code == 128 + SIGINT ? exit_good : end->exit_code;
}

} // namespace attnscope::cli
