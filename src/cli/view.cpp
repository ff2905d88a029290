// attnscope view: look at recordings in a browser.
#include "cli/api_keys.h"
#include "cli/recordings_named.h"
#include "cli/report.h"
#include "cli/verbs.h"

#include "server/view/view_server.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <unistd.h>

namespace attnscope::cli {
namespace {

struct ViewFlags {
    std::vector<std::string> paths;
    server::ServerOptions server;
    bool no_browser = false;
};

// The desktop's own way to open an address, in a process that outlives nothing of ours.
void open_browser(const std::string& url) {
    if (std::getenv("DISPLAY") == nullptr && std::getenv("WAYLAND_DISPLAY") == nullptr) return;
    if (fork() != 0) return;
    if (freopen("/dev/null", "w", stdout) == nullptr || freopen("/dev/null", "w", stderr) == nullptr) _exit(1);
    execlp("xdg-open", "xdg-open", url.c_str(), static_cast<char*>(nullptr));
    _exit(1);
}

// Of a folder that could not be opened: what was looked for in it.
Error with_what_folders_lack(Error error, const std::vector<std::string>& paths) {
    namespace fs = std::filesystem;
    for (const std::string& path : paths) {
        std::error_code ec;
        if (!fs::is_directory(path, ec) || error.message.rfind(path, 0) != 0) continue;
        if (fs::is_empty(path, ec))
            return {ErrorKind::not_found, path + " is empty: there are no recordings (.attn) in it"};
        error.message = "there are no recordings (.attn) in " + path + ", and " + error.message;
        break;
    }
    return error;
}

int run(ViewFlags& f) {
    const std::vector<std::string> paths = recordings_named(f.paths).paths;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGCHLD, SIG_IGN);
    Result<std::unique_ptr<server::ViewServer>> started = server::ViewServer::start(paths, f.server);
    if (!started) return report(with_what_folders_lack(started.error(), paths));
    const std::string url = fmt::format("http://{}:{}/view/", f.server.host, (*started)->port());
    fmt::print("{}\n", url);
    std::fflush(stdout);
    if (!is_this_machine(f.server.host) && f.server.api_keys.empty()) {
        tell_as("warning: ",
                fmt::format("anybody who reaches {} may read these recordings; give an --api-key", f.server.host));
    }
    if (!f.no_browser) open_browser(f.server.api_keys.empty() ? url : url + "#key=" + f.server.api_keys.front());
    int signal = 0;
    sigwait(&signals, &signal);
    // A question about a long recording may take minutes. Nothing is written that could be lost (a cache is renamed when it is whole).
    std::thread([] {
        std::this_thread::sleep_for(std::chrono::seconds(3));
        _exit(exit_good);
    }).detach();
    (*started)->stop();
    return exit_good;
}

} // namespace

void add_view(CLI::App& app, Action& action) {
    auto f = std::make_shared<ViewFlags>();
    f->server.port = 0;
    CLI::App* verb = app.add_subcommand("view", "Look at recordings in a browser");
    verb->footer(
        "Prints the address of a page on this machine and opens it. Nothing leaves the machine. Ends with Ctrl-C.\n"
        "Examples:\n"
        "  attnscope view sky.attn\n"
        "  attnscope view q4.attn q8.attn            two recordings, to compare\n"
        "  attnscope view recordings/                of serve --record, attach -o\n"
        "  attnscope view somebody-elses-capture/    what is wrong with it, drawn\n"
        "  attnscope export sky.attn --to html -o sky.html   the same as one file\n"
        "Exit: 0 it was asked to stop, 2 a file cannot be opened or the port is in use.");
    verb->add_option("files", f->paths, "Recordings (.attn), folders of them, or captures by other programs")
        ->required()
        ->option_text("FILE ...");
    verb->add_flag("--no-browser", f->no_browser, "Print the address only");
    verb->add_option("--host", f->server.host, "Address to listen on")->capture_default_str();
    verb->add_option("--port", f->server.port, "Port to listen on; 0: a free one")
        ->check(CLI::Range(0, 65535))
        ->option_text("N=0");
    verb->add_option("--api-key", f->server.api_keys, "Key that the page must bring, as in URL#key=KEY")
        ->option_text("KEY ...");
    verb->add_option("--allow-host", f->server.allowed_hosts, "Further name of this server; repeatable")
        ->option_text("NAME ...");
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
