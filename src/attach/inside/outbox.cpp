#include "attach/inside/outbox.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <utility>

#include <unistd.h>

namespace attnscope::attach {

namespace {

constexpr size_t default_ring_bytes = size_t(64) << 20;
constexpr long poll_ns = 500'000;
constexpr int polls_between_looks = 200; // at the parent: every 100 ms

size_t ring_bytes() {
    const char* mib = std::getenv("ATTNSCOPE_RING_MIB");
    const long n = mib ? std::strtol(mib, nullptr, 10) : 0;
    return n > 0 ? static_cast<size_t>(std::min(n, 16384L)) << 20 : default_ring_bytes;
}

} // namespace

const char* attach_folder() {
    const char* folder = std::getenv("ATTNSCOPE_ATTACH");
    return folder && *folder ? folder : nullptr;
}

Outbox::Outbox(std::string folder, std::string path, std::unique_ptr<RingWriter> ring)
    : folder_(std::move(folder)), path_(std::move(path)), ring_(std::move(ring)) {}

Outbox::~Outbox() {
    if (ring_) ring_->close();
}

Result<std::unique_ptr<Outbox>> Outbox::create(const std::string& folder) {
    if (!ParentLock::held(folder)) return Error{ErrorKind::not_found, "no attnscope attach waits at " + folder};
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now); // containers number their processes alike
    char name[64];
    std::snprintf(name, sizeof name, "/%ld-%lx%lx.ring", static_cast<long>(getpid()), static_cast<long>(now.tv_sec),
                  now.tv_nsec);
    std::string path = folder + name;
    Result<std::unique_ptr<RingWriter>> ring = RingWriter::create(path, ring_bytes());
    if (!ring) return ring.error();
    return std::unique_ptr<Outbox>(new Outbox(folder, std::move(path), std::move(*ring)));
}

void Outbox::give_up() {
    ring_.reset();
    unlink(path_.c_str());
}

// It looks by itself a few times a second, which is too late where a prompt fills the ring.
void Outbox::wake_parent() {
    if (!ring_->fills())
        called_ = false;
    else if (!std::exchange(called_, true))
        WakeUp::call(folder_);
}

bool Outbox::send(const Message& message) {
    if (!ring_) return false;
    ByteCount size;
    write_message(message, size);
    if (!ring_->fits(size.n())) {
        give_up();
        return false;
    }
    const auto put = [&](ByteWriter& to) { write_message(message, to); };
    for (int polls = 1; !ring_->try_write(size.n(), put); ++polls) {
        if (polls == 1) WakeUp::call(folder_);
        if (polls % polls_between_looks == 0 && !ParentLock::held(folder_)) {
            give_up();
            return false;
        }
        const timespec wait{0, poll_ns};
        nanosleep(&wait, nullptr);
    }
    wake_parent();
    return true;
}

} // namespace attnscope::attach
