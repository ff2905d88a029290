#include "server/http/peer.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

namespace attnscope::server {

namespace {
constexpr std::string_view first_letters = "HTTP/1.1 ";
constexpr std::chrono::milliseconds first_pause{500}; // each is twice the one before: the letters last two minutes
constexpr std::chrono::milliseconds soon{200};
constexpr int seconds_of_rest = 10; // behind which the system asks, again and again
} // namespace

void Peer::begin_answer() {
    const base::Lock lock(mutex_);
    in_head_ = true;
    silent_before_ = false;
    n_letters_ = 0;
    ask_at_ = {};
}

bool Peer::is_silent() const {
    char byte = 0;
    return recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool Peer::is_there() {
    pollfd p{socket_, POLLIN, 0};
    const bool any = poll(&p, 1, 0) > 0;
    // Behind its last byte a refusal is no error to read: only this tells it.
    if (any && (p.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) gone_ = true;
    if (gone_) return false;
    if (!any || !is_silent()) return true;
    const base::Lock lock(mutex_);
    if (!in_head_) {
        if (!std::exchange(kept_alive_, true)) keep_alive();
        // An answer may begin before the end of what is said has come. Of both what is sent next tells.
        silent_before_ = silent_before_ || std::chrono::steady_clock::now() - began_ < soon;
        return silent_before_;
    }
    ask();
    return !gone_;
}

void Peer::keep_alive() {
    const auto set = [this](int level, int name, int value) {
        (void)setsockopt(socket_, level, name, &value, sizeof value); // without it what is sent next tells
    };
    set(IPPROTO_TCP, TCP_KEEPIDLE, seconds_of_rest);
    set(IPPROTO_TCP, TCP_KEEPINTVL, seconds_of_rest);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
}

void Peer::ask() {
    const auto now = std::chrono::steady_clock::now();
    if (n_letters_ == first_letters.size() || now < ask_at_) return;
    pollfd p{socket_, POLLOUT, 0};
    if (poll(&p, 1, 0) <= 0) return; // it has answers to read
    ask_at_ = now + first_pause * (1 << n_letters_);
    if (send_now(first_letters.data() + n_letters_, 1) == 1) ++n_letters_;
}

ssize_t Peer::send_now(const char* from, size_t size) {
    while (true) {
        const ssize_t n = ::send(socket_, from, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) gone_ = true;
        return n;
    }
}

ssize_t Peer::send(const char* from, size_t size) {
    if (!in_head_) return send_now(from, size);
    const base::Lock lock(mutex_);
    const std::string_view head(from, size); // httplib writes a head in one piece
    silent_before_ = is_silent();
    began_ = std::chrono::steady_clock::now();
    says_close_ = head.substr(0, head.find("\r\n\r\n")).find("\r\nConnection: close") != std::string_view::npos;
    in_head_ = head.starts_with("HTTP/1.1 100"); // another head follows
    const size_t out = head.starts_with(first_letters) ? std::exchange(n_letters_, 0) : 0;
    const ssize_t n = send_now(from + out, size - out);
    return n < 0 ? n : n + static_cast<ssize_t>(out);
}

} // namespace attnscope::server
