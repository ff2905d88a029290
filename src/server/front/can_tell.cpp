#include "server/front/front_service.h"

namespace attnscope::server {

Result<void> can_tell(const AttentionWants& wants, const FrontService& service) {
    if (!wants.attention) return {};
    if (!service.options.server.attention) return Error{ErrorKind::invalid_argument, no_attention_here};
    const std::optional<Geometry> geometry = service.live.geometry(); // once the program has decoded something
    return geometry ? check_request(*wants.attention, *geometry) : Result<void>();
}

Result<void> check_hidden_states(const Json* asked) {
    if (!asked || asked->is_null() || *asked == Json(false)) return {};
    return Error{
        ErrorKind::invalid_argument,
        "hidden states are not captured of a program; attnscope serve --in-process has them, on Halo Weave's routes"};
}

} // namespace attnscope::server
