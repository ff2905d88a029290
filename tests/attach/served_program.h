// A program behind `attnscope attach --serve`.
#pragma once

#include <httplib.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

namespace attnscope::test {

// The values of little-endian float32 in base64.
std::vector<float> numbers_of(const std::string& base64);

class ServedProgram {
public:
    // `options`: further ones of attach; `program`: its arguments, for the port that it listens on.
    ServedProgram(const std::vector<std::string>& options,
                  const std::function<std::vector<std::string>(const std::string& port)>& program);
    ~ServedProgram() { end(); }
    ServedProgram(const ServedProgram&) = delete;
    ServedProgram& operator=(const ServedProgram&) = delete;

    bool ok() const { return ok_; } // it answers
    httplib::Client& client() { return *client_; }
    int port() const { return port_; }
    void end();

private:
    bool ok_ = false;
    int port_ = 0;
    pid_t pid_ = 0;
    std::unique_ptr<httplib::Client> client_;
};

} // namespace attnscope::test
