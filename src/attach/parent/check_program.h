// Can the library go into this program? Told from its file, without running it.
#pragma once

#include <attnscope/error.h>

#include <string>

namespace attnscope::attach {

enum class CanAttach {
    no,
    perhaps, // it starts others, of which nothing is known until it runs
    yes
};

struct ProgramCheck {
    CanAttach can_attach = CanAttach::no;
    std::string reason; // why not, or what will happen, in a sentence
};

// `program`: a path, or a name that is looked up in PATH. Errors: there is no such program, or it cannot be read.
Result<ProgramCheck> check_program(const std::string& program);

} // namespace attnscope::attach
