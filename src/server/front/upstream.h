// One request to the program behind us, and its answer as it comes.
#pragma once

#include "base/mutex.h"

#include <attnscope/error.h>

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

namespace attnscope::server {

struct UpstreamAddress {
    std::string host = "127.0.0.1";
    int port = 0;
    // Which the program asks for in place of whatever clients bring; empty: what they bring is passed on.
    std::string key = {};
    std::string name() const; // HOST:PORT
    // Did anybody answer there? Of all copies of this address.
    std::shared_ptr<std::atomic<bool>> answered = std::make_shared<std::atomic<bool>>(false);
};

// Whether nobody wants the answer any more; asked ten times a second.
using GoneAway = std::function<bool()>;

// Does anybody take connections there? Nothing is sent: a program need not be asked for that.
bool is_listening(const UpstreamAddress& to);

class Upstream {
public:
    // Sends at once. `request`: method, path (as it came, with its query), headers, body.
    Upstream(const UpstreamAddress& to, httplib::Request request);
    ~Upstream(); // closes the connection, wherever the answer is: the program stops then
    Upstream(const Upstream&) = delete;
    Upstream& operator=(const Upstream&) = delete;

    // Held until the answer is whole here, however slowly it is read.
    void hold(std::shared_ptr<const void> what);
    struct Head {
        int status = 0;
        httplib::Headers headers;
    };
    // not_found: nobody listens there; io: the answer broke off, or nobody wants it any more.
    Result<Head> head(const GoneAway& gone);
    // Some of the body; empty: its end. After head().
    Result<std::string> read(const GoneAway& gone);
    // Calls `write` for every piece of the body, as soon as it is here and on a thread of ours: to wake the caller for each costs more
    // than to send it on. Returns once the body has ended; io: it broke off, `write` returned false, or nobody wants it any more. Not
    // after read().
    using Write = std::function<bool(const char* data, size_t size)>;
    Result<void> pass(const Write& write, const GoneAway& gone);
    // All of it; unsupported: it is more than so many bytes.
    Result<std::string> read_all(size_t most, const GoneAway& gone);

private:
    void run();
    bool take(const char* data, size_t size);
    Error broken_off() const REQUIRES(mutex_);
    const std::unique_ptr<httplib::Client> client_;
    const UpstreamAddress to_;
    httplib::Request request_;
    base::Mutex mutex_;
    base::Condition changed_;
    bool has_head_ GUARDED_BY(mutex_) = false, done_ GUARDED_BY(mutex_) = false, stopped_ GUARDED_BY(mutex_) = false;
    Head head_ GUARDED_BY(mutex_);
    std::shared_ptr<const void> held_ GUARDED_BY(mutex_);
    std::string body_ GUARDED_BY(mutex_); // what was not read yet
    const Write* write_ GUARDED_BY(mutex_) = nullptr;
    bool writes_ GUARDED_BY(mutex_) = false; // is called just now
    httplib::Error error_ GUARDED_BY(mutex_) = httplib::Error::Success;
    std::thread thread_;
};

// A whole exchange of JSON with the program, for what a request needs to know first.
// unsupported: what the program tells is more than this.
inline constexpr size_t most_asked = size_t(64) << 20;
Result<std::string> ask(const UpstreamAddress& to, const std::string& method, const std::string& path,
                        const httplib::Headers& headers, const std::string& body, const GoneAway& gone);

} // namespace attnscope::server
