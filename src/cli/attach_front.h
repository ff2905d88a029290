// attnscope attach --serve: a server of ours in front of the program that is attached to.
#pragma once

#include "attach/parent/listener.h"
#include "cli/says_when_ready.h"
#include "server/front/front.h"
#include "server/front/live_sequences.h"

#include <attnscope/error.h>

#include <CLI/CLI.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::cli {

struct FrontFlags {
    std::string serve, to; // HOST:PORT; empty: not given
    std::string to_key;    // UpstreamAddress::key
    bool quiet = false;    // nothing is said of what goes well
    bool page = false;     // server::FrontOptions::page
    bool warned_of_one_cache = false;
    server::ModelShape model;
    std::string key_file;
    size_t keys_mb = 2048, stream_mb = 128, body_mb = 64;
    int32_t threads = 1;
    server::ServerOptions server;
};
void add_front_flags(CLI::App& verb, FrontFlags& flags);
// llama-server's cache of prompts in memory takes the text out of a slot that is at work when a request names that slot, as those with
// attention do: says so where a command turns it on.
void warn_of_prompt_cache(const std::vector<std::string>& argv);
// Slots of llama-server that share one cache are not told apart: says so where a command is certain to have it so. Where none of its
// options says anything of slots it depends on its version, and is warned of when it is seen. True: it was said.
bool warn_of_one_cache(const std::vector<std::string>& argv);

// What programs tell, to who answers for them.
class AttachFront final : public attach::FrameListener {
public:
    // Listens when it returns. `argv`: of the program, which may tell its port.
    static Result<std::unique_ptr<AttachFront>> start(FrontFlags& flags, const std::vector<std::string>& argv);
    int port() const { return front_->port(); }
    const server::UpstreamAddress& to() const { return to_; }
    void stop();

    void stream_begins(uint64_t program, const attach::StreamBegin& stream, const Piece& piece) override;
    void model_known(uint64_t program, uint32_t stream, const attach::StreamModel& model) override;
    void sequence_begins(uint64_t program, const attach::SequenceBegin& sequence) override;
    void sequence_recorded(uint64_t program, const attach::SequenceRecorded& where) override;
    void frame(uint64_t program, const attach::FrameMessage& frame) override;
    void frames_due(uint64_t program, const attach::FramesDue& due) override;
    void stream_ends(uint64_t program, uint32_t stream) override;
    void program_ends(uint64_t program) override { live_.program_ends(program); }
    void asked_to_end() override { front_->program_ends_soon(); }
    void all_taken(std::chrono::milliseconds most, std::span<const int> calls) override {
        live_.all_taken(most, calls);
    }

private:
    explicit AttachFront(const server::LiveSequences::Options& options) : live_(options) {}
    server::LiveSequences live_;
    server::UpstreamAddress to_;
    std::unique_ptr<server::Front> front_;
    std::unique_ptr<SaysWhenReady> says_; // before a program that is not a part of ours
};

// Where the program listens: `to`, else what its arguments say, else what is known of a program of its name.
Result<server::UpstreamAddress> address_of_program(const std::string& to, const std::vector<std::string>& argv);

} // namespace attnscope::cli
