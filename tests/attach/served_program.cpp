#include "attach/served_program.h"

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include <arpa/inet.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::test {

namespace {

int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int port = 0;
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

} // namespace

std::vector<float> numbers_of(const std::string& base64) {
    std::vector<uint8_t> bytes;
    uint32_t bits = 0;
    int n_bits = 0;
    const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (const char c : base64) {
        const size_t value = letters.find(c);
        if (value == std::string::npos) break;
        bits = bits << 6 | static_cast<uint32_t>(value);
        if ((n_bits += 6) < 8) continue;
        bytes.push_back(static_cast<uint8_t>(bits >> (n_bits -= 8)));
    }
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
    return out;
}

ServedProgram::ServedProgram(const std::vector<std::string>& options,
                             const std::function<std::vector<std::string>(const std::string& port)>& program) {
    port_ = free_port();
    const std::string to = std::to_string(free_port());
    std::vector<std::string> argv = {
        ATTNSCOPE_BIN, "attach", "-q", "--serve", "127.0.0.1:" + std::to_string(port_), "--to", "127.0.0.1:" + to};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.emplace_back("--");
    for (std::string& argument : program(to)) argv.push_back(std::move(argument));
    std::vector<char*> pointers;
    for (std::string& a : argv) pointers.push_back(a.data());
    pointers.push_back(nullptr);
    client_ = std::make_unique<httplib::Client>("127.0.0.1", port_);
    client_->set_read_timeout(120);
    if (posix_spawn(&pid_, ATTNSCOPE_BIN, nullptr, nullptr, pointers.data(), environ) != 0) {
        pid_ = 0;
        return;
    }
    for (int i = 0; i < 600 && !ok_; ++i) {
        const auto answer = client_->Get("/health");
        ok_ = answer && answer->status == 200;
        if (!ok_) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}

void ServedProgram::end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
}

} // namespace attnscope::test
