// Threads that share a token's work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace attnscope::view {

// Belongs to one thread, which works too.
class Crew {
public:
    virtual ~Crew() = default;
    // How many work at most: fewer where the machine gives no more threads.
    virtual int32_t size() const = 0;
    // Calls work(item, member) for each item in [0, n_items) and returns when all are done; member in [0, size()) says who
    // works, for scratch memory. `work` must not throw.
    virtual void run(size_t n_items, const std::function<void(size_t item, int32_t member)>& work) = 0;
};

// Threads of its own, which wait for the next token: starting some for each would cost as much as the work itself. They are
// started by the first run: whoever gets all from a GPU has none.
std::unique_ptr<Crew> own_crew(int32_t n_threads);

// ggml's own thread pool of the thread that calls run(). Between two tokens that is the engine's pool, whose threads
// spin while they wait for the next graph: they start at once, and no other thread takes a core from the engine's next
// token.
std::unique_ptr<Crew> engine_crew(int32_t n_threads);

} // namespace attnscope::view
