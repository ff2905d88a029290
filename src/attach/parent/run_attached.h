// Runs a program with our library in it, and records what it tells.
#pragma once

#include "attach/parent/error_lines.h"
#include "attach/parent/recorder.h"

#include <attnscope/error.h>

#include <string>
#include <vector>

namespace attnscope::attach {

struct AttachOptions {
    std::vector<std::string> argv;     // argv[0] is looked up in PATH
    std::string folder;                // of the recordings; it is there. Empty: nothing is recorded
    FrameListener* listener = nullptr; // outlives the run
    // The program is a part of ours: an interrupt of the terminal comes to us alone, which ends it as every request to end does, and it
    // ends when we do, however that happens.
    bool ours = false;
    ErrorLines::Hear errors; // of a program that is a part of ours: each line of its standard error. None: it has ours
    bool capture = true;     // false: our library stays out of it
    bool watched = false; // somebody reads the recordings while they grow: they are to be at most half a second behind
    ProgramRecorder::Say say;
};

struct AttachEnd {
    int exit_code = 0;          // the program's own; 128 + the signal's number where a signal ended it
    bool any_scheduler = false; // a ggml scheduler was seen
    bool no_room = false;       // one would have been, but for want of shared memory, as the program has said itself
    bool asked_to_end = false;  // a signal that was passed on to the program
    std::vector<Recorded> recorded;
};

// The program keeps its terminal, its standard streams and its signals: an interrupt of the terminal goes to it, and SIGTERM,
// SIGHUP, and SIGINT and SIGQUIT that somebody sends to us are passed on. Returns when it and all that it started with our library in them have ended.
Result<AttachEnd> run_attached(const AttachOptions& options);

// The library that goes into programs: beside this program, or ATTNSCOPE_ATTACH_LIBRARY.
Result<std::string> attach_library();
// Where `program` is, as the shell would find it.
Result<std::string> find_program(const std::string& program);

} // namespace attnscope::attach
