#include "server/front/event_reader.h"

#include <algorithm>

namespace attnscope::server {

namespace {

std::string data_of(std::string_view text) {
    std::string data;
    bool any = false;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        if (line.rfind("data:", 0) != 0) continue;
        line.remove_prefix(5);
        if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
        if (any) data += '\n';
        data += line;
        any = true;
    }
    return data;
}

} // namespace

bool EventReader::add(std::string_view bytes) {
    if (buffer_.size() + bytes.size() > most_) return false;
    buffer_ += bytes;
    return true;
}

std::optional<ServerEvent> EventReader::next() {
    // An empty line: two line breaks, each with or without a carriage return.
    for (size_t at = buffer_.find('\n', looked_); at != std::string::npos; at = buffer_.find('\n', at + 1)) {
        size_t end = at + 1;
        if (end < buffer_.size() && buffer_[end] == '\r') ++end;
        if (end >= buffer_.size()) {
            looked_ = at;
            return std::nullopt;
        }
        if (buffer_[end] != '\n') continue;
        ServerEvent event;
        event.text = buffer_.substr(0, end + 1);
        buffer_.erase(0, end + 1);
        looked_ = 0;
        event.data = data_of(event.text);
        return event;
    }
    looked_ = buffer_.size();
    return std::nullopt;
}

} // namespace attnscope::server
