// A client that says exactly what it is told to, byte by byte.
#pragma once

#include <string>

namespace attnscope::test {

class RawClient {
public:
    explicit RawClient(int port);
    ~RawClient();
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    bool say(const std::string& bytes) const;
    // What comes until `text` came so many times, the other side closed, or nothing came for 20 seconds.
    std::string hear(const std::string& text = {}, int times = 1) const;
    // Says no more, and hears on.
    void finish() const;
    void close();

private:
    int socket_ = -1;
};

} // namespace attnscope::test
