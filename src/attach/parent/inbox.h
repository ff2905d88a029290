// The rings of the programs that run under one `attnscope attach`: each is read as soon as there is something in it.
#pragma once

#include "attach/parent/recorder.h"
#include "attach/wire/ring.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::attach {

class Inbox {
public:
    // A folder of ours in shared memory, and the lock that tells programs that we live.
    static Result<std::unique_ptr<Inbox>> create(std::function<std::unique_ptr<ProgramRecorder>()> new_recorder,
                                                 ProgramRecorder::Say say);
    ~Inbox(); // removes the folder
    const std::string& folder() const { return folder_; }
    // Takes what lies in the rings that are there, up to a bound. How many messages that was: 0 where there are none.
    size_t take();
    // Whatever ring is there is known from now on.
    void look_for_rings();
    // Does a program that has a ring still run?
    bool programs_live() const;
    // The programs have ended, or are left alone: takes the rest and closes all recordings.
    std::vector<Recorded> finish();
    bool any_program() const { return any_program_ || !rings_.empty(); }
    // Did one find no memory for its ring? It has said so itself.
    bool any_without_room() const;
    // By which programs call where their rings fill.
    WakeUp& wake_up() { return *wake_up_; }

private:
    struct Ring {
        std::unique_ptr<RingReader> reader; // null: it was no ring, or its messages made no sense
        std::unique_ptr<ProgramRecorder> recorder;
    };
    Inbox() = default;
    size_t drain(Ring& ring, size_t most);
    bool folder_rests();
    // Of programs that have ended: takes the rest, closes their recordings, and gives the memory back.
    void let_go_of_ended();
    void end(Ring& ring);
    void tell_of_most();

    std::string folder_;
    std::unique_ptr<ParentLock> lock_;
    std::unique_ptr<WakeUp> wake_up_;
    std::vector<uint8_t> bytes_; // of a message: memory is kept from one to the next
    std::function<std::unique_ptr<ProgramRecorder>()> new_recorder_;
    ProgramRecorder::Say say_;
    std::map<std::string, Ring> rings_; // by name of the file
    std::vector<Recorded> recorded_;    // of programs that have ended
    bool any_program_ = false, told_of_most_ = false;
    std::chrono::steady_clock::time_point looked_at_ended_{};
    std::filesystem::file_time_type folder_changed_{};
};

} // namespace attnscope::attach
