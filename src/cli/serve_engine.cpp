#include "cli/serve_engine.h"

#include "attach/parent/run_attached.h"
#include "base/cores.h"
#include "cli/report.h"
#include "cli/says_when_ready.h"
#include "gguf/gguf_check.h"

#include <fmt/format.h>
#include <ggml-backend.h>
#include <llama.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <utility>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

namespace attnscope::cli {

namespace {

// A port that nobody listens on now; 0: there is none.
int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof address;
    const bool bound = bind(fd, any, size) == 0 && getsockname(fd, any, &size) == 0;
    close(fd);
    return bound ? ntohs(address.sin_port) : 0;
}

// That nobody else on this machine knows: the engine's server answers those who bring it, whatever page or program asks. Empty: the
// system gives no random numbers.
std::string new_key() {
    unsigned char bytes[24];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return {};
    std::string key;
    for (const unsigned char byte : bytes) key += fmt::format("{:02x}", byte);
    return key;
}

bool on_gpus(const SessionOptions& session) {
    if (session.n_gpu_layers == 0 || session.devices == "none") return false;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const auto type = ggml_backend_dev_type(ggml_backend_dev_get(i));
        if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) return true;
    }
    return !session.rpc_servers.empty();
}

// Is one of these options among the words? The server warns of what is given twice.
bool gives(const std::vector<std::string>& words, std::initializer_list<const char*> names) {
    return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
        return std::any_of(names.begin(), names.end(), [&](const char* name) { return word == name; });
    });
}

// Of one token's rows: more add nothing.
constexpr int32_t most_row_threads = 8;
// Slots of the server where nobody says how many.
constexpr int default_slots = 4;

// At the end: what lies where. Those that are not whole are named.
void tell_recorded(const std::string& folder, const std::vector<attach::Recorded>& recorded) {
    if (folder.empty()) return;
    if (recorded.empty()) return tell("nothing was recorded in {}\n", folder);
    int64_t n = 0, n_ok = 0;
    for (const attach::Recorded& one : recorded) {
        n += one.n_frames;
        n_ok += one.n_ok;
        if (!one.problem.empty()) tell("{} is incomplete: {}\n", one.path, one.problem);
    }
    tell("{}: {}, {} of {} tokens ok\n", folder, counted(static_cast<int64_t>(recorded.size()), "recording"), n_ok, n);
}

} // namespace

Result<server::ModelShape> can_be_served(const std::string& model_path, bool attention) {
    const Result<gguf::GgufSummary> summary = gguf::check_gguf(model_path);
    if (!summary) return summary.error();
    if (!summary->no_text_reason.empty()) {
        return Error{ErrorKind::unsupported,
                     fmt::format("{} does not generate text: {} (attnscope capture{} records how it reads a text)",
                                 model_path, summary->no_text_reason, summary->encoder_decoder ? "" : " -n 0")};
    }
    if (summary->has_attention || !attention)
        return server::ModelShape{summary->n_layer, summary->n_head, summary->n_head_kv};
    return Error{ErrorKind::unsupported, model_path + " has no attention to tell: its layers are recurrent "
                                                      "(--no-attention serves it all the same)"};
}

Result<std::string> find_engine_server(const std::string& program) {
    if (!program.empty()) {
        Result<std::string> found = attach::find_program(program);
        if (!found) return Error{ErrorKind::not_found, "--engine-server " + program + ": " + found.error().message};
        return found;
    }
    namespace fs = std::filesystem;
    Dl_info engine; // beside the engine's libraries, in a build folder and where it is installed
    if (dladdr(reinterpret_cast<const void*>(&llama_backend_init), &engine) != 0 && engine.dli_fname) {
        std::error_code ec;
        const fs::path at = fs::absolute(engine.dli_fname, ec).parent_path() / "llama-server";
        if (access(at.c_str(), X_OK) == 0) return at.string();
    }
    return Error{ErrorKind::not_found,
                 "there is no llama-server beside the engine's libraries: `make program` builds it; one that lies "
                 "elsewhere is named with --engine-server PATH, and --in-process does without"};
}

