#include "server/http/pipelined_server.h"

#include "server/http/peer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::server {

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

bool ready(int socket, short events, milliseconds patience) {
    const auto until = Clock::now() + patience;
    while (true) {
        pollfd p{socket, events, 0};
        const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now()).count();
        const int n = poll(&p, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
        if (n >= 0 || errno != EINTR) return n > 0;
    }
}

struct Address {
    std::string ip;
    int port = 0;
};

Address address_of(int socket, int (*name)(int, sockaddr*, socklen_t*)) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    std::array<char, NI_MAXHOST> ip{};
    std::array<char, NI_MAXSERV> port{};
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    if (name(socket, any, &size) != 0 ||
        getnameinfo(any, size, ip.data(), ip.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return {};
    }
    return {ip.data(), std::atoi(port.data())};
}

class ConnectionStream final : public httplib::Stream {
public:
    ConnectionStream(int socket, milliseconds read_patience, milliseconds write_patience)
        : socket_(socket), read_patience_(read_patience), write_patience_(write_patience) {}

    const std::shared_ptr<Peer>& peer() const { return peer_; }

    bool is_readable() const override { return begin_ < end_; }
    bool wait_readable() const override { return is_readable() || ready(socket_, POLLIN, read_patience_); }
    bool wait_writable() const override { return ready(socket_, POLLOUT, write_patience_); }
    bool is_peer_alive() const override { return peer_->is_there(); }
    ssize_t read(char* to, size_t size) override {
        if (!is_readable()) {
            if (!wait_readable()) {
                error_ = httplib::Error::Timeout;
                return -1;
            }
            if (size >= buffer_.size()) return receive(to, size);
            const ssize_t n = receive(buffer_.data(), buffer_.size());
            if (n <= 0) return n;
            begin_ = 0;
            end_ = static_cast<size_t>(n);
        }
        const size_t n = std::min(size, end_ - begin_);
        std::memcpy(to, buffer_.data() + begin_, n);
        begin_ += n;
        return static_cast<ssize_t>(n);
    }
    ssize_t write(const char* from, size_t size) override { return wait_writable() ? peer_->send(from, size) : -1; }
    void get_remote_ip_and_port(std::string& ip, int& port) const override {
        const Address a = address_of(socket_, getpeername);
        ip = a.ip;
        port = a.port;
    }
    void get_local_ip_and_port(std::string& ip, int& port) const override {
        const Address a = address_of(socket_, getsockname);
        ip = a.ip;
        port = a.port;
    }
    socket_t socket() const override { return socket_; }
    time_t duration() const override { return std::chrono::duration_cast<milliseconds>(Clock::now() - start_).count(); }
    void set_read_timeout(time_t seconds, time_t microseconds) override {
        read_patience_ = milliseconds(seconds * 1000 + microseconds / 1000);
    }
    const char* buffered_data(size_t& size) const override {
        size = end_ - begin_;
        return size > 0 ? buffer_.data() + begin_ : nullptr;
    }
    void consume_buffered(size_t size) override { begin_ += std::min(size, end_ - begin_); }

private:
    ssize_t receive(char* to, size_t size) {
        ssize_t n = 0;
        do {
            n = recv(socket_, to, size, 0);
        } while (n < 0 && errno == EINTR);
        if (n <= 0) error_ = n == 0 ? httplib::Error::ConnectionClosed : httplib::Error::Read;
        return n;
    }

    const int socket_;
    const std::shared_ptr<Peer> peer_ = std::make_shared<Peer>(socket_);
    std::atomic<milliseconds> read_patience_; // a WebSocket's is set while another thread reads
    const milliseconds write_patience_;
    const Clock::time_point start_ = Clock::now();
    std::array<char, 4096> buffer_{};
    size_t begin_ = 0, end_ = 0; // of what the buffer holds
};

thread_local std::shared_ptr<Peer> served; // by this thread

// Closing with unread bytes would reset the connection, and the client might lose an answer that it has not read.
void drain_and_close(int socket) {
    shutdown(socket, SHUT_WR);
    const auto until = Clock::now() + milliseconds(100);
    std::array<char, 16384> buffer;
    for (size_t total = 0; total < size_t(1) << 20 && Clock::now() < until;) {
        if (!ready(socket, POLLIN, std::chrono::duration_cast<milliseconds>(until - Clock::now()))) break;
        const ssize_t n = recv(socket, buffer.data(), buffer.size(), 0);
        if (n <= 0) break;
        total += static_cast<size_t>(n);
    }
    shutdown(socket, SHUT_RDWR);
    close(socket);
}

} // namespace

bool PipelinedServer::process_and_close_socket(socket_t socket) {
    const Address remote = address_of(socket, getpeername), local = address_of(socket, getsockname);
    const auto patience = [](time_t seconds, time_t microseconds) {
        return milliseconds(seconds * 1000 + microseconds / 1000);
    };
    const bool good = serve_guarded([&] {
        ConnectionStream stream(socket, patience(read_timeout_sec_, read_timeout_usec_),
                                patience(write_timeout_sec_, write_timeout_usec_));
        served = stream.peer();
        const auto next_comes = [&] {
            const auto until = Clock::now() + std::chrono::seconds(keep_alive_timeout_sec_);
            while (!stream.is_readable() && !ready(socket, POLLIN, milliseconds(10))) {
                if (svr_sock_ == INVALID_SOCKET || Clock::now() > until) return false;
            }
            return true;
        };
        bool answered = false;
        for (size_t left = keep_alive_max_count_; left > 0 && next_comes(); --left) {
            bool closed = false;
            stream.peer()->begin_answer();
            answered =
                process_request(stream, remote.ip, remote.port, local.ip, local.port, left == 1, closed, nullptr);
            if (!answered || closed || stream.peer()->says_close()) break;
        }
        return answered;
    });
    served.reset();
    drain_and_close(socket);
    return good;
}

void PipelinedServer::know_who_leaves(httplib::Request& request) {
    if (!served) return;
    request.is_connection_closed = [peer = served] { return !peer->is_there(); };
}

std::function<bool()> PipelinedServer::says_no_more() {
    return [peer = served] { return peer && peer->is_silent(); };
}

} // namespace attnscope::server
