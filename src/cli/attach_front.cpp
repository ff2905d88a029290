#include "cli/attach_front.h"

#include "cli/api_keys.h"
#include "cli/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

namespace attnscope::cli {

namespace {

struct KnownProgram {
    const char* name; // in its file's name, or in that of a script that it runs
    int port;
};
constexpr KnownProgram known_programs[] = {{"llama-server", 8080}, {"koboldcpp", 5001}, {"ollama", 11434}};

std::optional<int> port_of(std::string_view text) {
    int port = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    const bool whole = error == std::errc() && at == text.data() + text.size();
    return whole && port >= 0 && port <= 65535 ? std::optional(port) : std::nullopt;
}

// "HOST:PORT", "[::1]:PORT", ":PORT" or "PORT".
std::optional<server::UpstreamAddress> read_address(const std::string& text) {
    const size_t colon = text.rfind(':');
    const std::optional<int> port = port_of(colon == std::string::npos ? text : text.substr(colon + 1));
    if (!port) return std::nullopt;
    std::string host = colon == std::string::npos ? "" : text.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    return server::UpstreamAddress{host.empty() ? "127.0.0.1" : host, *port};
}

// OLLAMA_HOST as Ollama reads it: a scheme, which has a port of its own, and a path may stand there, a port need not.
server::UpstreamAddress address_of_ollama(std::string host) {
    int port = 11434;
    if (const size_t scheme = host.find("://"); scheme != std::string::npos) {
        port = host.compare(0, scheme, "https") == 0 ? 443 : 80;
        host.erase(0, scheme + 3);
    }
    host.erase(std::min(host.find('/'), host.size()));
    const size_t colon = host.rfind(':');
    const bool bare_ipv6 = host.find(':') != colon && host.find(']') == std::string::npos;
    if (colon != std::string::npos && !bare_ipv6 && host.back() != ']') {
        port = port_of(host.substr(colon + 1)).value_or(port);
        host.erase(colon);
    }
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    if (host.empty() || host == "0.0.0.0") host = "127.0.0.1";
    return {host == "::" ? "::1" : host, port};
}

// The last value of an option, as "--port 8080" or "--port=8080".
std::string option_of(const std::vector<std::string>& argv, const std::string& name) {
    std::string value;
    for (size_t i = 1; i < argv.size(); ++i) {
        if (argv[i] == name && i + 1 < argv.size()) value = argv[i + 1];
        if (argv[i].rfind(name + "=", 0) == 0) value = argv[i].substr(name.size() + 1);
    }
    return value;
}

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

} // namespace

Result<server::UpstreamAddress> address_of_program(const std::string& to, const std::vector<std::string>& argv) {
    const auto no = [](const std::string& what) { return Error{ErrorKind::invalid_argument, what}; };
    if (!to.empty()) {
        if (const auto address = read_address(to); address && address->port > 0) return *address;
        return no("--to " + to + " is no HOST:PORT");
    }
    const KnownProgram* known = nullptr;
    for (const std::string& word : argv) {
        const std::string name = std::filesystem::path(word).filename().string();
        for (const KnownProgram& program : known_programs) {
            if (!known && name.find(program.name) != std::string::npos) known = &program;
        }
    }
    if (known && known->port == 11434) return address_of_ollama(variable("OLLAMA_HOST"));
    std::string host = option_of(argv, "--host"), port = option_of(argv, "--port");
    if (known && known->port == 8080) {
        if (host.empty()) host = variable("LLAMA_ARG_HOST");
        if (port.empty()) port = variable("LLAMA_ARG_PORT");
    }
    if (host.empty() || host == "0.0.0.0" || host == "localhost") host = "127.0.0.1";
    if (host == "::") host = "::1";
    if (const std::optional<int> given = port_of(port); given && *given > 0)
        return server::UpstreamAddress{host, *given};
    if (!port.empty())
        return no("the program's --port " + port + " is none that can be asked; name it: --to HOST:PORT");
    if (known) return server::UpstreamAddress{host, known->port};
    return no("where does the program listen? Its arguments name no --port: say it with --to HOST:PORT");
}

void warn_of_prompt_cache(const std::vector<std::string>& argv) {
    std::string given = option_of(argv, "--cache-ram");
    if (given.empty()) given = option_of(argv, "-cram");
    if (given.empty()) given = variable("LLAMA_ARG_CACHE_RAM");
    if (given.empty() || given == "0") return;
    tell_as("warning: ",
            fmt::format("with --cache-ram {} a request that asks for attention changes what others are being "
                        "answered by llama-server; leave it out",
                        given));
}

bool warn_of_one_cache(const std::vector<std::string>& argv) {
    const std::string unified_set = variable("LLAMA_ARG_KV_UNIFIED");
    bool unified = unified_set == "1" || unified_set == "true" || unified_set == "on" || unified_set == "enabled";
    for (const std::string& word : argv) { // the last one is obeyed
        if (word == "-kvu" || word == "--kv-unified") unified = true;
        if (word == "-no-kvu" || word == "--no-kv-unified") unified = false;
    }
    std::string number = option_of(argv, "--parallel");
    if (number.empty()) number = option_of(argv, "-np");
    if (number.empty()) number = variable("LLAMA_ARG_N_PARALLEL");
    int slots = 1;
    std::from_chars(number.data(), number.data() + number.size(), slots);
    const bool chosen_by_itself = slots < 0; // four, and one cache, whatever was said of it
    if (!chosen_by_itself && !(unified && slots > 1)) return false;
    tell_as("warning: ", server::one_cache);
    return true;
}

void add_front_flags(CLI::App& verb, FrontFlags& f) {
    CLI::Option* serve =
        verb.add_option(
                "--serve", f.serve,
                "Listen here and pass everything on to the program, which is a server; requests that ask for attention "
                "get it")
            ->option_text("HOST:PORT");
    verb.add_option("--to", f.to, "Where the program listens (default: as its arguments say)")
        ->needs(serve)
        ->option_text("HOST:PORT");
    verb.add_option("--api-key", f.server.api_keys, "--serve: key that requests must bring; repeatable")
        ->needs(serve)
        ->option_text("KEY ...");
    verb.add_option("--api-key-file", f.key_file, "--serve: file with such keys, one a line")
        ->needs(serve)
        ->option_text("FILE");
    verb.add_option("--cors-origin", f.server.cors_origins, "--serve: pages that may call, as http://host:8080")
        ->needs(serve)
        ->option_text("ORIGIN ...");
    verb.add_option("--allow-host", f.server.allowed_hosts, "--serve: further name of this server; repeatable")
        ->needs(serve)
        ->option_text("NAME ...");
    const auto number = [&](const char* name, auto& value, int low, int high, const char* what) {
        verb.add_option(name, value, what)
            ->check(CLI::Range(low, high))
            ->needs(serve)
            ->option_text(fmt::format("N={}", value));
    };
    number("--keys-mb", f.keys_mb, 1, 1 << 20, "--serve: MB of keys kept of what the program decoded");
    number("--stream-mb", f.stream_mb, 1, 1 << 16, "--serve: MB of attention kept for one slow client");
    number("--body-mb", f.body_mb, 1, 2047, "--serve: MB that the body of a request may have");
    number("--attention-threads", f.threads, 1, 256, "--serve: threads that compute the rows of one token");
    verb.add_flag("--log", f.server.log_requests, "--serve: write a line for each request to standard error")
        ->needs(serve);
}

namespace {

// A wrong --to is not seen by who types it: everything that is asked is answered with 503, as while a program loads.
SaysWhenReady::Sayings sayings_of(const server::UpstreamAddress& to, bool quiet) {
    SaysWhenReady::Sayings out;
    out.is_ready = [to](const server::GoneAway&) { return server::is_listening(to); };
    out.ready = [to, quiet] {
        if (!quiet) tell_as("attnscope: ", fmt::format("the program listens at {}", to.name()));
    };
    out.missed = [to, patience = out.patience] {
        tell_as("attnscope: ",
                fmt::format("nothing listens at {} after {} seconds: until something does, every request "
                            "is answered with 503; if the program listens elsewhere, say where with --to",
                            to.name(), patience.count()));
    };
    return out;
}

} // namespace

Result<std::unique_ptr<AttachFront>> AttachFront::start(FrontFlags& f, const std::vector<std::string>& argv) {
    const auto here = read_address(f.serve);
    if (!here) return Error{ErrorKind::invalid_argument, "--serve " + f.serve + " is no HOST:PORT"};
    Result<server::UpstreamAddress> to = address_of_program(f.to, argv);
    if (!to) return to.error();
    if (to->port == here->port && (to->host == here->host || here->host == "0.0.0.0")) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("--serve {} is where the program itself listens: choose another port", f.serve)};
    }
    if (Result<void> r = read_api_keys(f.key_file, f.server.api_keys); !r) return r.error();
    std::signal(SIGPIPE, SIG_IGN);
    f.server.host = here->host;
    f.server.port = here->port;
    f.server.stream_memory = f.stream_mb << 20;
    f.server.max_body = f.body_mb << 20;
    f.server.attention_threads = f.threads;
    f.server.log = [](const std::string& line) { tell("attnscope: {}\n", line); };
    server::LiveSequences::Options live;
    live.key_bytes = f.keys_mb << 20;
    std::unique_ptr<AttachFront> out(new AttachFront(live));
    server::FrontOptions options;
    options.server = f.server;
    to->key = f.to_key;
    options.page = f.page;
    options.model = f.model;
    options.warned_of_one_cache = f.warned_of_one_cache;
    options.to = out->to_ = *to;
    Result<std::unique_ptr<server::Front>> front = server::Front::start(options, out->live_);
    if (!front) return front.error();
    out->front_ = std::move(*front);
    warn_of_strangers(f.server.host, !f.server.api_keys.empty());
    if (f.to_key.empty()) out->says_ = std::make_unique<SaysWhenReady>(sayings_of(out->to_, f.quiet));
    return out;
}