// What our questions to it, or its to us, could not live with.
Result<void> check_handed_on(const EngineServer& server) {
    for (const char* name : {"--api-prefix", "--ssl-key-file", "--ssl-cert-file"}) {
        std::string variable = std::string("LLAMA_ARG_") + (name + 2);
        std::replace(variable.begin(), variable.end(), '-', '_');
        std::transform(variable.begin(), variable.end(), variable.begin(),
                       [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
        const char* set = std::getenv(variable.c_str());
        const bool given = std::any_of(server.extra.begin(), server.extra.end(), [&](const std::string& word) {
            return word == name || word.rfind(std::string(name) + "=", 0) == 0;
        });
        if (!given && !(set && *set)) continue;
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{} is not for the server behind this one: whoever wants another path or TLS puts a "
                                 "proxy in front (docs/security.md)",
                                 given ? name : variable.c_str())};
    }
    return {};
}

// How many slots there will be; 1 where the number is the program's own to choose, or no number.
int32_t slots_given(const std::vector<std::string>& words) {
    std::string number = std::to_string(default_slots);
    if (const char* set = std::getenv("LLAMA_ARG_N_PARALLEL"); set && *set) number = set;
    for (size_t i = 0; i < words.size(); ++i) {
        for (const std::string name : {"-np", "--parallel"}) {
            if (words[i] == name && i + 1 < words.size()) number = words[i + 1];
            if (words[i].rfind(name + "=", 0) == 0) number = words[i].substr(name.size() + 1);
        }
    }
    int32_t n = 0;
    const auto [end, failed] = std::from_chars(number.data(), number.data() + number.size(), n);
    return failed == std::errc() && n > 0 && n <= 1024 ? n : 1;
}

std::vector<std::string> engine_arguments(const EngineServer& server, const SessionOptions& session, int port) {
    std::vector<std::string> argv = {server.program, "-m",     session.model_path,  "--host",
                                     "127.0.0.1",    "--port", std::to_string(port)};
    const auto add = [&](const char* name, const std::string& value) { argv.insert(argv.end(), {name, value}); };
    // A stream of the cache for each slot: whose tokens are whose is then never a question, and nobody's numbers depend on others'.
    const auto is_set = [](const char* variable) {
        const char* const value = std::getenv(variable);
        return value && *value;
    };
    const int32_t slots = slots_given(server.extra);
    if (!gives(server.extra, {"-np", "--parallel"}) && !is_set("LLAMA_ARG_N_PARALLEL"))
        add("-np", std::to_string(default_slots));
    if (!gives(server.extra, {"-kvu", "--kv-unified", "-no-kvu", "--no-kv-unified"})) argv.push_back("--no-kv-unified");
    if (server.context_given || !is_set("LLAMA_ARG_CTX_SIZE"))
        add("-c", std::to_string(server.context_given ? session.n_ctx : session.n_ctx * slots));
    add("-ub", std::to_string(session.n_batch));
    // The name in answers: no path of this machine.
    add("--alias", server.alias.empty() ? std::filesystem::path(session.model_path).stem().string() : server.alias);
    // Its cache of prompts in memory, which it looks into for a request that names a slot before it sees that the slot is at work: the
    // answer that is generated there would go on from another text. Requests with attention name theirs.
    if (session.capture && !gives(server.extra, {"-cram", "--cache-ram"})) add("--cache-ram", "0");
    if (!server.record_dir.empty()) argv.push_back("--no-warmup"); // two tokens that nobody asked for
    if (!server.verbose) add("-lv", "1");                          // errors
    if (session.n_threads > 0) add("-t", std::to_string(session.n_threads));
    if (session.n_gpu_layers >= 0) add("-ngl", std::to_string(session.n_gpu_layers));
    if (!session.devices.empty()) add("-dev", session.devices);
    if (session.flash_attention != FlashAttention::automatic) add("-fa", flash_attention_name(session.flash_attention));
    if (!session.rpc_servers.empty()) add("--rpc", session.rpc_servers);
    if (session.cache_type_k != "f16") add("-ctk", session.cache_type_k);
    if (session.cache_type_v != "f16") add("-ctv", session.cache_type_v);
    argv.insert(argv.end(), server.extra.begin(), server.extra.end());
    return argv;
}

// How the engine's server begins what it says of a word that it does not know.
constexpr std::string_view unknown_option = "error: invalid argument: ";

