// Frames of devices come some tokens late, and the last ones would wait for the next token: who comes back to them.
#pragma once

#include <memory>

namespace attnscope::attach {

class Stream;

// The stream's frames are brought as soon as it rests, on a thread of ours, or when the program ends by itself.
void come_back_to(std::weak_ptr<Stream> stream);

} // namespace attnscope::attach
