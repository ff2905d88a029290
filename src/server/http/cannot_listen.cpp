#include "server/http/cannot_listen.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::server {

namespace {

// errno of the first address that cannot be listened on; 0: all can be, by now.
int why_not(const addrinfo* addresses) {
    for (const addrinfo* at = addresses; at; at = at->ai_next) {
        const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (fd < 0) continue;
        const int yes = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        const bool can = bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, 1) == 0;
        const int why = errno;
        close(fd);
        if (!can) return why;
    }
    return 0;
}

} // namespace

Error cannot_listen(const std::string& host, int port) {
    const std::string what = fmt::format("cannot listen on {} port {}: ", host, port);
    addrinfo wanted{};
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = AI_PASSIVE;
    addrinfo* addresses = nullptr;
    if (const int failed = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &addresses); failed != 0)
        return {ErrorKind::io,
                fmt::format("{}no address of the name {} is known ({})", what, host, gai_strerror(failed))};
    const int why = why_not(addresses);
    freeaddrinfo(addresses);
    if (why == EADDRINUSE)
        return {ErrorKind::io, what + "the port is in use; choose another port (--port; 0 is a free one)"};
    if (why == EADDRNOTAVAIL)
        return {ErrorKind::io, what + "it is not an address of this machine (127.0.0.1 is this machine alone, 0.0.0.0 "
                                      "all of its addresses)"};
    if (why == EACCES)
        return {ErrorKind::io, what + "ports below 1024 are not everybody's; choose another port (--port)"};
    return {ErrorKind::io, what + (why != 0 ? std::strerror(why) : "it was in use a moment ago; try again")};
}

} // namespace attnscope::server