Error no_such_option(const EngineServer& server, const std::string& word) {
    const std::string meant = server.meant ? server.meant(word) : std::string();
    return {ErrorKind::invalid_argument,
            fmt::format("{} is an option neither of attnscope serve nor of llama-server; {}", word,
                        meant.empty() ? "attnscope serve --help and llama-server --help list them"
                                      : "did you mean " + meant + "?")};
}

int run_engine_server(const EngineServer& server, const SessionOptions& session, FrontFlags& flags) {
    if (Result<void> r = check_handed_on(server); !r) return report(r.error());
    const int port = free_port();
    if (port == 0) return report({ErrorKind::io, "no port is free for the engine's server"});
    attach::AttachOptions options;
    options.argv = engine_arguments(server, session, port);
    if (session.capture) {
        warn_of_prompt_cache(options.argv);
        flags.warned_of_one_cache = warn_of_one_cache(options.argv);
    }
    options.folder = server.record_dir;
    options.ours = true;
    options.capture = session.capture;
    setenv("ATTNSCOPE_ATTACH_DEVICES", "1", 0); // the server inherits both
    if (flags.threads == 0) {                   // beside a CPU that computes more would take its cores
        const auto cores = static_cast<int32_t>(base::n_cores());
        flags.threads = on_gpus(session) ? std::clamp(cores / 2, 1, most_row_threads) : 1;
    }
    flags.page = true;
    flags.to_key = new_key();
    if (flags.to_key.empty()) return report({ErrorKind::io, "the system gives no random numbers for a key"});
    // whoever sets it for llama-server wants that clients bring it
    if (const char* wanted = std::getenv("LLAMA_API_KEY"); wanted && *wanted)
        flags.server.api_keys.emplace_back(wanted);
    setenv("LLAMA_API_KEY", flags.to_key.c_str(), 1);
    options.say = [&server](attach::ProgramRecorder::About about, const std::string& line) {
        if (server.verbose || about == attach::ProgramRecorder::About::problem) tell("attnscope: {}\n", line);
    };
    // It says that it begins before it has read how much it shall say. What it says of an option that it does not know is for ours to say.
    std::string unknown;
    bool wrong_value = false;
    if (!server.verbose) {
        options.errors = [&, first = true](const std::string& line) mutable {
            const bool begins = std::exchange(first, false) && line.ends_with(": initializing ...");
            const bool is_unknown = line.rfind(unknown_option, 0) == 0;
            if (is_unknown) unknown = line.substr(unknown_option.size());
            wrong_value = wrong_value || line.rfind("error while handling ", 0) == 0;
            if (!begins && !is_unknown) std::fputs((line + "\n").c_str(), stderr); // one that cannot be written is lost
        };
    }
    flags.to = fmt::format("127.0.0.1:{}", port);
    tell("loading {} ...\n", std::filesystem::path(session.model_path).filename().string());
    Result<std::unique_ptr<AttachFront>> front = AttachFront::start(flags, options.argv);
    if (!front) return report(front.error());
    options.listener = front->get();
    const std::string& given = flags.server.host;
    const std::string host = given.find(':') == std::string::npos ? given : "[" + given + "]";
    Result<attach::AttachEnd> end = [&] {
        const SaysWhenReady ready({
            .is_ready =
                [to = (*front)->to()](const server::GoneAway& over) {
                    return server::ask(to, "GET", "/health", {}, {}, over).ok();
                },
            .ready =
                [&] {
                    fmt::print("listening on http://{}:{}\n", host, (*front)->port()); // for programs, too
                    std::fflush(stdout);
                    // without attention the page would have nothing to show
                    if (session.capture)
                        tell("http://{}:{}/view/ shows it{}\n", host, (*front)->port(),
                             flags.server.api_keys.empty() ? "" : ", and asks for a key");
                },
        });
        return attach::run_attached(options);
    }();
    (*front)->stop();
    if (!end) return report(end.error());
    tell_recorded(server.record_dir, end->recorded);
    if (end->asked_to_end) return exit_good;
    if (!unknown.empty()) return report(no_such_option(server, unknown));
    if (wrong_value) return exit_failed; // it has said which
    return report(
        {ErrorKind::engine, fmt::format("the engine's server ended by itself, with status {}", end->exit_code)});
}

} // namespace attnscope::cli
