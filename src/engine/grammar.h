// The engine's grammar (GBNF), which says what tokens may come next.
//
// A grammar is a program of a stranger's. The engine follows all of its alternatives at once, which an ambiguous grammar of a few lines
// makes more than any memory holds, and it aborts where it did not expect what it finds. So it runs in a child process with limits: of
// memory, and of the time that it is given.
#pragma once

#include "engine/limited_child.h"

#include <attnscope/error.h>

#include <llama.h>

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::engine {

class Grammar {
public:
    // Begins to read it, in the child; take() waits for that. `cpu`: for all that the child does, a little more for each token.
    // Once `given_up`, all that waits ends with an error.
    static Result<std::unique_ptr<Grammar>> start(const llama_vocab* vocab, const std::string& grammar,
                                                  GivenUp given_up = {},
                                                  std::chrono::milliseconds cpu = ChildLimits().cpu);
    ~Grammar();
    Grammar(const Grammar&) = delete;
    Grammar& operator=(const Grammar&) = delete;

    // Goes on behind `token` where it fits: true. Otherwise `fits` receives of each token of the vocabulary whether it does.
    // invalid_argument: the engine cannot read the grammar, with its reason; no token fits; or it takes too much time or memory to
    // say. Any token below 0 fits nowhere.
    Result<bool> take(int32_t token, std::vector<uint8_t>& fits);
    // After take() failed: why it was not waited for any longer.
    Waited waited() const { return waited_; }

private:
    Grammar(int end, pid_t child, size_t n_vocab, std::chrono::milliseconds cpu, GivenUp given_up)
        : end_(end), child_(child), n_vocab_(n_vocab), given_up_(std::move(given_up)), ahead_(cpu), allowed_(cpu) {}
    // Until the grammar was read.
    Result<void> wait_until_ready();
    // Reads so many bytes of the child's answer. False: it came to none.
    bool receive(void* data, size_t size);
    Error failure() const;

    int end_;
    pid_t child_;
    size_t n_vocab_;
    GivenUp given_up_;
    // Of the child's processor time: for one answer at most, and in all.
    std::chrono::milliseconds ahead_, allowed_;
    Waited waited_ = Waited::answered;
    bool ready_ = false;
};

// Whether it can be read, and any token can begin it. Few are tried at once, so that many requests take no more than so much memory;
// one that takes long waits for its turn among those alone. The error of who gave up is `engine`.
Result<void> check_grammar(const llama_vocab* vocab, const std::string& grammar, const GivenUp& given_up = {});

// A grammar of the JSON texts that a JSON schema allows. invalid_argument: the engine cannot make one, with its reason.
Result<std::string> grammar_of_schema(const std::string& json_schema, const GivenUp& given_up = {});

} // namespace attnscope::engine
