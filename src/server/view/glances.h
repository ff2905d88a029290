// What a list of recordings says of each: looked at without opening it for a page.
#pragma once

#include "base/mutex.h"

#include <attnscope/recording.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace attnscope::server {

struct Glance {
    std::string words; // of its first sequence, cut perhaps within a character; empty: none, or nobody has looked yet
    bool warm_up = false; // it holds what a program decodes before anybody asks, and nothing else
};
Glance glance_at(Recording& recording);

// With which the last turn of the user begins, where it is marked; else the text. `begin`: where the sequence's own part does.
std::string words_of_sequence(Recording& recording, const Sequence& sequence, int64_t begin);

// Files are looked at again when they have changed. From any thread.
class Glances {
public:
    // Within `time` of one list; files for which it does not last are looked at with the next.
    class List {
    public:
        explicit List(Glances& all) : all_(all), until_(std::chrono::steady_clock::now() + time) {}
        Glance of(const std::string& path);

    private:
        Glances& all_;
        const std::chrono::steady_clock::time_point until_;
    };

private:
    static constexpr std::chrono::milliseconds time{200};
    static constexpr size_t most = 4096;
    struct Seen {
        std::string state; // sizes and times of the file and of what is written beside it
        Glance glance;
    };
    base::Mutex mutex_;
    std::map<std::string, Seen> seen_ GUARDED_BY(mutex_); // by path
};

} // namespace attnscope::server
