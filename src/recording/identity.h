// What tells a recording from every other: a log belongs to the recording that has the same.
#pragma once

#include "recording/database.h"

#include <string>

namespace attnscope::recording {

std::string random_identity();
// Of what never changes in a recording; empty where it cannot be read.
std::string identity_of(Database& db);

} // namespace attnscope::recording
