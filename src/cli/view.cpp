// attnscope view: look at recordings in a browser.
#include "cli/report.h"
#include "cli/verbs.h"

#include "server/view/view_server.h"

#include <fmt/format.h>

#include <algorithm>
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

// A folder that holds recordings stands for them: what serve --record and attach -o leave.
void open_folders(std::vector<std::string>& paths) {
    namespace fs = std::filesystem;
    std::vector<std::string> out;
    for (const std::string& path : paths) {
        std::vector<std::string> inside;
        std::error_code ec;
        for (fs::directory_iterator at(path, ec), end; !ec && at != end; at.increment(ec)) {
            if (at->path().extension() == ".attn") inside.push_back(at->path().string());
        }
        std::sort(inside.begin(), inside.end());
        if (inside.empty()) inside.push_back(path);
        out.insert(out.end(), inside.begin(), inside.end());
    }
    paths = std::move(out);
}

int run(ViewFlags& f) {
    open_folders(f.paths);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGCHLD, SIG_IGN);
    Result<std::unique_ptr<server::ViewServer>> started = server::ViewServer::start(f.paths, f.server);
    if (!started) return report(started.error());
    const std::string url = fmt::format("http://{}:{}/view/", f.server.host, (*started)->port());
    fmt::print("{}\n", url);
    std::fflush(stdout);
    if (f.server.host != "127.0.0.1" && f.server.host != "localhost" && f.server.host != "::1" &&
        f.server.api_keys.empty()) {
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
