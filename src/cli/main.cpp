#include "base/version.h"
#include "cli/engine_abort.h"
#include "cli/verbs.h"

#include <cstdio>
#include <exception>

#include <string>
#include <utility>
#include <vector>

using namespace attnscope::cli;

namespace {

// llama.cpp's short names of several letters, which CLI11 does not take after a single dash.
constexpr std::pair<const char*, const char*> long_names[] = {
    {"-ngl", "--n-gpu-layers"}, {"-fa", "--flash-attn"},   {"-ub", "--ubatch-size"},
    {"-dev", "--device"}, {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"},
};

// Arguments in the order in which CLI11 wants them: the last one first, without the program's name.
std::vector<std::string> arguments(int argc, char** argv) {
    std::vector<std::string> args;
    for (int i = argc - 1; i > 0; --i) {
        std::string arg = argv[i];
        for (const auto& [brief, full] : long_names) {
            if (arg == brief) arg = full;
        }
        args.push_back(std::move(arg));
    }
    return args;
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{"attnscope: see what a GGUF model attends to, exactly and live", "attnscope"};
    app.require_subcommand(1);
    app.set_version_flag("--version", attnscope::base::program());
    app.get_formatter()->column_width(34);
    Action action;
    explain_engine_aborts();
    try {
        add_models(app, action);
        add_capture(app, action);
        add_show(app, action);
        add_info(app, action);
        add_verify(app, action);
        add_export(app, action);
        add_bench(app, action);
        add_reproduce(app, action);
        add_diagnose(app, action);
        add_filter(app, action);
        add_serve(app, action);
        add_view(app, action);
        // add verbs here
        app.parse(arguments(argc, argv));
        return action ? action() : exit_failed;
    } catch (const CLI::Success& e) {
        return app.exit(e); // --help, --version
    } catch (const CLI::ParseError& e) {
        app.exit(e);
        return exit_failed;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return exit_failed;
    }
}
