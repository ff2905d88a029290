// Rings of 64 MiB each that a killed parent leaves in memory: the next parent removes them, and nothing else.
#include "attach/host_fixture.h"
#include "attach/parent/shared_folder.h"
#include "support/shell.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

constexpr size_t ring_bytes = size_t(1) << 16;

class AttachLeft : public testing::Test {
protected:
    std::string place() const { return dir.path().string(); }
    std::string make(const std::string& called, bool with_lock = true) const {
        const std::string folder = dir.file(called);
        EXPECT_EQ(mkdir(folder.c_str(), 0700), 0);
        if (with_lock) std::ofstream(folder + "/parent.lock");
        return folder;
    }
    static void grow_old(const std::string& path) {
        fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::minutes(2));
    }
    const std::string name = "attnscope-attach-aB3dE9";
    TempDir dir;
};

TEST_F(AttachLeft, FoldersOfAKilledParentGoAndThoseOfOneThatLivesStay) {
    int told[2];
    ASSERT_EQ(pipe(told), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < 2; ++i) {
        children.push_back(fork());
        if (children.back() != 0) continue;
        Result<SharedFolder> folder = make_shared_folder_in(place());
        if (!folder || !RingWriter::create(folder->path + "/1-1.ring", ring_bytes)) _exit(1);
        std::ofstream(folder->path + "/2-2.ring.new") << "killed while it made it";
        if (write(told[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char x;
    for (size_t i = 0; i < children.size(); ++i) ASSERT_EQ(read(told[0], &x, 1), 1);
    EXPECT_EQ(remove_left_folders(place()), 0u);
    kill(children[0], SIGKILL), waitpid(children[0], nullptr, 0);
    EXPECT_EQ(remove_left_folders(place()), 1u);
    EXPECT_EQ(remove_left_folders(place()), 0u);
    EXPECT_EQ(std::distance(fs::recursive_directory_iterator(place()), {}), 4); // the folder, its lock, two rings
    kill(children[1], SIGKILL), waitpid(children[1], nullptr, 0);
    EXPECT_EQ(remove_left_folders(place()), 1u);
    EXPECT_TRUE(fs::is_empty(place()));
}

// The program that writes there has more than a name.
TEST_F(AttachLeft, AProgramThatStillWritesKeepsItsRing) {
    const std::string folder = make(name);
    auto ring = RingWriter::create(folder + "/1-1.ring", ring_bytes);
    ASSERT_TRUE(ring);
    auto reader = RingReader::open(folder + "/1-1.ring");
    ASSERT_TRUE(reader);
    EXPECT_EQ(remove_left_folders(place()), 1u);
    EXPECT_FALSE(fs::exists(folder));
    const uint64_t message = 7;
    EXPECT_TRUE((*ring)->try_write(sizeof message, [&](ByteWriter& to) { to.put(message); }));
    std::vector<uint8_t> taken;
    const Result<bool> read = (*reader)->read(taken);
    EXPECT_TRUE(read && *read);
    EXPECT_EQ(taken, (std::vector<uint8_t>{7, 0, 0, 0, 0, 0, 0, 0}));
    EXPECT_FALSE(ParentLock::held(folder)); // which tells it that nobody takes anything
}

TEST_F(AttachLeft, WhatIsNotProvenToBeOursAndLeftStays) {
    const auto pipe_at = [](const std::string& path) { ASSERT_EQ(mkfifo(path.c_str(), 0600), 0); };
    const auto stays = [&](const std::string& what) {
        EXPECT_EQ(remove_left_folders(place()), 0u) << what;
        EXPECT_TRUE(fs::symlink_status(dir.file(name)).type() != fs::file_type::not_found) << what;
        fs::remove_all(dir.file(name));
    };
    const std::string other = make("other");
    std::ofstream(other + "/kept") << "kept";
    fs::create_symlink(other, dir.file(name)), stays("a link to a folder");
    pipe_at(dir.file(name)), stays("a pipe");
    std::ofstream(dir.file(name)) << "text", stays("a file");
    make(name, false), stays("a folder whose parent has not locked it yet");
    std::ofstream(make(name, false) + "/1-1.ring") << "ring", grow_old(dir.file(name)), stays("one without a lock");
    pipe_at(make(name, false) + "/parent.lock"), stays("a pipe as its lock");
    fs::create_symlink(other + "/kept", make(name, false) + "/parent.lock"), stays("a link as its lock");
    fs::create_directory(make(name, false) + "/parent.lock"), stays("a folder as its lock");
    fs::create_directory(make(name) + "/folder"), stays("folders inside");
    fs::permissions(make(name), fs::perms(0770)), stays("one that others may write to");
    EXPECT_TRUE(fs::exists(other + "/kept"));

    for (const char* another : {"attnscope-attach-", "attnscope-attach-aB3dE", "attnscope-attach-aB3dE9x",
                                "attnscope-attach-aB3d.9", "attnscope-attach"})
        make(another);
    EXPECT_EQ(remove_left_folders(place()), 0u);
    EXPECT_EQ(remove_left_folders(dir.file("no such place")), 0u);
}

TEST_F(AttachLeft, AnEmptyFolderThatWasNeverLockedGoesOnceItIsOld) {
    grow_old(make(name, false));
    EXPECT_EQ(remove_left_folders(place()), 1u);
    EXPECT_FALSE(fs::exists(dir.file(name)));
}

TEST_F(AttachLeft, LinksInsideAreRemovedAndNotFollowed) {
    std::ofstream(dir.file("kept")) << "kept";
    fs::create_symlink(dir.file("kept"), make(name) + "/1-1.ring");
    ASSERT_EQ(mkfifo((dir.file(name) + "/2-2.ring").c_str(), 0600), 0);
    EXPECT_EQ(remove_left_folders(place()), 1u);
    EXPECT_FALSE(fs::exists(dir.file(name)));
    EXPECT_TRUE(fs::exists(dir.file("kept")));
}

TEST_F(AttachLeft, FoldersOfOthersStay) {
    if (geteuid() != 0) GTEST_SKIP() << "only root can give a folder to another user";
    ASSERT_EQ(chown(make(name).c_str(), 65534, 65534), 0);
    EXPECT_EQ(remove_left_folders(place()), 0u);
    EXPECT_TRUE(fs::exists(dir.file(name) + "/parent.lock"));
}

// Parents that start, look for what was left and are killed, all at once: none finds no folder, or loses its own while it lives.
TEST_F(AttachLeft, ParentsThatStartAtOnceDoNotTakeEachOthersFolders) {
    constexpr int n_parents = 4, n_rounds = 150;
    std::vector<pid_t> children;
    for (int i = 0; i < n_parents; ++i) {
        children.push_back(fork());
        if (children.back() != 0) continue;
        for (int round = 0; round < n_rounds; ++round) {
            remove_left_folders(place());
            Result<SharedFolder> folder = make_shared_folder_in(place());
            if (!folder) _exit(1);
            remove_left_folders(place());
            std::this_thread::yield();
            if (!fs::exists(folder->path + "/parent.lock") || !ParentLock::held(folder->path)) _exit(2);
            // as the system does for one that is killed
        }
        _exit(0);
    }
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    remove_left_folders(place());
    EXPECT_TRUE(fs::is_empty(place()));
}

// The whole way: the parent is killed, another one starts, the first one's program goes on to its end.
TEST_F(AttachHosts, TheNextParentRemovesWhatAKilledOneLeft) {
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 100 1 11 27 3";
    const Answer plain = shell(host);
    const std::string folder = dir.file("folder"), ids = dir.file("ids"), code = dir.file("code");
    shell("ATTACH_HOST_PAUSE=50 " + program + " attach -q -o " + out + " -- sh -c 'echo $ATTNSCOPE_ATTACH >" + folder +
          "; " + host + " >" + ids + "; echo $? >" + code + "' >" + dir.file("said") + " 2>&1 & sleep 1; kill -9 $!");
    std::string left;
    std::ifstream(folder) >> left;
    ASSERT_FALSE(left.empty());
    EXPECT_TRUE(fs::exists(left + "/parent.lock"));
    ASSERT_FALSE(fs::exists(code)); // it runs
    EXPECT_EQ(shell(program + " attach -q -o " + out + " -- /bin/true 2>&1").code, 0);
    EXPECT_FALSE(fs::exists(left));
    for (int i = 0; i < 300 && !fs::exists(code); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(shell("cat " + code).output, "0\n");
    EXPECT_EQ(shell("cat " + ids).output, plain.output);
}

} // namespace
