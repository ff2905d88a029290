#include "attach/parent/recorder.h"

#include "base/version.h"
#include "recording/writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <filesystem>
#include <utility>

namespace attnscope::attach {

namespace {

// Each has a thread and a queue: of more than this the one that rested longest is closed.
constexpr size_t most_open = 64;
constexpr size_t most_streams = 1024;
constexpr size_t queue_bytes = size_t(16) << 20;
// A line that is open holds keys of some hundred frames, and drafts that are taken back leave one behind each.
constexpr size_t most_open_lines = 64;

uint64_t next_program() {
    static std::atomic<uint64_t> n{0};
    return n++;
}

// The beginning of the names of its recordings. Stores of models (Ollama's) name a file after what is in it, which tells a person
// nothing.
std::string stem_of(const Texts* texts) {
    if (!texts) return "model";
    const std::string stem = std::filesystem::path(texts->path()).stem().string();
    constexpr size_t digest = 7 + 64; // "sha256-"
    const std::string& name = texts->identity().name;
    if (stem.rfind("sha256-", 0) != 0 || stem.size() != digest || name.empty()) return stem;
    std::string plain = name.substr(0, 64);
    std::replace_if(
        plain.begin(), plain.end(),
        [](unsigned char c) { return !std::isalnum(c) && c != '.' && c != '_' && c != '-'; }, '-');
    if (plain[0] == '.') plain[0] = '-';
    return plain + "-" + stem.substr(7, 8);
}

} // namespace

ProgramRecorder::ProgramRecorder(std::string folder, std::string settings, Say say, FrameListener* listener,
                                 EarlyTexts* early, std::chrono::milliseconds most_late)
    : folder_(std::move(folder)), settings_(std::move(settings)), say_(std::move(say)), listener_(listener),
      early_(early), most_late_(most_late), program_(next_program()) {}

void ProgramRecorder::take(Message&& message) {
    std::visit([&](auto&& m) { on(std::move(m)); }, std::move(message));
}

void ProgramRecorder::on(Hello&& m) {
    hello_ = std::move(m);
    say_(About::progress, fmt::format("process {} ({}): {} in {}, {}", hello_.pid, hello_.program, hello_.engine,
                                      std::filesystem::path(hello_.library).filename().string(), hello_.hook));
}

void ProgramRecorder::on(Notice&& m) {
    if (hello_.pid == 0) return say_(About::problem, m.text); // it names the program itself
    say_(About::problem, fmt::format("process {}: {}", hello_.pid, m.text));
}

// Contexts of one model share what was read of its file, as long as that is the same file.
Result<std::shared_ptr<Texts>> ProgramRecorder::texts_of(const StreamBegin& m) {
    if (early_) { // the first file is the one that its weights lie in
        const std::string first = m.files.empty() ? std::string() : m.files.front();
        if (std::shared_ptr<Texts> known = early_->of(first, m.n_vocab, m.geometry.n_layer())) return known;
    }
    std::string key = fmt::format("{} {}", m.n_vocab, m.geometry.n_layer());
    for (const std::string& file : m.files) {
        std::error_code ec;
        const auto written = std::filesystem::last_write_time(file, ec).time_since_epoch().count();
        key += fmt::format("\n{} {} {}", file, written, std::filesystem::file_size(file, ec));
    }
    std::erase_if(texts_, [](const auto& known) { return known.second.expired(); });
    if (std::shared_ptr<Texts> known = texts_[key].lock()) return known;
    Result<std::unique_ptr<Texts>> texts = Texts::open(m.files, m.n_vocab, m.geometry.n_layer());
    if (!texts) return texts.error();
    std::shared_ptr<Texts> shared = std::move(*texts);
    texts_[key] = shared;
    return shared;
}

void ProgramRecorder::on(StreamBegin&& m) {
    if (streams_.size() >= most_streams) streams_.erase(streams_.begin());
    Result<std::shared_ptr<Texts>> texts = texts_of(m);
    Stream& s = streams_[m.stream];
    s = {};
    if (texts)
        s.texts = std::move(*texts);
    else
        say_(About::problem, fmt::format("process {}: tokens have no texts: {}", hello_.pid, texts.error().message));
    const auto captured = std::count_if(m.geometry.layers.begin(), m.geometry.layers.end(),
                                        [](const LayerInfo& l) { return l.captured(); });
    const bool none = captured == 0 && !m.geometry.layers.empty();
    say_(none ? About::problem : About::progress,
         fmt::format("process {}: {}, {} of {} layers{}", hello_.pid,
                     s.texts ? s.texts->path() : "a model without a file", captured, m.geometry.layers.size(),
                     none ? ": " + m.geometry.layers.front().absent : ""));
    if (listener_) {
        listener_->stream_begins(
            program_, m, [known = s.texts](int32_t token) { return known ? known->piece(token) : std::string(); });
    }
    if (listener_ && s.texts) {
        listener_->model_known(program_, m.stream,
                               {s.texts->path(),
                                [known = s.texts](const std::string& text) { return known->tokens(text); },
                                [known = s.texts](int32_t token) { return known->said(token); }});
    }
    s.begin = std::move(m);
}

ProgramRecorder::Stream* ProgramRecorder::stream(uint32_t number) {
    const auto found = streams_.find(number);
    return found == streams_.end() ? nullptr : &found->second;
}

std::string ProgramRecorder::free_path(const std::string& stem) const {
    for (int64_t n = 0;; ++n) {
        std::string path = fmt::format("{}/{}-{}.attn", folder_, stem, n);
        std::error_code ec;
        if (!std::filesystem::exists(path, ec)) return path;
    }
}

WriterOptions ProgramRecorder::writer_options() const {
    WriterOptions options;
    options.queue_bytes = queue_bytes;
    options.commit_interval_ms = static_cast<int>(most_late_.count());
    return options;
}

std::shared_ptr<ProgramRecorder::File> ProgramRecorder::new_file(Stream& s) {
    RecordingInfo info;
    if (s.texts) info.model = s.texts->identity();
    info.writer = base::program();
    info.engine = hello_.engine;
    info.entry = "attached";
    info.settings_json = settings_;
    info.geometry = s.begin.geometry;
    Recorded recorded;
    recorded.path = free_path(fmt::format("{}-{}", stem_of(s.texts.get()), hello_.pid));
    const WriterOptions options = writer_options();
    auto file = std::make_shared<File>();
    file->recorded = recorded_.size();
    file->stream = s.begin.stream;
    Result<std::unique_ptr<RecordingWriter>> writer = RecordingWriter::create(recorded.path, info, options);
    if (!writer) {
        recorded.problem = writer.error().message;
    } else if (Result<void> r = (*writer)->begin(s.begin.geometry); !r) {
        recorded.problem = r.error().message;
    } else {
        file->writer = std::move(*writer);
    }
    if (!recorded.problem.empty()) say_(About::problem, recorded.problem);
    recorded_.push_back(std::move(recorded));
    files_.push_back(file);
    return file;
}

void ProgramRecorder::limit_open() {
    if (files_.size() <= most_open) return;
    const auto oldest = std::min_element(files_.begin(), files_.end(),
                                         [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
    const std::shared_ptr<File> file = *oldest;
    files_.erase(oldest);
    close(*file, {});
}

// A line of a file that was closed for want of room goes on, or another off one: the file goes on, too.
bool ProgramRecorder::is_written(const std::shared_ptr<File>& file) {
    Recorded& recorded = recorded_[file->recorded];
    if (file->writer || !recorded.problem.empty()) return file->writer != nullptr;
    const WriterOptions options = writer_options();
    Result<std::unique_ptr<RecordingWriter>> writer = recording::write_again(recorded.path, options);
    if (!writer) return fail(*file, writer.error().message), false;
    file->writer = std::move(*writer);
    file->last_used = ++uses_;
    files_.push_back(file);
    limit_open();
    return true;
}

void ProgramRecorder::on(SequenceBegin&& m) {
    Stream* s = stream(m.stream);
    if (!s) return;
    if (listener_) listener_->sequence_begins(program_, m);
    if (folder_.empty()) return;
    std::shared_ptr<File> file;
    if (m.parent < 0) {
        file = new_file(*s);
        file->lines[m.id] = {};
    } else if (const auto parent = s->file_of.find(m.parent);
               parent != s->file_of.end() && is_written(parent->second)) {
        file = parent->second;
        Sequence sequence;
        sequence.id = file->n_sequences++;
        sequence.parent = file->lines[m.parent].sequence;
        sequence.n_shared = m.n_shared;
        if (Result<void> r = file->writer->begin_sequence(sequence); !r) return fail(*file, r.error().message);
        file->lines[m.id] = {sequence.id, m.n_shared};
    } else {
        constexpr const char* why = "a line branches off one that is not recorded, and is not, either";
        if (listener_) listener_->sequence_recorded(program_, {m.stream, m.id, "", 0, why});
        return say_(About::problem, fmt::format("process {}: {}", hello_.pid, why));
    }
    s->file_of[m.id] = file;
    tell(*file, m.id);
    use(file, m.id);
    limit_open();
}

void ProgramRecorder::tell(File& file, int64_t line) {
    const Recorded& recorded = recorded_[file.recorded];
    if (!file.writer) return tell_lost(file, line, recorded.problem);
    if (listener_)
        listener_->sequence_recorded(program_, {file.stream, line, recorded.path, file.lines[line].sequence, {}});
}

void ProgramRecorder::tell_lost(File& file, int64_t line, const std::string& why) {
    if (!listener_ || std::exchange(file.lines[line].told_lost, true)) return;
    listener_->sequence_recorded(program_, {file.stream, line, {}, 0, why});
}

// Of more lines than may be open the one that rested longest is ended.
void ProgramRecorder::use(const std::shared_ptr<File>& file, int64_t number) {
    Line& line = file->lines[number];
    if (line.open) open_lines_.erase(line.last_used);
    line.open = true;
    line.last_used = file->last_used = ++uses_;
    open_lines_[line.last_used] = {file, number};
    if (open_lines_.size() <= most_open_lines) return;
    const auto [oldest, oldest_number] = open_lines_.begin()->second;
    open_lines_.erase(open_lines_.begin());
    Line& resting = oldest->lines[oldest_number];
    resting.open = false;
    if (!oldest->writer) return;
    if (Result<void> r = oldest->writer->end_sequence(resting.sequence, {}); !r) fail(*oldest, r.error().message);
}

// It goes on after all: as a sequence that shares everything that was there.
Result<void> ProgramRecorder::reopen(File& file, Line& line) {
    Sequence sequence;
    sequence.id = file.n_sequences++;
    sequence.parent = line.sequence;
    sequence.n_shared = line.n_frames;
    line.sequence = sequence.id;
    return file.writer->begin_sequence(sequence);
}

void ProgramRecorder::on(SequenceEnd&& m) {
    Stream* s = stream(m.stream);
    const auto found = s ? s->file_of.find(m.id) : decltype(s->file_of.find(m.id)){};
    if (!s || found == s->file_of.end() || !found->second->writer) return;
    File& file = *found->second;
    Line& line = file.lines[m.id];
    if (!line.open) return;
    open_lines_.erase(line.last_used);
    line.open = false;
    if (Result<void> r = file.writer->end_sequence(line.sequence, m.reason); !r) fail(file, r.error().message);
}

// The file that takes the line's next frame; null: none does.
ProgramRecorder::File* ProgramRecorder::file_for(Stream& s, int64_t number) {
    const auto found = s.file_of.find(number);
    if (found == s.file_of.end()) return nullptr;
    const std::shared_ptr<File> file = found->second;
    if (!is_written(file)) {
        tell_lost(*file, number, recorded_[file->recorded].problem);
        return nullptr;
    }
    Line& line = file->lines[number];
    if (!line.open) {
        if (Result<void> r = reopen(*file, line); !r) {
            fail(*file, r.error().message);
            return nullptr;
        }
        tell(*file, number);
    }
    use(file, number);
    return file->writer ? file.get() : nullptr;
}

void ProgramRecorder::on(FrameMessage&& m) {
    Stream* s = stream(m.stream);
    if (!s) return;
    File* const file = file_for(*s, m.frame.sequence);
    if (listener_) listener_->frame(program_, m);
    if (!file) return;
    Line& line = file->lines[m.frame.sequence];
    Recorded& recorded = recorded_[file->recorded];
    ++recorded.n_frames;
    recorded.n_ok += m.frame.verdict == verdict_ok;
    if (s->texts && m.frame.token >= 0) file->writer->token_text(m.frame.token, s->texts->piece(m.frame.token));
    m.frame.sequence = line.sequence;
    ++line.n_frames;
    if (Result<void> r = file->writer->push(std::move(m.frame)); !r) fail(*file, r.error().message);
}

void ProgramRecorder::on(FramesDue&& m) {
    if (listener_ && stream(m.stream)) listener_->frames_due(program_, m);
}

void ProgramRecorder::on(StreamEnd&& m) {
    Stream* s = stream(m.stream);
    if (!s) return;
    if (listener_) listener_->stream_ends(program_, m.stream);
    for (const auto& [line, file] : s->file_of) {
        close(*file, m.reason);
        std::erase(files_, file);
    }
    streams_.erase(m.stream);
}

// What was written stays, and says that it is incomplete.
void ProgramRecorder::fail(File& file, const std::string& why) {
    Recorded& recorded = recorded_[file.recorded];
    recorded.problem = why;
    say_(About::problem, fmt::format("{}: {}", recorded.path, why));
    for (auto& [number, line] : file.lines) tell_lost(file, number, why);
    let_go(file);
}

void ProgramRecorder::let_go(File& file) {
    file.writer.reset();
    std::erase_if(open_lines_, [&](const auto& line) { return line.second.first.get() == &file; });
    for (auto& [number, line] : file.lines) line.open = false;
}

void ProgramRecorder::close(File& file, const std::string& why) {
    if (!file.writer) return;
    if (!why.empty()) return fail(file, why);
    if (Result<void> r = file.writer->close(); !r) return fail(file, r.error().message);
    let_go(file);
}

void ProgramRecorder::finish() {
    for (const std::shared_ptr<File>& file : std::exchange(files_, {})) close(*file, {});
    streams_.clear();
    if (listener_) listener_->program_ends(program_);
}

} // namespace attnscope::attach
