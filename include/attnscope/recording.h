// The .attn recording: written as the capture happens, readable at random while and after it is written.
// The file's layout is described in docs/format.md.
#pragma once

#include <attnscope/error.h>
#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace attnscope {

struct ModelIdentity {
    std::string path;         // file name only, no folders
    std::string name;         // general.name
    std::string architecture; // general.architecture
    std::string description;  // llama_model_desc
    uint64_t file_bytes = 0;
    std::string sha256; // of the first and last MiB and the size, not of the whole file: docs/format.md (meta)
    int32_t n_layer = 0;
    int32_t n_vocab = 0;
    int32_t n_ctx_train = 0;
};

struct RecordingInfo {
    int32_t format_version = 0; // filled by the reader
    std::string created;        // UTC, ISO 8601
    std::string writer;         // "attnscope 0.1.0"
    std::string engine;         // "llama.cpp 0.5.0 (ggml 0.25.1)"
    std::string entry;          // how the tap got in: "interposed", "callback"
    ModelIdentity model;
    std::string settings_json; // every setting of the run, as a JSON object
    Geometry geometry;
    bool complete = false; // closed properly; filled by the reader
    int64_t n_frames = 0;  // frames of sequence 0, as sequences()[0] says; filled by the reader
    std::string text_json; // pieces of text by token id that occur: a JSON object {"id": "piece"}
    std::string identity;  // of this recording alone, the same as long as it is written to; filled by the reader
    std::string notice;    // what of the file cannot be seen and why, in words; filled by the reader
};

struct WriterOptions {
    size_t queue_bytes = size_t(64) << 20;  // push() blocks above this
    int commit_interval_ms = 200;           // at most this much lies in an open transaction ...
    size_t commit_bytes = size_t(16) << 20; // ... and at most this much
    bool overwrite = false;                 // an existing file is refused otherwise
};

// Writes on a thread of its own. One producer calls push(); any thread may call recorded() and error().
class RecordingWriter {
public:
    // Creates the file (marked incomplete) with sequence 0. `info.geometry` may still be empty; see begin().
    static Result<std::unique_ptr<RecordingWriter>> create(const std::string& path, const RecordingInfo& info,
                                                           const WriterOptions& options = {});
    virtual ~RecordingWriter() = default; // without close(): commits what was pushed, leaves the file incomplete

    // States the geometry; before the first push().
    virtual Result<void> begin(const Geometry& geometry) = 0;
    // Frames of a sequence must come with index n_shared, n_shared + 1, ...; those of different sequences in any order.
    // Blocks only while the queue is full. Fails once writing has failed.
    virtual Result<void> push(Frame&& frame) = 0;
    // States a sequence before its first frame: ids 1, 2, 3, ... in turn (or 0, before anything else, to label it). What it
    // shares must have been pushed to its parent; the parent may go on. Keys of up to 256 frames are held in memory for each
    // sequence that has not ended. invalid_argument when it fits nowhere; unsupported for another geometry.
    virtual Result<void> begin_sequence(const Sequence& sequence) = 0;
    // No frame of this sequence comes any more; `reason` as Sequence::end_reason.
    virtual Result<void> end_sequence(int64_t id, const std::string& reason) = 0;
    // Where a picture or sound lies. Its sequence must have begun; its frames may come later.
    virtual Result<void> add_media(const Media& media) = 0;
    // Text of a token id, once per id is enough.
    virtual void token_text(int32_t token, const std::string& piece) = 0;
    // Frames of all sequences that are committed: a crash of this process cannot lose them.
    virtual int64_t recorded() const = 0;
    // Processor time that the writer's thread has taken, up to its last commit; all of it after close().
    virtual double cpu_seconds() const = 0;
    // Called from the writer's thread after each commit, with recorded(). Set before the first push().
    virtual void on_commit(std::function<void(int64_t)> callback) = 0;
    // Drains, checkpoints, marks the file complete. Afterwards the file is one file (no -wal beside it).
    virtual Result<void> close() = 0;
};

// A frame's place in a recording. Where only an index is given it is one of sequence 0.
struct FramePlace {
    int64_t index = 0;
    int64_t sequence = 0;
    // NOLINTNEXTLINE(google-explicit-constructor): recordings of one sequence are read by index alone
    FramePlace(int64_t index_, int64_t sequence_ = 0) : index(index_), sequence(sequence_) {}
};

// Rows of one token.
struct FrameRows {
    int64_t index = 0;
    std::vector<int32_t> layers; // indices into Geometry::layers, as asked for
    std::vector<int32_t> heads;  // heads of each layer that were asked for; the same for all layers
    int64_t n_columns = 0;       // index + 1, or more where a token sees later ones of its batch
    std::vector<float> weights;  // (layers, heads, n_columns); 0 where a layer was not captured
};

// Reads a recording, complete or not, also while it is being written. Not thread-safe: one object a thread.
// Memory: one token's rows, and the blocks of keys of one layer at a time.
//
// An index is a column of a sequence: below n_shared it is the parent's frame, which is what is returned (Frame::sequence
// then names the sequence that holds it). not_found where there is no such sequence or index.
class Recording {
public:
    static Result<std::unique_ptr<Recording>> open(const std::string& path);
    // One sequence of a recording as if it were the only one: its frames, the shared ones among them, are those of
    // sequence 0; sequences() has its label and end alone, media() what lies in it or in what it shares. check() looks at
    // the whole file. not_found where there is no such sequence.
    static Result<std::unique_ptr<Recording>> open_sequence(const std::string& path, int64_t sequence);
    virtual ~Recording() = default;

    virtual const RecordingInfo& info() const = 0;
    virtual const std::vector<Sequence>& sequences() const = 0; // by id; at least sequence 0
    virtual const std::vector<Media>& media() const = 0;        // in the order in which they were stated
    // Looks again at a file that is still being written: info().n_frames and info().complete, sequences() and media() are
    // updated.
    virtual Result<void> refresh() = 0;
    // Token, position, kind, visibility, witnesses, verdict; q and k only when asked for. Checksums are checked.
    virtual Result<Frame> frame(FramePlace place, bool with_q = false, bool with_k = false) = 0;
    // The same of columns [begin, end) of a sequence, without q and k.
    virtual Result<std::vector<Frame>> frames(int64_t begin, int64_t end, int64_t sequence = 0) = 0;
    // Keys of one layer (index into Geometry::layers; must own its K) for columns [begin, end), contiguous.
    virtual Result<std::vector<uint8_t>> keys(int32_t layer, int64_t begin, int64_t end, int64_t sequence = 0) = 0;
    // Rows of one token, computed on all cores. Layers that were not captured, or where the token has no rows (has_rows() in types.h),
    // and heads beyond n_head give zeros. not_found: no such frame, layer or head, or a frame whose queries were not kept.
    virtual Result<FrameRows> rows(FramePlace place, const RowSelection& selection = {}) = 0;
    // The text of a token id; empty when the recording does not know it.
    virtual std::string token_text(int32_t token) const = 0;
    // Structure and checksums of the whole file; damaged with the first place that is wrong. `progress` gets 0..1.
    virtual Result<void> check(const std::function<void(double)>& progress = {}) = 0;
};

} // namespace attnscope
