#include "server/front/upstream.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace attnscope::server {

namespace {

constexpr size_t most_waiting = size_t(1)
                                << 20; // of an answer that nobody reads: then the program waits, as it would without us
constexpr std::chrono::milliseconds patience{100};

std::unique_ptr<httplib::Client> make_client(const UpstreamAddress& to) {
    auto client = std::make_unique<httplib::Client>(to.host, to.port);
    client->set_connection_timeout(std::chrono::seconds(5));
    client->set_read_timeout(std::chrono::hours(24 * 7)); // a prompt may take long; who leaves ends it
    client->set_write_timeout(std::chrono::seconds(60));
    client->set_tcp_nodelay(true);
    client->set_decompress(false);
    client->set_path_encode(false);
    client->set_keep_alive(false);
    client->set_follow_location(false);
    return client;
}

} // namespace

std::string UpstreamAddress::name() const {
    return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

bool is_listening(const UpstreamAddress& to) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(to.host.c_str(), std::to_string(to.port).c_str(), &hints, &found) != 0) return false;
    bool listens = false;
    for (const addrinfo* at = found; at && !listens; at = at->ai_next) {
        const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (fd < 0) continue;
        const timeval most{1, 0}; // to connect, too
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
        listens = connect(fd, at->ai_addr, at->ai_addrlen) == 0;
        close(fd);
    }
    freeaddrinfo(found);
    return listens;
}

Upstream::Upstream(const UpstreamAddress& to, httplib::Request request)
    : client_(make_client(to)), to_(to), request_(std::move(request)) {
    if (!to.key.empty()) {
        for (const char* name : {"Authorization", "X-Api-Key"}) request_.headers.erase(name);
        request_.set_header("Authorization", "Bearer " + to.key);
    }
    request_.response_handler = [this](const httplib::Response& response) {
        const base::Lock lock(mutex_);
        head_ = {response.status, response.headers};
        has_head_ = true;
        *to_.answered = true;
        changed_.notify_all();
        return !stopped_;
    };
    request_.content_receiver = [this](const char* data, size_t size, size_t, size_t) { return take(data, size); };
    thread_ = std::thread([this] { run(); });
}

bool Upstream::take(const char* data, size_t size) {
    base::Lock lock(mutex_);
    while (!write_ && !stopped_ && body_.size() >= most_waiting) changed_.wait(lock);
    if (write_ && !stopped_) {
        const Write& write = *write_;
        writes_ = true;
        lock.unlock();
        const bool good = write(data, size);
        lock.lock();
        writes_ = false;
        if (good && !stopped_) return true;
        stopped_ = true;
        changed_.notify_all();
        return false;
    }
    body_.append(data, size);
    changed_.notify_all();
    return !stopped_;
}

void Upstream::run() {
    httplib::Result result;
    try {
        result = client_->send(request_);
    } catch (const std::exception&) { // of want of memory
    }
    std::shared_ptr<const void> held; // let go without the mutex
    const base::Lock lock(mutex_);
    held.swap(held_);
    if (result && !has_head_) { // HEAD, and answers without a body
        head_ = {result->status, result->headers};
        has_head_ = true;
        *to_.answered = true;
    }
    error_ = result.error();
    done_ = true;
    changed_.notify_all();
}

void Upstream::hold(std::shared_ptr<const void> what) {
    const base::Lock lock(mutex_);
    if (!done_) held_ = std::move(what);
}

