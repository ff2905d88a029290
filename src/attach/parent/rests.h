// How long the parent does not look at the rings.
#pragma once

#include "attach/parent/inbox.h"

#include <chrono>
#include <cstddef>
#include <span>

namespace attnscope::attach {

// To wake up costs more than to take one token, and where no core is free it costs the program. A ring holds hundreds; where one fills,
// its program calls.
class Rests {
public:
    // `watched`: somebody reads what is recorded while it grows.
    Rests(Inbox& inbox, bool watched) : inbox_(inbox), watched_(watched) {}
    // Takes what lies in the rings, up to a bound. False: nothing did.
    bool take();
    // How long it is to be until the next look, unless somebody waits for what is there. Asked for once a rest.
    std::chrono::milliseconds next();
    // Until one of the descriptors can be read (negative ones never can), a ring fills, a signal comes, or so much time is over.
    void rest(std::chrono::milliseconds most, std::span<const int> calls);

private:
    Inbox& inbox_;
    const bool watched_;
    size_t n_lately_ = 0; // messages since the last rest
};

} // namespace attnscope::attach
