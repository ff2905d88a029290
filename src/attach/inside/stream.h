// One context of the program: the graphs of one scheduler, into messages.
#pragma once

#include "attach/inside/graph_inputs.h"
#include "attach/inside/lines.h"
#include "attach/inside/outbox.h"
#include "capture/capture.h"

#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace attnscope::attach {

// Sends what it is given; false: nothing goes out any more. Called by several streams at once.
using Send = std::function<bool(const Message&)>;

// Never throws, and never fails the program: after an error it lets all graphs pass by.
class Stream {
public:
    Stream(uint32_t number, Send send);
    void before_alloc(ggml_backend_sched_t sched, ggml_cgraph* graph);
    // Around `run`, which computes the graph.
    ggml_status compute(ggml_backend_sched_t sched, ggml_cgraph* graph, const std::function<ggml_status()>& run);
    void end(const std::string& reason);

private:
    bool place(const GraphTokens& tokens, std::vector<int64_t>& sequences, std::vector<FrameKind>& kinds);
    Result<void> take(CapturedFrame&& frame);
    void stop(const std::string& why);

    std::mutex mutex_; // a program may decode on one thread now and on another one later
    const uint32_t number_;
    const Send send_;
    bool on_ = true;
    bool begun_ = false; // StreamBegin was sent
    std::unique_ptr<capture::Capture> capture_;
    ggml_cgraph* graph_ = nullptr; // the one whose inputs these are
    GraphInputs inputs_;
    Lines lines_;
    std::vector<SequenceBegin> begins_; // not sent: the geometry must be first
};

// GGUF files that this process has open, or has opened by name lately.
std::vector<std::string> open_models();
void remember_model(const char* path);

} // namespace attnscope::attach
