#include "base/version.h"
#include "cli/engine_abort.h"
#include "cli/help.h"
#include "cli/report.h"
#include "cli/serve_arguments.h"
#include "cli/verbs.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace attnscope::cli;

namespace {

// llama.cpp's short names of several letters, which CLI11 does not take after a single dash.
constexpr std::pair<const char*, const char*> long_names[] = {
    {"-ngl", "--n-gpu-layers"}, {"-fa", "--flash-attn"},    {"-ub", "--ubatch-size"},
    {"-dev", "--device"},       {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"},
};

// Arguments in the order in which CLI11 wants them: the last one first, without the program's name.
std::vector<std::string> arguments(const CLI::App& app, int argc, char** argv) {
    std::vector<std::string> args;
    bool ours =
        argc < 2 || std::string_view(argv[1]) != "attach"; // which has none of them, but a program's command line
    for (int i = 1; i < argc; ++i) {
        std::string arg = argv[i];
        ours = ours && arg != "--";
        for (const auto& [brief, full] : long_names) {
            if (ours && arg == brief) arg = full;
        }
        args.push_back(std::move(arg));
    }
    if (!args.empty() && args[0] == "serve") {
        args = sort_serve_arguments(*app.get_subcommand("serve"), {args.begin() + 1, args.end()});
        args.insert(args.begin(), "serve");
    }
    std::reverse(args.begin(), args.end());
    return args;
}

// What the system would end the program for becomes an error of the call that did it, or a sentence. A descriptor that is
// closed at the start would be given to the next file that is opened, and what is printed would be written into it.
void prepare_process() {
    for (int fd = 0; fd <= 2; ++fd) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", O_RDONLY) < 0) break;
    }
    std::signal(SIGPIPE, SIG_IGN); // writing to a closed pipe: EPIPE
    std::signal(SIGXFSZ, SIG_IGN); // writing beyond the file size that is allowed: EFBIG
    explain_engine_aborts();
    explain_bus_errors();
}

// Also where the command line could not be understood.
bool wants_json(int argc, char** argv) {
    return std::find(argv + 1, argv + std::max(argc, 1), std::string_view("--json")) != argv + std::max(argc, 1);
}

int end_of_output(int code) {
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    std::fputs("error: standard output was closed before everything was written\n", stderr);
    return exit_failed;
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{"attnscope: see what a GGUF model attends to, exactly and live", "attnscope"};
    app.require_subcommand(1);
    app.set_version_flag("--version", attnscope::base::program());
    app.formatter(std::make_shared<HelpFormatter>()); // before the verbs, which take it over
    Action action;
    prepare_process();
    try {
        add_models(app, action);
        add_capture(app, action);
        add_attach(app, action);
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
        const std::vector<CLI::App*> verbs = app.get_subcommands([](CLI::App*) { return true; });
        const auto named = [&](const CLI::App* verb) { return verb->check_name(argv[1]); };
        if (argc > 1 && argv[1][0] != '-' && argv[1][0] != '\0' && std::none_of(verbs.begin(), verbs.end(), named))
            return end_of_output(report(unknown_verb(app, argv[1]), wants_json(argc, argv)));
        app.parse(arguments(app, argc, argv));
        return end_of_output(action ? action() : exit_failed);
    } catch (const CLI::Success& e) {
        return end_of_output(app.exit(e)); // --help, --version
    } catch (const CLI::ParseError& e) {
        return end_of_output(report(wrong_arguments(app, e), wants_json(argc, argv)));
    } catch (const std::exception& e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return exit_failed;
    }
}
