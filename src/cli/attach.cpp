// attnscope attach: the attention of a program that we did not write.
#include "attach/parent/check_program.h"
#include "attach/parent/record_caller.h"
#include "attach/parent/run_attached.h"
#include "cli/attach_front.h"
#include "cli/lines.h"
#include "cli/new_folder.h"
#include "cli/report.h"
#include "cli/verbs.h"
#include "server/view/view_server.h"

#include <attnscope/verify.h>

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace attnscope::cli {
namespace {

struct Flags {
    std::string output; // empty: not given
    FrontFlags front;
    std::vector<std::string> program;
    bool quiet = false, no_verify = false, check = false, caller = false, view = false, devices = false;
    server::ServerOptions page;
};

// The program's own output is on the same terminal: every sentence says whose it is.
void say(const std::string& sentence) {
    tell_as("attnscope: ", sentence);
}

// Of a file that could not be written to its end: how much of it is there.
int64_t n_frames_in(Recording& recording) {
    const std::vector<Sequence> sequences = recording.sequences();
    return std::accumulate(sequences.begin(), sequences.end(), int64_t(0),
                           [](int64_t n, const Sequence& s) { return n + s.n_own(); });
}

// What is said is said of the file: tokens that came, but did not get into it, are not among those that are ok.
bool good(const attach::Recorded& recorded, bool verify) {
    std::string state = recorded.problem.empty() ? "" : ", incomplete: " + recorded.problem;
    bool is_good = recorded.problem.empty() && recorded.n_ok == recorded.n_frames;
    std::string counted = fmt::format("{} of {} tokens ok", recorded.n_ok, recorded.n_frames);
    if (!verify && recorded.problem.empty()) {
        say(fmt::format("{}: {}", recorded.path, counted));
        return is_good;
    }
    Result<std::unique_ptr<Recording>> opened = Recording::open(recorded.path);
    const int64_t n_there = opened ? n_frames_in(**opened) : 0;
    if (n_there == 0) {
        const std::string why = !recorded.problem.empty() ? recorded.problem : opened ? "" : opened.error().message;
        const bool unread = !opened && recorded.problem.empty();
        say(fmt::format("{}: {}{}{}", recorded.path, unread ? "it cannot be read" : "no token was recorded",
                        why.empty() ? "" : ": ", why));
        return recorded.n_frames == 0 && is_good;
    }
    if (n_there < recorded.n_frames) {
        counted = fmt::format("{} tokens", n_there);
        state += fmt::format(", {} more did not get into it", recorded.n_frames - n_there);
        is_good = false;
    }
    if (verify) {
        Result<VerifyReport> report = verify_recording(**opened);
        if (!report) {
            state += ", " + report.error().message;
            is_good = false;
        } else {
            is_good = is_good && report->good;
            counted = fmt::format("{} of {} tokens ok", report->n_ok, report->n_frames);
            state +=
                fmt::format(", {} heads proven, {} again from the file", report->n_witnesses, report->n_proven_again);
            if (!report->good)
                state += "; NOT good: " + (report->damage.empty() ? "see attnscope verify" : report->damage);
        }
    }
    say(fmt::format("{}: {}{}", recorded.path, counted, state));
    return is_good;
}

int check(const std::string& program) {
    Result<attach::ProgramCheck> answer = attach::check_program(program);
    if (!answer) return report(answer.error());
    const bool no = answer->can_attach == attach::CanAttach::no;
    const std::string said = no ? "no: " : answer->can_attach == attach::CanAttach::yes ? "yes: " : "perhaps: ";
    fmt::print("{}{}\n", said, for_reader(stdout, answer->reason, said.size()));
    return no ? exit_no : exit_good;
}

// Of a program in which no scheduler of ggml's was seen.
std::string why_no_scheduler(const Flags& f, int exit_code) {
    if (!f.program.empty()) {
        const Result<attach::ProgramCheck> file = attach::check_program(f.program[0]);
        if (file && file->can_attach == attach::CanAttach::no) return file->reason;
    }
    if (exit_code != 0)
        return fmt::format("the program ended with status {} and ran no model that could be seen", exit_code);
    return "no ggml scheduler was reached. Unless a line above says why, the program ran no model, or its calls of "
           "ggml "
           "cannot be seen (static and stripped, loaded with RTLD_DEEPBIND, a cleared LD_PRELOAD): attnscope attach "
           "--check PROGRAM tells what can be told of a program's file, and docs/attach/index.md what is captured";
}

volatile std::sig_atomic_t ended = 0; // signal handlers can only reach globals
extern "C" void end_page(int) {
    ended = 1;
}

// The program is gone, but somebody may still look.
void wait_for_end() {
    for (const int s : {SIGINT, SIGTERM, SIGHUP}) std::signal(s, end_page);
    say("the program has ended; the page is there until control-C");
    while (ended == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

// Two lines: the library, and what its ATTNSCOPE_ATTACH has to be.
void tell_caller(const std::string& library, const std::string& folder) {
    fmt::print("{}\n{}\n", library, folder);
    std::fflush(stdout);
}

int run(Flags& f) {
    if (f.program.empty() && (!f.caller || f.check))
        return report(Error{ErrorKind::invalid_argument, "which program? It follows --, with its arguments"});
    if (f.caller && !f.front.serve.empty())
        return report(Error{ErrorKind::invalid_argument, "--serve stands in front of a program that is started here"});
    if (f.check) return check(f.program[0]);
    const bool serves = !f.front.serve.empty();
    if (f.devices) setenv("ATTNSCOPE_ATTACH_DEVICES", "1", 1); // the program inherits it
    attach::AttachOptions options;
    options.argv = f.program;
    // who serves may answer for days
    options.folder = f.output.empty() && (!serves || f.view) ? "." : f.output;
    bool any_problem = false;
    options.say = [&any_problem, quiet = f.quiet](attach::ProgramRecorder::About about, const std::string& line) {
        any_problem = any_problem || about == attach::ProgramRecorder::About::problem;
        if (!quiet) say(line);
    };
    if (f.output == "--") // its own argument was forgotten, and this one taken for it
        return report(Error{ErrorKind::invalid_argument, "-o wants a folder: attnscope attach -o DIR -- PROGRAM"});
    if (!f.caller) {
        if (Result<std::string> program = attach::find_program(f.program[0]); !program) return report(program.error());
    }
    NewFolder folder;
    if (const std::string why = options.folder.empty() ? "" : folder.make(options.folder); !why.empty())
        return report(
            Error{ErrorKind::io, fmt::format("recordings cannot be written into {}: {}", options.folder, why)});
    std::unique_ptr<AttachFront> front;
    if (serves) {
        setenv("LLAMA_ARG_CACHE_RAM", "0", 0); // see warn_of_prompt_cache()
        warn_of_prompt_cache(f.program);
        f.front.warned_of_one_cache = warn_of_one_cache(f.program);
        f.front.quiet = f.quiet;
        f.front.server.record_dir = options.folder;
        Result<std::unique_ptr<AttachFront>> started = AttachFront::start(f.front, f.program);
        if (!started) return report(started.error());
        front = std::move(*started);
        options.listener = front.get();
        if (!f.quiet)
            say(fmt::format("listening on http://{}:{} in front of {}:{}", f.front.server.host, front->port(),
                            front->to().host, front->to().port));
        if (!f.quiet && !options.folder.empty())
            say(fmt::format("http://{}:{}/view/ shows what is recorded", f.front.server.host, front->port()));
    }
    std::unique_ptr<server::ViewServer> page;
    options.watched = f.view;
    if (f.view) {
        std::signal(SIGPIPE, SIG_IGN);
        Result<std::unique_ptr<server::ViewServer>> started = server::ViewServer::watch(options.folder, f.page);
        if (!started) return report(started.error());
        page = std::move(*started);
        say(fmt::format("http://{}:{}/view/ shows what is recorded", f.page.host, page->port()));
    }
    Result<attach::AttachEnd> end =
        f.caller ? attach::record_caller(options, tell_caller) : attach::run_attached(options);
    if (front) front->stop();
    if (!end) return report(end.error());
    folder.keep();
    for (const attach::Recorded& r : end->recorded) {
        if (!f.quiet) good(r, !f.no_verify);
    }
    const bool is_said = end->no_room || any_problem;
    if (!end->any_scheduler && !end->no_room)
        say("nothing was captured: " + why_no_scheduler(f, end->exit_code));
    else if (!end->any_scheduler || (end->recorded.empty() && !options.folder.empty() && !f.quiet))
        say(is_said ? "nothing was captured, for the reason above" : "nothing was captured: no text was decoded");
    else if (serves && options.folder.empty() && !f.quiet)
        say(fmt::format("the program has ended with status {}; nothing was recorded: that needs -o DIR",
                        end->exit_code));
    if (page && !f.caller && !end->asked_to_end && !end->recorded.empty()) wait_for_end();
    return end->exit_code;
}

} // namespace

void add_attach(CLI::App& app, Action& action) {
    auto f = std::make_shared<Flags>();
    f->page.port = 0;
    CLI::App* verb = app.add_subcommand("attach", "Record the attention of a program that runs llama.cpp, unmodified");
    verb->footer(
        "  attnscope attach -o DIR -- llama-server -m model.gguf\n"
        "  attnscope attach -o DIR -- node generate.mjs model.gguf\n"
        "  attnscope attach --serve 127.0.0.1:5001 -- llama-server -m model.gguf -np 4\n"
        "  attnscope attach --view -o DIR -- ollama serve   and the page\n"
        "\n"
        "Starts the program with a small library in it (LD_PRELOAD; its children inherit it). Where the "
        "program computes\n"
        "with ggml the library finds attention in its graphs, proves samples against the program's own "
        "results, and hands\n"
        "queries and keys over through shared memory. Every conversation becomes DIR/MODEL-PROCESS-N.attn.\n"
        "With --serve it is a server, too, in front of the program: every request goes on to it, and those with "
        "an \"attention\"\n"
        "object are answered with the attention of each token (docs/attach/serve.md).\n"
        "The program keeps its output, its signals and its exit status, which is that of this command, too.\n"
        "\n"
        "Environment: ATTNSCOPE_RING_MIB, shared memory for each process that computes (64); "
        "ATTNSCOPE_ATTACH_LIBRARY.");
    verb->add_option("-o,--output", f->output, "Folder of the recordings (default: this one; with --serve: none)")
        ->option_text("DIR");
    verb->add_flag("-q,--quiet", f->quiet, "Say nothing but why nothing was captured");
    verb->add_flag("--no-verify", f->no_verify, "Do not read the recordings again at the end");
    verb->add_flag("--check", f->check,
                   "Only say whether the library can go into the program; exit 0 yes or perhaps, 1 no");
    verb->add_flag(
        "--caller", f->caller,
        "Record the process that runs this command, which loads the library itself (Python's attnscope.attach())");
    verb->add_flag("--devices", f->devices, "Capture layers on GPUs, too (docs/attach/index.md#gpus)");
    CLI::Option* view = verb->add_flag("--view", f->view,
                                       "Show the recordings in a browser as they grow, and until control-C when the "
                                       "program has ended; prints the address");
    verb->add_option("--port", f->page.port, "Port of that page; 0: a free one")
        ->check(CLI::Range(0, 65535))
        ->needs(view)
        ->option_text("N=0");
    add_front_flags(*verb, f->front);
    verb->add_option("program", f->program, "The program and its arguments, after --");
    verb->positionals_at_end();
    verb->callback([f, &action] { action = [f] { return run(*f); }; });
}

} // namespace attnscope::cli
