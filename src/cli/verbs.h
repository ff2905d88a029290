// The verbs of the command line: one file each, registered in main.cpp.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace attnscope::cli {

// Exit codes of every verb.
constexpr int exit_good = 0;   // done; the answer is yes
constexpr int exit_no = 1;     // done; the answer is no
constexpr int exit_failed = 2; // it could not be done

// What the parsed command line will run; returns the exit code. Set by the chosen verb's callback.
using Action = std::function<int()>;

// Each adds its subcommand to `app` and, when chosen, puts its work into `action`.
void add_models(CLI::App& app, Action& action);
void add_capture(CLI::App& app, Action& action);
void add_attach(CLI::App& app, Action& action);
void add_info(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);
void add_show(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_reproduce(CLI::App& app, Action& action);
void add_diagnose(CLI::App& app, Action& action);
void add_filter(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_view(CLI::App& app, Action& action);

} // namespace attnscope::cli
