// attnscope serve: live attention over HTTP.
#include "base/cores.h"
#include "cli/api_keys.h"
#include "cli/help.h"
#include "cli/new_folder.h"
#include "cli/report.h"
#include "cli/serve_arguments.h"
#include "cli/serve_engine.h"
#include "cli/session_flags.h"
#include "cli/verbs.h"

#include "server/http/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include <malloc.h>
#include <pthread.h>

namespace attnscope::cli {
namespace {

struct ServeFlags : SessionFlags {
    server::ServerOptions server;
    int64_t timeout = 60, time_limit = 0, stall = 30;
    size_t stream_mb = 128, keys_mb = 2048;
    std::string key_file;
    int32_t attention_threads = 0;
    bool no_attention = false, in_process = false;
    EngineServer engine;
    std::vector<const CLI::Option*> of_in_process; // that have a meaning there alone
    const CLI::Option* context = nullptr;          // -c
    const CLI::Option* keys = nullptr;             // --keys-mb
};

// A thread for each connection makes blocks of some hundred kilobytes for each token: rows, their text, what is sent of it.
// glibc raises its thresholds to the largest block that was ever freed, and twice that is then kept at the top of each arena,
// of which there are eight for every core. Thresholds that are set stay where they are: large blocks go straight back to the
// system. Two hundred clients (tests/load/load.py, a minute, two cores) left 304 MB behind without this, and 60 MB with it.
void give_freed_memory_back() {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

int run_engine(ServeFlags& f, const server::ModelShape& model) {
    for (const CLI::Option* option : f.of_in_process) {
        if (option->count() == 0) continue;
        return report({ErrorKind::invalid_argument, option->get_name() + " has a meaning with --in-process alone"});
    }
    f.engine.record_dir = f.server.record_dir;
    f.engine.alias = f.server.alias;
    f.engine.context_given = f.context->count() > 0;
    f.engine.verbose = f.verbose;
    FrontFlags front;
    front.server = f.server;
    front.model = model;
    front.server.timeout = std::chrono::seconds(f.timeout);
    const bool v6 = f.server.host.find(':') != std::string::npos;
    front.serve = fmt::format("{}{}{}:{}", v6 ? "[" : "", f.server.host, v6 ? "]" : "", f.server.port);
    front.key_file = f.key_file;
    front.stream_mb = f.stream_mb;
    front.keys_mb = f.keys_mb;
    front.threads = f.attention_threads;
    return run_engine_server(f.engine, f.session, front);
}

int run(ServeFlags& f) {
    give_freed_memory_back();
    if (Result<void> r = no_stray_word(f.engine.extra); !r) return report(r.error());
    if (Result<void> r = resolve(f); !r) return report(r.error());
    if (f.no_attention && !f.server.record_dir.empty()) {
        return report({ErrorKind::invalid_argument, "--record and --no-attention exclude each other"});
    }
    NewFolder folder;
    if (!f.server.record_dir.empty()) {
        const std::string why = folder.make(f.server.record_dir);
        if (!why.empty())
            return report({ErrorKind::io,
                           fmt::format("--record {}: the folder cannot be written to: {}", f.server.record_dir, why)});
    }
    f.server.attention = f.session.capture = !f.no_attention;
    if (!f.in_process) {
        Result<std::string> program = find_engine_server(f.engine.program);
        if (!program) return report(program.error());
        f.engine.program = *program;
        Result<server::ModelShape> model = can_be_served(f.session.model_path, f.session.capture);
        if (!model) return report(model.error());
        const int code = run_engine(f, *model);
        if (code == exit_good) folder.keep();
        return code;
    }
    if (!f.engine.extra.empty()) {
        return report({ErrorKind::invalid_argument,
                       f.engine.extra[0] + " is no option of attnscope serve, and with --in-process there is no "
                                           "llama-server to take it; see attnscope serve --help"});
    }
    if (f.keys->count() > 0)
        return report({ErrorKind::invalid_argument, "--keys-mb has no meaning with --in-process: one context is kept"});
    if (Result<void> r = read_api_keys(f.key_file, f.server.api_keys); !r) return report(r.error());
    f.server.timeout = std::chrono::seconds(f.timeout);
    f.server.time_limit = std::chrono::seconds(f.time_limit);
    f.server.stall = std::chrono::seconds(f.stall);
    f.server.stream_memory = f.stream_mb << 20;
    f.server.log = [](const std::string& line) { tell("{}\n", line); };
    constexpr int32_t enough = 8; // a token's attention is some milliseconds of work
    const auto cores = static_cast<int32_t>(base::n_cores());
    const int32_t engine = std::max(f.session.n_threads > 0 ? f.session.n_threads : cores, 1);
    f.server.attention_threads = f.attention_threads > 0 ? f.attention_threads : std::min(engine, enough);
    f.server.engine_threads = f.attention_threads > 0 ? 0 : engine;
    // Before any thread exists, so that all of them leave these signals to sigwait below.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);

    // where all layers lie on GPUs or all on the CPU: a client that wants the mean then costs no rows
    f.session.device_mean = true;
    tell("loading {} ...\n", std::filesystem::path(f.session.model_path).filename().string());
    // On a thread that ends: the engine's OpenMP keeps a team of threads for whoever has decoded, and when there are more of
    // them than cores it lets all of them sleep at each barrier. The server's own thread would then write half as fast (measured: 30
    // tokens a second instead of 60).
    std::optional<Result<std::unique_ptr<Session>>> opened;
    std::thread([&] {
        try {
            opened.emplace(Session::open(f.session));
        } catch (const std::exception& e) { // of want of memory; nothing may leave a thread
            opened.emplace(Error{ErrorKind::engine, std::string("the model could not be loaded: ") + e.what()});
        }
    }).join();
    Result<std::unique_ptr<Session>>& session = *opened;
    if (!session) return report(session.error());
    Result<std::unique_ptr<server::Server>> started = server::Server::start(**session, f.server);
    if (!started) return report(started.error());
    folder.keep();
    fmt::print("listening on http://{}:{}\n", f.server.host, (*started)->port());
    std::fflush(stdout);
    tell("http://{}:{}/view/ shows it{}\n", f.server.host, (*started)->port(),
         f.server.api_keys.empty() ? "" : ", and asks for a key");
    warn_of_strangers(f.server.host, !f.server.api_keys.empty());
    int signal = 0;
    sigwait(&signals, &signal);
    (*started)->stop();
    return exit_good;
}

} // namespace

void add_serve(CLI::App& app, Action& action) {
    auto f = std::make_shared<ServeFlags>();
    CLI::App* verb = app.add_subcommand("serve", "Serve generations and their attention over HTTP");
    verb->footer(
        "The engine's own llama-server generates, with every option that it has: what is not listed here\n"
        "is handed on to it (attnscope serve -np 8 --jinja), as -np, requests at once (4). Before it stand Halo\n"
        "Weave's and KoboldCPP's protocols and attention in everybody's; see docs/http.md.\n"
        "Examples:\n"
        "  attnscope serve -m model.gguf\n"
        "  attnscope serve --cors-origin http://localhost:8080  for the Halo Weave page\n"
        "  attnscope serve -m model.gguf -np 8 -c 65536         eight requests at once\n"
        "  attnscope serve --record recordings/ --api-key SECRET\n"
        "Exit: 0 it was asked to stop, 2 it could not serve.");
    server::ServerOptions& s = f->server;
    const auto number = [&](const char* name, auto& value, int low, int high, const char* what) {
        return verb->add_option(name, value, what)
            ->check(CLI::Range(low, high))
            ->option_text(fmt::format("N={}", value));
    };
    const auto in_process = [&](CLI::Option* option) {
        f->of_in_process.push_back(option->group("With --in-process"));
    };
    add_model_flags(*verb, *f);
    f->context = verb->get_option("--ctx-size")
                     ->description("Positions of all slots together (default: 4096 for each, see -np); 0: as "
                                   "the model was trained");
    verb->add_option("--host", s.host, "Address to listen on")->capture_default_str();
    number("--port", s.port, 0, 65535, "Port to listen on; 0: a free one");
    verb->add_option("--api-key", s.api_keys, "Key that requests must bring; repeatable")->option_text("KEY ...");
    verb->add_option("--api-key-file", f->key_file, "File with such keys, one a line")->option_text("FILE");
    verb->add_option("--cors-origin", s.cors_origins, "Pages that may call, as http://host:8080")
        ->option_text("ORIGIN ...");
    verb->add_option("--allow-host", s.allowed_hosts, "Further name of this server; repeatable")
        ->option_text("NAME ...");
    verb->add_option("--alias", s.alias, "Name of the model in answers (default: its own)")->option_text("NAME");
    verb->add_flag("--log", s.log_requests, "Write a line for each request to standard error");
    verb->add_option("--record", s.record_dir,
                     "Folder for a recording of every conversation (--in-process: of those that clients ask for)")
        ->option_text("DIR");
    verb->add_option("--engine-server", f->engine.program,
                     "The llama-server that generates (default: the one that was built with attnscope)")
        ->option_text("PATH");
    verb->add_option(engine_argument, f->engine.extra)->allow_extra_args(false)->group("");
    verb->add_flag(
        "--in-process", f->in_process,
        "Generate in this process, one request at a time, for Halo Weave and KoboldCPP's clients alone: hidden "
        "states, means beside the model, time limits");
    verb->add_flag("--no-attention", f->no_attention,
                   "Capture nothing and refuse to tell attention: the engine as if attnscope were not there");
    number("--attention-threads", f->attention_threads, 0, 256,
           "Threads for rows of attention; 0: one, where layers lie on GPUs at most 8 (--in-process: the engine's, "
           "between two tokens)");
    in_process(number("--max-queue", s.max_waiting, 0, 10000, "Generations that may wait for their turn"));
    number("--timeout", f->timeout, 1, 86400, "Seconds until a silent connection is closed");
    in_process(number("--time-limit", f->time_limit, 0, 86400, "Seconds one generation may take; 0: any"));
    f->keys = number("--keys-mb", f->keys_mb, 1, 1 << 20, "MB of keys kept of what the engine decoded");
    number("--stream-mb", f->stream_mb, 1, 1 << 16, "MB of attention kept for one slow client");
    in_process(number("--stall", f->stall, 0, 3600, "Seconds to wait for such a client after that"));
    number("--max-connections", s.max_connections, 8, 65536, "Connections served at once");
    in_process(verb->get_option("--entry"));
    f->engine.meant = [verb](const std::string& word) { return nearest_option(*verb, word); };
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
