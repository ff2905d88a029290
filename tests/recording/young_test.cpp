// A recording of which little is written yet: its writer was killed at any moment of its making, or is still at it.
#include "fault_vfs.h"
#include "support/temp_dir.h"
#include "synthetic.h"

#include <attnscope/verify.h>

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

using namespace attnscope;
using namespace attnscope::test;

namespace {

// Writes the beginning of a recording until the nth write, sync, truncation or deletion, of which and after which nothing reaches the
// disk, as where it is killed. False: it got to its end before.
bool write_until(const std::string& path, int nth) {
    const pid_t child = fork();
    if (child == 0) {
        FaultVfs faults;
        faults.fail(nth, SQLITE_IOERR_WRITE, true);
        auto writer = RecordingWriter::create(path, make_info(), {});
        const Geometry geometry = mixed_geometry();
        bool whole = writer && (*writer)->begin(geometry);
        for (int64_t i = 0; whole && i < 2; ++i) whole = bool((*writer)->push(make_frame(geometry, i)));
        if (whole) whole = bool((*writer)->close());
        _exit(whole ? 1 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

} // namespace

// Read, or the words for a file of which nothing was committed; never called somebody else's, never changed by two looks.
TEST(Young, KilledAtAnyMomentItIsReadOrSaysThatItHoldsNothing) {
    int n_read = 0, n_nothing = 0, n_empty = 0;
    bool killed = true;
    for (int nth = 1; killed; ++nth) {
        const TempDir dir;
        const std::string path = dir.file("a.attn");
        killed = write_until(path, nth);
        std::string said;
        for (int look = 0; look < 2; ++look) { // the first one may undo a transaction
            auto recording = Recording::open(path);
            if (!recording) {
                EXPECT_EQ(recording.error().kind, ErrorKind::not_ours);
                EXPECT_TRUE(look == 0 || said == recording.error().message) << said;
                said = recording.error().message;
                const bool nothing = said == path + " is no recording: whoever began to write it was killed before it "
                                                    "held any token";
                const bool empty = said == path + " is no recording: it is empty, as one is that was just begun, or "
                                                  "whose writer was killed before it had written anything";
                EXPECT_TRUE(nothing || empty) << nth << ": " << said;
                n_nothing += nothing, n_empty += empty;
                continue;
            }
            ASSERT_TRUE(said.empty()) << said;
            ++n_read;
            auto report = verify_recording(**recording);
            ASSERT_TRUE(report) << report.error().message;
            EXPECT_EQ(report->damage, "") << nth;
            EXPECT_TRUE(report->n_frames > 0 || !report->good) << nth;
        }
    }
    EXPECT_GT(n_read, 20);
    EXPECT_GT(n_nothing, 5);
    EXPECT_GT(n_empty, 5);
}
