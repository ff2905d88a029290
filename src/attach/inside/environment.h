// The program's environment variables, past our own getenv.
#pragma once

namespace attnscope::attach {

// As the program would be told without us; null: not set.
char* given(const char* name);

} // namespace attnscope::attach
