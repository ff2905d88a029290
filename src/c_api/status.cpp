#include "c_api/status.h"

#include "base/version.h"

namespace attnscope::c_api {

std::string& last_error() {
    thread_local std::string message;
    return message;
}

attnscope_status failed(const Error& error) {
    try {
        last_error() = error.message;
    } catch (const std::bad_alloc&) {
        last_error().clear();
    }
    return static_cast<attnscope_status>(static_cast<int>(error.kind) + 1);
}

static_assert(static_cast<int>(ErrorKind::invalid_argument) + 1 == ATTNSCOPE_INVALID_ARGUMENT);
static_assert(static_cast<int>(ErrorKind::damaged) + 1 == ATTNSCOPE_DAMAGED);
static_assert(static_cast<int>(ErrorKind::engine) + 1 == ATTNSCOPE_ENGINE);

} // namespace attnscope::c_api

int32_t attnscope_api_version(void) {
    return ATTNSCOPE_API_VERSION;
}
const char* attnscope_version(void) {
    return attnscope::base::version();
}
const char* attnscope_error_message(void) {
    return attnscope::c_api::last_error().c_str();
}
