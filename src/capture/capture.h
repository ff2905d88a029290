// From the graphs of one ggml scheduler to judged frames. Knows ggml: no model, no session, no file.
//
//   auto capture = Capture::make(options, sink);
//   capture->want({...});                                  // once a generation
//   {
//       Capture::Decode decode(*capture, {.ids = tokens});
//       const int status = llama_decode(...);              // or whatever has the scheduler compute graphs
//       Result<void> r = decode.end(status == 0);          // frames come to the sink here
//   }
//   capture->flush();                                      // the last ones
#pragma once

#include "capture/tokens.h"

#include <attnscope/error.h>
#include <attnscope/types.h>

#include <ggml-backend.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace attnscope::capture {

// Constant for a scheduler.
struct Options {
    // How the graphs are seen. Both give the same frames; the callback, for builds where nothing can be interposed, stops the
    // graph at each layer.
    enum class WayIn { interposed, callback };
    WayIn way_in = WayIn::interposed;
    bool prove = true; // take witnesses
    // the engine's threads, where means may be wanted on a CPU: its graphs are prepared; 0: they are not
    int32_t mean_threads = 0;
};

class GraphHook;
class HookScope;
class Judge;
class Tap;
struct Batch;

// Belongs to the thread that decodes.
class Capture {
public:
    // Receives every frame once, complete and judged; those of a sequence in order of index. Called from Decode::end()
    // and flush() only, never from inside the engine. After an error of the sink nothing more comes from that call, and
    // frames that were ready are lost.
    using Sink = std::function<Result<void>(CapturedFrame&&)>;

    // Receives what Tokens::media named, before the first of its frames comes.
    using MediaSink = std::function<Result<void>(Media&&)>;

    static std::unique_ptr<Capture> make(const Options& options, Sink sink, MediaSink media = {});
    ~Capture();
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;

    // Around one decode, on the thread that decodes. From a device its frames come with later decodes, or flush().
    class Decode {
    public:
        Decode(Capture& capture, const Tokens& tokens);
        ~Decode(); // without end(): the decode failed, and what it left goes nowhere
        Decode(const Decode&) = delete;
        Decode& operator=(const Decode&) = delete;
        // Ends the decode and hands over what is ready: of an encoder nothing, whose frames come with the decoder's first. Errors: the sink's own; and ErrorKind::engine where the capture
        // failed, which stays until everything is forgotten.
        Result<void> end(bool succeeded);

    private:
        Capture& capture_;
        std::unique_ptr<HookScope> hook_; // null with WayIn::callback
        bool ended_ = false;
    };

    // What the frames that follow shall have. Frames of earlier decodes that were not handed over are dropped.
    void want(Wanted wanted);
    // Forgets the frames of a sequence from index `from` on: its next frame has that index, or the one that it would
    // have had if that is less. Frames of all sequences that were not handed over are dropped: flush() first where
    // others go on.
    void forget(int64_t sequence, int64_t from);
    void forget(); // everything, errors too
    // The next frame of sequence `to` has index `n`. Between two decodes, beside the engine's own call.
    void share(const Shared& shared);
    // A cell holds frame `column` of some sequence though no graph has stored it there (a state was restored); -1: nobody knows what it
    // holds. `group`: LayerInfo::mask_group. Between two decodes; flush() first.
    void know_cell(int32_t group, int64_t cell, int64_t column, int32_t position);
    // Somebody who is no graph has written to these cells of caches on devices: what lies there now is read, so that tokens that see them
    // are proven with it. Before a graph is computed that was given its memory, outside of a decode; flush() first. What was written in
    // time for the graph is there. False: it cannot be read, and nobody knows what the cells hold.
    bool read_back(ggml_backend_sched_t sched, int32_t group, const Ranges& cells);
    // The keys of a layer whose cache lies on a device, in host memory, cell by cell as there: of cells that graphs have stored, once
    // their frames have come, or that were read back. Valid until the next graph is given its memory. Null: there are none.
    const uint8_t* mirrored_keys(int32_t layer) const;
    // Of a frame that the sink does not need any more: the memory that its keys and queries lie in, for later ones.
    void give_back(Frame&& frame);
    // Waits for the frames of everything decoded, and hands them over. Errors as Decode::end().
    Result<void> flush();
    // Devices send what a decode has left there behind all that the engine was given until the decode's end(). Where logits are asked
    // for later than that they would come behind it: after the first call of this they are sent with it, at the latest with the next
    // decode. Beside no other call.
    void send();

    const Geometry& geometry() const; // empty until the first frame was made
    // Was any graph seen? False after a decode: the engine is linked so that its calls pass by, and the callback must be used.
    bool reached() const;
    // With WayIn::callback, for the scheduler; null otherwise.
    ggml_backend_sched_eval_callback callback() const;
    void* callback_data() const;

private:
    Capture(Sink sink, MediaSink media);
    void announce_media(const Tokens& tokens);
    void judge(Batch& batch);
    void judge_encoded(const Batch* decoded);
    Result<void> hand_over();
    void drop_ready();

    const Sink sink_;
    const MediaSink media_sink_;
    std::vector<Media> media_; // not handed over
    std::unique_ptr<Tap> tap_;
    std::unique_ptr<Judge> judge_; // since the last forget(); null while the geometry is not known
    std::vector<CapturedFrame> ready_;
    std::vector<Frame>
        encoded_; // of an encoder's text: their keys of cross attention come with the decoder's first token
    bool by_callback_ = false;
};

} // namespace attnscope::capture
