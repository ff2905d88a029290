// attnscope serve --engine-server: the engine's own server generates, attached, and ours stands before it.
#pragma once

#include "cli/attach_front.h"

#include <attnscope/session.h>

#include <string>
#include <vector>

namespace attnscope::cli {

struct EngineServer {
    std::string program;            // llama-server, looked up in PATH
    std::vector<std::string> extra; // further arguments of its own
    std::string record_dir;         // every conversation is recorded there; empty: none
    bool quiet = false;
};

// Its arguments for what the options ask; it listens on `port` of this machine alone.
std::vector<std::string> engine_arguments(const EngineServer& server, const SessionOptions& session, int port);
// Runs until the server ends, or we are told to. The exit code.
int run_engine_server(const EngineServer& server, const SessionOptions& session, FrontFlags& front);

} // namespace attnscope::cli
