// The engine's grammar (GBNF), which says what tokens may come next.
//
// A grammar is a program of a stranger's. The engine follows all of its alternatives at once, which an ambiguous grammar of a few lines
// makes more than any memory holds, and it aborts where it did not expect what it finds. So it runs in a child process with limits: of
// memory, and of the time that it is waited for.
#pragma once

#include <attnscope/error.h>

#include <llama.h>

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::engine {

class Grammar {
public:
    // invalid_argument: the engine cannot read it, with its reason.
    static Result<std::unique_ptr<Grammar>> start(const llama_vocab* vocab, const std::string& grammar);
    ~Grammar();
    Grammar(const Grammar&) = delete;
    Grammar& operator=(const Grammar&) = delete;

    // Goes on behind `token` where it fits: true. Otherwise `fits` receives of each token of the vocabulary whether it does.
    // invalid_argument: none does, or it takes too much time or memory to say. Any token below 0 fits nowhere.
    Result<bool> take(int32_t token, std::vector<uint8_t>& fits);

private:
    Grammar(int end, pid_t child, size_t n_vocab) : end_(end), child_(child), n_vocab_(n_vocab) {}
    std::chrono::milliseconds used() const;
    // Reads so many bytes of the child's answer. False: it came to none.
    bool receive(void* data, size_t size);
    Error failure();

    int end_;
    pid_t child_;
    size_t n_vocab_;
    // Of the child's processor time, which a busy machine does not use up, in all; each token adds a little.
    std::chrono::milliseconds allowed_{5000};
    bool too_long_ = false;
};

// Whether it can be read, and any token can begin it.
Result<void> check_grammar(const llama_vocab* vocab, const std::string& grammar);

// A grammar of the JSON texts that a JSON schema allows. invalid_argument: the engine cannot make one, with its reason.
Result<std::string> grammar_of_schema(const std::string& json_schema);

} // namespace attnscope::engine
