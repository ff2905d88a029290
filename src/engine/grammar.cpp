#include "engine/grammar.h"

#include "engine/engine_log.h"
#include "engine/limited_child.h"

#include <json-schema-to-grammar.h>
#include <llama-cpp.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <exception>
#include <functional>
#include <semaphore>
#include <stdexcept>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace attnscope::engine {

namespace {

constexpr size_t memory_bytes = size_t(512) << 20;
constexpr std::chrono::milliseconds per_token{100};
constexpr size_t most_reason = 300;

// Where grammars are tried out. Nearly all are done in the first line; one that is not begins again in the second, where only such as
// it wait for one another.
struct Line {
    std::counting_semaphore<> places;
    const std::chrono::milliseconds cpu;
};
Line short_line{std::counting_semaphore<>(2), std::chrono::milliseconds(250)};
Line long_line{std::counting_semaphore<>(1), ChildLimits().cpu};

class Place {
public:
    Place(Line& line, const GivenUp& given_up) : line_(line) {
        while (!(taken_ = line.places.try_acquire_for(std::chrono::milliseconds(50))) && !(given_up && given_up())) {}
    }
    ~Place() {
        if (taken_) line_.places.release();
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    bool taken() const { return taken_; }

private:
    Line& line_;
    bool taken_ = false;
};

// What `attempt` says within the time of a line, where it says how it was waited for.
template <class T>
Result<T> in_line(const GivenUp& given_up,
                  const std::function<Result<T>(std::chrono::milliseconds cpu, Waited& waited)>& attempt) {
    for (Line* line : {&short_line, &long_line}) {
        const Place place(*line, given_up);
        if (!place.taken()) break;
        Waited waited = Waited::answered;
        Result<T> result = attempt(line->cpu, waited);
        if (waited != Waited::too_much_cpu || line == &long_line) return result;
    }
    return Error{ErrorKind::engine, "the grammar was given up"};
}

// The child's answers: one byte, and what it announces.
constexpr char ready = 'r', // the grammar was read
    unreadable = 'u',       // it cannot be; the reason, up to a NUL
    taken = 't',            // the token fitted
    refused = 'n';          // it did not; a byte of each token, whether it would

bool send_all(int fd, const void* data, size_t size) {
    const auto* at = static_cast<const char*>(data);
    while (size > 0) {
        const ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        size -= size_t(n);
    }
    return true;
}

// ---- in the child ------------------------------------------------------------------------------------------------

// Why the engine could not read it: it prints that to standard error, and the whole grammar behind it.
std::string reason_of(int printed) {
    char text[4096];
    const ssize_t n = read(printed, text, sizeof text);
    std::string reason(text, size_t(std::max<ssize_t>(n, 0)));
    const std::string words = "error parsing grammar: ";
    if (const size_t at = reason.find(words); at != std::string::npos) {
        reason = reason.substr(at + words.size());
    } else {
        reason = take_engine_complaint();
    }
    reason = reason.substr(0, std::min(reason.find("\n\n"), most_reason));
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    reason.erase(std::remove(reason.begin(), reason.end(), '\0'), reason.end());
    while (!reason.empty() && reason.back() == ' ') reason.pop_back();
    return reason;
}

void answer_questions(int end, const llama_vocab* vocab, const std::string& text) {
    int printed[2];
    if (pipe2(printed, O_NONBLOCK) != 0 || dup2(printed[1], 2) < 0) return;
    take_engine_complaint();
    const llama_sampler_ptr grammar(llama_sampler_init_grammar(vocab, text.c_str(), "root"));
    if (!grammar) {
        const std::string reason = unreadable + reason_of(printed[0]);
        send_all(end, reason.c_str(), reason.size() + 1);
        return;
    }
    if (!send_all(end, &ready, 1)) return;
    std::vector<llama_token_data> tokens(size_t(llama_vocab_n_tokens(vocab)));
    int32_t token = -1;
    while (recv(end, &token, sizeof token, MSG_WAITALL) == sizeof token) {
        if (token >= 0) {
            llama_token_data one{token, 1, 0};
            llama_token_data_array array{&one, 1, -1, false};
            llama_sampler_apply(grammar.get(), &array);
            if (!std::isinf(one.logit)) {
                llama_sampler_accept(grammar.get(), token);
                if (!send_all(end, &taken, 1)) return;
                continue;
            }
        }
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = {static_cast<int32_t>(i), 1, 0};
        llama_token_data_array array{tokens.data(), tokens.size(), -1, false};
        llama_sampler_apply(grammar.get(), &array);
        std::string answer(1, refused);
        for (const llama_token_data& t : tokens) answer.push_back(std::isinf(t.logit) ? 0 : 1);
        if (!send_all(end, answer.data(), answer.size())) return;
    }
}

} // namespace

// ---- in the parent -----------------------------------------------------------------------------------------------

Result<std::unique_ptr<Grammar>> Grammar::start(const llama_vocab* vocab, const std::string& text, GivenUp given_up,
                                                std::chrono::milliseconds cpu) {
    if (text.find('\0') != std::string::npos) return Error{ErrorKind::invalid_argument, "the grammar holds a NUL"};
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return Error{ErrorKind::io, "no pair of sockets could be made: too many open files"};
    const pid_t child = fork_limited(ends[1], memory_bytes, [&](int end) { answer_questions(end, vocab, text); });
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return Error{ErrorKind::io, "no process could be started: too many processes, or no memory"};
    }
    return std::unique_ptr<Grammar>(
        new Grammar(ends[0], child, size_t(llama_vocab_n_tokens(vocab)), cpu, std::move(given_up)));
}

