#include "cli/verbs.h"

#include <cstdio>
#include <exception>

using namespace attnscope::cli;

int main(int argc, char** argv) {
    CLI::App app{"attnscope: see what a GGUF model attends to, exactly and live", "attnscope"};
    app.require_subcommand(1);
    app.set_version_flag("--version", "attnscope 0.1.0");
    app.get_formatter()->column_width(34);
    Action action;
    try {
        add_models(app, action);
        // add verbs here
        app.parse(argc, argv);
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
