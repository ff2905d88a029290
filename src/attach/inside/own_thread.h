// Threads of ours in somebody else's program.
#pragma once

namespace attnscope::attach {

// Runs until the process ends. Signals are the program's: its own threads take them. False: there is no thread to be had.
bool start_own_thread(void (*run)());

} // namespace attnscope::attach