Result<void> Grammar::wait_until_ready() {
    char how = 0;
    if (ready_) return {};
    if (!receive(&how, 1)) return failure();
    ready_ = how == ready;
    if (ready_) return {};
    std::string reason;
    for (char c = 0; reason.size() <= most_reason && receive(&c, 1) && c != 0;) reason.push_back(c);
    return Error{ErrorKind::invalid_argument, "the grammar cannot be read" + (reason.empty() ? reason : ": " + reason)};
}

Grammar::~Grammar() {
    close(end_);
    kill(child_, SIGKILL);
    while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {}
}

bool Grammar::receive(void* data, size_t size) {
    const auto until = std::chrono::steady_clock::now() + ChildLimits().wall;
    auto* at = static_cast<char*>(data);
    while (size > 0) {
        waited_ = wait_for_child(end_, child_, allowed_, until, given_up_);
        if (waited_ != Waited::answered) return false;
        const ssize_t n = recv(end_, at, size, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        size -= size_t(n);
    }
    return true;
}

Error Grammar::failure() const {
    const auto no = [](const std::string& why) { return Error{ErrorKind::invalid_argument, "the grammar " + why}; };
    switch (waited_) {
    case Waited::given_up: return Error{ErrorKind::engine, "the grammar was given up"};
    case Waited::too_much_cpu:
        return no(
            fmt::format("takes too long to follow (more than {} seconds of processor time); make it less ambiguous",
                        seconds_text(ahead_)));
    case Waited::too_long:
        return no(fmt::format("takes too long to follow (no answer within {} seconds, after {} of processor time)",
                              seconds_text(ChildLimits().wall), seconds_text(cpu_used(child_))));
    case Waited::answered: break;
    }
    return no("ends llama.cpp's engine (too much memory, or rules nested too deeply)");
}

Result<bool> Grammar::take(int32_t token, std::vector<uint8_t>& fits) {
    if (Result<void> r = wait_until_ready(); !r) return r.error();
    allowed_ = std::min(allowed_ + per_token, cpu_used(child_) + ahead_);
    char how = 0;
    if (!send_all(end_, &token, sizeof token) || !receive(&how, 1)) return failure();
    if (how == taken) return true;
    fits.resize(n_vocab_);
    if (!receive(fits.data(), fits.size())) return failure();
    if (std::find(fits.begin(), fits.end(), 1) == fits.end()) {
        return Error{ErrorKind::invalid_argument, "the grammar cannot be followed: no token of the vocabulary fits"};
    }
    return false;
}

Result<void> check_grammar(const llama_vocab* vocab, const std::string& text, const GivenUp& given_up) {
    if (text.empty()) return Error{ErrorKind::invalid_argument, "the grammar is empty"};
    return in_line<void>(given_up, [&](std::chrono::milliseconds cpu, Waited& waited) -> Result<void> {
        Result<std::unique_ptr<Grammar>> grammar = Grammar::start(vocab, text, given_up, cpu);
        if (!grammar) return grammar.error();
        std::vector<uint8_t> fits;
        const Result<bool> begun = (*grammar)->take(-1, fits);
        waited = (*grammar)->waited();
        return begun ? Result<void>() : begun.error();
    });
}

Result<std::string> grammar_of_schema(const std::string& json_schema, const GivenUp& given_up) {
    // In the child: what the engine leaves out of a schema it says on standard error alone, and any string would be taken.
    const auto make = [&] {
        int printed[2];
        const bool heard = pipe2(printed, O_NONBLOCK) == 0 && dup2(printed[1], 2) == 2;
        std::string made = json_schema_to_grammar(common_json::parse(json_schema), true);
        char text[1024];
        const ssize_t n = heard ? read(printed[0], text, sizeof text) : 0;
        const std::string said(text, size_t(std::max<ssize_t>(n, 0)));
        const std::string words = "was incomplete: ";
        if (const size_t at = said.find(words); at != std::string::npos)
            throw std::invalid_argument(said.substr(at + words.size(), most_reason));
        return made;
    };
    Result<std::string> grammar = in_line<std::string>(given_up, [&](std::chrono::milliseconds cpu, Waited& waited) {
        return run_limited("the JSON schema", make, {cpu, ChildLimits().wall}, given_up, &waited);
    });
    // What a schema makes the engine do is its writer's to mend.
    if (!grammar && grammar.error().kind == ErrorKind::unsupported)
        return Error{ErrorKind::invalid_argument, grammar.error().message};
    return grammar;
}

} // namespace attnscope::engine
