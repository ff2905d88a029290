// The way out of the program: messages into a ring in shared memory.
#pragma once

#include "attach/wire/messages.h"
#include "attach/wire/ring.h"

#include <memory>
#include <string>

namespace attnscope::attach {

// Where the parent waits: ATTNSCOPE_ATTACH; null: there is none, and this library does nothing.
const char* attach_folder();

// Under the mutex of whoever owns it.
class Outbox {
public:
    static Result<std::unique_ptr<Outbox>> create(const std::string& folder);
    ~Outbox();
    // Waits while the ring is full and the parent lives. False: nothing goes out any more, because the parent is gone or the message
    // could never go; the ring's file is then gone, too.
    bool send(const Message& message);
    bool works() const { return ring_ != nullptr; }

private:
    Outbox(std::string folder, std::string path, std::unique_ptr<RingWriter> ring);
    void give_up();
    void wake_parent();
    std::string folder_, path_;
    std::unique_ptr<RingWriter> ring_;
    bool called_ = false; // the parent, since the ring had room
};

} // namespace attnscope::attach
