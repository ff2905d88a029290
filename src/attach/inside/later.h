// Frames of devices are late anyway: a thread of ours writes them into the ring, and the program goes on computing meanwhile.
#pragma once

#include "attach/wire/messages.h"

namespace attnscope::attach {

// Sends the message with `send` behind those that were given here before. Waits while many stand there (32 MiB of frames);
// where no thread can be had it is sent at once. False: an earlier one could not be sent.
bool send_later(Message&& message, bool (*send)(const Message&));
// Until everything that was given before has been sent.
void wait_for_later();

} // namespace attnscope::attach
