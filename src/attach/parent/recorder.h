// What one program tells, into recordings.
#pragma once

#include "attach/parent/early_texts.h"
#include "attach/parent/listener.h"
#include "attach/parent/texts.h"
#include "attach/wire/messages.h"

#include <attnscope/recording.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::attach {

// One recording that was written: every line that begins with nothing before it has its own, and those that branch off it.
struct Recorded {
    std::string path;
    int64_t n_frames = 0, n_ok = 0;
    std::string problem; // why it ended early; empty: it did not
};

// The messages come from a program that we did not write: one that makes no sense ends its recording, never us.
class ProgramRecorder {
public:
    enum class About { progress, problem };
    using Say = std::function<void(About, const std::string&)>; // a line for a person
    // `folder`: empty: nothing is recorded. `listener`, `early`: may be null; outlive this. `most_late`: how late a token may be where
    // recordings are read while they grow.
    ProgramRecorder(std::string folder, std::string settings, Say say, FrameListener* listener = nullptr,
                    EarlyTexts* early = nullptr, std::chrono::milliseconds most_late = soon);
    static constexpr std::chrono::milliseconds soon{200};
    // Where nobody is known to look. A transaction costs the same whether it has ten tokens or a hundred.
    static constexpr std::chrono::milliseconds in_time{500};
    void take(Message&& message);
    // Nothing comes any more. Closes what is open.
    void finish();
    const std::vector<Recorded>& recorded() const { return recorded_; }

private:
    struct Line {
        int64_t sequence = 0; // the one that takes its frames
        int64_t n_frames = 0; // shared ones among them
        uint64_t last_used = 0;
        bool open = false;
        bool told_lost = false; // the listener knows that it is recorded no further
    };
    struct File {
        std::unique_ptr<RecordingWriter> writer;
        uint32_t stream = 0;
        size_t recorded = 0;           // its place in recorded_
        std::map<int64_t, Line> lines; // by the program's numbers
        int64_t n_sequences = 1;
        uint64_t last_used = 0;
    };
    using LineOfFile = std::pair<std::shared_ptr<File>, int64_t>;
    struct Stream {
        StreamBegin begin;
        std::shared_ptr<Texts> texts;                     // null: unknown
        std::map<int64_t, std::shared_ptr<File>> file_of; // by line
    };
    void on(Hello&& m);
    void on(Notice&& m);
    void on(StreamBegin&& m);
    void on(SequenceBegin&& m);
    void on(SequenceEnd&& m);
    void on(FrameMessage&& m);
    void on(FramesDue&& m);
    void on(StreamEnd&& m);
    Result<std::shared_ptr<Texts>> texts_of(const StreamBegin& m);
    Stream* stream(uint32_t number);
    WriterOptions writer_options() const;
    std::shared_ptr<File> new_file(Stream& stream);
    bool is_written(const std::shared_ptr<File>& file);
    void tell(File& file, int64_t line);
    void tell_lost(File& file, int64_t line, const std::string& why);
    File* file_for(Stream& stream, int64_t line);
    void fail(File& file, const std::string& why);
    void close(File& file, const std::string& why);
    void let_go(File& file);
    void limit_open();
    void use(const std::shared_ptr<File>& file, int64_t line);
    Result<void> reopen(File& file, Line& line);
    std::string free_path(const std::string& stem) const;

    const std::string folder_, settings_;
    const Say say_;
    FrameListener* const listener_;
    EarlyTexts* const early_;
    const std::chrono::milliseconds most_late_;
    const uint64_t program_; // its number, for the listener
    Hello hello_;
    std::map<std::string, std::weak_ptr<Texts>> texts_;
    std::map<uint32_t, Stream> streams_;
    std::vector<std::shared_ptr<File>> files_;  // open ones
    std::map<uint64_t, LineOfFile> open_lines_; // by last_used
    std::vector<Recorded> recorded_;
    uint64_t uses_ = 0;
};

} // namespace attnscope::attach