void AttachFront::stop() {
    says_.reset();
    front_->stop();
}

void AttachFront::stream_begins(uint64_t program, const attach::StreamBegin& stream, const Piece& piece) {
    live_.context_begins({program, stream.stream}, stream.geometry, piece);
}

void AttachFront::model_known(uint64_t program, uint32_t stream, const attach::StreamModel& model) {
    live_.model_known({program, stream},
                      {std::filesystem::path(model.path).filename().string(), {}, model.tokens, model.said});
}

void AttachFront::sequence_begins(uint64_t program, const attach::SequenceBegin& sequence) {
    live_.line_begins({{program, sequence.stream}, sequence.id}, sequence.parent, sequence.n_shared);
}

void AttachFront::sequence_recorded(uint64_t program, const attach::SequenceRecorded& where) {
    const server::LineId line{{program, where.stream}, where.line};
    if (where.path.empty()) return live_.line_recorded(line, Error{ErrorKind::not_found, where.why_not});
    live_.line_recorded(line,
                        server::RecordedLine{std::filesystem::path(where.path).filename().string(), where.sequence});
}

void AttachFront::frame(uint64_t program, const attach::FrameMessage& message) {
    live_.frame({program, message.stream}, message.cache_stream, message.frame);
}

void AttachFront::frames_due(uint64_t program, const attach::FramesDue& due) {
    live_.frames_due({program, due.stream}, due.n);
}

void AttachFront::stream_ends(uint64_t program, uint32_t stream) {
    live_.context_ends({program, stream});
}

} // namespace attnscope::cli
