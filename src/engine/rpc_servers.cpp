#include "engine/rpc_servers.h"

#include <ggml-backend.h>

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::engine {

namespace {

constexpr int connect_ms = 5000;

bool connects(const addrinfo& address) {
    const int fd = socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol);
    if (fd < 0) return false;
    bool good = connect(fd, address.ai_addr, address.ai_addrlen) == 0;
    if (!good && errno == EINPROGRESS) {
        pollfd wait{fd, POLLOUT, 0};
        int error = 0;
        socklen_t size = sizeof error;
        good =
            poll(&wait, 1, connect_ms) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
    }
    close(fd);
    return good;
}

// Does anybody listen there?
Result<void> reach(const std::string& server) {
    const size_t colon = server.rfind(':');
    const std::string host = server.substr(0, colon);
    const std::string port = colon == std::string::npos ? "" : server.substr(colon + 1);
    int number = 0;
    const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (host.empty() || ec != std::errc() || end != port.data() + port.size() || number < 1 || number > 65535) {
        return Error{ErrorKind::invalid_argument, "--rpc takes host:port,host:port, not '" + server + "'"};
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int status = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); status != 0) {
        return Error{ErrorKind::io, fmt::format("the RPC server {} has no address: {}", server, gai_strerror(status))};
    }
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
    for (const addrinfo* a = found; a; a = a->ai_next) {
        if (connects(*a)) return {};
    }
    return Error{ErrorKind::io, fmt::format("no RPC server answers at {}; start one there with: rpc-server -H {} -p {}",
                                            server, host, port)};
}

} // namespace

Result<void> add_rpc_servers(const std::string& servers) {
    // llama.cpp's registry of devices is the process's: a server added twice would be two devices.
    static std::mutex mutex;
    static std::set<std::string> added;
    const std::lock_guard<std::mutex> lock(mutex);
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    using AddServer = ggml_backend_reg_t (*)(const char*);
    const auto add =
        rpc ? reinterpret_cast<AddServer>(ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"))
            : nullptr;
    if (!add) return Error{ErrorKind::unsupported, "this llama.cpp was built without its RPC back end (GGML_RPC)"};
    std::stringstream list(servers);
    std::string server;
    while (std::getline(list, server, ',')) {
        if (added.count(server)) continue;
        if (Result<void> r = reach(server); !r) return r;
        ggml_backend_reg_t reg = add(server.c_str());
        if (!reg) return Error{ErrorKind::io, "the RPC server " + server + " offers no device"};
        ggml_backend_register(reg);
        added.insert(server);
    }
    return {};
}

} // namespace attnscope::engine
