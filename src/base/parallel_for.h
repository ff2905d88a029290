// A range of independent things, worked on by several threads for a moment.
#pragma once

#include "base/cores.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <future>
#include <vector>

namespace attnscope::base {

// Threads that may work beside the one that decodes, without making it late: a share of the cores.
inline size_t helping_threads() {
    return std::max<size_t>(1, n_cores() * 3 / 8);
}

// Calls work(i) for all i in [0, n), on this thread and up to n_threads - 1 others. `work` must not throw.
template <typename Work> void parallel_for_on(size_t n_threads, size_t n, const Work& work) {
    std::atomic<size_t> next{0};
    const auto go = [&] {
        for (size_t i = next++; i < n; i = next++) work(i);
    };
    std::vector<std::future<void>> helpers;
    for (size_t t = 1; t < std::min(n, n_threads); ++t) helpers.push_back(std::async(std::launch::async, go));
    go();
    for (std::future<void>& h : helpers) h.get();
}

// The same on up to helping_threads().
template <typename Work> void parallel_for(size_t n, const Work& work) {
    parallel_for_on(helping_threads(), n, work);
}

// The same on all cores, where nothing decodes meanwhile.
template <typename Work> void parallel_for_all(size_t n, const Work& work) {
    parallel_for_on(n_cores(), n, work);
}

// The same where there are at least `many`; fewer are done here, one after the other.
template <typename Work> void parallel_for(size_t n, size_t many, const Work& work) {
    if (n >= many) return parallel_for(n, work);
    for (size_t i = 0; i < n; ++i) work(i);
}

} // namespace attnscope::base
