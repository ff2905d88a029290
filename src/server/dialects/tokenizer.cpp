#include "server/dialects/tokenizer.h"

#include <fmt/format.h>

namespace attnscope::server {

Result<std::vector<int32_t>> tokenize_text(const Service& service, const std::string& text, bool add_special,
                                           bool parse_special) {
    if (text.size() > max_text) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("the text has {} bytes; at most {} are tokenised", text.size(), max_text)};
    }
    return service.session.tokenize(text, add_special, parse_special);
}

} // namespace attnscope::server
