#include "recording/identity.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdint>

#include <sys/random.h>
#include <unistd.h>

namespace attnscope::recording {

// Two captures of one model may begin in the same second: a log must not pass for the other's.
std::string random_identity() {
    uint64_t bits[2] = {};
    // fails only on kernels that lack it
    if (getrandom(bits, sizeof bits, 0) != ssize_t(sizeof bits)) {
        bits[0] = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
        bits[1] = uint64_t(getpid());
    }
    return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

std::string identity_of(Database& db) {
    auto text = db.text("SELECT group_concat(key || '=' || hex(checksum), ' ') FROM "
                        "(SELECT key, checksum FROM meta WHERE key IN ('created', 'engine', 'identity', 'model', "
                        "'settings', 'writer') ORDER BY key)");
    return text ? *text : std::string();
}

} // namespace attnscope::recording
