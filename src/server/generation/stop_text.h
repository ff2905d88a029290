// The text of a generation as it may be shown: whole characters only, and ended where a stop sequence begins or ends.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace attnscope::server {

class StopText {
public:
    // shown_stop: the stop sequence itself is part of the text, as in KoboldCPP. Otherwise text that may be the
    // beginning of a stop sequence is held back until that is decided.
    StopText(std::vector<std::string> stops, bool shown_stop) : stops_(std::move(stops)), shown_stop_(shown_stop) {}

    // Adds the bytes of one token; returns what may be shown now.
    std::string add(const std::string& piece);
    // A stop sequence was met: the generation ends.
    bool stopped() const { return stopped_; }
    // What was held back, when nothing more comes. An unfinished character becomes U+FFFD.
    std::string finish();
    // All that was shown.
    const std::string& shown() const { return shown_; }

private:
    std::string show(size_t n);

    std::vector<std::string> stops_;
    bool shown_stop_;
    bool stopped_ = false;
    std::string held_; // not shown yet
    std::string shown_;
};

// How many bytes at the end of `text` are the beginning of a character whose rest is missing; 0 to 3.
size_t unfinished_character(const std::string& text);

} // namespace attnscope::server
