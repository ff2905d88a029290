// Reads the next token of a dump while somebody looks at the one before.
#pragma once

#include "base/mutex.h"

#include <attnscope/dump_reader.h>

#include <exception>
#include <optional>
#include <thread>

namespace attnscope::diagnose {

// The reader belongs to the thread inside until this is destroyed. It stays one token ahead, never more.
class ReadAhead {
public:
    explicit ReadAhead(DumpReader& reader);
    ~ReadAhead();
    ReadAhead(const ReadAhead&) = delete;
    ReadAhead& operator=(const ReadAhead&) = delete;

    // What reader.next() gave: a token, valid until this is called again, an error, or null at the end. Throws what
    // reader.next() threw.
    Result<const DumpToken*> next();

private:
    struct Item {
        Result<const DumpToken*> token = static_cast<const DumpToken*>(nullptr);
        std::exception_ptr thrown;
        bool last = false; // the reader is at its end
    };
    Item read() const;
    void run();

    DumpReader& reader_;
    base::Mutex mutex_;
    base::Condition changed_;
    std::optional<Item> ready_ GUARDED_BY(mutex_); // read, and not yet taken
    bool stop_ GUARDED_BY(mutex_) = false;
    bool ended_ = false; // the last item was taken
    std::thread thread_; // not there where the machine gave none: then next() reads itself
};

} // namespace attnscope::diagnose
