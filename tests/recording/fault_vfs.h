// A layer between SQLite and the system in which the Nth write, sync or open fails. While one exists, it is
// the default for every file that is opened.
#pragma once

namespace attnscope::test {

class FaultVfs {
public:
    FaultVfs();
    ~FaultVfs();
    FaultVfs(const FaultVfs&) = delete;
    FaultVfs& operator=(const FaultVfs&) = delete;

    // The `nth` operation from now (1: the next) returns `code`, and all later ones too when `forever`. 0:
    // none.
    void fail(int nth, int code, bool forever);
    int operations() const; // since the last fail()
};

} // namespace attnscope::test
