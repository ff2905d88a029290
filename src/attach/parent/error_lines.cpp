#include "attach/parent/error_lines.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {
constexpr int most_reads = 64;              // at once: more than a pipe holds
constexpr size_t longest = size_t(1) << 16; // longer ones are heard in pieces
} // namespace

Result<std::unique_ptr<ErrorLines>> ErrorLines::open(Hear hear) {
    std::unique_ptr<ErrorLines> lines(new ErrorLines(std::move(hear)));
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return Error{ErrorKind::io, std::string("there is no pipe for what the program says: ") + std::strerror(errno)};
    lines->read_ = ends[0];
    lines->write_ = ends[1];
    fcntl(lines->read_, F_SETFL, O_NONBLOCK);
    return lines;
}

ErrorLines::~ErrorLines() {
    given();
    if (read_ >= 0) close(read_);
}

void ErrorLines::given() {
    if (write_ >= 0) close(std::exchange(write_, -1));
}

void ErrorLines::take() {
    std::array<char, 4096> buffer;
    for (int reads = 0; reads < most_reads; ++reads) {
        const ssize_t n = read(read_, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        line_.append(buffer.data(), static_cast<size_t>(n));
        for (size_t at = 0; (at = line_.find('\n')) != std::string::npos || line_.size() > longest;) {
            hear_(line_.substr(0, at));
            line_.erase(0, at == std::string::npos ? at : at + 1);
        }
    }
}

void ErrorLines::end() {
    take();
    if (!line_.empty()) hear_(std::exchange(line_, {}));
}

} // namespace attnscope::attach