Upstream::~Upstream() {
    {
        const base::Lock lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    base::Lock lock(mutex_);
    while (!done_) { // it may be about to open its socket
        lock.unlock();
        client_->stop();
        lock.lock();
        if (!done_) changed_.wait_until(lock, std::chrono::steady_clock::now() + patience);
    }
    lock.unlock();
    thread_.join();
}

Result<Upstream::Head> Upstream::head(const GoneAway& gone) {
    base::Lock lock(mutex_);
    while (!has_head_ && !done_) {
        if (changed_.wait_until(lock, std::chrono::steady_clock::now() + patience) == std::cv_status::timeout && gone())
            return Error{ErrorKind::io, "nobody wants the answer any more"};
    }
    if (has_head_) return head_;
    const bool nobody = error_ == httplib::Error::Connection || error_ == httplib::Error::ConnectionTimeout;
    if (nobody) {
        const std::string here = to_.key.empty() ? fmt::format(": nothing listens at {} (--to)", to_.name()) : "";
        return Error{ErrorKind::not_found,
                     (*to_.answered ? "the program does not listen any more" : "the program does not listen yet") +
                         here};
    }
    return Error{ErrorKind::io, "the program gave no answer: " + httplib::to_string(error_)};
}

Result<std::string> Upstream::read(const GoneAway& gone) {
    base::Lock lock(mutex_);
    while (body_.empty() && !done_) {
        if (changed_.wait_until(lock, std::chrono::steady_clock::now() + patience) == std::cv_status::timeout && gone())
            return Error{ErrorKind::io, "nobody wants the answer any more"};
    }
    if (body_.empty() && error_ != httplib::Error::Success) return broken_off();
    changed_.notify_all();
    return std::exchange(body_, {});
}

Error Upstream::broken_off() const {
    return {ErrorKind::io, "the program's answer broke off: " + httplib::to_string(error_)};
}

Result<void> Upstream::pass(const Write& write, const GoneAway& gone) {
    base::Lock lock(mutex_);
    while (!body_.empty()) { // what came before
        const std::string some = std::exchange(body_, {});
        changed_.notify_all();
        lock.unlock();
        if (!write(some.data(), some.size())) return Error{ErrorKind::io, "nobody takes the answer any more"};
        lock.lock();
    }
    write_ = &write;
    bool wanted = true;
    while (!done_ && !stopped_ && wanted) {
        if (changed_.wait_until(lock, std::chrono::steady_clock::now() + patience) != std::cv_status::timeout) continue;
        lock.unlock();
        wanted = !gone();
        lock.lock();
    }
    stopped_ = stopped_ || !wanted;
    while (writes_ && !done_) changed_.wait_until(lock, std::chrono::steady_clock::now() + patience); // done: it threw
    write_ = nullptr;
    if (!done_ || stopped_) return Error{ErrorKind::io, "nobody takes the answer any more"};
    if (error_ != httplib::Error::Success) return broken_off();
    return {};
}

Result<std::string> Upstream::read_all(size_t most, const GoneAway& gone) {
    std::string all;
    while (true) {
        Result<std::string> some = read(gone);
        if (!some) return some.error();
        if (some->empty()) return all;
        if (all.size() + some->size() > most) return Error{ErrorKind::unsupported, "the program's answer is too large"};
        all += *some;
    }
}

Result<std::string> ask(const UpstreamAddress& to, const std::string& method, const std::string& path,
                        const httplib::Headers& headers, const std::string& body, const GoneAway& gone) {
    httplib::Request request;
    request.method = method;
    request.path = path;
    request.headers = headers;
    request.body = body;
    if (!body.empty()) request.set_header("Content-Type", "application/json");
    Upstream upstream(to, std::move(request));
    Result<Upstream::Head> head = upstream.head(gone);
    if (!head) return head.error();
    Result<std::string> text = upstream.read_all(most_asked, gone);
    if (!text && text.error().kind == ErrorKind::unsupported) {
        return Error{ErrorKind::unsupported,
                     fmt::format("the request is too long: what the program tells of it is more "
                                 "than {} MB",
                                 most_asked >> 20)};
    }
    if (!text) return text.error();
    if (head->status == 200) return text;
    return Error{head->status == 503   ? ErrorKind::not_found // it loads its model: not yet
                 : head->status >= 500 ? ErrorKind::engine
                                       : ErrorKind::invalid_argument,
                 *text};
}

} // namespace attnscope::server
