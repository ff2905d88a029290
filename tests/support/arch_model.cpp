#include "support/arch_model.h"

#include <cstdlib>

namespace attnscope::test {

bool make_arch_models(const std::string& program, const std::string& folder, const std::string& names) {
    return std::system(("'" + program + "' '" + folder + "' " + names + " > /dev/null 2>&1").c_str()) == 0;
}

} // namespace attnscope::test
