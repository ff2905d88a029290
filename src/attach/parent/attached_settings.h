// What a recording states of the program that it is of.
#pragma once

#include <string>
#include <vector>

namespace attnscope::attach {

// A command as it may be read by whoever gets the recording: values of what its name calls a key, token, password or secret are "***",
// as an option ("--api-key V", "--api-key=V"), a variable ("env HF_TOKEN=V"), a part of an address ("https://NAME:V@host", "?token=V"),
// also in a line for a shell. Options that name a file keep it.
std::vector<std::string> without_secrets(const std::vector<std::string>& argv);

// meta.settings: {"attached": argv}, without secrets.
std::string attached_settings(const std::vector<std::string>& argv);

} // namespace attnscope::attach
