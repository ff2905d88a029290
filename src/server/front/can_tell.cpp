#include "server/front/front_service.h"

namespace attnscope::server {

Result<void> can_tell(const AttentionWants& wants, const FrontService& service) {
    if (!wants.attention) return {};
    if (!service.options.server.attention) return Error{ErrorKind::invalid_argument, no_attention_here};
    const std::optional<Geometry> geometry = service.live.geometry(); // once the program has decoded something
    return geometry ? check_request(*wants.attention, *geometry) : Result<void>();
}

} // namespace attnscope::server
