#include "attach/parent/rests.h"

#include <utility>
#include <vector>

#include <poll.h>

namespace attnscope::attach {

namespace {

constexpr std::chrono::milliseconds at_start{20}, rest_watched{100}, rest_alone{250};
// Of a prompt tokens come by the thousand.
constexpr std::chrono::milliseconds rest_of_many{2};
constexpr size_t many_messages = 256;

} // namespace

bool Rests::take() {
    const size_t n = inbox_.take();
    n_lately_ += n;
    return n > 0;
}

std::chrono::milliseconds Rests::next() {
    if (std::exchange(n_lately_, 0) >= many_messages) return rest_of_many;
    if (!inbox_.any_program()) return at_start;
    return watched_ ? rest_watched : rest_alone;
}

void Rests::rest(std::chrono::milliseconds most, std::span<const int> calls) {
    std::vector<pollfd> any{{inbox_.wake_up().fd(), POLLIN, 0}};
    for (const int call : calls) any.push_back({call, POLLIN, 0});
    poll(any.data(), any.size(), static_cast<int>(most.count()));
    if (any[0].revents != 0) inbox_.wake_up().take();
}

} // namespace attnscope::attach
