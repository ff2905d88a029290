// What happens when llama.cpp gives up inside itself.
#pragma once

namespace attnscope::cli {

// llama.cpp ends the process where it cannot go on (a GPU fails, an RPC server dies). Makes that a sentence and exit code 2
// instead of a stack trace, after the recording's writer has had the time to commit what it was given.
void explain_engine_aborts();
// A file that is mapped, the model, ends before its time: the system sends SIGBUS to whoever reads on.
void explain_bus_errors();
// From now on there is a recording that such an end leaves behind.
void recording_has_begun();

} // namespace attnscope::cli
