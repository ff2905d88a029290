// Server-sent events out of bytes as they come.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace attnscope::server {

struct ServerEvent {
    std::string text; // all of it as it came, with the empty line at its end
    std::string data; // of its "data" lines, which a line break joins; empty: it has none
};

class EventReader {
public:
    // An event longer than this is none.
    explicit EventReader(size_t most = size_t(64) << 20) : most_(most) {}
    // False: too long.
    bool add(std::string_view bytes);
    // The next whole event.
    std::optional<ServerEvent> next();
    // What is left when no more bytes come.
    std::string rest() { return std::move(buffer_); }

private:
    const size_t most_;
    std::string buffer_;
    size_t looked_ = 0; // no event ends before
};

} // namespace attnscope::server
