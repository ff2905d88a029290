// attnscope serve: the engine's own server generates, attached where it is to be captured, and ours stands before it.
#pragma once

#include "cli/attach_front.h"

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <functional>
#include <string>
#include <vector>

namespace attnscope::cli {

struct EngineServer {
    std::string program;            // llama-server, looked up in PATH; empty: the one that was built with us
    std::vector<std::string> extra; // arguments that are its own
    std::string record_dir;         // every conversation is recorded there; empty: none
    std::string alias;              // the model's name in answers; empty: its file's
    bool context_given = false;     // -c: of all requests together, as llama-server has it
    bool verbose = false;
    std::function<std::string(const std::string&)> meant; // the option of ours that a word is like; empty: none
};

// A file that llama.cpp would abort on, or that does not generate, never gets to the engine's server: a sentence says why. `attention`:
// that it has some is asked, too.
Result<server::ModelShape> can_be_served(const std::string& model_path, bool attention);
// Where it is. not_found: nowhere; the message says what to do.
Result<std::string> find_engine_server(const std::string& program);
// Its arguments for what the options ask; it listens on `port` of this machine alone.
std::vector<std::string> engine_arguments(const EngineServer& server, const SessionOptions& session, int port);
// Runs until the server ends, or we are told to. The exit code.
int run_engine_server(const EngineServer& server, const SessionOptions& session, FrontFlags& front);

} // namespace attnscope::cli
