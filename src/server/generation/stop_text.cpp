#include "server/generation/stop_text.h"

#include <algorithm>

namespace attnscope::server {

size_t unfinished_character(const std::string& text) {
    // The first byte of a character tells its length: 110xxxxx two, 1110xxxx three, 11110xxx four; 10xxxxxx continues.
    for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
        const auto byte = static_cast<unsigned char>(text[text.size() - back]);
        if ((byte & 0xC0) == 0x80) continue;
        const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
        return length > back ? back : 0;
    }
    return 0;
}

std::string StopText::show(size_t n) {
    std::string out = held_.substr(0, n);
    held_.erase(0, n);
    shown_ += out;
    return out;
}

std::string StopText::add(const std::string& piece) {
    if (stopped_) return {};
    held_ += piece;
    // With the stop shown, a sequence may have begun in text that is out already.
    const size_t longest = stops_.empty() ? 0 : std::max_element(stops_.begin(), stops_.end(), [](auto& a, auto& b) {
                                                    return a.size() < b.size();
                                                })->size();
    const size_t before = std::min(shown_stop_ && longest ? longest - 1 : 0, shown_.size());
    const std::string window = shown_.substr(shown_.size() - before) + held_;
    size_t first = std::string::npos, end = 0;
    for (const std::string& stop : stops_) {
        const size_t at = window.find(stop);
        if (at != std::string::npos && at < first) {
            first = at;
            end = at + stop.size();
        }
    }
    if (first != std::string::npos) {
        stopped_ = true;
        const std::string out = show(shown_stop_ ? (end > before ? end - before : 0) : first);
        held_.clear();
        return out;
    }
    size_t keep = unfinished_character(held_);
    if (!shown_stop_) {
        for (const std::string& stop : stops_) {
            for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
                if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
                    keep = n;
                    break;
                }
            }
        }
    }
    return show(held_.size() - keep);
}

std::string StopText::finish() {
    const size_t broken = unfinished_character(held_);
    held_.resize(held_.size() - broken);
    if (broken) held_ += "\xEF\xBF\xBD";
    return show(held_.size());
}

} // namespace attnscope::server
