// httplib's server with one buffer for a connection instead of one for each request. A client may send its next request before
// it has the answer to the last (pipelining): httplib throws away what its buffer holds of it, and the client waits for ever.
#pragma once

#include <httplib.h>

namespace attnscope::server {

class PipelinedServer final : public httplib::Server {
private:
    bool process_and_close_socket(socket_t socket) override;
};

} // namespace attnscope::server
