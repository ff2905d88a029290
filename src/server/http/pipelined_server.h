// httplib's server with one buffer for a connection instead of one for each request. A client may send its next request before
// it has the answer to the last (pipelining): httplib throws away what its buffer holds of it, and the client waits for ever.
#pragma once

#include <httplib.h>

#include <functional>

namespace attnscope::server {

class PipelinedServer final : public httplib::Server {
public:
    // Of a request that the calling thread serves: is_connection_closed() is true of a client that left, and not of one that has
    // ended what it sends and waits for the answer (peer.h).
    static void know_who_leaves(httplib::Request& request);
    // Of the client whose request the calling thread serves: has it said all it has to say, whether it is there or not? From any thread.
    static std::function<bool()> says_no_more();

private:
    bool process_and_close_socket(socket_t socket) override;
};

} // namespace attnscope::server
