#include "attach/parent/inbox.h"

#include "attach/parent/shared_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>

#include <unistd.h>

namespace attnscope::attach {

namespace fs = std::filesystem;

namespace {

constexpr size_t most_rings = 256; // of programs that run at once: each is memory
constexpr size_t messages_a_turn = 64;
constexpr std::chrono::milliseconds between_looks_at_ended{100};

} // namespace

Result<std::unique_ptr<Inbox>> Inbox::create(std::function<std::unique_ptr<ProgramRecorder>()> new_recorder,
                                             ProgramRecorder::Say say) {
    Result<SharedFolder> folder = make_shared_folder();
    if (!folder) return folder.error();
    std::unique_ptr<Inbox> inbox(new Inbox);
    inbox->folder_ = std::move(folder->path);
    inbox->lock_ = std::move(folder->lock);
    Result<std::unique_ptr<WakeUp>> wake_up = WakeUp::create(inbox->folder_);
    if (!wake_up) return wake_up.error();
    inbox->wake_up_ = std::move(*wake_up);
    inbox->new_recorder_ = std::move(new_recorder);
    inbox->say_ = std::move(say);
    return inbox;
}

Inbox::~Inbox() {
    std::error_code ec;
    if (!folder_.empty()) fs::remove_all(folder_, ec);
}

// Nothing was named or unnamed in the folder since its names were read. What happens in the tick of its clock has one time.
bool Inbox::folder_rests() {
    constexpr std::chrono::seconds long_ago{1};
    std::error_code ec;
    const fs::file_time_type changed = fs::last_write_time(folder_, ec);
    if (ec) return false;
    const bool rests = changed == folder_changed_ && fs::file_time_type::clock::now() - changed > long_ago;
    folder_changed_ = changed;
    return rests;
}

void Inbox::look_for_rings() {
    if (folder_rests()) return;
    std::error_code ec;
    for (fs::directory_iterator at(folder_, ec), end; !ec && at != end; at.increment(ec)) {
        const std::string name = at->path().filename().string();
        if (at->path().extension() != ".ring" || rings_.count(name) > 0) continue;
        if (rings_.size() >= most_rings) return tell_of_most();
        any_program_ = true;
        Result<std::unique_ptr<RingReader>> reader = RingReader::open(at->path().string());
        Ring ring;
        if (reader) {
            ring.reader = std::move(*reader);
            ring.recorder = new_recorder_();
        } else {
            say_(ProgramRecorder::About::problem, reader.error().message);
        }
        rings_[name] = std::move(ring);
    }
}

bool Inbox::any_without_room() const {
    std::error_code ec;
    for (fs::directory_iterator at(folder_, ec), end; !ec && at != end; at.increment(ec)) {
        if (at->path().extension() == RingWriter::no_room) return true;
    }
    return false;
}

void Inbox::tell_of_most() {
    if (std::exchange(told_of_most_, true)) return;
    say_(ProgramRecorder::About::problem,
         fmt::format("{} programs run at once: of more than that nothing is captured", most_rings));
}

size_t Inbox::drain(Ring& ring, size_t most) {
    for (size_t n = 0; n < most; ++n) {
        Result<bool> read = ring.reader->read(bytes_);
        if (read && !*read) return n;
        std::optional<Message> message = read ? read_message(bytes_) : std::nullopt;
        if (!message) {
            say_(ProgramRecorder::About::problem,
                 read ? "a program sent what is no message: it is not listened to any more" : read.error().message);
            ring.recorder->finish();
            ring.reader.reset();
            return n + 1;
        }
        ring.recorder->take(std::move(*message));
    }
    return most;
}

void Inbox::end(Ring& ring) {
    if (!ring.recorder) return;
    ring.recorder->finish();
    const std::vector<Recorded>& written = ring.recorder->recorded();
    recorded_.insert(recorded_.end(), written.begin(), written.end());
    ring.recorder.reset();
}

void Inbox::let_go_of_ended() {
    for (auto at = rings_.begin(); at != rings_.end();) {
        Ring& ring = at->second;
        // In this order: nothing comes behind what lies there once it has ended.
        if (!ring.reader || !ring.reader->ended() || drain(ring, messages_a_turn) > 0) {
            ++at;
            continue;
        }
        end(ring);
        std::error_code ec;
        fs::remove(fs::path(folder_) / at->first, ec);
        ring.reader.reset();
        at = ec ? std::next(at) : rings_.erase(at); // one that is still there is not to be found anew
    }
}

size_t Inbox::take() {
    look_for_rings(); // each time: who waits for all that was told waits for what stands in a new one, too
    if (const auto now = std::chrono::steady_clock::now(); now - looked_at_ended_ >= between_looks_at_ended) {
        looked_at_ended_ = now;
        let_go_of_ended();
    }
    size_t n = 0;
    for (auto& [name, ring] : rings_) {
        if (ring.reader) n += drain(ring, messages_a_turn);
    }
    return n;
}

bool Inbox::programs_live() const {
    return std::any_of(rings_.begin(), rings_.end(), [](const auto& entry) {
        const Ring& ring = entry.second;
        const auto pid = ring.reader ? static_cast<pid_t>(ring.reader->pid()) : 0;
        return pid > 0 && !ring.reader->closed() && (kill(pid, 0) == 0 || errno == EPERM);
    });
}

std::vector<Recorded> Inbox::finish() {
    look_for_rings();
    while (take() > 0) {}
    for (auto& [name, ring] : rings_) end(ring);
    return std::move(recorded_);
}

} // namespace attnscope::attach
