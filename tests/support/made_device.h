// GPUs made of host memory: TEST0 and TEST1 compute with the CPU back end's kernels, but their memory says that it is no host
// memory, and what they are asked to do runs later, on streams (made_streams.h). So everything that stands between a GPU and a
// frame can be tested without one, to the bit: a session on them must give what a session on the CPU gives.
//
// As on a real device: memory that is new holds no numbers, memory that is given back is overwritten at once, and blocking reads
// and writes of a buffer wait for no stream.
#pragma once

#include "support/made_streams.h"

#include <cstddef>
#include <functional>

namespace attnscope::test {

class MadeDevice {
public:
    // Makes TEST0 and TEST1 known to ggml, once in a process; returns what steers both.
    static MadeDevice& steer();
    // The next session finds it as the first did. Only while no session uses it. False: something wrote to memory after it had been
    // given back.
    bool reset();

    MadeStreams streams;

    enum class Memory { device, pinned };
    // Asked of every allocation, from any thread. Empty: none is refused.
    void refuse(std::function<bool(Memory, size_t bytes)> refuse);
    // The engine's `n`-th graph of now fails (0: the next), or a part of a graph where it is split over devices.
    void fail_graph(int n);
    // Can streams wait for each other? Asked when a session begins.
    void set_events(bool on);
    // Graphs that the engine has computed.
    int n_engine_graphs() const;
    // Told of every copy from a device to the host that was made by a stream, on that stream's thread.
    void watch_copies(std::function<void(bool for_the_engine)> told);

private:
    MadeDevice() = default;
};

} // namespace attnscope::test
