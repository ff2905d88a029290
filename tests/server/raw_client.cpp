#include "raw_client.h"

#include <cstdint>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::test {

RawClient::RawClient(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) close();
}

RawClient::~RawClient() {
    close();
}

void RawClient::close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
}

void RawClient::finish() const {
    shutdown(socket_, SHUT_WR);
}

bool RawClient::say(const std::string& bytes) const {
    return send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

std::string RawClient::hear(const std::string& text, int times) const {
    std::string out;
    const auto enough = [&] {
        if (text.empty()) return false;
        int n = 0;
        for (size_t at = out.find(text); at != std::string::npos; at = out.find(text, at + text.size())) ++n;
        return n >= times;
    };
    while (!enough()) {
        pollfd p{socket_, POLLIN, 0};
        char buffer[4096];
        if (poll(&p, 1, 20000) <= 0) break;
        const ssize_t n = recv(socket_, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        out.append(buffer, static_cast<size_t>(n));
    }
    return out;
}

} // namespace attnscope::test
