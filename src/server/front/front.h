// A server in front of a program that generates: everything goes on to the program and comes back as it is, and requests that ask
// for attention get it from what the program is seen to decode. docs/attach/serve.md says what a person types.
#pragma once

#include "server/front/live_sequences.h"
#include "server/front/upstream.h"
#include "server/http/server.h"

#include <attnscope/error.h>

#include <chrono>
#include <cstdint>
#include <memory>

namespace attnscope::server {

// Of the model that the program generates with, as its file has it; 0: not known.
struct ModelShape {
    int32_t n_layer = 0, n_head = 0, n_head_kv = 0;
};

// Of a llama-server whose slots share a cache.
inline constexpr const char* one_cache =
    "the slots share one cache (--kv-unified, which is llama-server's default without -np): of two requests with the "
    "same "
    "prompt at the same time neither may get its attention; with -np N and --no-kv-unified they are told apart";

struct FrontOptions {
    ServerOptions server;                     // of ours; what is about generating there has no effect
    UpstreamAddress to;                       // the program
    bool page = false;                        // the page is there also where nothing is recorded
    ModelShape model;                         // told until the program has decoded something, which tells it
    bool warned_of_one_cache = false;         // whoever starts it has said that slots are not told apart
    std::chrono::milliseconds patience{5000}; // for a token that the program has told to be captured
};

class Front {
public:
    // Listens when it returns; the program need not run yet. `live` outlives the front.
    static Result<std::unique_ptr<Front>> start(const FrontOptions& options, LiveSequences& live);
    virtual ~Front() = default; // stops
    virtual int port() const = 0;
    // The program was asked to end, and may wait for whoever it answers: those who say no more are gone from now on. From any thread.
    virtual void program_ends_soon() = 0;
    // Ends every connection. From any thread.
    virtual void stop() = 0;
};

} // namespace attnscope::server
