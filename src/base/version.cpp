#include "base/version.h"

namespace attnscope::base {

const char* version() {
    return ATTNSCOPE_VERSION;
}
const char* program() {
    return "attnscope " ATTNSCOPE_VERSION;
}

} // namespace attnscope::base
